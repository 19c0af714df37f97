"""Configs in pure Python: with ``with read_base():`` and imported classes, they are the configs that they spell out."""

import subprocess
from pathlib import Path

import mmengine
import pytest
from mmengine.config import Config

from pab.compact import pack
from pab.compact.container import read
from pab.compare.run_config import load_run_config
from pab.costs.run import masks_of_config, run_costs
from pab.registry import RUNNERS
from pab.run.checkpoint import load_safely
from pab.run.config import check_config, plain_config, read_config
from tests.small_run import QUICKSTART, small_config, train

ROOT = Path(__file__).parents[2]
LEAF = """
import math

from mmengine.config import read_base
from mmengine.dataset import pseudo_collate
from mmengine.hooks import CheckpointHook
from torch.optim import SGD
from torch.optim.lr_scheduler import MultiStepLR as Unused

from pab.hooks import PruneHook
from pab.models import CIFARResNet, ImageClassifier
from pab.optim import Bop, OwnershipConstructor
from pab.pruners import SynFlow
from pab.psg import PSG
from pab.run import PabRunner, ResumableEpochLoop

with read_base():
    from .base import *

runner_type = PabRunner
train_cfg.update(type=ResumableEpochLoop)
model.update(type=ImageClassifier)
model.network.update(type=CIFARResNet)
model.converter.update(type=PSG)
optim_wrapper.update(constructor=OwnershipConstructor)
optim_wrapper.optimizers.sgd.update(type=SGD)
optim_wrapper.optimizers.signs.update(type=Bop)
default_hooks.prune.update(type=PruneHook)
default_hooks.prune.pruner.update(type=SynFlow)
default_hooks.checkpoint.update(type=CheckpointHook)
"""


@pytest.fixture
def both(tmp_path):
    """A small quickstart as it stands in a file with ``type='...'``, and the same with imported classes."""
    cfg = small_config('unused', digits=True, train_cfg__max_epochs=1)
    cfg.pop('work_dir')
    cfg.pop('launcher')
    (tmp_path / 'base.py').write_text(cfg.pretty_text)
    (tmp_path / 'leaf.py').write_text(LEAF)
    return tmp_path / 'base.py', tmp_path / 'leaf.py'


def test_both_kinds_are_one_config(both):
    plain, lazy = map(read_config, both)
    assert lazy.to_dict() == plain.to_dict()
    assert lazy.pretty_text == plain.pretty_text
    assert list(lazy) == list(lazy.to_dict())  # nothing that the file imported
    check_config(lazy)


@pytest.mark.slow
@pytest.mark.usefixtures('untraced')
def test_both_kinds_train_alike_and_serve_every_reader(both, tmp_path):
    ends = []
    for path in both:
        cfg = read_config(path)
        cfg.work_dir = str(tmp_path / path.stem)
        cfg.experiment_name = path.stem  # runs of one name that begin in one second share their scalars
        ends.append(train(cfg))
        masks = masks_of_config(cfg)
        run_costs(cfg, masks)
        pack(cfg, load_safely(tmp_path / path.stem / 'epoch_1.pth'), tmp_path / f'{path.stem}.pab')
    assert ends[0] == ends[1]
    recipes = [read(tmp_path / f'{path.stem}.pab')[0] for path in both]
    assert recipes[0] == recipes[1]
    with pytest.raises(ValueError, match='ReportHook'):  # small runs have none; everything before was accepted
        load_run_config(both[1], [])
    changed = read_config(both[1])
    changed.update(work_dir=str(tmp_path / 'base'), resume=True, load_from=str(tmp_path / 'base' / 'epoch_1.pth'))
    changed.train_cfg.max_epochs = 2
    changed.optim_wrapper.optimizers.signs.adaptivity_rate = 0.5
    with pytest.raises(ValueError, match=r'adaptivity_rate: 0.01 in the checkpoint, 0.5 now') as error:
        train(changed)
    assert 'type' not in str(error.value)  # classes of one kind are the names of the other


def test_a_lazily_read_config_is_built_as_it_comes_from_mmengine(both, tmp_path):
    cfg = Config.fromfile(str(both[1]))
    assert 'SynFlow' in list(cfg)  # which mmengine 0.10.7 yields
    cfg.work_dir = str(tmp_path / 'run')
    expected = read_config(both[0])
    expected.work_dir = cfg.work_dir
    assert RUNNERS.build(cfg).cfg.to_dict() == expected.to_dict()


def test_what_is_registered_nowhere_is_named_by_its_module():
    cfg = Config(dict(a=dict(type=Path, b=[(subprocess.run,), dict(c=1)]), d=type('Local', (), {})))
    assert plain_config(cfg).to_dict() == dict(a=dict(type='pathlib.Path', b=[('subprocess.run',), dict(c=1)]))


@pytest.mark.parametrize('first', [True, False])
def test_a_config_with_a_base_may_import(tmp_path, first):
    lines = ['import os\nfrom torch.optim import SGD', f'_base_ = [{str(QUICKSTART)!r}]']
    path = tmp_path / 'mine.py'
    rest = "work_dir = os.path.join('a', 'b')\noptim_wrapper = dict(optimizers=dict(sgd=dict(type=SGD)))"
    path.write_text('\n'.join([*(lines if first else lines[::-1]), rest]))
    cfg = read_config(path)
    assert cfg.work_dir == 'a/b'
    assert cfg.optim_wrapper == read_config(QUICKSTART).optim_wrapper
    check_config(cfg)


@pytest.mark.skipif(mmengine.__version__ != '0.10.7', reason='the fork of mmengine computes it')
def test_a_module_used_in_a_lazy_config_is_one_line(both, tool):
    both[1].write_text(f'import os\n{LEAF}\nwork_dir = os.path.join("a", "b")')
    printed, message = tool('print_config.py', both[1])
    assert printed == ''
    assert len(message.splitlines()) == 1
    assert 'os.path.join' in message


@pytest.mark.parametrize('line', ['with  read_base() :', 'with read_base( ):'])
def test_spaces_do_not_change_the_kind_of_a_config(both, line):
    both[1].write_text(LEAF.replace('with read_base():', line))
    assert read_config(both[1]).to_dict() == read_config(both[0]).to_dict()


def test_a_base_that_mmengine_does_not_see_is_one_line(both):
    both[1].write_text(LEAF.replace('import read_base', 'import read_base as base').replace('read_base():', 'base():'))
    with pytest.raises(ValueError, match=r'a base is read in the block of a line of its own, .*with read_base\(\):'):
        read_config(both[1])


def test_a_base_that_is_not_there_is_one_line(both):
    both[1].write_text(LEAF.replace('.base', '.nothing'))
    with pytest.raises(ValueError, match=r'^\S*nothing.py not found'):
        read_config(both[1])
