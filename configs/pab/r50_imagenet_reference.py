# As the research code where it differs: dense 1x1 shortcuts, and Bop's average starts with the first gradient.
# Its 50 % are about 55 % of all weights.
_base_ = ['./r50_imagenet.py']

default_hooks = dict(prune=dict(pruner=dict(prunable=['Conv2d', 'Linear', '!name:*.downsample.*'])))
optim_wrapper = dict(optimizers=dict(signs=dict(first_step='gradient')))
