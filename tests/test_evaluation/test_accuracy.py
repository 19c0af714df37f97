import math

import pytest
import torch
from mmengine.config import Config

from pab.evaluation import Accuracy
from pab.registry import METRICS
from tests.small_run import run_ranks

# three classes; labels 0, 1, 2, 0: right, second, third, tied with the higher class 1
LOGITS = torch.tensor([[3.0, 1.0, 0.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [1.0, 1.0, 0.0]])
LABELS = torch.tensor([0, 1, 2, 0])


def evaluate(metric, *batches, size=None):
    for logits, labels in batches:
        metric.process(None, [{'logits': logits, 'labels': labels}])
    return metric.evaluate(size if size is not None else sum(len(labels) for _, labels in batches))


def test_by_hand():
    metrics = evaluate(METRICS.build({'type': 'Accuracy', 'topk': (1, 2)}), (LOGITS, LABELS))
    loss = -(LOGITS.double().softmax(1)[range(4), LABELS]).log().mean().item()
    assert metrics == {'accuracy/top1': 50.0, 'accuracy/top2': 75.0, 'cross_entropy': pytest.approx(loss)}


def test_against_topk_over_several_batches():
    batches = [(torch.randn(n, 10), torch.randint(0, 10, (n,))) for n in (7, 5, 1)]
    metrics = evaluate(Accuracy(topk=(1, 3)), *batches)
    logits, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    for k in (1, 3):
        hits = (logits.topk(k).indices == labels[:, None]).any(1).double()
        assert metrics[f'accuracy/top{k}'] == pytest.approx(100 * hits.mean().item())


def test_can_be_used_again():
    metric = Accuracy()
    assert evaluate(metric, (LOGITS, LABELS))['accuracy/top1'] == 50
    assert evaluate(metric, (LOGITS[:1], LABELS[:1]))['accuracy/top1'] == 100


def test_padded_samples_are_dropped():
    assert evaluate(Accuracy(), (LOGITS, LABELS), size=1)['accuracy/top1'] == 100


def test_of_equal_logits_the_lower_class_goes_first():
    constant = torch.zeros(10, 10)
    assert evaluate(Accuracy(), (constant, torch.arange(10)))['accuracy/top1'] == 10


def test_logits_that_are_not_finite_count_as_wrong_and_are_reported():
    logits = LOGITS.clone()
    logits[0, 2] = math.nan
    logits[3] = torch.tensor([math.inf, 0.0, 0.0])
    metrics = evaluate(Accuracy(topk=3), (logits, LABELS))
    assert metrics['accuracy/top3'] == 50
    assert metrics['nonfinite'] == 2
    assert math.isnan(metrics['cross_entropy'])


def test_negative_labels_are_left_out():
    metrics = evaluate(Accuracy(), (LOGITS, torch.tensor([0, -100, -100, 0])))
    assert metrics['accuracy/top1'] == 100
    assert metrics['cross_entropy'] == pytest.approx(-LOGITS.double().log_softmax(1)[[0, 3], 0].mean().item())


def test_half_precision_logits_and_no_graph():
    assert evaluate(Accuracy(), (LOGITS.to(torch.bfloat16).requires_grad_(), LABELS))['accuracy/top1'] == 50


@pytest.mark.parametrize('topk', [(), (0,), (1.0,), (True,), 'a'])
def test_bad_topk(topk):
    with pytest.raises(ValueError, match='Accuracy: topk must be integers of 1 or more'):
        Accuracy(topk=topk)


def test_bad_input():
    metric = Accuracy(topk=(1, 5))
    with pytest.raises(ValueError, match='topk must not exceed the number of classes, 3, got 5'):
        metric.process(None, [{'logits': LOGITS, 'labels': LABELS}])
    with pytest.raises(ValueError, match='topk must not exceed the number of classes, 2, got 5'):
        metric.check_classes(2)
    with pytest.raises(ValueError, match=r'labels \(N,\), got \(4, 3\) and \(3,\)'):
        metric.process(None, [{'logits': LOGITS, 'labels': LABELS[:3]}])
    with pytest.raises(ValueError, match='labels must lie below the number of logits, 3, got 3'):
        Accuracy().process(None, [{'logits': LOGITS, 'labels': LABELS + 1}])
    with pytest.raises(ValueError, match='Accuracy: there is no sample with a label'):
        Accuracy().evaluate(0)


def one_rank(cfg):
    # 5 samples on two ranks: rank 0 has samples 0, 2, 4; rank 1 has 1, 3 and sample 0 again as padding
    mine = [[0, 2, 4], [1, 3, 0]][torch.distributed.get_rank()]
    logits = torch.eye(5)
    labels = torch.tensor([0, 0, 0, 0, 4])  # right: 0 and 4
    return evaluate(Accuracy(), (logits[mine], labels[mine]), size=5)


def test_two_uneven_ranks_count_each_sample_once():
    for status, metrics in run_ranks(2, one_rank, Config()):
        assert status == 0, metrics
        assert metrics['accuracy/top1'] == 40
