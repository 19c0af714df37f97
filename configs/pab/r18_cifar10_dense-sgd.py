# The baseline of the baseline: the same network, nothing pruned.
_base_ = ['./r18_cifar10_sgd.py']

default_hooks = dict(prune=None)
