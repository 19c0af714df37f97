# Eight epochs of CIFAR with TopFlips, whose share of flips falls as a cosine: the signs are at rest at the end.
_base_ = ['./bop_cosine_8e.py']

optim_wrapper = dict(
    optimizers=dict(
        bop=dict(_delete_=True, type='TopFlips', owns=['Conv2d.weight'], flip_share=3e-3, adaptivity_rate=3e-3)
    )
)
param_scheduler = dict(
    bop=[dict(type='CosineAnnealingParamScheduler', param_name='flip_share', T_max=8, convert_to_iter_based=True)],
)
