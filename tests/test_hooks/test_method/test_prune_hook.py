import itertools

import pytest
import torch
from torch import nn

from pab.hooks import PruneHook
from pab.hooks.method.prune_to_file import prune_to_file
from pab.hooks.method.pruning import hash_file, hash_masks
from pab.pruners import Pruner, check_masks, get_masks
from pab.registry import MODELS, OPTIMIZERS, PRUNERS
from pab.run import PabRunner
from tests.small_run import runner_hook


@OPTIMIZERS.register_module()
class FlipLarge(torch.optim.Optimizer):
    """A sign optimizer of one's own: flips what a large gradient pushes towards 0."""

    def __init__(self, params, flips_per_weight=False):
        super().__init__(params, dict(flips_per_weight=flips_per_weight))
        self.last_flips = None

    @torch.no_grad()
    def step(self, closure=None):
        counts = []
        for group in self.param_groups:
            for param in [p for p in group['params'] if p.grad is not None]:
                flip = (param.grad * param > 0) & (param.grad.abs() > 2 * param.grad.abs().mean())
                param.copy_(torch.where(flip, -param, param))
                counts.append(flip.sum())
                if group['flips_per_weight']:
                    zeros = torch.zeros_like(param, dtype=torch.int32)
                    self.state[param].setdefault('weight_flips', zeros).add_(flip)
        self.last_flips = torch.stack(counts).sum()


@MODELS.register_module()
class TwoHeads(nn.Module):
    """Its last layer is not used."""

    def __init__(self, width=3):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, bias=False)
        self.classifier = nn.Linear(6, 10)
        self.more = nn.Linear(10, width)

    def forward(self, images):
        return self.classifier(self.conv(images).mean((2, 3)))


def density_of(runner):
    masks = get_masks(runner.model.network).values()
    return sum(int(m.sum()) for m in masks), sum(m.numel() for m in masks)


def with_pruner(tiny_config, hook=None, changes=None, **pruner):
    cfg = tiny_config(**(changes or {}))
    cfg.default_hooks.prune = dict(type='PruneHook', pruner=dict(dict(density=0.3), **pruner), **(hook or {}))
    return cfg


@pytest.mark.parametrize('name', ['Mag', 'SNIP', 'SynFlow'])  # Rand and GraSP are given the same, or less
def test_a_run_ends_at_the_density_that_was_asked_for(tiny_config, name):
    runner = PabRunner.from_cfg(with_pruner(tiny_config, changes=dict(train_cfg=dict(max_epochs=1)), type=name))
    runner.train()
    kept, total = density_of(runner)
    assert kept == total - int(0.7 * total)
    check_masks(runner.model)


def test_shots_are_spread_and_masks_only_shrink(tiny_config, monkeypatch):
    seen, prune = [], PruneHook.prune

    def watched(self, runner):
        prune(self, runner)
        seen.append((runner.epoch, {name: mask.clone() for name, mask in get_masks(runner.model.network).items()}))

    monkeypatch.setattr(PruneHook, 'prune', watched)
    cfg = with_pruner(tiny_config, dict(epoch=3, shots=3), dict(train_cfg=dict(max_epochs=4)), type='Mag')
    runner = PabRunner.from_cfg(cfg)
    runner.train()
    assert [epoch for epoch, _ in seen] == [1, 2, 3]
    for (_, before), (_, after) in itertools.pairwise(seen):
        assert all((before[name] | ~mask).all() for name, mask in after.items())
    kept, total = density_of(runner)
    assert kept == total - int(0.7 * total)
    check_masks(runner.model)  # momentum from before a shot moved nothing


def test_every_shot_happens_when_they_fall_on_one_epoch():
    assert PruneHook(dict(type='Mag', density=0.5), epoch=0, shots=3).shot_epochs == [0, 0, 0]
    assert PruneHook(dict(type='Mag', density=0.5), epoch=2, shots=4).shot_epochs == [0, 1, 1, 2]


def test_shots_spread_densities_by_layer_too(tiny_config, monkeypatch, tmp_path):
    kept, prune = [], PruneHook.prune

    def watched(self, runner):
        prune(self, runner)
        kept.append(int(get_masks(runner.model.network)['linear.weight'].sum()))

    monkeypatch.setattr(PruneHook, 'prune', watched)
    settings = dict(type='Mag', prunable=['Conv2d', 'Linear'], density=[('Linear', 0.5), ('rest', 0.3)])
    PabRunner.from_cfg(with_pruner(tiny_config, dict(epoch=1, shots=2), **settings)).train()
    assert kept == [60, 40]  # of 80: densities 0.75 and 0.5
    record = torch.load(tmp_path / 'run' / 'epoch_2.pth')['pruning']
    assert record['density'] == [['Linear', 0.5], ['rest', 0.3]]
    # what was pruned already is not pruned again, and another density is refused
    changes = dict(load_from=str(tmp_path / 'run' / 'epoch_2.pth'), work_dir=str(tmp_path / 'again'))
    PabRunner.from_cfg(with_pruner(tiny_config, dict(epoch=1, shots=2), changes, **settings)).train()
    assert kept == [60, 40]
    changes['work_dir'] = str(tmp_path / 'refused')
    cfg = with_pruner(tiny_config, dict(epoch=1, shots=2), changes, **dict(settings, density=0.3))
    with pytest.raises(ValueError, match=r"pruned with density \[\['Linear', 0.5\], \['rest', 0.3\]\] \(here 0.3\)"):
        PabRunner.from_cfg(cfg).train()


def with_flipfreq(tiny_config, **pruner):
    """FlipFreq on the signs of the test's own optimizer."""
    cfg = with_pruner(tiny_config, dict(epoch=1), type='FlipFreq', **pruner)
    cfg.optim_wrapper.optimizers.signs = dict(type='FlipLarge', owns=['Conv2d.weight'], flips_per_weight=True)
    cfg.default_hooks.ar_decay = cfg.default_hooks.flips = None
    return cfg


def test_flipfreq_keeps_what_settled_under_a_sign_optimizer_of_ones_own(tiny_config, monkeypatch):
    seen, score = {}, PRUNERS.get('FlipFreq').score

    def watched(self, weights, flips):
        seen.update({name: count.clone() for name, count in flips.items()})
        return score(self, weights, flips)

    monkeypatch.setattr(PRUNERS.get('FlipFreq'), 'score', watched)
    runner = PabRunner.from_cfg(with_flipfreq(tiny_config))
    runner.train()
    kept, total = density_of(runner)
    assert kept == total - int(0.7 * total)
    masks = get_masks(runner.model.network)
    flips = torch.cat([seen[name].flatten() for name in masks])
    mask = torch.cat([mask.flatten() for mask in masks.values()])
    assert flips[mask].max() <= flips[~mask].min()
    assert flips.max() > flips.min()


def test_a_weight_that_had_no_step_has_no_flips(tiny_config):
    cfg = with_flipfreq(tiny_config, prunable=['Conv2d', 'name:more.*'], scope='local')
    cfg.optim_wrapper.optimizers.signs.owns = ['Conv2d.weight', 'name:more.weight']
    cfg.model.network = dict(type='TwoHeads')
    runner = PabRunner.from_cfg(cfg)
    runner.train()
    assert int(get_masks(runner.model.network)['more.weight'].sum()) == 9  # of 30


def test_masks_follow_from_the_seed(tiny_config, tmp_path):
    def masks(seed, run):
        runner = PabRunner.from_cfg(tiny_config(randomness=dict(seed=seed), work_dir=str(tmp_path / run)))
        prune_to_file(runner, tmp_path / run / 'pruned.pth')
        return hash_masks(get_masks(runner.model.network))

    assert masks(1, 'a') == masks(1, 'b') != masks(2, 'c')


def test_average_of_the_weights_is_pruned_too(tiny_config):
    cfg = with_pruner(tiny_config, dict(epoch=1), type='Mag')
    cfg.custom_hooks = [dict(type='EMAHook')]
    runner = PabRunner.from_cfg(cfg)
    runner.train()
    average = runner_hook(runner, 'EMAHook').ema_model.module
    check_masks(average)
    assert hash_masks(get_masks(average.network)) == hash_masks(get_masks(runner.model.network))


def test_two_stages_equal_one(tiny_config, tmp_path):
    one = PabRunner.from_cfg(tiny_config())
    one.train()
    prune_to_file(PabRunner.from_cfg(tiny_config(work_dir=str(tmp_path / 'a'))), tmp_path / 'pruned.pth')
    two = PabRunner.from_cfg(tiny_config(work_dir=str(tmp_path / 'b'), load_from=str(tmp_path / 'pruned.pth')))
    two.train()
    for (name, a), b in zip(one.model.state_dict().items(), two.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    pruned_from = runner_hook(two, 'PruneHook').record(two)['pruned_from']
    assert pruned_from == {'path': str(tmp_path / 'pruned.pth'), 'sha256': hash_file(tmp_path / 'pruned.pth')}
    assert runner_hook(two, 'CostHook').work == runner_hook(one, 'CostHook').work  # the file's pruning counts


@pytest.mark.skipif(not hasattr(torch.optim, 'Muon'), reason='Muon came with torch 2.9')
def test_pruned_weights_stay_zero_under_muon_through_a_resume(tiny_config):
    def config(epochs, **changes):
        changes['train_cfg'] = dict(max_epochs=epochs)
        cfg = with_pruner(tiny_config, dict(epoch=1, shots=2), changes, type='Mag', prunable=['Conv2d', 'Linear'])
        cfg.optim_wrapper.optimizers.muon = dict(type='Muon', owns=['Linear.weight'], lr=0.02)
        cfg.param_scheduler.muon = []
        return cfg

    PabRunner.from_cfg(config(epochs=2)).train()
    longer = dict(resume_check=dict(allow_changes=True))  # for one epoch more
    runner = PabRunner.from_cfg(config(epochs=3, resume=True, default_hooks=longer))
    runner.train()
    check_masks(runner.model)
    assert not get_masks(runner.model.network)['linear.weight'].all()


def test_a_pruned_file_is_not_written_over(tiny_config, tmp_path):
    runner = PabRunner.from_cfg(tiny_config())
    (tmp_path / 'p.pth').write_text('mine')
    with pytest.raises(FileExistsError, match=r'p.pth exists; choose another file, or pass --force'):
        prune_to_file(runner, tmp_path / 'p.pth')
    assert (tmp_path / 'p.pth').read_text() == 'mine'


def test_a_pruned_file_of_another_run_is_refused(tiny_config, tmp_path):
    prune_to_file(PabRunner.from_cfg(tiny_config()), tmp_path / 'p.pth')
    for changes, message in [
        (dict(randomness=dict(seed=5)), r'was pruned with seed 0 \(here 5\)'),
        (dict(default_hooks=dict(prune=dict(pruner=dict(density=0.2)))), r'with density 0.3 \(here 0.2\)'),
        (dict(default_hooks=dict(prune=dict(pruner=dict(type='Mag')))), r"with pruner 'SynFlow' \(here 'Mag'\)"),
        (dict(default_hooks=dict(prune=dict(shots=2, epoch=1))), r'with shots 1 \(here 2\)'),
    ]:
        runner = PabRunner.from_cfg(tiny_config(load_from=str(tmp_path / 'p.pth'), **changes))
        with pytest.raises(ValueError, match=message):
            runner.train()


def test_a_resumed_run_does_not_prune_again(tiny_config, monkeypatch):
    PabRunner.from_cfg(tiny_config(train_cfg=dict(max_epochs=1))).train()
    monkeypatch.setattr(PruneHook, 'prune', lambda *_: pytest.fail('pruned again'))
    longer = dict(resume_check=dict(allow_changes=True))  # for one epoch more
    runner = PabRunner.from_cfg(tiny_config(resume=True, default_hooks=longer))
    runner.train()
    assert runner.epoch == 2


LATE = {
    'an epoch beyond the schedule': (
        dict(type='Mag'),
        dict(default_hooks=dict(prune=dict(epoch=7))),
        r'PruneHook: epoch must be below the number of epochs, 2, got 7',
    ),
    'flips before a training': (
        dict(type='FlipFreq'),
        dict(default_hooks=dict(prune=dict(epoch=0))),
        r'FlipFreq scores by the flips so far, and before epoch 0 there are none',
    ),
    'flips of no weight': (
        dict(type='FlipFreq'),
        {},
        r'which no optimizer keeps for conv1.weight, .*; set flips_per_weight=True',
    ),
    'flips of some layers only': (
        dict(type='FlipFreq', prunable=['Conv2d', 'Linear']),
        dict(optim_wrapper=dict(optimizers=dict(signs=dict(flips_per_weight=True)))),
        r'FlipFreq scores by the flips of each weight, which no optimizer keeps for linear.weight; set',
    ),
    'more images than there are': (
        dict(type='SNIP'),
        dict(default_hooks=dict(prune=dict(data=dict(num_samples=1000)))),
        r'data.num_samples must not exceed the training set, 128, got 1000',
    ),
    'floors': (
        dict(type='Mag', min_per_tensor=300, density=0.5),
        {},
        r'min_per_tensor: 300 weights in each of',
    ),
    'a density for no layer': (
        dict(type='Mag', density=[('Linear', 0.5), ('rest', 0.3)]),
        {},
        "density: 'Linear' names none of the prunable weights",
    ),
}


@pytest.mark.parametrize('case', LATE)
def test_what_a_shot_would_refuse_is_refused_before_training(tiny_config, case):
    pruner, changes, message = LATE[case]
    cfg = with_pruner(tiny_config, dict(epoch=1), **pruner)
    cfg.merge_from_dict(changes)
    runner = PabRunner.from_cfg(cfg)
    with pytest.raises(ValueError, match=message):
        runner.train()
    assert runner.iter == 0


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(epoch=-1), 'PruneHook: epoch must be an int >= 0, got -1'),
        (dict(shots=0), 'PruneHook: shots must be an int >= 1, got 0'),
        (dict(data=dict(num_samples=0)), 'PruneHook: data.num_samples must be an int >= 1, got 0'),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        PruneHook(dict(type='Mag', density=0.5), **settings)


def test_flips_are_counted_and_reported(tiny_config):
    runner = PabRunner.from_cfg(tiny_config())
    runner.train()
    hub = runner.message_hub
    steps = hub.get_scalar('flips/step').data[0]
    epochs = hub.get_scalar('flips/epoch').data[0]
    assert steps.reshape(2, 4).sum(axis=1).tolist() == epochs.tolist()
    assert hub.get_scalar('flips/total').current() == epochs.sum() > 0
    bop = runner.optim_wrapper['signs'].optimizer
    assert sum(int(state['tensor_flips']) for state in bop.state.values()) == epochs.sum()
    kept, _ = density_of(runner)
    assert hub.get_scalar('flips/rate').data[0] == pytest.approx(epochs / (4 * kept))


def test_a_score_is_given_what_it_can_do_without(tiny_config, monkeypatch):
    seen = {}

    class Curious(Pruner):
        def score(self, weights, batches=None, input_shape=None, flips=None):
            seen.update(batches=batches, input_shape=input_shape, flips=flips)
            return weights

    monkeypatch.setitem(PRUNERS.module_dict, 'Curious', Curious)
    PabRunner.from_cfg(with_pruner(tiny_config, type='Curious')).train()
    assert seen['batches'][0][0].shape == (100, 1, 8, 8)
    assert tuple(seen['input_shape']) == (1, 8, 8)
    assert seen['flips'] is None  # no weight's flips were counted
