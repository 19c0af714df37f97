"""SecondOrderBop: its rule, biased and corrected, and what it keeps from step to step."""

import numpy as np
import pytest
import torch
from torch import nn

from pab.optim import SecondOrderBop


def parameter(*values):
    return nn.Parameter(torch.tensor(values))


def step(optimizer, weight, *grad):
    weight.grad = torch.tensor(grad).reshape(weight.shape)
    optimizer.step()
    return weight.flatten().tolist()


def test_two_steps_by_hand():
    w = parameter(1.0, -1.0, 1.0, 0.0)
    opt = SecondOrderBop([w], adaptivity_rate=0.5, threshold=0.5, second_rate=0.25, eps=1.0, flips_per_weight=True)
    # m = 1 1 -2 .5, sqrt(v) + 1 = 2 2 3 1.5: the first reaches .5, the second and the third have the other sign
    assert step(opt, w, 2.0, 2.0, -4.0, 1.0) == [-1.0, -1.0, 1.0, 0.0]
    # m = -2.5 -1.5 1 .75, v = 9.75 4.75 7 .4375: -.61 -.47 .27 .45
    assert step(opt, w, -6.0, -4.0, 4.0, 1.0) == [1.0, -1.0, 1.0, 0.0]
    assert opt.state[w]['moving_average'].tolist() == [-2.5, -1.5, 1.0, 0.75]
    assert opt.state[w]['second_moment'].tolist() == [9.75, 4.75, 7.0, 0.4375]
    assert opt.state[w]['weight_flips'].tolist() == [2, 0, 0, 0]
    assert int(opt.state[w]['tensor_flips']) == 2
    assert int(opt.last_flips) == 1


def test_two_corrected_steps_by_hand():
    w = parameter(1.0, 1.0, 1.0)
    opt = SecondOrderBop([w], adaptivity_rate=0.5, threshold=0.8, second_rate=0.5, eps=0.25, bias_corrected=True)
    # m / .5 = 1 .5 -1 and v / .5 = 1 .25 1 are those of the one gradient: 1 / 1.25 reaches .8, .5 / .75 does not
    assert step(opt, w, 1.0, 0.5, -1.0) == [-1.0, 1.0, 1.0]
    opt.param_groups[0]['adaptivity_rate'] = 0.75
    # shares of the gradients: 1 - .5 * .25 = .875 and 1 - .5 * .5 = .75
    # m = -1.375 .25 0.4375 -> -1.57 .29 .5, v = 2.25 .1875 .5625 -> 3 .25 .75: -.79 .38 .45
    assert step(opt, w, -2.0, 0.25, 0.75) == [-1.0, 1.0, 1.0]
    torch.testing.assert_close(opt.state[w]['moving_average'], torch.tensor([-1.375, 0.25, 0.4375]))
    assert opt.state[w]['start_in_average'].item() == 0.125
    assert opt.state[w]['start_in_second'].item() == 0.25
    opt.param_groups[0].update(threshold=0.7)
    # m = -1.84 .. -> / .96875, v = 3.125 -> / .875: -1.9 / (1.89 + .25) = -.89
    assert step(opt, w, -2.0, 0.0, 0.0) == [1.0, 1.0, 1.0]


@pytest.mark.parametrize('corrected', [False, True])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16])
def test_each_way_is_the_rule(way, corrected, dtype):
    """The averages bit for bit, the flips those of float64 wherever it is not a matter of rounding."""
    shapes = [(1200,), (16, 8, 3, 3)]
    weights = [nn.Parameter((torch.randn(shape) * (torch.rand(shape) > 0.3)).to(dtype)) for shape in shapes]
    weights[1].data = weights[1].data.contiguous(memory_format=torch.channels_last)
    rate, sigma, eps, tau = 0.125, 0.25, 1e-3, 0.3
    opt = SecondOrderBop(weights, rate, tau, sigma, eps, bias_corrected=corrected, flips_per_weight=True)
    wide = torch.promote_types(dtype, torch.float32)
    averages = [(torch.zeros(shape, dtype=wide), torch.zeros(shape, dtype=wide)) for shape in shapes]
    missing, second_missing, count = 1.0, 1.0, 0
    for _ in range(6):
        signs = [w.detach().sign() for w in weights]
        for w in weights:
            w.grad = torch.randn(w.shape).to(dtype)
        opt.param_groups[0]['adaptivity_rate'] = rate = rate * 0.9
        missing, second_missing = missing * (1 - rate), second_missing * (1 - sigma)
        opt.step()
        share, second_share = (1 - missing, 1 - second_missing) if corrected else (1.0, 1.0)
        for place, (w, sign) in enumerate(zip(weights, signs, strict=True)):
            grad = w.grad.to(wide)
            m, v = averages[place]
            m, v = m * (1 - rate) + grad * rate, v * (1 - sigma) + grad * grad * sigma
            averages[place] = m, v
            assert torch.equal(opt.state[w]['moving_average'], m)
            assert torch.equal(opt.state[w]['second_moment'], v)
            evidence = sign.double() * (m.double() / share) / ((v.double() / second_share).sqrt() + eps)
            clear = (evidence - tau).abs() > 1e-5
            assert clear.float().mean() > 0.99
            flipped = w.detach().sign() != sign
            assert torch.equal(flipped[clear], (evidence > tau)[clear])
            count += int(flipped.sum())
    assert 0 < count < sum(w.numel() for w in weights) * 3  # six steps
    assert count == sum(int(opt.state[w]['tensor_flips']) for w in weights)


@pytest.mark.parametrize('corrected', [False, True])
@pytest.mark.parametrize('eps', [0.0, 1e-10])
def test_without_a_gradient_nothing_flips(corrected, eps):
    w = parameter(1.0, -1.0, 0.0)
    opt = SecondOrderBop([w], threshold=0.0, eps=eps, bias_corrected=corrected)
    for _ in range(3):  # m = v = 0, and 0 / 0 where eps is 0
        assert step(opt, w, 0.0, 0.0, 0.0) == [1.0, -1.0, 0.0]
    assert int(opt.state[w]['tensor_flips']) == 0


def test_eps_decides_where_the_second_moment_is_still_zero():
    w = parameter(1.0, 1.0)
    opt = SecondOrderBop([w], adaptivity_rate=0.5, threshold=2.0, second_rate=0.5, eps=0.25)
    opt.param_groups[0]['second_rate'] = 0.0  # as at the start of a schedule that rises
    assert step(opt, w, 1.0, 0.75) == [-1.0, 1.0]  # .5 / .25 = 2 and .375 / .25 = 1.5


@pytest.mark.parametrize('corrected', [False, True])
def test_rates_that_start_at_zero(corrected):
    w = parameter(1.0)
    opt = SecondOrderBop([w], adaptivity_rate=0.5, threshold=0.5, second_rate=0.5, bias_corrected=corrected)
    opt.param_groups[0].update(adaptivity_rate=0.0, second_rate=0.0)
    assert step(opt, w, 1.0) == [1.0]
    opt.param_groups[0].update(adaptivity_rate=0.5, second_rate=0.5)
    assert step(opt, w, 1.0) == [-1.0]  # .5 / .71, corrected 1 / 1


def test_the_share_of_the_start_is_exact_at_the_smallest_rates():
    w = parameter(1.0)
    opt = SecondOrderBop([w], threshold=0.5, bias_corrected=True)  # gamma 1e-7, of which float32 sees 1.2e-7
    for _ in range(50):
        step(opt, w, -1.0)
    np.testing.assert_allclose(1 - opt.state[w]['start_in_average'].item(), 1 - (1 - 1e-7) ** 50, rtol=1e-9)
    assert step(opt, w, -1.0) == [1.0]
    w.data.neg_()
    assert step(opt, w, -1.0) == [1.0]  # m and v are those of one constant gradient: 1 >= .5


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(adaptivity_rate=0.0), r'SecondOrderBop: adaptivity_rate must lie in \(0, 1\), got 0.0'),
        (dict(second_rate=1.0), r'SecondOrderBop: second_rate must lie in \(0, 1\), got 1.0'),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SecondOrderBop([parameter(1.0)], **settings)
