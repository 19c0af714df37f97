# Thirty epochs of CIFAR, short on a GPU, with the schedules of bop_cosine_8e.py.
_base_ = ['./bop_cosine_8e.py']

train_cfg = dict(max_epochs=30)
param_scheduler = dict(
    bop=[dict(type='ExponentialParamScheduler', param_name='adaptivity_rate', gamma=0.8185)],  # 0.003 ** (1 / 29)
    sgd=[
        dict(type='LinearLR', start_factor=0.01, end=3, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', begin=3, T_max=27, convert_to_iter_based=True),
    ],
)
