"""Any classification data set of torchvision, by its name."""

import inspect
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from mmengine.dist import barrier, is_main_process
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import datasets
from torchvision.transforms.v2 import functional as F

from ..checks import known_choice
from ..registry import DATASETS
from ..transforms import build_transforms
from .classes import check_class_names
from .common import ItemTransform, data_folder

NAMES = [name for name in datasets.__all__ if inspect.isclass(getattr(datasets, name))]


@DATASETS.register_module()
class TorchvisionDataset(Dataset):
    """A data set of ``torchvision.datasets`` whose items are an image and its class.

    An item is ``dict(images=(C, H, W) uint8, labels=int)``, or with ``transforms`` what these end in. C is 1 for grey
    images and 3 for all others. The random numbers of an item come from the seed that its index carries
    (EpochSampler), else from torch's default generator.

    Args:
        name: of the class, such as 'MNIST'.
        arguments: what it is built with, such as ``dict(train=False)``; ``root`` is by default the environment variable
            ``PAB_DATA``, else ``data``. With ``download=True`` the main process downloads, the others wait.
        transforms: torchvision's by their names, see :mod:`pab.transforms`; images of different sizes need some.
        classes: names of the classes in the order of the labels; by default those of torchvision, or the numbers.

    Raises:
        ValueError: no such data set, or its items are no image and class; arguments that it does not take; images of
            different shapes (from an item).
        OSError, RuntimeError: torchvision does not find the data, or cannot download them.
    """

    def __init__(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        transforms: Sequence[Mapping] | None = None,
        classes: Sequence[str] | None = None,
    ):
        known_choice('TorchvisionDataset', 'name', name, NAMES)
        kind, self._name = getattr(datasets, name), f'TorchvisionDataset: {name}'
        arguments, known = dict(arguments or {}), inspect.signature(kind).parameters
        if 'root' in known:
            arguments.setdefault('root', str(data_folder()))
        try:
            if arguments.get('download') and is_main_process():
                _make(kind, arguments)
        finally:
            if arguments.get('download'):
                barrier()  # also after a failure: the others wait there
        self._data = _make(kind, arguments)
        if len(self._data) == 0:
            raise ValueError(f'{self._name}: there is no image in it')
        image, target = self._read(0)
        self.transform = ItemTransform(
            self._name, (lambda image: image) if transforms is None else build_transforms(self._name, transforms), image
        )
        targets = (getattr(self._data, key, None) for key in ('targets', '_labels', 'labels'))
        found = next((list(t) for t in targets if t is not None and len(t) == len(self._data)), None)
        self._targets = None if found is None else torch.tensor([int(t) for t in found])
        self.metainfo = {'classes': check_class_names(self._name, classes or self._classes(target))}
        self._numbers = torch.arange(len(self.metainfo['classes']))
        if self._targets is not None and (most := int(self._targets.max())) >= len(self._numbers):
            raise ValueError(f'{self._name}: has the label {most}, and classes names {len(self._numbers)}, from 0 on')

    def _classes(self, target: int) -> list[str]:
        """Names of the classes as far as torchvision tells them."""
        if names := getattr(self._data, 'classes', None):
            return [name if isinstance(name, str) else ', '.join(name) for name in names]
        known = self._targets is not None
        number = int(self._targets.max()) + 1 if known else getattr(self._data, 'num_classes', None)
        if number is None:
            raise ValueError(f'{self._name}: it does not tell its classes; name them by classes=[...]')
        return [str(label) for label in range(number)]

    def _read(self, index: int) -> tuple[Tensor, int]:
        image, target = (*self._data[index], None)[:2]
        if not isinstance(image, Image.Image | Tensor) or not isinstance(target, Integral | Tensor):
            got = f'{type(image).__name__} and {type(target).__name__}'
            raise ValueError(f'{self._name}: items must be an image and its class, got {got}')
        if isinstance(image, Image.Image):
            image = F.pil_to_tensor(image if image.mode in ('L', 'RGB') else image.convert('RGB'))
        return image, int(target)

    @property
    def labels(self) -> Tensor | None:
        """(N,) the class of each image; None where only the images' own items tell it."""
        return None if self._targets is None else self._number(self._targets)

    def _number(self, targets: Tensor) -> Tensor:
        return torch.where(targets < 0, targets, self._numbers[targets.clamp(min=0)])  # negative ones are no class

    def number_classes(self, classes: Sequence[str]) -> None:
        """Number the classes as ``classes`` does, which has each of their names and may have more."""
        table = torch.tensor([classes.index(name) for name in self.metainfo['classes']])
        self._numbers = table[self._numbers]
        self.metainfo['classes'] = tuple(classes)

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> dict:
        image, target = self._read(range(len(self))[index])
        return {'images': self.transform(image, index), 'labels': int(self._number(torch.tensor(target)))}


def _make(kind: type, arguments: Mapping[str, Any]) -> Any:
    try:
        return kind(**arguments)
    except (RuntimeError, OSError, TypeError, ValueError) as error:
        told = f'TorchvisionDataset: {kind.__name__} cannot be built with {dict(arguments)}: {error}'
        raise (ValueError if isinstance(error, TypeError | ValueError) else OSError)(told) from error
