"""Every config that comes with pab: readable, complete, and built into the run that its name promises."""

from pathlib import Path

import pytest
from mmengine.config import Config

from pab.hooks import ARDecayHook, PruneHook
from pab.registry import HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS, PRUNERS
from pab.run import PabRunner, check_config

FOLDER = Path(__file__).parents[2] / 'configs' / 'pab'
CONFIGS = sorted(path.name for path in FOLDER.glob('*.py'))
NAMED = [
    'quickstart',
    'r18_cifar10',
    'r18_cifar100',
    'r20_cifar10',
    'wrn28_cifar10',
    'vgg16_cifar10',
    'conv6_cifar10',
    'r18_imagenet',
    'r50_imagenet',
]


def load(name) -> Config:
    return Config.fromfile(str(FOLDER / name))


def test_the_recipes_are_there():
    assert {f'{name}.py' for name in NAMED} <= set(CONFIGS)


@pytest.mark.parametrize('name', CONFIGS)
def test_every_key_is_read(name):
    check_config(load(name))


# the large networks are others of the same classes, and building them takes most of a second
@pytest.mark.parametrize('name', [n for n in CONFIGS if not n.startswith(('wrn28', 'r50'))])
def test_model_hooks_and_owners_fit_together(name):
    cfg = load(name)
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    for hook in cfg.default_hooks.values():
        if hook is not None:
            HOOKS.build(dict(hook))
    wrapper_cfg = {key: value for key, value in cfg.optim_wrapper.items() if key != 'constructor'}
    wrapper = OPTIM_WRAPPER_CONSTRUCTORS.build(dict(type='OwnershipConstructor', optim_wrapper_cfg=wrapper_cfg))(model)
    assert set(cfg.param_scheduler) == set(wrapper.keys())


@pytest.mark.parametrize('name', sorted(PRUNERS.module_dict) or ['SynFlow'])
def test_there_is_a_config_for_every_pruner(name):
    assert any(
        (cfg.default_hooks.get('prune') or {}).get('pruner', {}).get('type') == name for cfg in map(load, CONFIGS)
    )


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
    assert float(hook.pruner.settings.density) == density
    assert hook.pruner.settings.rounds == rounds
    decay = HOOKS.build(dict(cfg.default_hooks.ar_decay))
    assert isinstance(decay, ARDecayHook)
    assert (decay.interval, decay.gamma, decay.timing) == (interval, 0.15, timing)
    assert cfg.optim_wrapper.optimizers.bop.adaptivity_rate == rate
    assert cfg.optim_wrapper.optimizers.bop.threshold == 1e-6
    if milestones:
        assert cfg.param_scheduler.sgd[0].milestones == milestones


@pytest.mark.parametrize(
    'scheduler, got',
    [
        (dict(sgd=[]), r"\['sgd'\]"),
        (dict(bop=[], sgd=[], sdg=[]), r"\['bop', 'sdg', 'sgd'\]"),
        ([dict(type='MultiStepLR', milestones=[1])], 'MultiStepLR'),
        (dict(type='MultiStepLR', milestones=[1]), 'MultiStepLR'),
    ],
)
def test_schedules_that_belong_to_no_optimizer_are_refused(tiny_config, scheduler, got):
    cfg = tiny_config()
    cfg.param_scheduler = scheduler
    with pytest.raises(ValueError, match=rf'param_scheduler: needs one entry for each optimizer, bop, sgd, .*{got}'):
        PabRunner.from_cfg(cfg).train()


def load_base(path) -> dict:
    return Config.fromfile(str(path)).to_dict()


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
    exec((FOLDER / name).read_text(), own)
    bases = [load_base(FOLDER / base) for base in own.pop('_base_')]
    merged = {key: value for base in bases for key, value in base.items()}
    for path, value in leaves({key: value for key, value in own.items() if not key.startswith('__')}):
        inherited = merged
        for key in path:
            inherited = inherited.get(key) if isinstance(inherited, dict) else None
        assert inherited is None or inherited != value, f'{".".join(path)} repeats what is inherited'
