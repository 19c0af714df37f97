_base_ = ['./top_flips.py']

optim_wrapper = dict(optimizers=dict(signs=dict(type='Moves', flip_share=3e-3, move_share=3e-3, adaptivity_rate=3e-3)))
param_scheduler = dict(
    signs=[
        dict(type='CosineAnnealingParamScheduler', param_name=name, convert_to_iter_based=True)
        for name in ('flip_share', 'move_share')
    ],
)
