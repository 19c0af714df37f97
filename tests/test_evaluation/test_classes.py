import math
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config

from pab.evaluation import ClassAccuracy
from pab.evaluation.classes import by_class
from pab.registry import METRICS
from pab.report.record import confusion_record
from tests.small_run import run_ranks


def evaluate(metric, *batches, size=None):
    for logits, labels in batches:
        metric.process(None, [{'logits': logits, 'labels': labels}])
    return metric.evaluate(size if size is not None else sum(len(labels) for _, labels in batches))


def sure(prediction, probability, classes=3):
    """Logits whose largest probability is the one given."""
    rest = (1 - probability) / (classes - 1)
    return torch.where(torch.arange(classes) == prediction, probability, rest).log()


def test_by_hand():
    """Class 0: two of three are right; class 1: one of one; class 2 has no image."""
    metric = METRICS.build(dict(type='ClassAccuracy'))
    metric.dataset_meta = {'classes': ('a', 'b', 'c')}
    logits = torch.stack([sure(0, 0.9), sure(0, 0.9), sure(2, 0.7), sure(1, 0.5), sure(1, 0.8)])
    labels = torch.tensor([0, 0, 0, 1, -100])
    metrics = evaluate(metric, (logits[:2], labels[:2]), (logits[2:], labels[2:]))
    # bins of 1/15: two images at 0.9, both right; one at 0.7, wrong; one at 0.5, right
    error = 100 * (2 * 0.1 + 1 * 0.7 + 1 * 0.5) / 4
    assert metrics == {
        'balanced_accuracy': pytest.approx(100 * (2 / 3 + 1) / 2),
        'calibration_error': pytest.approx(error),
    }
    results = metric.results_by_class
    assert results.classes == ('a', 'b', 'c')
    assert results.confusion.tolist() == [[2, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert results.images.tolist() == [3, 1, 0]
    np.testing.assert_allclose(results.accuracy, [2 / 3, 1, math.nan])
    np.testing.assert_allclose(results.precision, [1, 1, 0])
    assert results.labels.tolist() == [0, 0, 0, 1, -100]
    assert results.predictions.tolist() == [0, 0, 2, 1, 1]
    np.testing.assert_allclose(results.confidences, [0.9, 0.9, 0.7, 0.5, 0.8], rtol=1e-6)


def test_calibration_of_images_in_one_bin_is_that_of_their_means():
    confidences = np.array([0.61, 0.65, 0.63, 0.99])  # three in (0.6, 2/3]
    results = by_class('ab', np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), confidences)
    assert results.calibration_error == pytest.approx(100 * (3 * abs(2 / 3 - 0.63) + 0.01) / 4)


def test_against_loops_over_classes_and_bins():
    logits, labels = torch.randn(300, 7) * 2, torch.randint(7, (300,))
    metrics = evaluate(ClassAccuracy(), (logits, labels))
    confidence, prediction = logits.softmax(1).max(1)
    right, balanced, error = prediction == labels, 0.0, 0.0
    for k in range(7):
        balanced += float(right[labels == k].double().mean()) / 7
    for k in range(15):
        inside = (confidence > k / 15) & (confidence <= (k + 1) / 15)
        if inside.any():
            gap = abs(float(confidence[inside].double().mean()) - float(right[inside].double().mean()))
            error += gap * float(inside.double().mean())
    expected = {'balanced_accuracy': 100 * balanced, 'calibration_error': 100 * error}
    assert metrics == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize('right', [True, False])
def test_one_image(right):
    metric = ClassAccuracy()
    metrics = evaluate(metric, (sure(1, 0.8)[None], torch.tensor([1 if right else 0])))
    assert metrics['balanced_accuracy'] == 100 * right
    assert metrics['calibration_error'] == pytest.approx(20 if right else 80)
    assert metric.results_by_class.classes == ('0', '1', '2')  # nobody named them


def test_logits_that_are_not_finite_are_wrong_and_of_no_confidence():
    metric = ClassAccuracy()
    logits = torch.stack([sure(0, 0.9), torch.tensor([math.nan, 0, 0]), torch.tensor([1, 0, -math.inf])])
    metrics = evaluate(metric, (logits, torch.tensor([0, 0, 0])))
    assert metrics['balanced_accuracy'] == pytest.approx(100 / 3)
    assert metrics['calibration_error'] == pytest.approx(10)
    assert metric.results_by_class.predictions.tolist() == [0, -1, -1]
    metrics = evaluate(metric, (logits[1:], torch.tensor([0, 0])))
    assert metrics['balanced_accuracy'] == 0
    assert math.isnan(metrics['calibration_error'])


def test_it_can_be_used_again_and_drops_padding():
    metric = ClassAccuracy()
    batch = torch.stack([sure(0, 0.9), sure(0, 0.9)]), torch.tensor([0, 1])
    assert evaluate(metric, batch)['balanced_accuracy'] == 50
    assert evaluate(metric, batch, size=1)['balanced_accuracy'] == 100


def test_bad_input():
    with pytest.raises(ValueError, match='ClassAccuracy: there is no sample with a label'):
        evaluate(ClassAccuracy(), (sure(0, 0.9)[None], torch.tensor([-1])))
    with pytest.raises(ValueError, match='ClassAccuracy: there is no sample with a label'):
        ClassAccuracy().evaluate(0)
    with pytest.raises(ValueError, match='labels must lie below the number of classes, 3, got 3'):
        evaluate(ClassAccuracy(), (sure(0, 0.9)[None], torch.tensor([3])))


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, 'sklearn', None)
    with pytest.raises(ImportError, match='ClassAccuracy: needs scikit-learn'):
        ClassAccuracy()


def test_the_record_of_many_classes_has_those_with_the_lowest_accuracy():
    """60 classes of two images: of the last 55 one is wrong, of the last both; class 7 has no image."""
    labels = np.repeat(np.arange(60), 2)
    predictions = np.where((labels >= 5) & ((np.arange(120) % 2 == 0) | (labels == 59)), 0, labels)
    kept = labels != 7
    record = confusion_record(by_class(list(map(str, range(60))), labels[kept], predictions[kept], np.ones(118)))
    assert record['of'] == 60
    assert record['classes'] == [*(str(n) for n in range(5, 55) if n != 7), '59']
    assert record['images'] == [2] * 50
    assert np.array_equal(record['counts'], np.diag([1] * 49 + [0]))


def one_rank(cfg):
    # 5 samples on two ranks: rank 0 has samples 0, 2, 4; rank 1 has 1, 3 and sample 0 again as padding
    mine = [[0, 2, 4], [1, 3, 0]][torch.distributed.get_rank()]
    logits, labels = torch.stack([sure(n, 0.9, classes=5) for n in range(5)]), torch.tensor([0, 0, 2, 0, 4])
    metric = ClassAccuracy()
    metrics = evaluate(metric, (logits[mine], labels[mine]), size=5)
    results = metric.results_by_class
    return metrics, results and (results.labels.tolist(), results.predictions.tolist())


@pytest.mark.slow
def test_two_uneven_ranks_have_each_sample_once_and_in_order():
    ended = run_ranks(2, one_rank, Config())
    assert [status for status, _ in ended] == [0, 0], ended
    (first, results), (second, nothing) = (found for _, found in ended)
    assert first == second
    assert first['balanced_accuracy'] == pytest.approx(100 * (1 / 3 + 1 + 1) / 3)
    assert results == ([0, 0, 2, 0, 4], [0, 1, 2, 3, 4])
    assert nothing is None
