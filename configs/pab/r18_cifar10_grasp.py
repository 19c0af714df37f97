# As r18_cifar10.py, pruned by GraSP: one round, as published; 100 training images.
_base_ = ['./r18_cifar10.py']

default_hooks = dict(prune=dict(pruner=dict(type='GraSP', rounds=1), data=dict(num_samples=100)))
