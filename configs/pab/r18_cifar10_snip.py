_base_ = ['./r18_cifar10.py']

# one round, as published; 100 training images
default_hooks = dict(prune=dict(pruner=dict(type='SNIP', rounds=1), data=dict(num_samples=100)))
