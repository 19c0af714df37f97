"""RigL: trained weights that change places, by numbers and in whole runs."""

import math

import pytest
import torch
from torch import nn

from pab.hooks.method.rigl import RigLHook, moved
from pab.pruners import apply_masks_, check_masks, get_masks
from pab.registry import RUNNERS
from tests.small_run import EPOCHS, STEPS, StepHook, final_state, run_ranks, small_config

EACH_STEP = dict(checkpoint=dict(by_epoch=False, interval=1, max_keep_ckpts=-1, save_best=None))
NO_FILES = dict(checkpoint=dict(save_best=None, interval=99))
WEIGHTS = ('conv1.weight', 'conv2.weight')


def rigl(folder, hook=None, **changes):
    """The small run, all of whose weights SGD trains; some of them move every third step."""
    cfg = small_config(folder, **changes)
    cfg.optim_wrapper.optimizers = dict(sgd=dict(type='SGD', owns='rest', lr=0.1, momentum=0.9, weight_decay=1e-3))
    cfg.param_scheduler = dict(sgd=[])
    cfg.default_hooks.prune.update(epoch=0, shots=1)
    cfg.default_hooks.ar_decay = cfg.default_hooks.flips = None
    cfg.custom_hooks = [*cfg.get('custom_hooks', ()), {'type': 'RigLHook', 'every_steps': 3, **(hook or {})}]
    return cfg


def trained(cfg, *hooks):
    runner = RUNNERS.build(cfg)
    for hook in hooks:
        runner.register_hook(hook)
    runner.train()
    return runner


@pytest.mark.parametrize(
    ('count', 'expected'),
    [
        (0, [1, 1, 1, 0, 0, 0]),
        (1, [1, 0, 1, 0, 1, 0]),  # the smallest magnitude for the largest gradient
        (2, [1, 0, 0, 0, 1, 1]),
        (3, [0, 0, 1, 0, 1, 1]),  # all leave, and one has the third largest gradient
    ],
)
def test_moves_by_hand(count, expected):
    mask = torch.tensor([[True, True, True], [False, False, False]])
    weight, grad = torch.tensor([[-3.0, 1, 2], [0, 0, 0]]), torch.tensor([[0, 0.1, 0.5], [0.2, -0.9, 0.8]])
    new = moved(mask, weight, grad, count)
    assert new.flatten().tolist() == [bool(kept) for kept in expected]
    last = [t.t().contiguous().t() for t in (weight, grad)]  # in another order of memory
    assert torch.equal(moved(mask, *last, count), new)


def test_a_run_moves_what_is_due_and_starts_it_at_0(tmp_path):
    """Against the masks, weights and gradients that stood before and behind each step."""
    seen = []

    def before(network, optimizer):
        seen.append((masks(network), {n: network.get_parameter(n).grad.clone() for n in WEIGHTS}))

    def behind(network, optimizer):
        params = {n: network.get_parameter(n) for n in WEIGHTS}
        momenta = {n: optimizer.state[param]['momentum_buffer'].clone() for n, param in params.items()}
        seen[-1] += (masks(network), {n: param.detach().clone() for n, param in params.items()}, momenta)

    cfg = rigl(tmp_path, dict(share=0.5, until=0.5), default_hooks=NO_FILES)
    runner = trained(cfg, StepHook(before, behind))
    assert len(seen) == EPOCHS * STEPS
    end = 0.5 * EPOCHS * STEPS
    for step, (old, grads, new, values, momenta) in enumerate(seen):
        share = 0.25 * (1 + math.cos(math.pi * step / end)) if step % 3 == 0 and 0 < step < end else 0
        for name in WEIGHTS:
            due, kept = int(share * int(old[name].sum())), int(old[name].sum())
            assert int(new[name].sum()) == kept
            grown = new[name] & ~old[name]
            assert int(grown.sum()) <= due
            assert bool(grown.any()) <= (share > 0)
            assert not values[name][~new[name]].any()
            assert not momenta[name][~new[name]].any()
            assert bool(grads[name][~old[name]].any()) == (share > 0)
            # lr 0.1, from weight and momentum 0
            torch.testing.assert_close(values[name][grown], -0.1 * grads[name][grown])
    assert sum(int((new[n] & ~old[n]).sum()) for old, _, new, *_ in seen for n in WEIGHTS) > 50
    check_masks(runner.network)


def masks(network):
    return {name: mask.clone() for name, mask in get_masks(network).items()}


def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path):
    two_passes = dict(optim_wrapper__accumulative_counts=2)
    whole = trained(rigl(tmp_path / 'whole', default_hooks=EACH_STEP, **two_passes))
    end = final_state(whole)
    start = torch.load(tmp_path / 'whole' / 'iter_1.pth')['state_dict']
    for name, mask in get_masks(whole.network).items():
        assert int(mask.sum()) == int(start[f'network.{name}_mask'].sum())
        assert not torch.equal(mask, start[f'network.{name}_mask'])
    for step in (7, 12):  # between the passes of a step in which weights move; before one
        file = str(tmp_path / 'whole' / f'iter_{step}.pth')
        cfg = rigl(tmp_path / str(step), resume=True, load_from=file, default_hooks=NO_FILES, **two_passes)
        assert final_state(trained(cfg)) == end, step


def summary(cfg):
    network = trained(cfg).network
    return {name: tensor.tolist() for name, tensor in network.state_dict().items() if 'running' not in name}


@pytest.mark.slow  # Moves says the same by default
def test_two_processes_agree(tmp_path):
    ends = run_ranks(2, summary, rigl(tmp_path, train_dataloader__batch_size=4))
    assert [status for status, _ in ends] == [0, 0]
    assert ends[0][1] == ends[1][1]


REFUSED = {
    'averages': (dict(custom_hooks=[dict(type='EMAHook')]), {}, 'EMAHook needs masks that stay'),
    'narrow': (dict(default_hooks__prune__narrow=True), {}, 'narrow=True needs masks that stay'),
    'dense': (dict(), dict(prune=None), 'the network has no masks; prune it by PruneHook'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_is_refused_before_training(tmp_path, case):
    settings, hooks, message = REFUSED[case]
    cfg = rigl(tmp_path, **settings)
    cfg.default_hooks.update(hooks)
    runner = RUNNERS.build(cfg)
    with pytest.raises(ValueError, match=f'RigLHook: .*{message}'):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize('owner', [dict(type='TopFlips'), None])
def test_masks_of_what_nobody_trains_by_size_are_refused(tmp_path, owner):
    cfg = rigl(tmp_path)
    if owner:
        cfg.optim_wrapper.optimizers.signs = dict(owner, owns=['Conv2d.weight'])
        cfg.param_scheduler.signs = []
    else:
        cfg.model.update(freeze=['Conv2d'])
    with pytest.raises(ValueError, match=r'RigLHook: conv1\.weight has a mask, and no optimizer trains its magnitudes'):
        trained(cfg)


@pytest.mark.parametrize('wrong', [dict(share=0), dict(share=1.5), dict(until=0), dict(until=1.01)])
def test_settings_out_of_range_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(ValueError, match=rf'RigLHook: {name} must lie in \(0, 1\]'):
        RigLHook(**wrong)


def test_a_dense_mask_stays():
    layer = nn.Linear(3, 2)
    apply_masks_(layer, {'weight': torch.ones(2, 3, dtype=torch.bool)})
    assert moved(layer.weight_mask, layer.weight, torch.randn(2, 3), 3).all()
