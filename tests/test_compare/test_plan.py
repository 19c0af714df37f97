"""A comparison file: what it becomes, and everything that is refused before a training begins."""

import os
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn

from pab.compare.plan import folder_name, read_comparison
from pab.compare.run_config import load_run_config
from pab.registry import MODELS

QUICKSTART = Path(__file__).parents[2] / 'configs' / 'pab' / 'quickstart.py'


@pytest.fixture
def read(tmp_path):
    """A function: text of a comparison file -> the comparison, with three seeds; ``quickstart.py`` is beside it."""
    (tmp_path / 'quickstart.py').write_text(f'_base_ = [{str(QUICKSTART)!r}]\n')

    def read(text, seeds=3, **options):
        (tmp_path / 'file.py').write_text(text)
        return read_comparison(tmp_path / 'file.py', seeds, tmp_path / 'out', options)

    return read


def test_runs_groups_seeds_and_folders(read, tmp_path):
    comparison = read("""
title = 'Digits.'
_config = 'quickstart.py'
runs = [
    dict(name='SynFlow + Bop', group='density 0.3', config=_config, against='Mag'),
    dict(name='Mag', group='density 0.3', config=_config, seeds=2),
    dict(name='Mag', config=_config, seeds=9),
]
""")
    assert comparison.title == 'Digits.'
    assert [run.title for run in comparison.runs] == ['density 0.3: SynFlow + Bop', 'density 0.3: Mag', 'Mag']
    assert [run.seeds for run in comparison.runs] == [3, 2, 3]
    assert {group: len(runs) for group, runs in comparison.sections().items()} == {'density 0.3': 2, '': 1}
    assert [(t.run.title[:5], t.seed) for t in comparison.trainings()][:4] == [
        ('densi', 0), ('densi', 0), ('Mag', 0), ('densi', 1),
    ]  # fmt: skip
    assert comparison.trainings()[0].folder == tmp_path / 'out' / 'density_0.3' / 'SynFlow_+_Bop' / 'seed_0'
    assert comparison.runs[2].folder == tmp_path / 'out' / 'Mag'
    assert comparison.runs[0].imports is None


def test_options_are_merged_in_order_and_survive_in_full(read):
    comparison = read(
        """
title = 'Digits.'
options = {
    'train_cfg.max_epochs': 3,
    'optim_wrapper.clip_grad': dict(max_norm=0.5),
    'default_hooks.prune.pruner': dict(_delete_=True, type='Mag', density=0.25),
    'default_hooks.flips': None,
    '_note': ['a [b', '{"c": 1}', None, -1e-7, ()],
}
runs = [
    dict(name='a', config='quickstart.py'),
    dict(name='b', config='quickstart.py', options={'train_cfg.max_epochs': 4, 'model.network.width': 2}),
]
""",
        **{'model.network.width': 5},
    )
    a, b = (Config.fromstring(run.config, '.py') for run in comparison.runs)
    assert (a.train_cfg.max_epochs, b.train_cfg.max_epochs) == (3, 4)
    assert (a.model.network.width, b.model.network.width) == (5, 5)  # those of the command line come last
    for cfg in (a, b):
        assert cfg.default_hooks.prune.pruner.to_dict() == dict(type='Mag', density=0.25)
        assert cfg.optim_wrapper.clip_grad.to_dict() == dict(max_norm=0.5)
        assert cfg.default_hooks.flips is None
        assert cfg._note == ['a [b', '{"c": 1}', None, -1e-7, ()]


def test_the_environment_is_that_of_the_configs_and_no_longer(read, tmp_path, monkeypatch):
    monkeypatch.setenv('OURS', 'before')
    (tmp_path / 'ours.py').write_text("_base_ = ['./quickstart.py']\n_ours, _theirs = '{{$OURS:x}}', '{{$THEIRS:x}}'\n")
    (run,) = read("title = 'x'\nenvironment = dict(OURS='within')\nruns = [dict(name='a', config='ours.py')]").runs
    cfg = Config.fromstring(run.config, '.py')
    assert (cfg._ours, cfg._theirs, os.environ['OURS']) == ('within', 'x', 'before')


def test_a_comparison_takes_the_runs_of_another(read, tmp_path):
    (tmp_path / 'base.py').write_text("title = 'x'\nruns = [dict(name='a', config='quickstart.py')]\n")
    comparison = read("_base_ = ['./base.py']\ntitle = 'y'\noptions = {'train_cfg.max_epochs': 3}")
    assert comparison.title == 'y'
    assert Config.fromstring(comparison.runs[0].config, '.py').train_cfg.max_epochs == 3


def test_modules_beside_a_config_are_found(read, tmp_path, monkeypatch):
    monkeypatch.setattr('sys.path', [*sys.path])
    (tmp_path / 'there').mkdir()
    (tmp_path / 'there' / 'module_of_mine.py').touch()
    text = f"_base_ = [{str(QUICKSTART)!r}]\ncustom_imports = dict(imports=['module_of_mine'])\n"
    (tmp_path / 'there' / 'mine.py').write_text(text)
    assert read("title = 'x'\nruns = [dict(name='a', config='there/mine.py')]").runs[0].imports == tmp_path / 'there'


RUN = dict(name='a', config='quickstart.py')


RUNS_0 = r'runs\[0\]: '
WRITTEN = ['table.md', 'table.csv', 'report.html', 'command.json', 'jobs', 'x.png']


def refuse(read, message, *runs, **keys):
    """A file of runs that change ``RUN`` (default: one, unchanged), and other keys, is refused with a message."""
    keys = dict(title='x', runs=[RUN | run for run in runs] or [RUN]) | keys
    with pytest.raises(ValueError, match=message):
        read('\n'.join(f'{key} = {value!r}' for key, value in keys.items()))


@pytest.mark.parametrize(
    ('key', 'value', 'message'),
    [
        *(('title', value, f'must be a sentence that says what is compared, got {value!r}') for value in (None, '', 3)),
        *(('runs', value, 'must be a list of at least one dict') for value in ([], [3], 3)),
        *(('environment', v, 'must be a dict from names of variables to texts') for v in (3, {'A': 3})),
    ],
)
def test_a_value_of_the_file_that_is_none(read, key, value, message):
    refuse(read, f'comparison: {key} {message}', **{key: value})


@pytest.mark.parametrize(
    ('run', 'message'),
    [
        (dict(name=None), RUNS_0 + 'name must be a text that is not empty, got None'),
        (dict(config=''), RUNS_0 + "config must be a text that is not empty, got ''"),
        (dict(group=3), RUNS_0 + 'group must be a text, got 3'),
        (dict(seeds=0), RUNS_0 + 'seeds must be an int >= 1, got 0'),
        (dict(options=3), RUNS_0 + 'options must be a dict from dotted names to values, got 3'),
        (dict(options={3: 2}), RUNS_0 + 'options must have dotted names as keys, got 3'),
        (dict(option=3), RUNS_0 + "nothing reads the key 'option'; did you mean options"),
        (
            dict(options={'train_cfg.max_epoch': 3}),
            "run 'a': train_cfg: nothing reads the key 'max_epoch'; did you mean max_epochs",
        ),
        (dict(group='g', config='no.py'), "run 'a' of group 'g': there is no config"),
        *((dict(against=name), f'a: against must name another run of its group, got {name!r}') for name in 'ab'),
        *(({key: '..'}, 'has no letter or digit') for key in ('name', 'group')),
        *(({key: 'a\nb'}, 'one line of printable') for key in ('name', 'group')),
        *(({key: n}, f'the comparison itself writes {n}; call') for key in ('name', 'group') for n in WRITTEN),
    ],
)
def test_a_value_of_a_run_that_is_none(read, run, message):
    refuse(read, message, run)


def test_a_key_of_the_file_that_nothing_reads(read):
    refuse(read, "comparison: nothing reads the key 'titel'; did you mean title", titel='x')


@pytest.mark.parametrize(
    ('runs', 'message'),
    [
        ([{}, {}], "two runs are called 'a'; names must be unique in a group"),
        ([{}, dict(name='a?')], 'would share the folder .*/out/a'),
    ],
)
def test_runs_have_names_and_folders_of_their_own(read, runs, message):
    refuse(read, message, *runs)


@pytest.mark.parametrize(('shared', 'own'), [("options={'_x': [len]}", ''), ('', "options={'_x': [len]}")])
def test_an_option_is_what_a_config_can_hold(read, shared, own):
    with pytest.raises(ValueError, match=r"run 'a': _x\[0\] is no plain data, .* got <built-in function len>"):
        read(f"title = 'x'\n{shared}\nruns = [dict(name='a', config='quickstart.py', {own})]")


def test_an_option_may_be_infinite(read):
    option = "{'optim_wrapper.clip_grad': dict(max_norm=1.0, norm_type=float('inf'))}"
    run = read(f"title = 'x'\noptions = {option}\nruns = [dict(name='a', config='quickstart.py')]").runs[0]
    assert "norm_type=float('inf')" in run.config


@pytest.mark.parametrize(
    ('name', 'value', 'message'),
    [
        ('model', 3, 'model is a group of settings, got 3'),
        ('default_hooks.report', None, 'the config has no ReportHook'),
        ('default_hooks.checkpoint.out_dir', '/tmp', 'default_hooks.checkpoint.out_dir: a comparison keeps'),
        ('default_hooks.prune.pruner.density', 7, r'SynFlow: density must lie in \(0, 1\], got 7'),
        ('custom_hooks', [{'type': 'Nothing'}], '.*Nothing'),
        ('model.label_smoothing', 2, 'ImageClassifier: label_smoothing must lie'),
        ('model.converter.weight_bits', 0, 'PSGConfig: weight_bits must be an int >= 1'),
        ('model.init.seed', 0, 'model.init.seed must be None, got 0; the seeds of a comparison must differ'),
        ('optim_wrapper.optimizers.signs.owns', ['Conv2d.none'], 'ownership: .*Conv2d.none'),
        ('param_scheduler', {'_delete_': True, 'sgd': []}, r"param_scheduler: needs one entry .* got \['sgd'\]"),
        ('val_evaluator', None, 'val_evaluator is missing: without a validation there is no accuracy'),
    ],
)
def test_a_config_that_could_not_be_trained_or_compared(read, name, value, message):
    refuse(read, f"run 'a': {message}", dict(options={name: value}))


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('title = (', r'file\.py: SyntaxError: .*never closed'),
        ("raise RuntimeError('a\\nb')", r'py: RuntimeError: a b$'),
    ],
)
def test_a_file_that_cannot_be_read_is_named(read, text, message):
    with pytest.raises(ValueError, match=message):
        read(text)


@MODELS.register_module()
class NetworkWithRates(nn.Linear):
    """A network whose constructor reads numbers from a tensor."""

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__(2, 2)
        self.rates = torch.linspace(0, rate, 3).tolist()
        if self.rates[-1] > 1:
            raise RuntimeError('rates above 1')


def test_a_network_that_needs_memory_to_be_built():
    network = {'model.network': dict(_delete_=True, type='NetworkWithRates'), 'model.converter': None}
    owners = {'optim_wrapper.optimizers': dict(_delete_=True, sgd=dict(type='SGD', owns='rest', lr=0.1))}
    options = [network, owners, {'param_scheduler': dict(_delete_=True, sgd=[])}]
    assert load_run_config(QUICKSTART, options).model.network.type == 'NetworkWithRates'
    with pytest.raises(RuntimeError, match='rates above 1'):
        load_run_config(QUICKSTART, [*options, {'model.network.rate': 2.0}])


def test_seeds_and_file(read, tmp_path):
    with pytest.raises(ValueError, match='compare: seeds must be an int >= 1, got 0'):
        read("title = 'x'\nruns = [dict(name='a', config='quickstart.py')]", seeds=0)
    with pytest.raises(FileNotFoundError, match=r'there is no config .*none\.py; pab config --list'):
        read_comparison(tmp_path / 'none.py', 1, tmp_path)


@pytest.mark.parametrize(
    ('name', 'folder'), [('SynFlow + Bop', 'SynFlow_+_Bop'), ('../a/b', 'a_b'), ('d=0.1, é', 'd=0.1,_é'), ('$;', '')]
)
def test_folder_names(name, folder):
    assert folder_name(name) == folder
