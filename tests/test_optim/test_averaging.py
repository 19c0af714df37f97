"""Averages that leave signs alone."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn, get_swa_avg_fn

from pab.optim import Bop, keep_signs
from pab.pruners import Mag, apply_masks_, check_masks, get_masks


def test_an_average_that_is_no_function_is_refused():
    for wrong in (0.99, 0):
        with pytest.raises(TypeError, match=rf'keep_signs: average must be a function, .* got {wrong}$'):
            keep_signs(wrong)


def test_entries_by_hand():
    averaged, newest = torch.tensor([0.5, -0.5, 0.5, 1.0, 0.25]), torch.tensor([-0.5, -0.5, 0.0, 2.0, 0.5])
    want = torch.tensor([-0.5, -0.5, 0.0, 1.25, 0.3125])
    assert torch.equal(keep_signs(get_ema_avg_fn(0.75))(averaged, newest, 3), want)
    counter = keep_signs()(torch.tensor(3), torch.tensor(7), 3)
    assert (counter.dtype, int(counter)) == (torch.int64, 7)
    assert torch.equal(
        keep_signs()(torch.tensor([True, True]), torch.tensor([True, False]), 1), torch.tensor([True, False])
    )


@pytest.mark.parametrize('use_buffers', [True, False])
@pytest.mark.parametrize('rule', [get_ema_avg_fn(0.75), get_swa_avg_fn()])
def test_an_average_is_a_network_that_training_reaches(rule, use_buffers):
    """Signs, masks and pruned weights are the network's, also after a second pruning; the rest is averaged."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4))
    apply_masks_(net, Mag(0.6).prune(net))
    averaged = AveragedModel(net, avg_fn=keep_signs(rule), use_buffers=use_buffers)
    plain = AveragedModel(net[4], avg_fn=rule)
    start = net[0].weight.detach().abs()
    optimizers = [Bop([net[0].weight], adaptivity_rate=0.5, threshold=0), torch.optim.SGD(net[4].parameters(), lr=0.1)]
    for step in range(6):
        if step == 3:
            apply_masks_(net, Mag(0.3).prune(net), optimizers)
        for optimizer in optimizers:
            optimizer.zero_grad()
        F.cross_entropy(net(torch.randn(5, 3, 6, 6)), torch.tensor([0, 1, 2, 3, 0])).backward()
        for optimizer in optimizers:
            optimizer.step()
        averaged.update_parameters(net)
        plain.update_parameters(net[4])
        check_masks(averaged)
    assert torch.equal(averaged.module[0].weight, net[0].weight)
    assert torch.equal(net[0].weight.abs(), start * get_masks(net)['0.weight'])
    assert (net[0].weight < 0).any()
    assert torch.equal(averaged.module[4].weight, plain.module.weight)
    assert not torch.equal(averaged.module[4].weight, net[4].weight)
    assert int(averaged.module[1].num_batches_tracked) == 6
    assert torch.equal(averaged.module[1].running_mean, net[1].running_mean) == (not use_buffers)
    copy.deepcopy(averaged).load_state_dict(averaged.state_dict())


def test_a_rule_for_single_tensors_is_no_multi_avg_fn():
    net = nn.Linear(2, 2)
    averaged = AveragedModel(net, multi_avg_fn=keep_signs())
    averaged.update_parameters(net)  # copies
    with pytest.raises(TypeError, match='keep_signs: takes one tensor after another, got a list; give it as avg_fn'):
        averaged.update_parameters(net)
