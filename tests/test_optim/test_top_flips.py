"""TopFlips: which signs flip, how many, and what is carried from step to step."""

import pytest
import torch
from torch import nn

from pab.optim import TopFlips, top_flips


def parameter(*values):
    return nn.Parameter(torch.tensor(values))


def step(optimizer, weight, *grad):
    weight.grad = torch.tensor(grad).reshape(weight.shape)
    optimizer.step()
    return weight.flatten().tolist()


def test_three_steps_by_hand():
    w = parameter(0.5, 0.5, 0.5, -0.5)
    top = TopFlips([w], flip_share=0.25, adaptivity_rate=0.5)
    # m = .1 .2 -.4 .4, evidence m * sign(w) = .1 .2 -.4 -.4: one of four is due, the second
    assert step(top, w, 0.2, 0.4, -0.8, 0.8) == [0.5, -0.5, 0.5, -0.5]
    torch.testing.assert_close(top.state[w]['moving_average'], torch.tensor([0.1, 0.0, -0.4, 0.4]))
    # m = .05 .1 -.2 .2, evidence .05 -.1 -.2 -.2
    assert step(top, w, 0.0, 0.2, 0.0, 0.0) == [-0.5, -0.5, 0.5, -0.5]
    # m = 0 .05 -.1 .1: nothing speaks for a flip, though one is due
    assert step(top, w, 0.0, 0.0, 0.0, 0.0) == [-0.5, -0.5, 0.5, -0.5]
    assert [int(top.last_flips), int(top.state[w]['tensor_flips'])] == [0, 2]


def test_a_share_of_less_than_one_weight_flips_one_every_few_steps():
    w = parameter(*[1.0] * 8)
    top = TopFlips([w], flip_share=0.05, adaptivity_rate=0.5)  # 0.4 of a weight a step
    counts = []
    for _ in range(10):
        step(top, w, *[float(i + 1) for i in range(8)])
        counts.append(int(top.last_flips))
    assert counts == [0, 0, 1, 0, 1, 0, 0, 1, 0, 1]  # due: .4 .8 1.2 .6 1.0 ...
    assert w.tolist() == [1.0] * 4 + [-1.0] * 4


def test_the_share_is_one_of_the_weights_that_are_left():
    w = parameter(*[0.0] * 6, *[1.0] * 4)
    top = TopFlips([w], flip_share=0.5)
    assert step(top, w, *[9.0] * 6, 1.0, 2.0, 3.0, 4.0) == [0.0] * 6 + [1.0, 1.0, -1.0, -1.0]


def test_a_share_of_nothing_flips_nothing_and_a_share_of_all_flips_all_that_agree():
    w = parameter(1.0, -1.0, 1.0)
    top = TopFlips([w], flip_share=0.0)
    assert step(top, w, 1.0, -1.0, 1.0) == [1.0, -1.0, 1.0]
    top.param_groups[0]['flip_share'] = 1.0
    assert step(top, w, 1.0, -1.0, -9.0) == [-1.0, 1.0, 1.0]


def test_a_large_tensor_is_ranked_by_some_of_its_entries(monkeypatch):
    monkeypatch.setattr(top_flips, 'RANKED', 1000)
    generator = torch.Generator().manual_seed(0)
    w = nn.Parameter(torch.randn(100, 300, generator=generator) * (torch.rand(100, 300, generator=generator) < 0.5))
    top = TopFlips([w], flip_share=0.02)
    for _ in range(100):
        w.grad = torch.randn(100, 300, generator=generator)
        top.step()
    flips = int(top.state[w]['tensor_flips'])
    assert flips == pytest.approx(100 * 0.02 * int(w.count_nonzero()), rel=0.1)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(flip_share=1.1), r'flip_share must lie in \[0, 1\], got 1.1'),
        (dict(adaptivity_rate=0.0), r'adaptivity_rate must lie in \(0, 1\), got 0.0'),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        TopFlips([parameter(1.0)], **settings)
