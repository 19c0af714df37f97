"""Both ways through a step of Bop give the numbers of the rule written plainly, bit for bit."""

import functools

import pytest
import torch
from torch import nn

from pab import compiled
from pab.optim import Bop, flips


def plain_step(weight, average, grad, rate, threshold):
    """(weight, average, flips) after the step, by the equations, one operation after the other."""
    average = average * (1 - rate) + grad.to(average.dtype) * rate
    flip = (average.abs() >= threshold) & (average.sign() == weight.sign()) & (weight != 0)
    return torch.where(flip, -weight, weight), average, flip


def bits(tensor):
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def make_weights(dtype):
    plain = nn.Parameter(torch.randn(8, 4, 4, 3).to(dtype))
    last = nn.Parameter(torch.randn(16, 8, 3, 3).to(dtype).to(memory_format=torch.channels_last))  # three blocks
    odd = nn.Parameter(torch.randn(5, 7).to(dtype))  # no whole number of vectors
    turned = nn.Parameter(torch.randn(16, 8).to(dtype).t())  # dense in no usual format
    gaps = nn.Parameter(torch.randn(6, 10).to(dtype)[:, ::2])  # not dense
    with torch.no_grad():
        for weight in (plain, last, odd, turned, gaps):
            weight[torch.rand_like(weight) < 0.3] = 0
    return [plain, last, odd, turned, gaps]


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('per_weight', [False, True])
def test_each_way_is_the_rule_bit_for_bit(way, dtype, per_weight):
    weights = make_weights(dtype)
    settings = [dict(adaptivity_rate=0.3, threshold=0.02), dict(adaptivity_rate=0.01, threshold=0.0)]
    groups = [dict(params=weights[i::2], **settings[i]) for i in range(2)]
    opt = Bop(groups, flips_per_weight=per_weight)
    state = {
        w: (w.detach().clone(), torch.zeros_like(w, dtype=torch.promote_types(dtype, torch.float32)), 0)
        for w in weights
    }
    for step in range(6):
        expected = 0
        for group in opt.param_groups:
            group['adaptivity_rate'] *= 0.9
            for w in group['params']:
                w.grad = torch.randn(w.shape).to(dtype)  # its layout differs from a channels_last weight's
                if step == 3:
                    w.grad.view(-1)[:2] = torch.tensor([torch.inf, 0.0])
                before, average, flipped = state[w]
                now, average, flip = plain_step(before, average, w.grad, group['adaptivity_rate'], group['threshold'])
                state[w] = now, average, flipped + flip.int()
                expected += int(flip.sum())
        opt.step()
        assert expected > 0
        assert opt.last_flips.dtype == torch.int64
        assert opt.last_flips.dim() == 0
        assert int(opt.last_flips) == expected
        for w in weights:
            now, average, flipped = state[w]
            assert torch.equal(bits(w.detach()), bits(now)), f'step {step}'
            assert torch.equal(bits(opt.state[w]['moving_average']), bits(average)), f'step {step}'
            assert int(opt.state[w]['tensor_flips']) == int(flipped.sum()), f'step {step}'
            if per_weight:
                assert torch.equal(opt.state[w]['weight_flips'], flipped), f'step {step}'
    assert weights[1].is_contiguous(memory_format=torch.channels_last)


def test_a_nan_flips_nothing_and_harms_no_neighbour(way):
    w = nn.Parameter(torch.ones(128))
    opt = Bop([w], adaptivity_rate=0.5, threshold=0.1)
    w.grad = torch.ones_like(w)
    w.grad[::2] = torch.nan
    opt.step()
    assert int(opt.last_flips) == 64
    assert w[::2].tolist() == [1.0] * 64
    assert w[1::2].tolist() == [-1.0] * 64
    assert opt.state[w]['moving_average'][::2].isnan().all()


@pytest.mark.parametrize('threshold', [0.0, 1e-45, 1e-40, 0.1, 3e38, float('inf')])
def test_equality_flips_at_every_magnitude(way, threshold):
    reached = torch.tensor(threshold).item()
    below = torch.nextafter(torch.tensor(threshold), torch.tensor(0.0)).item()
    w = nn.Parameter(torch.ones(64))
    opt = Bop([w], adaptivity_rate=0.5, threshold=threshold)
    w.grad = torch.zeros(64)
    opt.step()
    opt.param_groups[0]['adaptivity_rate'] = 1e-300  # the average stays what it is set to
    opt.state[w]['moving_average'].copy_(torch.tensor([reached, -reached, below, 0.0] * 16))
    opt.step()
    assert (w < 0).tolist() == [reached > 0, False, False, False] * 16


def test_weights_change_their_layout_between_steps(way):
    w = nn.Parameter(torch.randn(8, 8, 3, 3))
    opt = Bop([w], adaptivity_rate=0.5, threshold=0.1, flips_per_weight=True)
    now, average, total = w.detach().clone(), torch.zeros_like(w), 0
    for memory_format in (torch.contiguous_format, torch.channels_last, torch.contiguous_format):
        w.data = w.data.contiguous(memory_format=memory_format)
        w.grad = torch.randn_like(w)
        now, average, flip = plain_step(now, average, w.grad, 0.5, 0.1)
        total = total + flip.int()
        opt.step()
        assert torch.equal(w, now)
        assert torch.equal(opt.state[w]['moving_average'], average)
        assert torch.equal(opt.state[w]['weight_flips'], total)


def test_another_rate_threshold_or_size_is_no_other_loop(monkeypatch):
    compilations = []

    def compile_for_nothing(function, constants, threads, *kinds):
        compilations.append(kinds)

        def loop(present):
            present = iter(present)
            return [function(*(None if kind is None else next(present) for kind in kinds), *constants)]

        return loop

    monkeypatch.setattr(flips, 'BLOCK', 0)
    monkeypatch.setattr(compiled, 'compile_pass', functools.cache(compile_for_nothing))
    monkeypatch.setenv('PAB_COMPILE', '1')
    weights = [nn.Parameter(torch.randn(n)) for n in (130, 200, 70, 303)]
    opt = Bop(weights, adaptivity_rate=0.5, threshold=0.1)
    for rate, threshold in ((0.5, 0.1), (0.3, 0.1), (0.2, 0.0)):
        opt.param_groups[0].update(adaptivity_rate=rate, threshold=threshold)
        for w in weights:
            w.grad = torch.randn_like(w)
        opt.step()
    assert len(compilations) == 1


def test_small_tensors_are_not_compiled(monkeypatch):
    monkeypatch.setattr(compiled, 'compile_pass', lambda *args: pytest.fail('compiled'))
    monkeypatch.setenv('PAB_COMPILE', '1')
    weight = nn.Parameter(torch.ones(flips.BLOCK))
    weight.grad = torch.ones_like(weight)
    Bop([weight]).step()
