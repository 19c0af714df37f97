# Eight epochs of CIFAR: warm-up and cosine at each step for SGD; Bop's rate falls to 0.003 of its start.
_base_ = ['./pab_cifar.py']

train_cfg = dict(max_epochs=8)
param_scheduler = dict(
    # at each epoch, since mmengine takes gamma for the factor of a step with convert_to_iter_based
    bop=[dict(type='ExponentialParamScheduler', param_name='adaptivity_rate', gamma=0.4361)],  # 0.003 ** (1 / 7)
    sgd=[
        dict(type='LinearLR', start_factor=0.01, end=0.8, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', begin=0.8, T_max=7.2, convert_to_iter_based=True),
    ],
)
default_hooks = dict(ar_decay=None)
