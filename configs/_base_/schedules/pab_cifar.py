# 180 epochs, 30 % of the convolutions' weights.
_base_ = ['./pab.py']

train_cfg = dict(max_epochs=180)
optim_wrapper = dict(optimizers=dict(sgd=dict(weight_decay=5e-4)))
param_scheduler = dict(signs=[], sgd=[dict(type='MultiStepLR', milestones=[80, 120], gamma=0.1)])
default_hooks = dict(prune=dict(pruner=dict(density=0.3, prunable=['Conv2d'])), ar_decay=dict(interval=45))
