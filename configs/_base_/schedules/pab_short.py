# Eight epochs of CIFAR, with every rate moving at each step.
_base_ = ['./pab_cifar.py']

train_cfg = dict(max_epochs=8)
param_scheduler = dict(
    # down to 0.003 of the start in 8 epochs of 391 steps: 0.003 ** (1 / 3128)
    bop=[dict(type='ExponentialParamScheduler', param_name='adaptivity_rate', gamma=0.9981446, by_epoch=False)],
    sgd=[
        dict(type='LinearLR', start_factor=0.01, end=0.8, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', begin=0.8, T_max=7.2, convert_to_iter_based=True),
    ],
)
default_hooks = dict(ar_decay=None)
