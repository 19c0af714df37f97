"""On a GPU: a step waits for nothing, and layers, optimizer and scores agree with the CPU."""

import copy

import pytest
import torch
from mmengine.hooks import Hook
from torch import nn

from pab.optim import Bop
from pab.pruners import SynFlow
from pab.psg import PSGConfig, PSGConv2d
from pab.run import PabRunner

pytestmark = [pytest.mark.cuda, pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')]
STEPS = 16


class Strict(Hook):
    """Make waiting for the GPU an error in the middle of the second epoch."""

    priority = 'VERY_HIGH'

    def __init__(self):
        self.steps = 0

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        strict = runner.epoch == 1 and 2 <= batch_idx < STEPS - 2
        self.steps += strict
        torch.cuda.set_sync_debug_mode('error' if strict else 'default')


class Lax(Hook):
    """End it when all hooks have seen the step."""

    priority = 'LOWEST'

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        torch.cuda.set_sync_debug_mode('default')


@pytest.mark.parametrize('precision', ['float32', 'bfloat16'])
@pytest.mark.parametrize('device', [None, 'cuda'])
def test_a_step_waits_for_nothing(tiny_config, precision, device):
    cfg = tiny_config(optim_wrapper=dict(precision=precision))
    cfg.train_dataloader.update(batch_size=128 // STEPS, pin_memory=device is None)
    cfg.train_dataloader.dataset.device = device
    cfg.default_hooks.logger.interval = 10 * STEPS
    runner = PabRunner.from_cfg(cfg)
    strict = Strict()
    runner.register_hook(strict)
    runner.register_hook(Lax())
    try:
        runner.train()
    finally:
        torch.cuda.set_sync_debug_mode('default')
    assert strict.steps == STEPS - 4


def test_a_layer_gives_the_numbers_of_the_cpu():
    here = PSGConv2d(8, 16, 3, padding=1, psg=PSGConfig())
    there = copy.deepcopy(here).cuda()
    x, grad = torch.rand(4, 8, 10, 10), torch.randn(4, 16, 10, 10)
    xs = [x.clone().requires_grad_(), x.cuda().requires_grad_()]
    with torch.backends.cudnn.flags(allow_tf32=False):
        for layer, images in zip((here, there), xs, strict=True):
            layer(images).backward(grad.to(images.device))
    torch.testing.assert_close(xs[1].grad.cpu(), xs[0].grad, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(there.weight.grad.cpu(), here.weight.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('compile_loops', [True, False])
@pytest.mark.parametrize('per_weight', [True, False])
def test_bop_gives_the_numbers_of_the_cpu(compile_loops, per_weight, monkeypatch):
    monkeypatch.setenv('PAB_COMPILE', str(int(compile_loops)))
    weights = [torch.randn(300, 64, 3, 3), torch.randn(5, 3)]
    here = [nn.Parameter(w.clone()) for w in weights]
    there = [nn.Parameter(w.cuda()) for w in weights]
    optimizers = [
        Bop(params, adaptivity_rate=0.1, threshold=0.05, flips_per_weight=per_weight) for params in (here, there)
    ]
    for _ in range(4):
        grads = [torch.randn_like(w) for w in weights]
        for params, optimizer in zip((here, there), optimizers, strict=True):
            for param, grad in zip(params, grads, strict=True):
                param.grad = grad.to(param.device)
            optimizer.step()
        for a, b in zip(here, there, strict=True):
            assert torch.equal(a, b.cpu())
        assert int(optimizers[0].last_flips) == int(optimizers[1].last_flips)


def test_synflow_gives_the_masks_of_the_cpu():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2, padding=1),
        nn.Flatten(),
        nn.LazyLinear(5),
    )
    network(torch.zeros(1, 3, 8, 8))
    masks = SynFlow(density=0.4, rounds=10).prune(network, input_shape=(3, 8, 8))
    there = SynFlow(density=0.4, rounds=10).prune(network.cuda(), input_shape=(3, 8, 8))
    assert all(torch.equal(masks[name], there[name].cpu()) for name in masks)


def test_a_run_that_diverges_names_the_layer(tiny_config):
    """The gradients are looked at one update late, with the weights from before it."""
    cfg = tiny_config()
    runner = PabRunner.from_cfg(cfg)
    weight = runner.model.network.layer2[0].conv1.weight
    steps = []
    weight.register_hook(lambda grad: grad * (1.0 if len(steps) < 2 else float('inf')))
    weight.register_post_accumulate_grad_hook(steps.append)
    with pytest.raises(FloatingPointError, match=r'step 3: a gradient .* the weights of network.layer2.0.conv1 '):
        runner.train()
