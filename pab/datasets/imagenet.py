"""ImageNet, or any other folder with one folder of images for each class."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets import ImageFolder

from ..registry import DATASETS
from .crops import centre_crop, random_crop, seeded
from .decode import UnreadableImageError, decode_rgb
from .in_memory import check_split, subset
from .root import data_folder, missing_data

IGNORED_LABEL = -100  # cross-entropy and Accuracy leave it out


@DATASETS.register_module()
class ImageNet(Dataset):
    """Photographs in ``data_root/folder/split/<class>/<file>``.

    An item is ``dict(images=(3, size, size) uint8, labels=int)``; ImagePreprocessor normalises on the device. Classes
    and files are found by torchvision's ImageFolder: classes are the folders in alphabetical order, files those with an
    image's extension. Files of unusual kinds are converted (see ``decode_rgb``).

    Files that cannot be read never end a run on their own. Each is named in the log once and counted in
    ``unreadable``; when training, the next readable file in order stands in for it (nearly always of the same class);
    otherwise its image is black and its label -100, so that the accuracy leaves it out.

    The random numbers of an item come from the seed that its index carries (EpochSampler), else from torch's default
    generator.

    Args:
        split: 'train' (random crop and flip) or 'val' (centre crop).
        data_root: by default the environment variable ``PAB_DATA``, else ``data``.
        folder: below ``data_root``; '' when ``data_root`` itself holds train and val.
        size: pixels of a side of the crop.
        resize: pixels of the shorter side before the centre crop; at least ``size``.
        scale: range of the random crop's share of the image.
        ratio: range of the random crop's width / height.
        max_unreadable: share of files that may be unreadable, in [0, 1]; ten always may.
        indices, num_samples, sample_seed: choose samples, as for InMemoryDataset.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder holds no classes, or a class without images; a setting is out of range.
        RuntimeError: (from an item) more files are unreadable than may be.
    """

    def __init__(
        self,
        split: str = 'train',
        data_root: str | Path | None = None,
        *,
        folder: str = 'imagenet',
        size: int = 224,
        resize: int = 256,
        scale: tuple[float, float] = (0.08, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        max_unreadable: float = 0.01,
        indices: Sequence[int] | None = None,
        num_samples: int | None = None,
        sample_seed: int | None = None,
    ):
        check_split('ImageNet', split, ('train', 'val'))
        if not 1 <= size <= resize:
            raise ValueError(f'ImageNet: needs 1 <= size <= resize, got size={size!r}, resize={resize!r}')
        for name, (low, high) in (('scale', scale), ('ratio', ratio)):
            if not 0 < low <= high or (name == 'scale' and high > 1):
                raise ValueError(
                    f'ImageNet: {name} must be a range (low, high) above 0, scale up to 1, got {low, high}'
                )
        if not 0 <= max_unreadable <= 1:
            raise ValueError(f'ImageNet: max_unreadable is a share of the files in [0, 1], got {max_unreadable!r}')
        self.training = split == 'train'
        self.size, self.resize, self.scale, self.ratio = size, resize, tuple(scale), tuple(ratio)

        self.root = data_folder(data_root) / folder / split
        classes, files = _find(self.root)
        chosen = subset('ImageNet', len(files), indices, num_samples, sample_seed)
        # arrays, not lists: workers share their memory, while counting references to a million strings would copy it
        offset = len(str(self.root)) + 1
        paths = np.array([os.fsencode(path[offset:]) for path, _ in files])
        labels = torch.tensor([label for _, label in files])
        self._paths = paths if chosen is None else paths[chosen.numpy()]
        self.labels = labels if chosen is None else labels[chosen]
        self.metainfo = {'classes': tuple(classes)}
        # a ceiling also for small folders: a handful of bad files is no reason to stop
        self._max_unreadable = max(10, int(max_unreadable * len(self.labels)))
        self._unreadable = torch.zeros(len(self.labels), dtype=torch.bool).share_memory_()  # workers write to it

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
        """Return the file of a sample."""
        return self.root / os.fsdecode(self._paths[index])

    @property
    def unreadable(self) -> list[Path]:
        """The files that this process and its workers could not read so far."""
        return [self.path(index) for index in self._unreadable.nonzero().flatten().tolist()]

    def __getitem__(self, index: int) -> dict:
        position = range(len(self))[index]
        image = self._read(position)
        if image is None and not self.training:
            return {'images': torch.zeros(3, self.size, self.size, dtype=torch.uint8), 'labels': IGNORED_LABEL}
        for _ in range(len(self)):
            if image is not None:
                break
            position = (position + 1) % len(self)
            image = self._read(position)
        else:
            raise RuntimeError(f'ImageNet: none of the {len(self)} files below {self.root} can be read')
        if not self.training:
            image = centre_crop(image, self.resize, self.size)
        else:
            with seeded(getattr(index, 'seed', None)):
                image = random_crop(image, self.size, self.scale, self.ratio)
        return {'images': image, 'labels': int(self.labels[position])}

    def _read(self, position: int) -> Tensor | None:
        if self._unreadable[position]:
            return None
        path = self.path(position)
        try:
            return decode_rgb(path.read_bytes())
        except (OSError, UnreadableImageError) as error:
            self._unreadable[position] = True
            self._report(path, error)
        return None

    def _report(self, path: Path, error: Exception) -> None:
        count = int(self._unreadable.sum())
        rule = 'the next readable file stands in for it' if self.training else 'it is left out'
        # an error, for mmengine's logger passes on nothing less from ranks other than the first
        print_log(
            f'ImageNet: {path} cannot be read, {rule} ({count} such files so far): {error}', 'current', logging.ERROR
        )
        if count > self._max_unreadable or count == len(self):
            names = ', '.join(str(name) for name in self.unreadable[:3])
            raise RuntimeError(
                f'ImageNet: {count} of {len(self)} files below {self.root} cannot be read, more than '
                f'{self._max_unreadable} or all: {names}, ...; repair the files, or raise max_unreadable'
            )


def _find(root: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """Return the classes below a folder, and (path, label) of every file."""
    if not root.is_dir():
        raise missing_data('ImageNet', root, 'make it with one folder of images for each class')
    try:
        found = ImageFolder(str(root))
    except FileNotFoundError as error:
        raise ValueError(f'ImageNet: {root} needs one folder of images for each class; {error}') from error
    return found.classes, found.samples
