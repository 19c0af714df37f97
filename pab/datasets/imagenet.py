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
from torchvision.transforms import v2

from ..checks import known_choice
from ..registry import DATASETS
from .common import data_folder, missing_data, subset
from .decode import UnreadableImageError, decode_rgb

IGNORED_LABEL = -100  # cross-entropy and Accuracy leave it out


@DATASETS.register_module()
class ImageNet(Dataset):
    """Photographs in ``data_root/folder/split/<class>/<file>``.

    An item is ``dict(images=(3, size, size) uint8, labels=int)``; ImagePreprocessor normalises on the device. As with
    torchvision's ImageFolder, classes are the folders in alphabetical order, files those with an image's extension.

    A file that cannot be read is named in the log once and listed in ``unreadable``; when training, the next readable
    file in order stands in for it (nearly always of the same class); otherwise its image is black and its label -100,
    so that the accuracy leaves it out. The random numbers of an item come from the seed that its index carries
    (EpochSampler), else from torch's default generator.

    Args:
        split: 'train' (random crop and flip) or 'val' (centre crop).
        data_root: by default the environment variable ``PAB_DATA``, else ``data``.
        folder: below ``data_root``; '' when ``data_root`` itself holds train and val.
        size: pixels of a side of the crop.
        resize: pixels of the shorter side before the centre crop; at least ``size``.
        scale, ratio: ranges of the random crop's share of the image, and of its width / height.
        max_unreadable: share of files that may be unreadable, in [0, 1]; ten always may.
        indices, num_samples, sample_seed: choose samples, see :func:`subset`.

    Raises:
        FileNotFoundError, ValueError: no such folder; no classes, or one without images; a setting out of range.
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
        known_choice('ImageNet', 'split', split, ('train', 'val'))
        if not 1 <= size <= resize:
            raise ValueError(f'ImageNet: needs 1 <= size <= resize, got size={size!r}, resize={resize!r}')
        for name, (low, high), limit in (('scale', scale, 1), ('ratio', ratio, float('inf'))):
            if not 0 < low <= high <= limit:
                raise ValueError(f'ImageNet: {name} needs 0 < low <= high <= {limit}, got {low, high}')
        if not 0 <= max_unreadable <= 1:
            raise ValueError(f'ImageNet: max_unreadable is a share of the files in [0, 1], got {max_unreadable!r}')
        self.training, self.size = split == 'train', size
        random = [v2.RandomResizedCrop(size, scale, ratio), v2.RandomHorizontalFlip()]
        self.transform = v2.Compose(random if self.training else [v2.Resize(resize), v2.CenterCrop(size)])
        self.root = data_folder(data_root) / folder / split
        if not self.root.is_dir():
            raise missing_data('ImageNet', self.root, 'make it with one folder of images for each class')
        try:
            found = ImageFolder(str(self.root))
        except FileNotFoundError as error:
            raise ValueError(f'ImageNet: {self.root} needs one folder of images for each class; {error}') from error
        kept = subset('ImageNet', len(found), indices, num_samples, sample_seed)
        offset = len(str(self.root)) + 1
        # arrays, not lists: workers share their memory, while counting references to a million strings would copy it
        self._paths = np.array([os.fsencode(path[offset:]) for path, _ in found.samples])[kept]
        self.labels = torch.tensor(found.targets)[kept]
        self.metainfo = {'classes': tuple(found.classes)}
        # a ceiling also for small folders: a handful of bad files is no reason to stop
        self._max_unreadable = min(max(10, int(max_unreadable * len(self))), len(self) - 1)
        self._unreadable = torch.zeros(len(self), dtype=torch.bool).share_memory_()  # workers write to it

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> Path:
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
        while image is None:
            position = (position + 1) % len(self)
            image = self._read(position)
        seed = getattr(index, 'seed', None)
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                # not torch.manual_seed: in a worker that would queue a call for every GPU, sample after sample
                torch.default_generator.manual_seed(seed)
            return {'images': self.transform(image), 'labels': int(self.labels[position])}

    def _read(self, position: int) -> Tensor | None:
        """Return the pixels of a file, None when it cannot be read; RuntimeError when too many cannot."""
        path = self.path(position)
        if not self._unreadable[position]:
            try:
                return decode_rgb(path.read_bytes())
            except (OSError, UnreadableImageError) as error:
                self._unreadable[position] = True
                rule = 'the next readable file stands in for it' if self.training else 'it is left out'
                text = f'ImageNet: {path} cannot be read, {rule} ({len(self.unreadable)} such files so far): {error}'
                # an error, for mmengine's logger passes on nothing less from ranks other than the first
                print_log(text, 'current', logging.ERROR)
        if (count := int(self._unreadable.sum())) > self._max_unreadable:
            names = ', '.join(map(str, self.unreadable[:3]))
            raise RuntimeError(
                f'ImageNet: {count} of {len(self)} files below {self.root} cannot be read, more than '
                f'{self._max_unreadable}: {names}, ...; repair the files, or raise max_unreadable'
            )
        return None
