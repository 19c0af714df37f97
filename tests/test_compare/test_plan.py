"""A comparison file: what it becomes, and everything that is refused before a training begins."""

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


def test_modules_beside_a_config_are_found(read, tmp_path, monkeypatch):
    monkeypatch.setattr('sys.path', [*__import__('sys').path])
    (tmp_path / 'there').mkdir()
    (tmp_path / 'there' / 'module_of_mine.py').touch()
    text = f"_base_ = [{str(QUICKSTART)!r}]\ncustom_imports = dict(imports=['module_of_mine'])\n"
    (tmp_path / 'there' / 'mine.py').write_text(text)
    assert read("title = 'x'\nruns = [dict(name='a', config='there/mine.py')]").runs[0].imports == tmp_path / 'there'


RUN = "dict(name='a', config='quickstart.py'"


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        (f'runs = [{RUN})]', 'comparison: title must be a sentence that says what is compared, got None'),
        ("title = 'x'\nruns = []", 'comparison: runs must be a list of at least one dict'),
        ("title = 'x'\nruns = [3]", 'comparison: runs must be a list of at least one dict'),
        (f"title = 'x'\ntitel = 'x'\nruns = [{RUN})]", "comparison: nothing reads the key 'titel'; did you mean title"),
        (f"title = 'x'\noptions = 3\nruns = [{RUN})]", 'comparison: options must be a dict from dotted names'),
        (f"title = 'x'\nruns = [{RUN}, option=3)]", r"runs\[0\]: nothing reads the key 'option'; did you mean options"),
        (f"title = 'x'\nruns = [{RUN}, options=3)]", r'runs\[0\]: options must be a dict'),
        (f"title = 'x'\nruns = [{RUN}, seeds=0)]", r'runs\[0\]: seeds must be an int >= 1, got 0'),
        (f"title = 'x'\nruns = [{RUN}, group=3)]", r'runs\[0\]: group must be a text, got 3'),
        ("title = 'x'\nruns = [dict(config='quickstart.py')]", r'runs\[0\]: name must be a text that is not empty'),
        ("title = 'x'\nruns = [dict(name='a')]", r'runs\[0\]: config must be a text that is not empty, got None'),
        ("title = 'x'\nruns = [dict(name='..', config='quickstart.py')]", r"'\.\.' has no letter or digit"),
        ("title = 'x'\nruns = [dict(name='a', group='g', config='no.py')]", "run 'a' of group 'g': there is no config"),
        (f"title = 'x'\nruns = [{RUN}), {RUN})]", "two runs are called 'a'; names must be unique in a group"),
        (f"title = 'x'\nruns = [{RUN}), dict(name='a?', config='quickstart.py')]", 'would share the folder .*/out/a'),
        (f"title = 'x'\nruns = [{RUN}, against='b')]", "a: against must name another run of its group, got 'b'"),
        (f"title = 'x'\nruns = [{RUN}, against='a')]", "a: against must name another run of its group, got 'a'"),
        (
            f"title = 'x'\nruns = [{RUN}, options={{'train_cfg.max_epoch': 3}})]",
            "run 'a': train_cfg: nothing reads the key 'max_epoch'; did you mean max_epochs",
        ),
        (f"title = 'x'\nruns = [{RUN}, options={{'model': 3}})]", "run 'a': model is a group of settings, got 3"),
        (f"title = 'x'\nruns = [{RUN}, options={{'default_hooks.report': None}})]", 'the config has no ReportHook'),
        (
            f"title = 'x'\nruns = [{RUN}, options={{'default_hooks.checkpoint.out_dir': '/tmp'}})]",
            "run 'a': default_hooks.checkpoint.out_dir: a comparison keeps checkpoints in the folder of each run",
        ),
        (
            f"title = 'x'\nruns = [{RUN}, options={{'_x': float('inf')}})]",
            r"runs\[0\]: option '_x' must be what .* got inf",
        ),
        (
            f"title = 'x'\noptions = {{'_x': [len]}}\nruns = [{RUN})]",
            "comparison: option '_x' must be what a config can",
        ),
        (
            f"title = 'x'\nruns = [{RUN}, options={{3: 2}})]",
            r'runs\[0\]: options must have dotted names as keys, got 3',
        ),
        (f"title = 'x'\nruns = [{RUN}, group='a\\nb')]", r'a name must be one line of printable characters, got'),
        *(
            (f"title = 'x'\nruns = [{RUN}, group={name!r})]", f'{name}: a: the comparison itself writes {name}; call')
            for name in ('table.md', 'table.csv', 'report.html', 'jobs', 'x.png')
        ),
        ("title = 'x'\nruns = [dict(name='jobs', config='quickstart.py')]", 'jobs: the comparison itself writes jobs'),
        (
            f"title = 'x'\nruns = [dict(name='seed_0', group='a', config='quickstart.py'), {RUN})]",
            "the folder of 'a: seed_0' would lie in that of 'a', .*/out/a; call the run or the group another name",
        ),
        *(
            (f"title = 'x'\nruns = [{RUN}, options={options!r})]", f"run 'a': {message}")
            for options, message in (
                ({'default_hooks.prune.pruner.density': 7}, r'SynFlow: density must lie in \(0, 1\], got 7'),
                ({'custom_hooks': [{'type': 'Nothing'}]}, '.*Nothing'),
                ({'model.label_smoothing': 2}, 'ImageClassifier: label_smoothing must lie'),
                ({'model.converter.weight_bits': 0}, 'PSGConfig: weight_bits must be at least 1'),
                ({'optim_wrapper.optimizers.signs.owns': ['Conv2d.none']}, 'ownership: .*Conv2d.none'),
                (
                    {'param_scheduler': {'_delete_': True, 'sgd': []}},
                    r"param_scheduler: needs one entry .* got \['sgd'\]",
                ),
                ({'val_evaluator': None}, 'val_evaluator is missing: without a validation there is no accuracy'),
                ({'model.init.seed': 0}, 'model.init.seed must be None, got 0; the seeds of a comparison must differ'),
            )
        ),
    ],
)
def test_refusals(read, text, message):
    with pytest.raises(ValueError, match=message):
        read(text)


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
    with pytest.raises(FileNotFoundError, match=r'there is no comparison .*none\.py; those that come with pab'):
        read_comparison(tmp_path / 'none.py', 1, tmp_path)


@pytest.mark.parametrize(
    ('name', 'folder'), [('SynFlow + Bop', 'SynFlow_+_Bop'), ('../a/b', 'a_b'), ('d=0.1, é', 'd=0.1,_é'), ('$;', '')]
)
def test_folder_names(name, folder):
    assert folder_name(name) == folder
