"""CIFAR-10 and CIFAR-100 from the files of the official python archives."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from mmengine.dist import barrier, is_main_process
from torchvision.datasets.utils import download_and_extract_archive

from ..checks import known_choice
from ..registry import DATASETS
from .common import data_folder, missing_data
from .in_memory import InMemoryDataset
from .safe_pickle import load_arrays


@DATASETS.register_module()
class CIFAR10(InMemoryDataset):
    """CIFAR-10: 50,000 train and 10,000 test images, 32 x 32 in colour, of ten classes.

    The files are read without executing what a pickle might ask for. Checksums are compared at the download only.
    Where the file with the names of the classes is missing, the classes have none and keep their numbers.

    Args:
        split: 'train' or 'test'.
        data_root: the folder that holds ``folder``; by default the environment variable ``PAB_DATA``, else ``data``.
        download: fetch the official archive (163 MiB) when a file is missing; the main process does, the others wait.
        subset: ``device``, ``indices``, ``num_samples``, ``sample_seed`` of :class:`InMemoryDataset`.

    Raises:
        OSError: a file is missing (FileNotFoundError), or the download failed.
        ValueError: a file is damaged, tries to run code, or does not hold what it should.

    Source: Krizhevsky 2009, Learning multiple layers of features from tiny images.
    """

    num_classes = 10
    folder = 'cifar-10-batches-py'
    files = {'train': tuple(f'data_batch_{part}' for part in range(1, 6)), 'test': ('test_batch',)}
    meta = ('batches.meta', 'label_names')  # the file with the names of the classes, and their key
    label_key = 'labels'
    url = 'https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz'
    md5 = 'c58f30108f718f92721af3b95e74349a'

    def __init__(self, split: str = 'train', data_root: str | Path | None = None, *, download: bool = False, **subset):
        known_choice(type(self).__name__, 'split', split, self.files)
        root = data_folder(data_root)
        if download:
            self._download(root)
        parts = [self._read(root / self.folder / name) for name in self.files[split]]
        images, labels = (torch.from_numpy(np.concatenate(arrays)) for arrays in zip(*parts, strict=True))
        names = root / self.folder / self.meta[0]
        # numbers in place of names would be other classes than those of a checkpoint that has the names
        classes = self._load(names).get(self.meta[1]) if names.is_file() else None
        if classes is not None:
            classes = [name.decode() if isinstance(name, bytes) else str(name) for name in classes]
        super().__init__(images, labels, classes, **subset)

    def _download(self, root: Path) -> None:
        files = [f'{self.folder}/{name}' for names in (*self.files.values(), self.meta[:1]) for name in names]
        try:
            if is_main_process() and not all((root / file).is_file() for file in files):
                root.mkdir(parents=True, exist_ok=True)
                with TemporaryDirectory(dir=root) as part:  # so that a file is there whole or not at all
                    download_and_extract_archive(self.url, str(root), part, md5=self.md5)
                    (root / self.folder).mkdir(exist_ok=True)
                    for file in files:
                        os.replace(f'{part}/{file}', root / file)
        except Exception as error:
            what = f'{type(self).__name__}: cannot get {self.url} (md5 {self.md5}) into {root} ({error})'
            raise OSError(f'{what}; fetch it by other means and unpack it there') from error
        finally:
            barrier()  # also after a failure: the others wait there

    def _load(self, path: Path) -> dict[str, object]:
        if not path.is_file():
            raise missing_data(type(self).__name__, path, f'get it with download=True, or unpack {self.url} there')
        return load_arrays(path)

    def _read(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        who, batch = type(self).__name__, self._load(path)
        pixels, labels = batch.get('data'), batch.get(self.label_key)
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3 * 32 * 32,):
            got = f'{pixels.dtype} {pixels.shape}' if isinstance(pixels, np.ndarray) else type(pixels).__name__
            raise ValueError(f'{who}: data in {path} must be a uint8 array of shape (N, 3072), got {got}')
        labels = labels.tolist() if isinstance(labels, np.ndarray) else labels
        known = range(self.num_classes)
        is_list = isinstance(labels, list) and len(labels) == len(pixels) > 0
        if not is_list or not all(type(label) is int and label in known for label in labels):
            rule = f'{len(pixels)} integers in 0..{known[-1]}, one for each image'
            raise ValueError(f'{who}: {self.label_key} in {path} must be {rule}')
        return pixels.reshape(-1, 3, 32, 32), np.array(labels)


@DATASETS.register_module()
class CIFAR100(CIFAR10):
    """CIFAR-100: a hundred classes, else as :class:`CIFAR10`."""

    num_classes = 100
    folder = 'cifar-100-python'
    files = {'train': ('train',), 'test': ('test',)}
    meta = ('meta', 'fine_label_names')
    label_key = 'fine_labels'
    url = 'https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz'
    md5 = 'eb9058c3a382ffc7106e4002c42a8d85'
