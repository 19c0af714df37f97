"""What a classifier does class by class, by scikit-learn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..registry import METRICS
from .accuracy import RowMetric

BINS = 15  # of the calibration error, as in the paper


@dataclass(frozen=True)
class ClassResults:
    """The results of one evaluation, of K classes; only images with a label count.

    Attributes:
        classes: K names.
        labels, predictions, confidences: (N,) of all images of the data set in its order; a label below 0 is none, a
            prediction -1 is that of logits that are not finite. Confidences are the probabilities of the predictions.
        confusion: (K, K) counts; rows are labels, columns predictions.
        images: (K,) of each label.
        accuracy: (K,) share of a label's images that are predicted so, its recall; NaN where there is no image.
        precision: (K,) share of a prediction's images that have the label; NaN where nothing is predicted so.
        balanced_accuracy: mean of ``accuracy`` over the classes with images, in per cent.
        calibration_error: mean of |confidence - accuracy| over images in 15 equal bins of confidence, in per cent.
    """

    classes: tuple[str, ...]
    labels: np.ndarray
    predictions: np.ndarray
    confidences: np.ndarray
    confusion: np.ndarray
    images: np.ndarray
    accuracy: np.ndarray
    precision: np.ndarray
    balanced_accuracy: float
    calibration_error: float


@METRICS.register_module()
class ClassAccuracy(RowMetric):
    """Balanced accuracy and calibration error, in per cent; and, in ``results_by_class``, accuracies and confusions.

    Keys: ``balanced_accuracy``, ``calibration_error``. As for :class:`Accuracy`, a negative label marks a sample that
    is left out, one whose logits are not finite counts as wrong (its confidence counts nowhere), and each sample is
    counted once. Beside Accuracy in a ``val_evaluator``, it gives the run's report a picture of the confusions.

    Args:
        kwargs: those of :class:`RowMetric`.

    Raises:
        ImportError: scikit-learn is not installed.

    Source: of the calibration error, Guo et al. 2017 (arXiv 1706.04599); scikit-learn has the balanced accuracy and
    the curve of calibration, torchmetrics would count a class without images as one that is never recognised.
    """

    metric_keys = ('balanced_accuracy', 'calibration_error')

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        try:
            import sklearn  # noqa: F401 (an extra)
        except ImportError as error:
            raise ImportError('ClassAccuracy: needs scikit-learn: pip install scikit-learn') from error
        self.results_by_class: ClassResults | None = None  # of the last evaluation, in the main process
        self._outputs = 0

    def process(self, data_batch: Any, data_samples: Sequence[dict]) -> None:
        for sample in data_samples:
            logits = sample['logits'].detach().float()
            self._outputs = logits.shape[1]
            confidence, prediction = logits.softmax(1).max(1)
            finite = logits.isfinite().all(1)
            rows = [sample['labels'], torch.where(finite, prediction, -1), torch.where(finite, confidence, torch.nan)]
            self._batches.append(torch.stack([row.double() for row in rows], 1))

    def compute_metrics(self, results: list[list[float]]) -> dict:
        names = tuple((self.dataset_meta or {}).get('classes') or ())
        names += tuple(map(str, range(len(names), self._outputs)))
        labels, predictions, confidences = np.array(results, dtype=float).reshape(-1, 3).T
        self.results_by_class = by_class(names, labels.astype(int), predictions.astype(int), confidences)
        return {key: getattr(self.results_by_class, key) for key in self.metric_keys}


def by_class(
    classes: Sequence[str], labels: np.ndarray, predictions: np.ndarray, confidences: np.ndarray
) -> ClassResults:
    """Compute :class:`ClassResults`; ValueError if no label is that of a class."""
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    known = labels >= 0
    if not known.any():
        raise ValueError('ClassAccuracy: there is no sample with a label to evaluate; is the dataset empty?')
    if (most := labels.max()) >= len(classes):
        raise ValueError(f'ClassAccuracy: labels must lie below the number of classes, {len(classes)}, got {most}')
    pair, each = (labels[known], predictions[known]), range(len(classes))
    precision, accuracy, _, images = precision_recall_fscore_support(*pair, labels=each, zero_division=np.nan)
    finite = known & np.isfinite(confidences)
    error = np.nan
    if finite.any():
        right, sure = (labels == predictions)[finite].astype(int), confidences[finite].clip(0, 1)
        observed, expected = calibration_curve(right, sure, n_bins=BINS, pos_label=1)
        edges = np.linspace(0, 1, BINS + 1)[1:-1]
        counts = np.unique(np.searchsorted(edges, sure), return_counts=True)[1]  # of the bins that are not empty
        error = 100 * np.average(np.abs(observed - expected), weights=counts)
    return ClassResults(
        tuple(classes),
        labels,
        predictions,
        confidences,
        confusion_matrix(*pair, labels=each),
        images,
        accuracy,
        precision,
        float(100 * np.nanmean(accuracy)),
        float(error),
    )
