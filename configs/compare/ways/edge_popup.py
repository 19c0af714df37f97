# No pruning beforehand: a score for each weight, and the highest 30 % of each layer are used.
_base_ = ['./synflow_sgd.py']

model = dict(
    init=dict(scheme='kaiming_constant_signed', fan_share=0.3),
    converter=[dict(type='EdgePopup', density=0.3, through_abs=True), dict(type='AffineFreeBatchNorm')],
)
optim_wrapper = dict(
    optimizers=dict(scores=dict(type='SGD', owns=['Conv2d.scores'], lr=0.1, momentum=0.9, weight_decay=5e-4))
)
param_scheduler = dict(scores={{_base_.param_scheduler.sgd}})
default_hooks = dict(prune=None)
