"""Trained networks ready for use, from compact files and checkpoints: image files in, class names out."""

import copy
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseDataPreprocessor
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as F

from .checks import check_ints
from .datasets import UnreadableImageError, classes_in, decode_rgb, image_files, settle_auto, to_grey
from .files import find_trained
from .models import ImagePreprocessor, network_of
from .preprocessing import preprocessing_of
from .pruners import apply_masks_
from .registry import CONVERTERS, DATASETS, MODELS, TRANSFORMS, check_names
from .run.checkpoint import UnusableCheckpoint, check_fits, load_safely
from .state_dicts import SETTINGS, masks_in
from .transforms import build_transforms

BATCH = 32  # images
TOP = 5


class TrainedClassifier(nn.Module):
    """A trained network that takes pixels, with what its file says of images and classes.

    ``forward``: images (N, C, H, W), uint8 in 0..255 or floating in [0, 1], -> logits (N, outputs), float32. Mean and
    std of the training are applied in it, so images come as they are; where nobody knows them (``preprocessing``
    without ``mean``), images go to the network unchanged. Height and width stay, too: :meth:`fit` does what was done to
    the test images.

    Attributes:
        network: normalised images -> logits; with its masks, and its converters if it is of a checkpoint.
        classes: names in the order of the logits; () where the file has none.
        preprocessing: ``mean`` and ``std`` of pixels in [0, 1]; ``resize``, the pixels of the shorter side, and
            ``size``, of the centre crop, or ``transforms`` (:mod:`pab.transforms`) in their place; ``grey``; each only
            where it is known.
        input_shape: (C, H, W) of one image, or None.
    """

    def __init__(
        self,
        network: nn.Module,
        classes: Sequence[str] = (),
        preprocessing: Mapping[str, Any] | None = None,
        input_shape: Sequence[int] | None = None,
        preprocess: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.classes = tuple(classes)
        self.preprocessing = {key: value for key, value in (preprocessing or {}).items() if value is not None}
        self.input_shape = tuple(input_shape or ()) or None
        check_ints('preprocessing', **{key: self.preprocessing.get(key, 1) for key in ('resize', 'size')})
        if {'mean', 'std'} <= self.preprocessing.keys():
            preprocess = ImagePreprocessor(self.preprocessing['mean'], self.preprocessing['std'])
        self.preprocess = preprocess or BaseDataPreprocessor()
        self.network = network.to(memory_format=torch.channels_last)  # as in training
        self.eval()

    @property
    def normalises(self) -> bool:
        """True if it is known how pixels become the images of the network."""
        return type(self.preprocess) is not BaseDataPreprocessor

    def forward(self, images: Tensor) -> Tensor:
        return self.network(self.preprocess.to(images.device)({'images': images}, False)['images'])

    def fit(self, image: Tensor) -> Tensor:
        """Make an RGB image (3, h, w), uint8, one of the network's (C, H, W): resized and cropped as the test set was.

        Where no ``resize`` and ``size`` are known, the image is scaled to cover ``input_shape`` and its centre is kept;
        without that either, it keeps its size. ValueError for a network of other than 1 or 3 channels.
        """
        resize, size = (self.preprocessing.get(key) for key in ('resize', 'size'))
        channels = self.input_shape[0] if self.input_shape else len(self.preprocessing.get('mean', (0, 0, 0)))
        if self.preprocessing.get('grey'):
            image = to_grey(image)
        if transforms := self.preprocessing.get('transforms'):
            check_names(transforms, 'transform', TRANSFORMS)  # a file says what they are, and imports nothing
            return build_transforms('predict', transforms)(image)
        if channels not in (1, 3):
            raise ValueError(f'predict: image files have 3 channels or 1, and this network takes {channels}')
        if resize or size:
            image = F.resize(image, [resize or size])
            image = F.center_crop(image, [size]) if size else image
        elif self.input_shape and image.shape[1:] != self.input_shape[1:]:
            wanted = self.input_shape[1:]
            factor = max(new / old for new, old in zip(wanted, image.shape[1:], strict=True))
            covering = [max(n, round(old * factor)) for n, old in zip(wanted, image.shape[1:], strict=True)]
            image = F.center_crop(F.resize(image, covering), list(wanted))
        return to_grey(image) if channels == 1 and len(image) == 3 else image


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of an image file; none, and why, where there is no answer."""

    image: Path
    top: tuple[tuple[str, float], ...]  # (class, probability), the likeliest first
    error: str = ''


def load(file: str | os.PathLike, cfg: Config | None = None) -> TrainedClassifier:
    """Load a trained network, on the CPU, in evaluation mode.

    Nothing of a file runs. Torch's random state stays as it was.

    Args:
        file: a compact file (.pab), or a checkpoint that training wrote; or the name of a network that comes with pab
            (``zoo/README.md``), such as ``'r20_cifar10_d30'``.
        cfg: config of the training. It counts before the settings in a checkpoint, and is needed where these name a
            class that is not imported, or where a checkpoint has none. A compact file takes from it what the file does
            not say of images.

    Raises:
        FileNotFoundError: there is no such file or name.
        ValueError: it is neither; it is damaged or refused, or of another network than the config's.
        ImportError: a compact file, and a package for it is missing.
    """
    file = find_trained(file)
    if file.suffix == '.pab':
        from . import compact  # what it needs is an extra

        told, known = compact.info(file), {} if cfg is None else preprocessing_of(cfg)
        shape = told['input_shape'] or (cfg and cfg.model.get('input_shape'))
        return TrainedClassifier(compact.load(file), told['classes'], known | told['preprocessing'], shape)
    checkpoint = load_safely(file)
    state = checkpoint.get('state_dict') if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict):
        raise UnusableCheckpoint(f'{file} is no compact file and no checkpoint: it has no state_dict')
    cfg = _settings(checkpoint, file) if cfg is None else copy.deepcopy(cfg)
    settle_auto(cfg, len(classes_in(checkpoint) or ()) or None)
    settings = {'data_preprocessor': cfg.get('data_preprocessor'), **cfg['model']}  # as mmengine's runner does
    settings.pop('compile', None)  # which takes minutes, and a few images no time
    with torch.random.fork_rng(devices=[]):
        model = MODELS.build(settings)
    shapes = {name: (param.shape, torch.bool) for name, param in model.named_parameters()}
    fitting = {name: mask for name, mask in masks_in(state).items() if (mask.shape, mask.dtype) == shapes.get(name)}
    apply_masks_(model, fitting)
    check_fits(model, state, file)
    model.load_state_dict(state, strict=False)  # what may be missing, check_fits has told
    preprocess = getattr(model, 'data_preprocessor', None)
    return TrainedClassifier(
        network_of(model), classes_in(checkpoint) or (), preprocessing_of(cfg), settings.get('input_shape'), preprocess
    )


def predict(
    file: str | os.PathLike | TrainedClassifier,
    images: str | os.PathLike | Iterable[str | os.PathLike],
    top: int | None = None,
    cfg: Config | None = None,
) -> list[Prediction]:
    """Name the likeliest classes of image files, read and resized as the test images of the training were.

    Args:
        file: as for :func:`load`, or what that returned, on any device.
        images: path of an image or of a folder, or a list of them; see :func:`find_images`.
        top: classes for each image, 1 up to their number; None gives five, or all if there are fewer.
        cfg: as for :func:`load`.

    Returns:
        A prediction for each image in their order; one that cannot be read has an ``error``.

    Raises:
        FileNotFoundError, ValueError: as for :func:`load`, :func:`find_images`; ``top`` is out of range, or nothing
            says how images become the network's.
    """
    model = file if isinstance(file, TrainedClassifier) else load(file, cfg)
    return list(predictions(model, find_images(images), top))


def find_images(images: str | os.PathLike | Iterable[str | os.PathLike]) -> list[Path]:
    """List image files, each once: those named, and in folders, at any depth, those with an image's extension.

    As in ``ImageFolder``, what a folder holds under names that begin with a dot is left out.

    Raises:
        FileNotFoundError: there is no such file or folder.
        ValueError: a folder has no image, or nothing is named.
    """
    if isinstance(images, Tensor):
        raise TypeError('predict: images are paths of files and folders; for tensors call load(file)(images)')
    found: dict[Path, None] = {}
    for path in [images] if isinstance(images, str | os.PathLike) else images:
        path = Path(path).expanduser()
        if not path.exists():
            raise FileNotFoundError(f'there is no image or folder {path}')
        inside = [path / name for name in image_files(path)] if path.is_dir() else [path]
        if not inside:
            raise ValueError(f'there is no image in the folder {path}, by the endings of file names')
        found.update(dict.fromkeys(inside))
    if not found:
        raise ValueError('predict: name one image or folder at least')
    return list(found)


@torch.no_grad()
def predictions(model: TrainedClassifier, paths: Sequence[Path], top: int | None = None) -> Iterator[Prediction]:
    """Yield the predictions of :func:`predict`, as they come."""
    if top is not None:
        check_ints('predict', top=top)
    if not model.normalises:
        raise ValueError(
            'predict: nothing says how pixels are normalised for this network; give the config of its training '
            '(--config CONFIG), with a data_preprocessor'
        )
    device = next(model.parameters()).device
    for start in range(0, len(paths), BATCH):
        part = paths[start : start + BATCH]
        read = [_read(model, path) for path in part]
        answers: dict[int, tuple] = {}
        for shape in {image.shape for image in read if isinstance(image, Tensor)}:
            places = [i for i, image in enumerate(read) if isinstance(image, Tensor) and image.shape == shape]
            logits = model(torch.stack([read[i] for i in places]).to(device)).float()
            names, count = _names(model.classes, logits.shape[1]), top or min(TOP, logits.shape[1])
            if count > len(names):
                raise ValueError(f'predict: top must not exceed the number of classes, {len(names)}, got {top}')
            for place, probabilities in zip(places, logits.softmax(1).cpu(), strict=True):
                order = probabilities.argsort(descending=True, stable=True)[:count].tolist()
                answers[place] = tuple((names[k], float(probabilities[k])) for k in order)
        for place, (path, image) in enumerate(zip(part, read, strict=True)):
            error = image if isinstance(image, str) else ''
            if not error and not answers[place][0][1] >= 0:  # NaN
                error = 'the network gives it logits that are not finite'
            yield Prediction(path, () if error else answers[place], error)


def _read(model: TrainedClassifier, path: Path) -> Tensor | str:
    """The image of a file as the network takes it, or why there is none."""
    try:
        image = decode_rgb(path.read_bytes())
    except UnreadableImageError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    return model.fit(image)


def _names(classes: Sequence[str], outputs: int) -> list[str]:
    """A name for each output, its number where it has none."""
    if len(classes) > outputs:
        raise ValueError(f'the file names {len(classes)} classes, and its network has {outputs} outputs')
    return [*classes, *map(str, range(len(classes), outputs))]


def _settings(checkpoint: dict[str, Any], file: Path) -> dict[str, Any]:
    """What a checkpoint says of the model and of the test images of its run, if it names what is registered only."""
    settings = checkpoint.get(SETTINGS)
    if not isinstance(settings, dict) or not isinstance(settings.get('model'), dict):
        raise UnusableCheckpoint(
            f'{file} does not say of which network it is; give the config of its training (--config CONFIG)'
        )
    held = {'model': dict(settings['model']), 'data_preprocessor': settings.get('data_preprocessor')}
    for place in (held, held['model']):
        if isinstance(
            preprocessor := place.get('data_preprocessor'), dict
        ):  # what mixes a training batch is not needed
            place['data_preprocessor'] = {k: v for k, v in preprocessor.items() if k != 'batch_transforms'}
    try:
        check_names(held, 'model or converter', MODELS, CONVERTERS)
    except ValueError as error:
        raise UnusableCheckpoint(f'{file}: its settings are not used: {error}') from error
    loader = settings.get('test_dataloader') or settings.get('val_dataloader') or {}
    try:
        check_names(loader.get('dataset'), 'data set', DATASETS)
    except ValueError:  # a data set of one's own, which is not needed
        return held
    return {**held, 'test_dataloader': {'dataset': loader.get('dataset')}}
