# Five epochs on all weights, and then those stay whose signs settled.
_base_ = ['./r18_cifar10.py']

optim_wrapper = dict(optimizers=dict(signs=dict(flips_per_weight=True)))
default_hooks = dict(prune=dict(pruner=dict(type='FlipFreq', rounds=1), epoch=5))
