"""A sign optimizer of one's own needs what pab.contracts says and nothing else: counts, decay and FlipFreq follow."""

import pytest
import torch
from torch import nn

from pab.contracts import counts_of, sign_optimizers
from pab.optim import Bop, SignOptimizer, flips
from pab.pruners import check_masks
from pab.registry import OPTIMIZERS
from pab.run import PabRunner


@pytest.fixture
def sign_flipper(monkeypatch):
    """An optimizer that shares no code with pab: a weight flips where its gradient has its sign and is large."""

    class SignFlipper(torch.optim.Optimizer):
        def __init__(self, params, adaptivity_rate, flips_per_weight=False):
            super().__init__(params, dict(adaptivity_rate=adaptivity_rate, flips_per_weight=flips_per_weight))
            self.last_flips = None

        @torch.no_grad()
        def step(self, closure=None):
            self.last_flips = torch.tensor(0)
            for group in self.param_groups:
                for param in group['params']:
                    flip = param * param.grad > group['adaptivity_rate'] * 1e-3
                    param[flip] *= -1
                    state = self.state[param]
                    state['tensor_flips'] = state.get('tensor_flips', 0) + flip.sum()
                    if group['flips_per_weight']:
                        state['weight_flips'] = state.get('weight_flips', 0) + flip.int()
                    self.last_flips += flip.sum()

    monkeypatch.setitem(OPTIMIZERS.module_dict, 'SignFlipper', SignFlipper)


def test_hooks_and_pruners_take_it_as_their_own(tiny_config, sign_flipper):
    cfg = tiny_config(train_cfg=dict(max_epochs=3))
    own = dict(type='SignFlipper', owns=['Conv2d.weight'], adaptivity_rate=0.5, flips_per_weight=True)
    cfg.optim_wrapper.optimizers.signs = own
    cfg.default_hooks.prune.update(pruner=dict(type='FlipFreq', density=0.3), epoch=1)
    runner = PabRunner.from_cfg(cfg)
    runner.train()
    hub = runner.message_hub
    epochs = hub.get_scalar('flips/epoch').data[0]
    assert len(epochs) == 3
    assert all(epochs > 0)
    assert hub.get_scalar('adaptivity_rate').data[0].tolist() == pytest.approx([0.5, 0.5 * 0.15, 0.5 * 0.15**2])
    optimizer = runner.optim_wrapper['signs'].optimizer
    assert sum(int(count) for count in counts_of([optimizer], 'tensor_flips').values()) == epochs.sum()
    # pruning kept weights that had not flipped, and forgot the counts of the others
    assert sum(int(count.sum()) for count in counts_of([optimizer], 'weight_flips').values()) == epochs[1:].sum()
    check_masks(runner.model)
    weights = [layer.weight for layer in runner.model.modules() if isinstance(layer, nn.Conv2d)]
    total = sum(weight.numel() for weight in weights)
    assert sum(int(weight.count_nonzero()) for weight in weights) == total - int(0.7 * total)


def test_who_flips_signs():
    bop, sgd = Bop([nn.Parameter(torch.ones(1))]), torch.optim.SGD([nn.Parameter(torch.ones(1))])
    assert sign_optimizers([bop, sgd]) == [bop]
    assert counts_of([bop, sgd], 'weight_flips') == counts_of([bop, sgd], 'tensor_flips') == {}


class Normalised(SignOptimizer):
    """Flip where m / sqrt(v) reaches a threshold: two averages and a few lines."""

    def __init__(self, params, rate, threshold):
        super().__init__(params, dict(rate=rate, threshold=threshold, flips_per_weight=True))

    def start(self, param, group):
        return {'first': torch.zeros_like(param), 'second': torch.zeros_like(param)}

    def flip(self, param, state, group):
        numbers = group['rate'], flips.largest_below(group['threshold'], param.dtype)
        averages = [state['first'], state['second']]
        return flips.flip_(normalised, param, param.grad, averages, state['weight_flips'], numbers)


def normalised(signs, grad, first, second, rate, below):
    first.mul_(1 - rate).add_(grad * rate)
    second.mul_(1 - rate).add_(grad * grad * rate)
    return signs.mul_(first / second.sqrt()).gt_(below)


def test_another_rule_by_hand():
    w = nn.Parameter(torch.tensor([1.0, -1.0, 1.0, 0.0]))
    opt = Normalised([w], rate=0.5, threshold=0.6)
    steps = [
        ([2.0, 2.0, -4.0, 1.0], [-1, -1, 1, 0]),  # m = g / 2 and v = g^2 / 2, so 0.71 everywhere: the first agrees
        ([-6.0, -8.0, 4.0, 1.0], [-1, 1, 1, 0]),  # -2.5 / 19^0.5 = -0.57, -3.5 / 33^0.5 = -0.61, 1 / 12^0.5
    ]
    for grad, want in steps:
        w.grad = torch.tensor(grad)
        opt.step()
        assert w.tolist() == want
        assert int(opt.last_flips) == 1
    assert opt.state[w]['weight_flips'].tolist() == [1, 1, 0, 0]
    assert int(opt.state[w]['tensor_flips']) == 2


@pytest.mark.parametrize('way', [True, False])
def test_another_rule_runs_both_ways(way, monkeypatch):
    monkeypatch.setattr(flips, 'BLOCK', 0 if way else 30)
    monkeypatch.setenv('PAB_COMPILE', str(int(way)))
    w = nn.Parameter(torch.randn(100))
    opt = Normalised([w], rate=0.5, threshold=0.7)
    expected, m, v = w.detach().clone(), 0, 0
    for _ in range(4):
        w.grad = torch.randn(100)
        m, v = m * 0.5 + w.grad * 0.5, v * 0.5 + w.grad * w.grad * 0.5
        expected = torch.where(m / v.sqrt() * expected.sign() >= 0.7, -expected, expected)
        opt.step()
        assert torch.equal(w, expected)
