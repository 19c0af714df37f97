# As r18_cifar10.py, pruned by magnitude.
_base_ = ['./r18_cifar10.py']

default_hooks = dict(prune=dict(pruner=dict(type='Mag', rounds=1)))
