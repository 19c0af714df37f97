_base_ = ['./r50_imagenet.py']

default_hooks = dict(prune=dict(pruner=dict(density=0.3)))
