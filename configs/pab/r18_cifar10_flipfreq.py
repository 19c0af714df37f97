_base_ = ['./r18_cifar10.py']

# Five epochs on all weights, and then those stay whose signs settled.
optim_wrapper = dict(optimizers=dict(signs=dict(flips_per_weight=True)))
default_hooks = dict(prune=dict(pruner=dict(type='FlipFreq', rounds=1), epoch=5))
