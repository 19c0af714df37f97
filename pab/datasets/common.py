"""The place of the data, the choice of samples and their transforms, for every dataset."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

ENVIRONMENT = 'PAB_DATA'


def data_folder(data_root: str | Path | None = None) -> Path:
    """``data_root``, else the environment variable ``PAB_DATA`` of this moment, else ``data``."""
    return Path(data_root or os.environ.get(ENVIRONMENT) or 'data').expanduser()


def missing_data(who: str, path: Path, ways_out: str) -> FileNotFoundError:
    """Return the error for a missing file or folder: its name, its place, how to get it."""
    return FileNotFoundError(
        f'{who}: {path.name} is missing, looked for it at {path.absolute()}; {ways_out}, or point data_root or the '
        f'environment variable {ENVIRONMENT} (now {os.environ.get(ENVIRONMENT)!r}) to the folder that holds the data'
    )


def subset(
    who: str, total: int, indices: Sequence[int] | None = None, num_samples: int | None = None, sample_seed=None
) -> Tensor | slice:
    """Return what selects the wanted ones of ``total`` samples: int64 positions, or a slice of all.

    Args:
        who: the dataset, for messages.
        indices: the samples to keep, in this order; each in 0..total - 1, none twice; None keeps all.
        num_samples: how many samples to keep, 1..total; not together with ``indices``.
        sample_seed: which ``num_samples`` are kept: None means the first, an int draws them at random from it
            (numpy's RandomState, so the same on every machine).

    A ValueError answers any other request.
    """
    if indices is not None and num_samples is not None:
        raise ValueError(f'{who}: give indices or num_samples, not both (num_samples={num_samples!r})')
    if sample_seed is not None and num_samples is None:
        raise ValueError(f'{who}: sample_seed={sample_seed!r} chooses among samples only together with num_samples')
    if indices is not None:
        kept = torch.as_tensor(indices)
        is_list = kept.ndim == 1 and len(kept) and kept.dtype == torch.int64
        if not is_list or len(kept.unique()) < len(kept) or kept.min() < 0 or kept.max() >= total:
            raise ValueError(f'{who}: indices must be different integers in 0..{total - 1}, got {indices!r:.200}')
        return kept
    if num_samples is None:
        return slice(None)
    if not isinstance(num_samples, int) or isinstance(num_samples, bool) or not 1 <= num_samples <= total:
        raise ValueError(f'{who}: num_samples must be an integer in 1..{total}, got {num_samples!r}')
    order = np.arange(total) if sample_seed is None else np.random.RandomState(sample_seed).permutation(total)
    return torch.from_numpy(order[:num_samples].astype(np.int64))


def split_by_share(who: str, name: str, paths: Sequence[str], share: float, seed: int, val: bool) -> list[str]:
    """Return the part of one class that trains, or the other one, which validates, in the order of ``paths``.

    The seed and each path decide, by a hash: on every machine, whatever other files there are in other classes.

    Args:
        who, name: the dataset and the class, for messages.
        paths: of the images of the class, at least two, else ValueError.
        share: of the images that validate, in (0, 1): at least one, and all but one at most.
    """
    if len(paths) < 2:
        told = f'val_share={share} cannot split the class {name}, which has one image'
        raise ValueError(f'{who}: {told}; add images to it, or make a val folder')
    order = sorted(paths, key=lambda path: hashlib.sha256(f'{seed}/'.encode() + os.fsencode(path)).digest())
    chosen = set(order[: min(max(1, round(share * len(paths))), len(paths) - 1)])
    return [path for path in paths if (path in chosen) == val]


class ItemTransform:
    """A transform whose random numbers come from the seed that an index carries, and whose results have one shape.

    Args:
        who: the dataset, for messages.
        transform: of an image (C, H, W).
        example: such an image; ``blank`` is what becomes of it.
    """

    def __init__(self, who: str, transform: Callable[[Tensor], Tensor], example: Tensor):
        self._who, self._transform = who, transform
        try:
            with torch.random.fork_rng(devices=[]):
                self.blank = transform(example)
        except Exception as error:  # whatever a transform does with what does not suit it
            raise ValueError(f'{who}: transforms fail on an image of {tuple(example.shape)}: {error}') from error
        if not isinstance(self.blank, Tensor) or self.blank.ndim != 3:
            raise ValueError(f'{who}: transforms must end in a tensor (C, H, W), got {type(self.blank).__name__}')

    def __call__(self, image: Tensor, index: int) -> Tensor:
        """Transform an image; without a seed in its index, torch's default generator decides."""
        seed = getattr(index, 'seed', None)
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                # not torch.manual_seed: in a worker that would queue a call for every GPU, sample after sample
                torch.default_generator.manual_seed(seed)
            out = self._transform(image)
        if out.shape != self.blank.shape:
            sizes = f'{tuple(out.shape)} of image {int(index)}, {tuple(self.blank.shape)} of another'
            way_out = "give transforms that end in one size, such as dict(type='RandomResizedCrop', size=64)"
            raise ValueError(f'{self._who}: images of a batch must have one shape, got {sizes}; {way_out}')
        return out
