# The baseline: the same pruned network, its weights trained by SGD with exact gradients.
_base_ = ['./r18_cifar10.py']

model = dict(converter=None)
optim_wrapper = dict(
    optimizers=dict(_delete_=True, sgd=dict(type='SGD', owns='rest', lr=0.1, momentum=0.9, weight_decay=5e-4))
)
param_scheduler = dict(_delete_=True, sgd=[dict(type='MultiStepLR', milestones=[80, 120], gamma=0.1)])
default_hooks = dict(ar_decay=None, flips=None)
