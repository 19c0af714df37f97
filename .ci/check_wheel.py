"""What an installed wheel must hold: every module, the note that it has types, and a command that needs no checkout.

It runs in an environment that has the wheel, and works in an empty folder.
"""

import importlib
import os
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

import pab

folder = Path(pab.__file__).parent
assert folder.is_relative_to(sys.prefix), f'{folder} is not in {sys.prefix}'
assert (folder / 'py.typed').is_file()
for module in pkgutil.walk_packages(pab.__path__, 'pab.'):
    importlib.import_module(module.name)

registry = importlib.import_module('pab.registry')
network = registry.MODELS.build(dict(type='CIFARResNet', depth=8))
pruner = registry.PRUNERS.build(dict(type='SynFlow', density=0.5, rounds=3))
masks = pruner.prune(network, input_shape=(3, 32, 32))
print(f'{folder}: {sum(int(mask.sum()) for mask in masks.values()):,} weights kept')

COMMAND = Path(sys.executable).with_name('pab')
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != 'PYTHONPATH'}
CHECKPOINT = 'work_dirs/quickstart/epoch_1.pth'
os.chdir(tempfile.mkdtemp())


def run(*words: str, status: int = 0) -> str:
    """What ``pab`` prints to a command that ends with a status."""
    done = subprocess.run([COMMAND, *words], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == status, f'pab {" ".join(words)}: {done.returncode}\n{done.stdout}{done.stderr}'
    return done.stdout + done.stderr


told = run('--help')
assert all(f'  {module.name} ' in told for module in pkgutil.iter_modules(importlib.import_module('pab.cli').__path__))
assert 'usage: pab export ' in run('export', '--help')
listed = run('config', '--list')
for config in ('pab/quickstart', 'pab/r50_imagenet', 'compare/cifar10_r20', 'compare/ways/bop'):
    assert f'{config} ' in listed
print(run('train', 'pab/quickstart', '--cfg-options', 'train_cfg.max_epochs=1')[-600:])
assert 'accuracy/top1' in run('test', 'pab/quickstart', CHECKPOINT)
run('compact', 'pack', 'pab/quickstart', CHECKPOINT, 'digits.pab')
assert 'accuracy/top1' in run('test', 'pab/quickstart', 'digits.pab')
assert 'bytes, of 21 tensors' in run('compact', 'info', 'r20_cifar10_d30')
Image.new('L', (20, 30)).save('photo.png')
assert 'photo.png: ' in run('predict', 'digits.pab', 'photo.png')
run('config', '--copy', 'pab/quickstart')
assert 'exists' in run('config', '--copy', 'pab/quickstart', status=1)
assert run('config', 'quickstart.py') == run('config', 'pab/quickstart')
assert 'did you mean pab/quickstart' in run('train', 'pab/quikstart', status=1)
