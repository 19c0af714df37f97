# What the research code does where it differs: the 1x1 convolutions of the shortcuts stay dense, so its 50 % is about
# 55 % of all weights, and Bop's average starts with the first gradient.
_base_ = ['./r50_imagenet.py']

default_hooks = dict(prune=dict(pruner=dict(prunable=['Conv2d', 'Linear', '!name:*.downsample.*'])))
optim_wrapper = dict(optimizers=dict(signs=dict(first_step='gradient')))
