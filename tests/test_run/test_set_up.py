"""What is refused before several processes meet, and learning rates for another batch."""

import os

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from pab.contrib.gradient_compression import GradientCompressionHook
from pab.pruners import Pruner
from pab.registry import RUNNERS
from pab.run import check_config
from pab.run.distributed import process_group
from tests.small_run import CONFIGS, small_config

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
        ({}, dict(launcher='slurm'), r'launcher: slurm did not start this process.* tools/slurm_train.sh'),
    ],
)
def test_what_is_refused(environment, variables, config, message):
    environment(**variables)
    with pytest.raises(ValueError, match=message):
        enter(**config)


@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_slurm_without_scontrol(environment, monkeypatch, tmp_path, device):
    monkeypatch.setattr('pab.run.distributed.get_device', lambda: device)
    environment(PATH=str(tmp_path), SLURM_PROCID='0', SLURM_LOCALID='0', SLURM_NTASKS='2', SLURM_NODELIST='n[1-2]')
    text = r'launcher: slurm needs scontrol, which tells the first machine of n\[1-2\], .*scontrol.*set MASTER_ADDR to'
    with pytest.raises(ValueError, match=text):
        enter(launcher='slurm')


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


@pytest.mark.parametrize(
    ('base', 'passes', 'share', 'line'),
    [
        (64, 2, 1 / 4, 'Learning rates for a batch of 16, scaled from one of 64: 0.025'),
        (8, 1, 1, 'Learning rates for a batch of 8: 0.1'),
    ],
)
def test_a_run_scales_the_rates_of_those_that_have_one(tmp_path, base, passes, share, line):
    """8 images in a pass; the lr of Bop is no learning rate but a factor."""
    scale = dict(enable=True, base_batch_size=base)
    cfg = small_config(tmp_path, auto_scale_lr=scale, optim_wrapper__accumulative_counts=passes)
    runner = RUNNERS.build(cfg)
    wrapper = runner.build_optim_wrapper(cfg.optim_wrapper)
    before = wrapper['sgd'].optimizer.param_groups[0]['lr']
    said = []
    runner.logger.addFilter(lambda record: said.append(record.getMessage()) or True)
    runner.scale_lr(wrapper, scale)
    assert wrapper['sgd'].optimizer.param_groups[0]['lr'] == before * share
    assert wrapper['signs'].optimizer.param_groups[0]['lr'] == 1.0
    assert said == [line]
    runner.scale_lr(wrapper, dict(scale, enable=False))
    assert wrapper['sgd'].optimizer.param_groups[0]['lr'] == before * share


def test_recipes_for_several_gpus_scale_the_rate():
    scale = Config.fromfile(str(CONFIGS / 'pab' / 'r50_imagenet.py')).auto_scale_lr
    assert (scale.enable, scale.base_batch_size) == (True, 256)


@pytest.mark.parametrize(
    ('scale', 'message'),
    [
        (dict(enable=True, base_batch=256), r"auto_scale_lr: nothing reads the key 'base_batch'; did you mean base_b"),
        (dict(enable=True), r'base_batch_size, .*, must be an integer >= 1, got None'),
    ],
)
def test_wrong_settings_of_auto_scale_lr(tmp_path, scale, message):
    with pytest.raises(ValueError, match=message):
        check_config(small_config(tmp_path, auto_scale_lr=scale))


class Powered(Pruner):
    def __init__(self, power, **settings):
        super().__init__(**settings)

    def score(self, weights):
        return weights


class Forwarding(Hook):
    def __init__(self, **others):
        """Gives them to no parent."""


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(default_hooks__prune__pruner=dict(type=Powered, powr=2)), "the key 'powr'; did you mean power"),
        (dict(default_hooks__prune__pruner=dict(type=Powered, rond=2)), "the key 'rond'; did you mean rounds"),
        (
            dict(custom_hooks=[dict(type='mmengine.EMAHook', intervall=2)]),
            None,
        ),  # hands others on, it is not known to what
        (dict(custom_hooks=[dict(type=Forwarding, anything=2, priority='LOW')]), None),
        (dict(custom_hooks=[dict(type='pab.FlipCountHook', x=2)]), r"custom_hooks\[0\]: nothing reads the key 'x'"),
        (dict(default_hooks__prune='SynFlow'), "default_hooks.prune has no type, got 'SynFlow'"),
        (dict(model=3), 'config: model must be a dict of settings, got 3'),
        (dict(train_cfg__max_epochs=True), 'train_cfg: max_epochs must be an integer >= 1, got True'),
        (dict(train_dataloader__num_batch_per_epoch=3), None),
        (dict(_mine=dict(x=1)), None),
        (dict(mine=dict(x=1)), "config: nothing reads the key 'mine'; known keys are .*begins with an underscore"),
    ],
)
def test_every_key_is_read_by_somebody(tmp_path, options, message):
    cfg = small_config(tmp_path, **options)
    if message is None:
        check_config(cfg)
    else:
        with pytest.raises(ValueError, match=message):
            check_config(cfg)


def test_compression_knows_two_types():
    with pytest.raises(ValueError, match=r"GradientCompressionHook: dtype must be one of .*got 'int8'"):
        GradientCompressionHook('int8')


def test_the_console_is_short_and_the_file_is_complete(tmp_path, capfd):
    cfg = small_config(tmp_path, train_cfg__max_epochs=1, default_hooks__prune__epoch=0)
    cfg.experiment_name = 'console'  # runs of one name share their log
    runner = RUNNERS.build(cfg)
    runner.train()
    console = ''.join(capfd.readouterr())
    log = next(tmp_path.rglob('*.log')).read_text()
    assert 'Epoch(train)' in console
    for text in ('Exp name:', 'System environment', 'Hooks will be executed'):
        assert text in log
        assert text not in console


def test_a_sign_optimizer_alone_is_refused(tmp_path):
    wrapper = dict(_delete_=True, type='OptimWrapper', optimizer=dict(type='Bop'))
    cfg = small_config(tmp_path)
    cfg.merge_from_dict(dict(optim_wrapper=wrapper, param_scheduler=[]))
    with pytest.raises(ValueError, match=r"Bop flips signs .*constructor='OwnershipConstructor'"):
        RUNNERS.build(cfg).train()
