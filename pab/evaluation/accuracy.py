"""The share of samples whose label is among the highest logits."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor

from ..registry import METRICS


@METRICS.register_module()
class Accuracy(BaseMetric):
    """Accuracy in per cent, and the mean cross-entropy.

    Keys: ``accuracy/top{k}`` for each k, ``cross_entropy``, and ``nonfinite`` (number of samples with a NaN or infinite
    logit) when there are any. A sample with such a logit counts as wrong, and the cross-entropy shows it. (A key with
    'loss' in it would be logged as the mean over the validations so far.) A negative label marks a
    sample that is left out. Each sample is counted once, also when ranks were padded to the same number of samples.

    Per batch only a few numbers a sample are kept, on the device of the logits; nothing waits for that device before
    the end of the run.

    Args:
        topk: the k, each 1 or more; a label is within the top k when fewer than k classes go before it. Of equal logits
            the lower class goes first.
        kwargs: ``collect_device``, ``prefix``, ``collect_dir`` of mmengine's BaseMetric. The default 'gpu' gathers by
            messages between the ranks, on any device; 'cpu' by files in a folder that all of them must see.
    """

    default_prefix = ''

    def __init__(self, topk: int | Sequence[int] = (1,), **kwargs):
        super().__init__(**{'collect_device': 'gpu', **kwargs})
        ks = (topk,) if isinstance(topk, int) else tuple(topk)
        if not ks or not all(isinstance(k, int) and not isinstance(k, bool) and k >= 1 for k in ks):
            raise ValueError(f'Accuracy: topk must be integers of 1 or more, got {topk!r}')
        self.topk = ks
        self._batches: list[Tensor] = []

    @BaseMetric.dataset_meta.setter
    def dataset_meta(self, meta: dict) -> None:
        # given when the loop is built: before a run's first epoch, and not after it
        BaseMetric.dataset_meta.fset(self, meta)
        if meta and 'classes' in meta:
            _check_topk(self.topk, len(meta['classes']))

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        """Take in the outputs of a batch: dicts with logits (N, num_classes) and labels (N,)."""
        for sample in data_samples:
            self._batches.append(sample_rows(sample['logits'], sample['labels'], self.topk))

    def evaluate(self, size: int) -> dict:
        """Return the metrics of the ``size`` samples of the dataset, gathered from all ranks."""
        # one entry a sample, so that the gathering interleaves the ranks and drops padded samples
        self.results = torch.cat(self._batches).cpu().tolist() if self._batches else []
        self._batches.clear()
        return super().evaluate(size)

    def compute_metrics(self, results: list[list[float]]) -> dict:
        """Return the metrics of rows as :func:`sample_rows` makes them."""
        rows = torch.tensor(results, dtype=torch.float64).reshape(-1, 2 + len(self.topk))
        rows = rows[~rows[:, 1].isnan()]
        if len(rows) == 0:
            raise ValueError('Accuracy: there is no sample with a label to evaluate; is the dataset empty?')
        metrics = {f'accuracy/top{k}': 100 * rows[:, 2 + i].mean().item() for i, k in enumerate(self.topk)}
        metrics['cross_entropy'] = rows[:, 0].mean().item()
        nonfinite = int(rows[:, 1].sum())
        if nonfinite:
            metrics['nonfinite'] = nonfinite
            print_log(
                f'Accuracy: {nonfinite} of {len(rows)} samples have NaN or infinite logits and count as wrong',
                'current',
                logging.WARNING,
            )
        return metrics


def sample_rows(logits: Tensor, labels: Tensor, topk: Sequence[int]) -> Tensor:
    """Return (N, 2 + len(topk)) float64: loss, whether a logit is not finite (NaN: left out), whether in each top k.

    Args:
        logits: (N, num_classes), floating.
        labels: (N,) int64; negative for a sample to leave out.
        topk: the k.
    """
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f'Accuracy: logits must be (N, num_classes) and labels (N,), '
            f'got {tuple(logits.shape)} and {tuple(labels.shape)}'
        )
    num_classes = logits.shape[1]
    _check_topk(topk, num_classes)
    # on other devices this check would wait for them; there a label out of range fails in the loss
    if labels.device.type == 'cpu' and len(labels) and int(labels.max()) >= num_classes:
        raise ValueError(
            f'Accuracy: labels must lie below the number of logits, {num_classes}, got {int(labels.max())}'
        )
    logits = logits.detach().double()
    counted = labels >= 0
    labels = labels.clamp(min=0)
    own = logits.gather(1, labels[:, None])
    lower = torch.arange(num_classes, device=logits.device) < labels[:, None]
    before = ((logits > own) | ((logits == own) & lower)).sum(dim=1)
    finite = logits.isfinite().all(dim=1)
    loss = F.cross_entropy(logits, labels, reduction='none')
    state = torch.where(counted, (~finite).double(), torch.nan)
    return torch.stack([loss, state, *[(finite & (before < k)).double() for k in topk]], dim=1)


def _check_topk(topk: Sequence[int], num_classes: int) -> None:
    if max(topk) > num_classes:
        raise ValueError(f'Accuracy: topk must not exceed the number of classes, {num_classes}, got {max(topk)}')
