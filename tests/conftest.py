"""What tests of every part share: the reference numbers, real images, and the config of a small run."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Tests are small and some start processes: threads would only wait for each other. Set before torch is imported.
os.environ.setdefault('OMP_NUM_THREADS', '1')

import torch
from filelock import FileLock  # comes with torch

RUNS = itertools.count()


@pytest.fixture(scope='session')
def golden_folder() -> Path:
    """The folder of reference numbers: inputs and outputs of the research code."""
    return Path(__file__).parent / 'golden'


@pytest.fixture(scope='session')
def unpacked(tmp_path_factory):
    """A function: name of a data set -> the folder it is in, unpacked once: in ``$PAB_TEST_CACHE``, else anew."""
    shared = Path(os.environ.get('PAB_SHARED', Path(__file__).parents[2] / 'shared'))
    script = shared / 'tools' / 'unpack_data.py'
    base = tmp_path_factory.getbasetemp()
    # the workers of pytest -n have folders of their own inside of one that they share
    folder = Path(os.environ.get('PAB_TEST_CACHE') or (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base))

    def unpack(name: str) -> Path:
        if not script.is_file():
            pytest.skip(f'no real images: there is no {script}; set PAB_SHARED to the folder that holds tools and data')
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / f'{name}.lock'):
            subprocess.run([sys.executable, str(script), str(folder), name], check=True, capture_output=True)
        return folder

    return unpack


@pytest.fixture(scope='session')
def photographs(unpacked) -> Path:
    """The folder with imagenet/train and imagenet/val: 1,000 photographs of 1,000 classes."""
    return unpacked('imagenet')


@pytest.fixture(scope='session')
def cifar10_root(unpacked) -> Path:
    """The folder with cifar-10-batches-py."""
    return unpacked('cifar10')


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def tiny_config(tmp_path):
    """A function that returns the config of a whole run in seconds: 128 digits, a ResNet-8 of width 2, two epochs.

    Keyword arguments are merged over it, so ``tiny_config(train_cfg=dict(max_epochs=1))`` shortens it.
    """
    from mmengine.config import Config

    def make(**changes) -> Config:
        quickstart = Path(__file__).parents[1] / 'configs' / 'pab' / 'quickstart.py'
        cfg = Config.fromfile(str(quickstart))
        cfg.merge_from_dict(
            dict(
                work_dir=str(tmp_path / 'run'),
                # mmengine names a run by the second it starts in, and runs of one name share their log
                experiment_name=f'tiny_{next(RUNS)}',
                model=dict(network=dict(width=2)),
                train_dataloader=dict(batch_size=32, dataset=dict(num_samples=128)),
                val_dataloader=dict(dataset=dict(num_samples=32)),
                test_dataloader=dict(dataset=dict(num_samples=32)),
                train_cfg=dict(max_epochs=2),
                param_scheduler=dict(sgd=[dict(type='MultiStepLR', milestones=[1], gamma=0.1)]),
                default_hooks=dict(
                    prune=dict(pruner=dict(rounds=3)), ar_decay=dict(interval=1), logger=dict(interval=1)
                ),
            )
        )
        cfg.merge_from_dict(changes)
        return cfg

    return make
