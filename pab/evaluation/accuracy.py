"""Shares of samples whose label is among the highest logits."""

import logging
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from torch import Tensor

from ..registry import METRICS


class RowMetric(BaseMetric):
    """A metric of a row of numbers for each sample, (N, ...) float64 in ``_batches``, kept where the logits are.

    Nothing waits for a device before the end. Arguments are those of mmengine's BaseMetric: ``prefix``, ``collect_dir``
    and ``collect_device``. Its default 'gpu' gathers by messages between the ranks, on any device; 'cpu' by files in a
    folder that all of them must see.
    """

    default_prefix = ''

    def __init__(self, **kwargs):
        super().__init__(**{'collect_device': 'gpu', **kwargs})
        self._batches: list[Tensor] = []

    def evaluate(self, size: int) -> dict:
        # one entry a sample, so that the gathering interleaves the ranks and drops padded samples
        self.results = torch.cat(self._batches).cpu().tolist() if self._batches else []
        self._batches.clear()
        return super().evaluate(size)


@METRICS.register_module()
class Accuracy(RowMetric):
    """Accuracy in per cent, and the mean cross-entropy.

    Keys: ``accuracy/top{k}`` for each k, ``cross_entropy``, and ``nonfinite`` (number of samples with a NaN or infinite
    logit) when there are any. A sample with such a logit counts as wrong, and the cross-entropy shows it; where every
    sample has one, the accuracy is NaN, which no checkpoint is the best by. A negative
    label marks a sample that is left out. Each sample is counted once, also when ranks were padded to the same number
    of samples.

    Args:
        topk: the k, each 1 or more; of equal logits the lower class goes first.
        kwargs: those of :class:`RowMetric`.
    """

    def __init__(self, topk: int | Sequence[int] = (1,), **kwargs):
        super().__init__(**kwargs)
        ks = (topk,) if isinstance(topk, int) else tuple(topk)
        if not ks or not all(isinstance(k, int) and not isinstance(k, bool) and k >= 1 for k in ks):
            raise ValueError(f'Accuracy: topk must be integers of 1 or more, got {topk!r}')
        self.topk = ks

    @property
    def metric_keys(self) -> list[str]:
        """The keys that every evaluation has, without ``prefix``; runs ask before their first step."""
        return [*(f'accuracy/top{k}' for k in self.topk), 'cross_entropy']

    def check_classes(self, number: int) -> None:
        """Raise a ValueError if there are fewer classes than the largest k; runs ask before their first step."""
        if max(self.topk) > number:
            raise ValueError(f'Accuracy: topk must not exceed the number of classes, {number}, got {max(self.topk)}')

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            rows = sample_rows(sample['logits'], sample['labels'], self.topk)
            self.check_classes(sample['logits'].shape[1])
            self._batches.append(rows)

    def compute_metrics(self, results: list[list[float]]) -> dict:
        rows = torch.tensor(results, dtype=torch.float64).reshape(-1, 2 + len(self.topk))
        rows = rows[~rows[:, 1].isnan()]
        if len(rows) == 0:
            raise ValueError('Accuracy: there is no sample with a label to evaluate; is the dataset empty?')
        metrics = {f'accuracy/top{k}': 100 * rows[:, 2 + i].mean().item() for i, k in enumerate(self.topk)}
        # a key with 'loss' in it would be logged as the mean over the validations so far
        metrics['cross_entropy'] = rows[:, 0].mean().item()
        if nonfinite := int(rows[:, 1].sum()):
            metrics['nonfinite'] = nonfinite
            text = f'Accuracy: {nonfinite} of {len(rows)} samples have NaN or infinite logits and count as wrong'
            if nonfinite == len(rows):
                metrics.update((name, float('nan')) for name in metrics if name.startswith('accuracy/'))
                text = f'Accuracy: all {len(rows)} samples have NaN or infinite logits, so there is no accuracy'
            print_log(text, 'current', logging.WARNING)
        return metrics


def sample_rows(logits: Tensor, labels: Tensor, topk: Sequence[int]) -> Tensor:
    """Return (N, 2 + len(topk)) float64: loss, whether a logit is not finite (NaN: left out), whether in each top k."""
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        got = f'{tuple(logits.shape)} and {tuple(labels.shape)}'
        raise ValueError(f'Accuracy: logits must be (N, num_classes) and labels (N,), got {got}')
    num_classes = logits.shape[1]
    # on other devices this check would wait for them; there a label out of range fails in the loss
    if labels.device.type == 'cpu' and len(labels) and (most := int(labels.max())) >= num_classes:
        raise ValueError(f'Accuracy: labels must lie below the number of logits, {num_classes}, got {most}')
    logits = logits.detach().double()
    counted, labels = labels >= 0, labels.clamp(min=0)
    own = logits.gather(1, labels[:, None])
    lower = torch.arange(num_classes, device=logits.device) < labels[:, None]
    before = ((logits > own) | ((logits == own) & lower)).sum(dim=1)
    finite = logits.isfinite().all(dim=1)
    loss = F.cross_entropy(logits, labels, reduction='none')
    state = torch.where(counted, (~finite).double(), torch.nan)
    return torch.stack([loss, state, *[(finite & (before < k)).double() for k in topk]], dim=1)
