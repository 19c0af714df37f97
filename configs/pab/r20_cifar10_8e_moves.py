# As r20_cifar10_8e_top-flips.py, but weights that the gradient opposes change places.
_base_ = ['./r20_cifar10_8e_top-flips.py']

optim_wrapper = dict(optimizers=dict(signs=dict(type='Moves', flip_share=0.0, move_share=3e-3)))
param_scheduler = dict(
    signs=[dict(type='CosineAnnealingParamScheduler', param_name='move_share', convert_to_iter_based=True)],
)
