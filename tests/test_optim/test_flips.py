"""Every way through a Bop step gives the same numbers, bit for bit; they are held against the rule written plainly."""

import functools
import warnings

import pytest
import torch
from torch import nn

from pab import compiled
from pab.optim import Bop, flips

WAYS = {'compiled': None, 'packs': None, 'blocks': False, 'lists': True}


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    """The ``foreach`` of one way, with limits so low that small tensors take it."""
    monkeypatch.setattr(flips, 'BLOCK', 500)
    if request.param == 'compiled':
        monkeypatch.setattr(flips, 'SMALLEST_TOTAL', 0)
        monkeypatch.setattr(flips, 'SMALLEST_COMPILED', 0)
        compiled.use_compiled(True)
        if flips._fused_multiply_add() is None:
            pytest.skip('this torch compiles no multiply-add with one rounding')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            flips.step_([flips.Entry(*torch.ones(3, flips.ROW), None)], flips.Rule(0.5, 0.5), None)
        if not compiled.is_compiled():
            pytest.skip('no compiler')
        monkeypatch.setattr(flips, '_step_packs', only_remainders)
    else:
        compiled.use_compiled(False)
    yield WAYS[request.param]
    compiled.use_compiled(None)


def only_remainders(entries, rule, step=flips._step_packs):
    plain_allowed = all(
        e.weight.dim() != 1 or e.weight.numel() % flips.ROW or e.average.dtype != torch.float32 for e in entries
    )
    assert plain_allowed, 'the compiled loop was not used'
    return step(entries, rule)


def plain_step(weight, average, grad, rate, threshold):
    """(weight, average, flips) after the step, by the equations, one operation after the other."""
    average = (average * (1 - rate)).add_(grad.to(average.dtype), alpha=rate)
    flip = (average.abs() >= threshold) & (average.sign() == weight.sign()) & (weight != 0)
    return torch.where(flip, -weight, weight), average, flip


def bits(tensor):
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def make_weights(dtype):
    plain = nn.Parameter(torch.randn(8, 4, 4, 3).to(dtype))  # 6 rows: taken by the compiled loop
    last = nn.Parameter(torch.randn(16, 8, 3, 3).to(dtype).to(memory_format=torch.channels_last))
    odd = nn.Parameter(torch.randn(5, 7).to(dtype))  # no whole number of rows
    turned = nn.Parameter(torch.randn(16, 8).to(dtype).t())  # dense in no usual format
    with torch.no_grad():
        for weight in (plain, last, odd, turned):
            weight[torch.rand_like(weight) < 0.3] = 0
    return [plain, last, odd, turned]


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('per_weight', [False, True])
def test_every_way_is_the_rule_bit_for_bit(way, dtype, per_weight):
    weights = make_weights(dtype)
    settings = [dict(adaptivity_rate=0.3, threshold=0.02), dict(adaptivity_rate=0.01, threshold=0.0)]
    groups = [dict(params=weights[i::2], **settings[i]) for i in range(2)]
    opt = Bop(groups, flips_per_weight=per_weight, foreach=way)
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
            counted = opt.state[w]['flips']
            assert torch.equal(counted, flipped if per_weight else flipped.sum()), f'step {step}'
    assert weights[1].is_contiguous(memory_format=torch.channels_last)


def test_a_nan_flips_nothing_and_harms_no_neighbour(way):
    w = nn.Parameter(torch.ones(2 * flips.ROW))
    opt = Bop([w], adaptivity_rate=0.5, threshold=0.1, foreach=way)
    w.grad = torch.ones_like(w)
    w.grad[::2] = torch.nan
    opt.step()
    assert int(opt.last_flips) == flips.ROW
    assert w[::2].tolist() == [1.0] * flips.ROW
    assert w[1::2].tolist() == [-1.0] * flips.ROW
    assert opt.state[w]['moving_average'][::2].isnan().all()


@pytest.mark.parametrize('threshold', [0.0, 1e-45, 1e-40, 0.1, 3e38, float('inf')])
def test_equality_flips_at_every_magnitude(way, threshold):
    reached = torch.tensor(threshold).item()
    below = torch.nextafter(torch.tensor(threshold), torch.tensor(0.0)).item()
    w = nn.Parameter(torch.ones(flips.ROW))
    opt = Bop([w], adaptivity_rate=0.5, threshold=threshold, foreach=way)
    w.grad = torch.zeros(flips.ROW)
    opt.step()
    opt.param_groups[0]['adaptivity_rate'] = 1e-300  # the average stays what it is set to
    opt.state[w]['moving_average'].copy_(torch.tensor([reached, -reached, below, 0.0] * (flips.ROW // 4)))
    opt.step()
    flips_expected = [reached > 0, False, False, False]
    assert (w < 0).tolist() == flips_expected * (flips.ROW // 4)


def test_weights_change_their_layout_between_steps(way):
    torch.manual_seed(3)
    w = nn.Parameter(torch.randn(8, 8, 3, 3))
    opt = Bop([w], adaptivity_rate=0.5, threshold=0.1, flips_per_weight=True, foreach=way)
    now, average, total = w.detach().clone(), torch.zeros_like(w), 0
    for memory_format in (torch.contiguous_format, torch.channels_last, torch.contiguous_format):
        w.data = w.data.contiguous(memory_format=memory_format)
        w.grad = torch.randn_like(w)
        now, average, flip = plain_step(now, average, w.grad, 0.5, 0.1)
        total = total + flip.int()
        opt.step()
        assert torch.equal(w, now)
        assert torch.equal(opt.state[w]['moving_average'], average)
        assert torch.equal(opt.state[w]['flips'], total)


def test_another_rate_or_size_is_no_other_loop(monkeypatch):
    compilations = []

    def count(graph, inputs):
        compilations.append(graph)
        return graph

    monkeypatch.setattr(flips, 'SMALLEST_TOTAL', 0)
    monkeypatch.setattr(flips, 'SMALLEST_COMPILED', 0)
    monkeypatch.setattr(torch, 'compile', functools.partial(torch.compile, backend=count))
    monkeypatch.setattr(flips, '_is_exact', lambda *key: True)  # the backend runs no fused multiply-add
    if flips._fused_multiply_add() is None:
        pytest.skip('this torch compiles no multiply-add with one rounding')
    compiled.compile_pass.cache_clear()
    compiled.use_compiled(True)
    weights = [nn.Parameter(torch.randn(n * flips.ROW)) for n in (2, 3, 1, 5)]
    opt = Bop(weights, adaptivity_rate=0.5, threshold=0.1)
    for rate in (0.5, 0.3, 0.2):
        opt.param_groups[0]['adaptivity_rate'] = rate
        for w in weights:
            w.grad = torch.randn_like(w)
        opt.step()
    compiled.compile_pass.cache_clear()
    compiled.use_compiled(None)
    assert 1 <= len(compilations) <= 2  # dynamo gives a single row a loop of its own


def test_without_a_compiler_there_is_a_warning_and_the_same_step(monkeypatch):
    def fail(*args):
        raise RuntimeError('no C++ compiler')

    if flips._fused_multiply_add() is None:
        pytest.skip('this torch compiles no multiply-add with one rounding')
    monkeypatch.setattr(flips, 'SMALLEST_TOTAL', 0)
    monkeypatch.setattr(flips, 'SMALLEST_COMPILED', 0)
    monkeypatch.setattr(compiled, 'compile_pass', fail)
    flips._is_exact.cache_clear()
    compiled.use_compiled(True)
    w = nn.Parameter(torch.ones(2 * flips.ROW))
    opt = Bop([w], adaptivity_rate=0.5, threshold=0.1)
    w.grad = torch.ones_like(w)
    with pytest.warns(UserWarning, match=r'run uncompiled.*no C\+\+ compiler\. Install'):
        opt.step()
    assert int(opt.last_flips) == 2 * flips.ROW
    compiled.use_compiled(None)


def test_numbers_that_differ_are_not_compiled(monkeypatch):
    monkeypatch.setattr(flips, 'SMALLEST_TOTAL', 0)
    monkeypatch.setattr(flips, 'SMALLEST_COMPILED', 0)
    monkeypatch.setattr(flips, '_call', lambda entry, numbers, key: entry.weight.sum().long())
    flips._is_exact.cache_clear()
    compiled.use_compiled(True)
    w = nn.Parameter(torch.ones(2 * flips.ROW))
    opt = Bop([w], adaptivity_rate=0.5, threshold=0.1)
    w.grad = torch.ones_like(w)
    opt.step()
    assert int(opt.last_flips) == 2 * flips.ROW
    assert (w == -1).all()
    flips._is_exact.cache_clear()
    compiled.use_compiled(None)
