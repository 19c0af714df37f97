"""The place of the data and the choice of samples, for every dataset."""

import os
from collections.abc import Sequence
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
        if kept.ndim != 1 or len(kept) == 0 or kept.dtype != torch.int64:
            raise ValueError(f'{who}: indices must be a list of one or more integers, got {indices!r}')
        if int(kept.min()) < 0 or int(kept.max()) >= total:
            raise ValueError(f'{who}: indices must lie in 0..{total - 1}, got {int(kept.min())}..{int(kept.max())}')
        if len(kept.unique()) != len(kept):
            raise ValueError(f'{who}: indices must not name a sample twice')
        return kept
    if num_samples is None:
        return slice(None)
    if not isinstance(num_samples, int) or isinstance(num_samples, bool) or not 1 <= num_samples <= total:
        raise ValueError(f'{who}: num_samples must be an integer in 1..{total}, got {num_samples!r}')
    order = np.arange(total) if sample_seed is None else np.random.RandomState(sample_seed).permutation(total)
    return torch.from_numpy(order[:num_samples].astype(np.int64))
