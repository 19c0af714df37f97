"""What is refused before several processes meet, and learning rates for another batch."""

import os

import pytest
import torch
from mmengine.config import Config
from torch import nn

from pab.optim import Bop
from pab.registry import RUNNERS
from pab.run import GradientCompressionHook, check_config
from pab.run.distributed import process_group
from pab.run.lr_scale import scale_lr_
from tests.small_run import small_config

LAUNCHED = dict(RANK='0', WORLD_SIZE='2', LOCAL_RANK='0', MASTER_ADDR='127.0.0.1', MASTER_PORT='1')


@pytest.fixture
def environment(monkeypatch):
    """A function that sets the environment of a launched process."""
    for name in [*LAUNCHED, *(name for name in os.environ if name.startswith('TORCHELASTIC'))]:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    monkeypatch.setattr('pab.run.distributed.get_device', lambda: 'cpu')

    def set_environment(**variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    return set_environment


def enter(**config):
    with process_group(Config(config)):
        pass


@pytest.mark.parametrize(
    ('variables', 'config', 'message'),
    [
        ({}, dict(launcher='pytorch'), r'there is no RANK, WORLD_SIZE.*start with tools/dist_train.sh'),
        (dict(LAUNCHED, TORCHELASTIC_RUN_ID='x'), {}, r'torchrun started 2 processes.*add --launcher pytorch'),
        (LAUNCHED, dict(launcher='pytorch', sync_bn='torch'), r"sync_bn: .*runs on GPUs only, got 'torch'"),
        ({}, dict(launcher='slurm'), r"launcher: 'slurm' needs GPUs"),
    ],
)
def test_what_is_refused(environment, variables, config, message):
    environment(**variables)
    with pytest.raises(ValueError, match=message):
        enter(**config)


def test_more_processes_than_gpus_are_refused(environment, monkeypatch):
    environment(**LAUNCHED, LOCAL_WORLD_SIZE='2')
    monkeypatch.setattr('pab.run.distributed.get_device', lambda: 'cuda')
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    with pytest.raises(ValueError, match=r"got 2 processes and 1 GPUs.*CUDA_VISIBLE_DEVICES='' to train on the CPU"):
        enter(launcher='pytorch')


def test_one_process_needs_no_group(environment):
    environment()
    enter()
    assert not torch.distributed.is_initialized()


def test_scaled_learning_rates_by_hand():
    weights = [nn.Parameter(torch.ones(1)) for _ in range(3)]
    sgd = torch.optim.SGD([dict(params=[weights[0]], lr=0.1), dict(params=[weights[1]], lr=0.3)])
    bop = Bop([weights[2]])
    assert scale_lr_([bop, sgd], 0.5) == [0.05, 0.15]
    assert [group['lr'] for group in sgd.param_groups] == [0.05, 0.15]


def test_a_run_scales_the_rates_of_those_that_have_one(tmp_path):
    """8 images in a pass and two passes in a step, instead of 64: a quarter."""
    scale = dict(enable=True, base_batch_size=64)
    cfg = small_config(tmp_path, auto_scale_lr=scale, optim_wrapper__accumulative_counts=2)
    runner = RUNNERS.build(cfg)
    wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
    before = wrapper['sgd'].optimizer.param_groups[0]['lr']
    runner.scale_lr(wrapper, scale)
    assert wrapper['sgd'].optimizer.param_groups[0]['lr'] == before / 4
    runner.scale_lr(wrapper, dict(scale, enable=False))
    assert wrapper['sgd'].optimizer.param_groups[0]['lr'] == before / 4


@pytest.mark.parametrize(
    ('scale', 'message'),
    [
        (dict(enable=True, base_batch=256), r"its keys are \['base_batch_size', 'enable'\], got"),
        (dict(enable=True), r'base_batch_size must be an integer >= 1.*got None'),
    ],
)
def test_wrong_settings_of_auto_scale_lr(tmp_path, scale, message):
    with pytest.raises(ValueError, match=message):
        check_config(small_config(tmp_path, auto_scale_lr=scale))


def test_compression_knows_two_types():
    with pytest.raises(ValueError, match=r"GradientCompressionHook: dtype must be one of .*got 'int8'"):
        GradientCompressionHook('int8')
