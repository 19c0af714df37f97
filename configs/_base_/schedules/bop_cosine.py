# 180 epochs of CIFAR: warm-up and cosine at each step for SGD; at each epoch, Bop's rate falls to 0.003 of its start.
_base_ = ['./pab_cifar.py']

param_scheduler = dict(
    signs=[dict(type='GeometricParamScheduler', param_name='adaptivity_rate', end_factor=0.003)],
    sgd=[
        dict(type='LinearLR', start_factor=0.01, end=5, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', begin=5, convert_to_iter_based=True),
    ],
)
default_hooks = dict(ar_decay=None)
