"""CIFAR-10 and CIFAR-100 from the files of the official python archives."""

from pathlib import Path

import numpy as np
import torch

from ..registry import DATASETS
from .download import fetch_files
from .in_memory import InMemoryDataset, check_split
from .root import data_folder, missing_data
from .safe_pickle import load_arrays


class CIFAR(InMemoryDataset):
    """The common part of CIFAR-10 and CIFAR-100: 32 x 32 colour images in pickled batches.

    The files are read without executing what a pickle might ask for. Checksums are compared at the download only, so
    files in the official layout but from another source load as well.

    Args:
        split: 'train' or 'test'.
        data_root: the folder that holds ``cifar-10-batches-py`` (``cifar-100-python``); by default the environment
            variable ``PAB_DATA``, else ``data``.
        download: fetch the official archive (163 MiB) when a file is missing.
        subset: ``indices``, ``num_samples``, ``sample_seed`` of :class:`InMemoryDataset`.

    Raises:
        FileNotFoundError: a file is missing and ``download`` is off.
        OSError: the download failed.
        ValueError: a file is damaged, tries to run code, or does not hold what it should.

    Source: Krizhevsky 2009, Learning multiple layers of features from tiny images.
    """

    num_classes: int
    folder: str
    files: dict[str, tuple[str, ...]]
    meta: tuple[str, bytes]  # the file with the names of the classes, and their key
    label_key: bytes
    url: str
    md5: str

    def __init__(self, split: str = 'train', data_root: str | Path | None = None, *, download: bool = False, **subset):
        check_split(type(self).__name__, split, tuple(self.files))
        root = data_folder(data_root)
        if download:
            self._download(root)
        parts = [self._read(root / self.folder / name) for name in self.files[split]]
        images = torch.from_numpy(np.concatenate([pixels for pixels, _ in parts]))
        labels = torch.from_numpy(np.concatenate([numbers for _, numbers in parts]))
        super().__init__(images, labels, self._class_names(root), **subset)

    def _download(self, root: Path) -> None:
        members = [f'{self.folder}/{name}' for names in self.files.values() for name in names]
        members.append(f'{self.folder}/{self.meta[0]}')
        fetch_files(type(self).__name__, self.url, self.md5, root, members)

    def _load(self, path: Path) -> dict[bytes, object]:
        who = type(self).__name__
        if not path.is_file():
            raise missing_data(who, path, f'get it with download=True, or unpack {self.url} there')
        content = load_arrays(path)
        if not isinstance(content, dict):
            raise ValueError(f'{who}: {path} must hold a dict, got {type(content).__name__}; it is another file')
        # pickles of Python 2 have bytes as keys, some rewritten ones have strings
        return {key.encode() if isinstance(key, str) else key: value for key, value in content.items()}

    def _read(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        who, batch = type(self).__name__, self._load(path)
        pixels, labels = batch.get(b'data'), batch.get(self.label_key)
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3 * 32 * 32,):
            got = f'{pixels.dtype} {pixels.shape}' if isinstance(pixels, np.ndarray) else type(pixels).__name__
            raise ValueError(f'{who}: data in {path} must be a uint8 array of shape (N, 3072), got {got}')
        try:
            numbers = np.asarray(labels)
        except ValueError:  # a list of unequal lists
            numbers = np.empty(0, dtype=object)
        if numbers.dtype.kind not in 'iu' or numbers.shape != (len(pixels),):
            raise ValueError(
                f'{who}: {self.label_key.decode()} in {path} must be {len(pixels)} integers, one for each image'
            )
        numbers = numbers.astype(np.int64)
        if len(numbers) == 0 or numbers.min() < 0 or numbers.max() >= self.num_classes:
            raise ValueError(f'{who}: labels in {path} must lie in 0..{self.num_classes - 1}, one or more of them')
        return pixels.reshape(-1, 3, 32, 32), numbers

    def _class_names(self, root: Path) -> list[str]:
        path = root / self.folder / self.meta[0]
        if not path.is_file():  # the names are for people only
            return [str(label) for label in range(self.num_classes)]
        names = self._load(path).get(self.meta[1])
        if not isinstance(names, list) or len(names) != self.num_classes:
            raise ValueError(
                f'{type(self).__name__}: {self.meta[1].decode()} in {path} must be {self.num_classes} names of classes'
            )
        return [name.decode() if isinstance(name, bytes) else str(name) for name in names]


@DATASETS.register_module()
class CIFAR10(CIFAR):
    """CIFAR-10: 50,000 train and 10,000 test images of ten classes; arguments as for :class:`CIFAR`."""

    num_classes = 10
    folder = 'cifar-10-batches-py'
    files = {'train': tuple(f'data_batch_{part}' for part in range(1, 6)), 'test': ('test_batch',)}
    meta = ('batches.meta', b'label_names')
    label_key = b'labels'
    url = 'https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz'
    md5 = 'c58f30108f718f92721af3b95e74349a'


@DATASETS.register_module()
class CIFAR100(CIFAR):
    """CIFAR-100: 50,000 train and 10,000 test images of a hundred classes; arguments as for :class:`CIFAR`."""

    num_classes = 100
    folder = 'cifar-100-python'
    files = {'train': ('train',), 'test': ('test',)}
    meta = ('meta', b'fine_label_names')
    label_key = b'fine_labels'
    url = 'https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz'
    md5 = 'eb9058c3a382ffc7106e4002c42a8d85'
