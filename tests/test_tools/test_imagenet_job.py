"""The ImageNet recipe on real photographs, in two processes: trained, resumed, evaluated, by the launch scripts."""

import re
import shutil

import pytest
import torch

from tests.launching import ROOT, launch

CONFIG = ROOT / 'configs' / 'pab' / 'r50_imagenet.py'
NUM_IMAGES = {'train': 8, 'val': 5, 'test': 5}  # 5 is no multiple of the processes
LOADER = ['batch_size=2', 'num_workers=0', 'persistent_workers=False', 'dataset.size=64', 'dataset.resize=72']
SMALL = [
    'train_cfg.max_epochs=2',
    'model.input_shape=3,64,64',
    'default_hooks.prune.pruner.rounds=2',
    'default_hooks.logger.interval=1',
    'default_hooks.report=None',
    *(f'{part}_dataloader.dataset.num_samples={num}' for part, num in NUM_IMAGES.items()),
    *(f'{part}_dataloader.{option}' for part in NUM_IMAGES for option in LOADER),
]


@pytest.mark.slow
def test_the_recipe_trains_resumes_and_evaluates(photographs, tmp_path):
    def job(script, *arguments):
        options = ['--work-dir', tmp_path, '--cfg-options', *SMALL]
        done = launch(ROOT / 'tools' / script, *arguments, *options, PAB_DATA=str(photographs))
        assert done.returncode == 0, done.stdout
        return done.stdout

    log = job('dist_train.sh', CONFIG, 2)
    assert 'density 0.5' in log
    assert '[2][2/2]' in log
    first, last = tmp_path / 'epoch_1.pth', tmp_path / 'epoch_2.pth'
    whole = torch.load(last, mmap=False)
    for path in tmp_path.glob('*.pth'):
        if path != first:
            path.unlink()

    log = job('dist_train.sh', CONFIG, 2, '--resume')
    assert f'Load checkpoint from {first}' in log
    resumed = torch.load(last)
    assert resumed['pruning']['masks_sha256'] == whole['pruning']['masks_sha256']
    for name, value in whole['state_dict'].items():
        assert torch.equal(value, resumed['state_dict'][name]), name
    for index, state in whole['optimizer']['signs']['state'].items():
        assert torch.equal(state['moving_average'], resumed['optimizer']['signs']['state'][index]['moving_average'])

    evaluated = job('dist_test.sh', CONFIG, last, 2)
    entropy = r'Epoch\((?:val|test)\).*accuracy/top5.*? cross_entropy: (\S+)'
    assert re.findall(entropy, log)[-1] == re.findall(entropy, evaluated)[-1]
    shutil.rmtree(tmp_path)  # some hundred megabytes
