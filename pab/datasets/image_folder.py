"""Photographs of one's own, and ImageNet: a folder with one folder of images for each class."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.datasets.folder import IMG_EXTENSIONS
from torchvision.transforms import v2

from ..checks import check_ints, known_choice
from ..preprocessing import shorter_side
from ..registry import DATASETS
from ..transforms import build_transforms
from .classes import NamedClasses, check_class_names, difference
from .common import ItemTransform, data_folder, missing_data, split_by_share, subset
from .decode import UnreadableImageError, decode_rgb, to_grey

IGNORED_LABEL = -100  # cross-entropy and Accuracy leave it out


@DATASETS.register_module()
class ImageFolder(NamedClasses, Dataset):
    """Photographs in ``data_root/split/<class>/<file>``; docs/own_data.md shows a config.

    An item is ``dict(images=(3, size, size) uint8, labels=int)``, or with ``transforms`` what these end in;
    ImagePreprocessor normalises on the device. Files are those with an image's extension, at any
    depth. Files and folders whose names begin with a dot are no data, and a folder that links lead to again is read
    once.

    A label is the position of the folder's name in ``metainfo['classes']``, the names in alphabetical order or
    ``classes``. A run gives its validation and test data the classes that its network was trained with.

    A file that cannot be read is named in the log once and listed in ``unreadable``; when training, the next readable
    file in order stands in for it (nearly always of the same class); otherwise its image is black and its label -100,
    so that the accuracy leaves it out. The random numbers of an item come from the seed that its index carries
    (EpochSampler), else from torch's default generator.

    Args:
        split: 'train' (random crop and flip), 'val' or 'test' (centre crop).
        data_root: by default the environment variable ``PAB_DATA``, else ``data``.
        size: pixels of a side of the crop.
        resize: pixels of the shorter side before the centre crop; at least ``size``, by default 256 / 224 of it.
        transforms: torchvision's by their names instead of crop and flip, a list such as
            ``[dict(type='Resize', size=[64, 64])]``; see :mod:`pab.transforms`.
        grey: images are (1, size, size); all that are read become grey.
        val_share: share of the images of each class that validate, in (0, 1), where there is no folder ``val``. The
            others train. Both are in ``train``, or without that folder in ``data_root`` itself.
        split_seed: which ones, an int >= 0.
        max_unreadable: share of files that may be unreadable, in [0, 1]; ten always may.
        classes: two or more names in the order of the labels, where folders alone do not say them: a class may be
            without a folder, but not a folder without a class.
        indices, num_samples, sample_seed: choose samples, see :func:`subset`.

    Raises:
        FileNotFoundError, ValueError: no such folder; one class or none, one without images, or one that ``classes``
            does not have; a setting out of range.
        RuntimeError: (from an item) more files are unreadable than may be.
    """

    splits = ('train', 'val', 'test')
    folder = ''  # below the root of the data

    def __init__(
        self,
        split: str = 'train',
        data_root: str | Path | None = None,
        *,
        size: int = 224,
        resize: int | None = None,
        transforms: Sequence[Mapping] | None = None,
        grey: bool = False,
        val_share: float | None = None,
        split_seed: int = 0,
        max_unreadable: float = 0.01,
        classes: Sequence[str] | None = None,
        indices: Sequence[int] | None = None,
        num_samples: int | None = None,
        sample_seed: int | None = None,
    ):
        self._name = type(self).__name__
        known_choice(self._name, 'split', split, self.splits)
        check_ints(self._name, size=size)
        check_ints(self._name, 0, split_seed=split_seed)
        resize = shorter_side(size) if resize is None else resize
        if size > resize:
            raise ValueError(f'{self._name}: needs size <= resize, got size={size!r}, resize={resize!r}')
        if val_share is not None and not 0 < val_share < 1:
            raise ValueError(f'{self._name}: val_share is a share of the images in (0, 1), got {val_share!r}')
        if not 0 <= max_unreadable <= 1:
            raise ValueError(f'{self._name}: max_unreadable is a share of the files in [0, 1], got {max_unreadable!r}')
        if classes is not None:
            classes = check_class_names(self._name, classes)
        self.training, self._grey = split == 'train', grey
        random = [v2.RandomResizedCrop(size), v2.RandomHorizontalFlip()]
        own = v2.Compose(random if self.training else [v2.Resize(resize), v2.CenterCrop(size)])
        blank = torch.zeros(1 if grey else 3, resize, resize, dtype=torch.uint8)
        self.transform = ItemTransform(
            self._name, own if transforms is None else build_transforms(self._name, transforms), blank
        )
        base = data_folder(data_root) / self.folder
        self.root, shared = base / split, val_share is not None and split != 'test' and not _has_folders(base / 'val')
        if shared:
            self.root = base / 'train' if _has_folders(base / 'train') else base
        if not self.root.is_dir():
            raise missing_data(self._name, self.root, 'make it with one folder of images for each class')
        files = self._find(classes)
        if shared:
            val = split == 'val'
            files = {
                name: split_by_share(self._name, name, paths, val_share, split_seed, val)
                for name, paths in files.items()
            }
        self.metainfo = {'classes': classes or tuple(files)}
        numbers = torch.tensor([self.metainfo['classes'].index(name) for name in files])
        labels = numbers.repeat_interleave(torch.tensor([len(paths) for paths in files.values()]))
        kept = subset(self._name, len(labels), indices, num_samples, sample_seed)
        # arrays, not lists: workers share their memory, while counting references to a million strings would copy it
        self._paths = np.array([os.fsencode(path) for paths in files.values() for path in paths])[kept]
        self.labels = labels[kept]
        # a ceiling also for small folders: a handful of bad files is no reason to stop
        self._max_unreadable = min(max(10, int(max_unreadable * len(self))), len(self) - 1)
        self._unreadable = torch.zeros(len(self), dtype=torch.bool).share_memory_()  # workers write to it

    def _find(self, classes: tuple[str, ...] | None) -> dict[str, list[str]]:
        """Class -> paths of its files from the root, both in alphabetical order."""
        folders = sorted(e.name for e in os.scandir(self.root) if e.is_dir() and not e.name.startswith('.'))
        folders = [name for name in folders if not (name in self.splits and _has_folders(self.root / name))]
        above = {self.root.resolve(), *self.root.resolve().parents}
        files = {name: image_files(self.root, name) for name in folders if (self.root / name).resolve() not in above}
        rule = f'{self._name}: {self.root} needs one folder of images for each class'
        if not files:
            raise ValueError(f'{rule}; there is no class folder in it')
        if empty := [name for name, paths in files.items() if not paths]:
            raise ValueError(f'{rule}; there is no image in {", ".join(empty)} ({", ".join(IMG_EXTENSIONS)})')
        if classes is None and len(files) == 1:
            raise ValueError(f'{rule}, and two classes or more, got {folders[0]} alone; name all of them by classes')
        if classes is not None and not set(files) <= set(classes):
            told = difference(list(files), classes, 'the folder', 'classes')
            raise ValueError(f'{self._name}: {self.root} has classes that are not in classes; {told}')
        return files

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
            return {'images': torch.zeros_like(self.transform.blank), 'labels': IGNORED_LABEL}
        while image is None:
            position = (position + 1) % len(self)
            image = self._read(position)
        return {'images': self.transform(image, index), 'labels': int(self.labels[position])}

    def _read(self, position: int) -> Tensor | None:
        """Return the pixels of a file, None when it cannot be read; RuntimeError when too many cannot."""
        path = self.path(position)
        if not self._unreadable[position]:
            try:
                image = decode_rgb(path.read_bytes())
                return to_grey(image) if self._grey else image
            except (OSError, UnreadableImageError) as error:
                if not self.root.is_dir():
                    told = f'{self._name}: the folder {self.root} is no longer there'
                    raise FileNotFoundError(f'{told}; bring it back, and go on with --resume') from error
                self._unreadable[position] = True
                rule = 'the next readable file stands in for it' if self.training else 'it is left out'
                count = f'{len(self.unreadable)} such files so far'
                # an error, for mmengine's logger passes on nothing less from ranks other than the first
                print_log(f'{self._name}: {path} cannot be read, {rule} ({count}): {error}', 'current', logging.ERROR)
        if (count := int(self._unreadable.sum())) > self._max_unreadable:
            names = ', '.join(map(str, self.unreadable[:3]))
            raise RuntimeError(
                f'{self._name}: {count} of {len(self)} files below {self.root} cannot be read, more than '
                f'{self._max_unreadable}: {names}, ...; repair the files, or raise max_unreadable'
            )
        return None


@DATASETS.register_module()
class ImageNet(ImageFolder):
    """ImageNet in ``data_root/imagenet/{train,val}/<WordNet id>/<file>``, else as :class:`ImageFolder`.

    Source: Russakovsky et al. 2015 (arXiv 1409.0575).
    """

    splits = ('train', 'val')
    folder = 'imagenet'


def _has_folders(path: Path) -> bool:
    return path.is_dir() and any(entry.is_dir() for entry in os.scandir(path))


def image_files(root: Path, name: str = '') -> list[str]:
    """Paths from ``root`` of the images in its folder ``name``, at any depth, in the order of ``ImageFolder``."""
    real = (root / name).resolve()
    seen, found = {real, *real.parents}, {}
    for folder, inner, files in os.walk(root / name, followlinks=True):
        kept = []
        # a folder itself before links to it
        for child in sorted(inner, key=lambda child: (os.path.islink(os.path.join(folder, child)), child)):
            target = Path(folder, child).resolve()
            if not child.startswith('.') and target not in seen:
                seen.add(target)
                kept.append(child)
        inner[:] = kept
        found[folder] = sorted(f for f in files if f.lower().endswith(IMG_EXTENSIONS) and not f.startswith('.'))
    start = len(str(root)) + 1
    return [os.path.join(folder, file)[start:] for folder in sorted(found) for file in found[folder]]
