"""What an installed wheel must hold: every module that can be imported, and the note that it has types."""

import importlib
import pkgutil
import sys
from pathlib import Path

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
