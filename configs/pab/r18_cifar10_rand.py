# As r18_cifar10.py, pruned at random.
_base_ = ['./r18_cifar10.py']

default_hooks = dict(prune=dict(pruner=dict(type='Rand', rounds=1)))
