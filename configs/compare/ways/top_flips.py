# SynFlow, then signs by TopFlips with exact gradients: a fixed share flips in each step.
_base_ = ['./bop.py']

model = dict(converter=None)
optim_wrapper = dict(
    optimizers=dict(
        signs=dict(
            _delete_=True,
            type='TopFlips',
            owns=['Conv2d.weight'],
            flip_share=3e-3,
            adaptivity_rate={{_base_._top_flips_rate}},
        )
    )
)
param_scheduler = dict(
    signs=[dict(type='CosineAnnealingParamScheduler', param_name='flip_share', convert_to_iter_based=True)],
)
