# TopFlips, whose share of flips falls as a cosine: the signs are at rest at the end.
_base_ = ['./r20_cifar10_8e_bop-cosine.py']

optim_wrapper = dict(
    optimizers=dict(
        signs=dict(_delete_=True, type='TopFlips', owns=['Conv2d.weight'], flip_share=3e-3, adaptivity_rate=3e-3)
    )
)
param_scheduler = dict(
    signs=[dict(type='CosineAnnealingParamScheduler', param_name='flip_share', convert_to_iter_based=True)],
)
