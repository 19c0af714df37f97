_base_ = ['./bop.py']

model = dict(converter=None)
optim_wrapper = dict(
    optimizers=dict(
        signs=dict(_delete_=True, type='TopFlips', owns=['Conv2d.weight'], flip_share=3e-3, adaptivity_rate=3e-3)
    )
)
param_scheduler = dict(
    signs=[dict(type='CosineAnnealingParamScheduler', param_name='flip_share', T_max=180, convert_to_iter_based=True)],
)
