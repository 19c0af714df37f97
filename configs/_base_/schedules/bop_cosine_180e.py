# The 180 epochs of the recipes, with the schedules of bop_cosine_8e.py.
_base_ = ['./bop_cosine_8e.py']

train_cfg = dict(max_epochs=180)
param_scheduler = dict(
    bop=[dict(type='ExponentialParamScheduler', param_name='adaptivity_rate', gamma=0.9681)],  # 0.003 ** (1 / 179)
    sgd=[
        dict(type='LinearLR', start_factor=0.01, end=5, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', begin=5, T_max=175, convert_to_iter_based=True),
    ],
)
