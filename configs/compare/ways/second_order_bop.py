# SynFlow, then signs by second-order Bop with exact gradients.
_base_ = ['./bop.py']

model = dict(converter=None)
optim_wrapper = dict(
    optimizers=dict(
        signs=dict(_delete_=True, type='SecondOrderBop', owns=['Conv2d.weight'], adaptivity_rate=1e-3, threshold=0.02)
    )
)
param_scheduler = dict(
    signs=[dict(type='CosineAnnealingParamScheduler', param_name='adaptivity_rate', convert_to_iter_based=True)],
)
