"""Every config that comes with pab: readable, complete, and built into the run that its name promises."""

import math
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from pab.compare.plan import read_comparison
from pab.compare.run_config import load_run_config
from pab.contracts import layers_with_used_weight
from pab.datasets import settle_auto
from pab.hooks import ARDecayHook, PruneHook
from pab.registry import HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS, PARAM_SCHEDULERS
from pab.run import PabRunner
from tests.registered import ALL_PRUNERS
from tests.small_run import small_config
from tests.test_tools.test_readme import write_blocks

FOLDER = Path(__file__).parents[2] / 'configs' / 'pab'
CONFIGS = sorted(path.name for path in FOLDER.glob('*.py'))
WAYS = sorted(path.name for path in FOLDER.parent.glob('compare/ways/*.py'))
COMPARISONS = sorted(FOLDER.parent.glob('compare/*.py'))
NETWORKS = 'r18_cifar10 r18_cifar100 r20_cifar10 wrn28_cifar10 vgg16_cifar10 conv6_cifar10 r18_imagenet r50_imagenet'


def load(name) -> Config:
    cfg = Config.fromfile(str(FOLDER / name))
    if 'model' in cfg:
        settle_auto(cfg, classes=10)
    return cfg


def test_the_recipes_are_there():
    assert {f'{name}.py' for name in ('quickstart', *NETWORKS.split())} <= set(CONFIGS)


@pytest.mark.slow
@pytest.mark.parametrize('path', COMPARISONS, ids=lambda path: path.stem)
def test_every_comparison_is_sound(path, tmp_path):
    comparison = read_comparison(path, 3, tmp_path)  # reads and checks the config of each of its runs
    assert {run.seeds for run in comparison.runs} <= {1, 3}


@pytest.mark.parametrize('name', CONFIGS)
def test_keys_hooks_model_and_owners_fit_together(name):
    load_run_config(FOLDER / name, [])


# the large networks are others of the same classes, and building them takes most of a second
@pytest.mark.parametrize('name', [n for n in CONFIGS if not n.startswith(('wrn28', 'r50'))])
def test_every_optimizer_can_be_built_and_has_a_schedule(name):
    cfg = load(name)
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    wrapper_cfg = {key: value for key, value in cfg.optim_wrapper.items() if key != 'constructor'}
    wrapper = OPTIM_WRAPPER_CONSTRUCTORS.build(dict(type='OwnershipConstructor', optim_wrapper_cfg=wrapper_cfg))(model)
    assert set(cfg.param_scheduler) == set(wrapper.keys())


def test_there_is_a_config_for_every_pruner():
    hooks = [cfg.default_hooks.get('prune') or {} for cfg in map(load, CONFIGS)]
    assert set(ALL_PRUNERS) <= {hook['pruner'].type for hook in hooks if 'pruner' in hook}


@pytest.mark.parametrize(
    'name, density, rounds, rate, interval, timing, milestones',
    [
        ('r18_cifar10.py', 0.3, 100, 1e-3, 45, 'after', [80, 120]),
        ('r50_imagenet.py', 0.5, 100, 1e-3, 30, 'before', None),
    ],
)
def test_recipes_hold_the_published_numbers(name, density, rounds, rate, interval, timing, milestones):
    cfg = load(name)
    hook = HOOKS.build(dict(cfg.default_hooks.prune))
    assert isinstance(hook, PruneHook)
    assert hook.pruner.settings.density.plain == density
    assert hook.pruner.settings.rounds == rounds
    decay = HOOKS.build(dict(cfg.default_hooks.ar_decay))
    assert isinstance(decay, ARDecayHook)
    assert (decay.interval, decay.gamma, decay.timing) == (interval, 0.15, timing)
    assert cfg.optim_wrapper.optimizers.signs.adaptivity_rate == rate
    assert cfg.optim_wrapper.optimizers.signs.threshold == 1e-6
    if milestones:
        assert cfg.param_scheduler.sgd[0].milestones == milestones


@pytest.mark.parametrize(
    'scheduler, got',
    [
        (dict(sgd=[]), r"\['sgd'\]"),
        (dict(signs=[], sgd=[], sdg=[]), r"\['sdg', 'sgd', 'signs'\]"),
        ([dict(type='MultiStepLR', milestones=[1])], 'MultiStepLR'),
        (dict(type='MultiStepLR', milestones=[1]), 'MultiStepLR'),
    ],
)
def test_schedules_that_belong_to_no_optimizer_are_refused(tiny_config, scheduler, got):
    cfg = tiny_config()
    cfg.param_scheduler = scheduler
    with pytest.raises(ValueError, match=rf'param_scheduler: needs one entry for each optimizer, sgd, signs, .*{got}'):
        PabRunner.from_cfg(cfg).train()


@pytest.mark.parametrize(
    ('moved', 'hint'), [('threshhold', 'did you mean threshold'), ('flip_share', 'its settings are')]
)
def test_a_schedule_of_what_an_optimizer_does_not_have(tmp_path, moved, hint):
    schedule = dict(signs=[dict(type='StepParamScheduler', param_name=moved, step_size=1)])
    with pytest.raises(ValueError, match=f"param_scheduler.signs: the optimizer has no '{moved}' to move; {hint}"):
        PabRunner.from_cfg(small_config(tmp_path, default_hooks__ar_decay=None, param_scheduler=schedule)).train()


COSINES = [name for name in CONFIGS if re.search('bop-cosine|latent-signs|top-flips|moves', name)]


def course(cfg, epoch_length) -> dict:
    """Setting -> its values under a config's schedules, relative to the first: at the start and after each epoch."""
    values = {}
    for schedules in cfg.param_scheduler.values():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=1.0)
        (group,) = optimizer.param_groups
        group.update(adaptivity_rate=1.0, flip_share=1.0, move_share=1.0)
        given = dict(optimizer=optimizer, epoch_length=epoch_length)
        complete = [dict(end=cfg.train_cfg.max_epochs) | schedule for schedule in schedules]
        schedulers = [PARAM_SCHEDULERS.build(schedule, default_args=given) for schedule in complete]
        key = schedulers[0].param_name
        values[key] = [group[key]]
        for step in range(cfg.train_cfg.max_epochs * epoch_length):
            optimizer.step()
            for scheduler in schedulers:
                if not scheduler.by_epoch or (step + 1) % epoch_length == 0:
                    scheduler.step()
            if (step + 1) % epoch_length == 0:
                values[key].append(group[key])
    return values


@pytest.mark.parametrize('name', COSINES)
def test_short_schedules_fill_the_run_whatever_the_number_of_steps(name):
    cfg = load(name)
    epochs = cfg.train_cfg.max_epochs
    values, others = course(cfg, 10), course(cfg, 40)
    assert len(values['lr']) == epochs + 1
    assert values['lr'][0] == 0.01
    assert max(values['lr']) == pytest.approx(1.0, abs=0.02)
    assert values['lr'][-1] < 1e-3
    if 'top-flips' in name:
        assert values['flip_share'] == sorted(values['flip_share'], reverse=True)
        assert values['flip_share'][-1] < 1e-3
    elif 'moves' in name:
        assert values['move_share'] == sorted(values['move_share'], reverse=True)
        assert values['move_share'][-1] < 1e-3
    elif 'bop' in name:
        expected = [0.003 ** (epoch / (epochs - 1)) for epoch in range(epochs)]
        assert values['adaptivity_rate'][:epochs] == pytest.approx(expected)
    for key, course_of_key in values.items():
        assert course_of_key == pytest.approx(others[key], abs=0.02), key


# epochs, warm-up, TopFlips' adaptivity rate and the step to rewind to, as in the published tables
@pytest.mark.slow
@pytest.mark.parametrize(
    ('budget', 'epochs', 'warm_up', 'rate', 'step'),
    [
        pytest.param('r18_cifar10', 180, 5, 3e-3, 2000, marks=pytest.mark.slow),
        ('r20_cifar10', 6, 1, 1e-2, 100),
        ('r20_cifar10_30e', 30, 1, 3e-3, 1000),
    ],
)
def test_each_way_follows_its_budget(monkeypatch, budget, epochs, warm_up, rate, step):
    monkeypatch.setenv('PAB_BUDGET', budget)
    ways = {name.removesuffix('.py'): load(f'../compare/ways/{name}') for name in WAYS}
    rewinding = ways.pop('rewinding')
    assert rewinding.train_cfg.max_epochs == 4 * epochs
    assert rewinding.param_scheduler.sgd[0].periods == [epochs] * 4
    assert rewinding.default_hooks.prune.rewind_iter == step
    assert ways['top_flips'].optim_wrapper.optimizers.signs.adaptivity_rate == rate
    for cfg in ways.values():
        values = course(cfg, 10)
        assert cfg.train_cfg.max_epochs == epochs
        assert values['lr'][warm_up] == pytest.approx(1.0)
        assert values['lr'][-1] < 1e-3
        for name in cfg.param_scheduler.keys() - {'signs'}:
            assert cfg.param_scheduler[name] == cfg.param_scheduler.sgd
    assert course(ways['bop'], 10)['adaptivity_rate'][epochs - 1] == pytest.approx(0.003)
    assert course(ways['second_order_bop'], 10)['adaptivity_rate'][-1] < 1e-3
    assert course(ways['top_flips'], 10)['flip_share'][-1] < 1e-3
    assert course(ways['moves'], 10)['move_share'][-1] < 1e-3


@pytest.mark.parametrize('name', ['quickstart_warm_up', 'quickstart_edge_popup'])
def test_examples_of_the_docs_run(tmp_path, name):
    write_blocks(tmp_path, 'method.md', f'mine/{name}.py')
    cfg = Config.fromfile(str(tmp_path / 'mine' / f'{name}.py'))
    small = small_config(tmp_path / 'run', digits=True, train_cfg__max_epochs=3)
    for key in ('work_dir', 'experiment_name', 'train_cfg', 'train_dataloader', 'val_dataloader', 'test_dataloader'):
        cfg[key] = small[key]
    cfg.merge_from_dict(dict(model=dict(network=dict(width=2)), default_hooks=dict(report=None)))
    runner = PabRunner.from_cfg(cfg)
    runner.train()
    if name == 'quickstart_warm_up':
        # 12 steps: 8 of warm-up, 4 of a cosine of 72
        (group,) = runner.optim_wrapper['signs'].optimizer.param_groups
        assert group['adaptivity_rate'] == pytest.approx(1e-2 * (1 + math.cos(math.pi * 3 / 72)) / 2, rel=1e-3)
        rates = runner.message_hub.get_scalar('adaptivity_rate').data[0]
        assert 1e-3 < rates[0] < rates[1]
    else:
        layers = layers_with_used_weight(runner.model.network)
        used = [(int(layer.used_weight().count_nonzero()), layer.weight.numel()) for layer in layers.values()]
        assert len(used) == 9
        assert all(kept == total - total // 2 for kept, total in used)


def leaves(settings: dict, path=()):
    """(path, value) of everything a config sets; below a ``_delete_`` nothing is inherited."""
    for key, value in settings.items():
        if not isinstance(value, dict):
            yield (*path, key), value
        elif '_delete_' not in value:
            yield from leaves(value, (*path, key))


@pytest.mark.parametrize('name', CONFIGS)
def test_leaves_show_only_what_they_vary(name):
    own = {}
    text = (FOLDER / name).read_text()
    exec(re.sub(r'\{\{.*?\}\}', "'what a base has'", text), own)
    bases = [load(base).to_dict() for base in own.pop('_base_')]
    merged = {key: value for base in bases for key, value in base.items()}
    for path, value in leaves({key: value for key, value in own.items() if not key.startswith('__')}):
        inherited = merged
        for key in path:
            inherited = inherited.get(key) if isinstance(inherited, dict) else None
        assert inherited is None or inherited != value, f'{".".join(path)} repeats what is inherited'
