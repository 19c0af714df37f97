# As r50_imagenet.py, with 10 % of the weights.
_base_ = ['./r50_imagenet.py']

default_hooks = dict(prune=dict(pruner=dict(density=0.1)))
