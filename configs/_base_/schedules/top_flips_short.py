# Short runs with TopFlips: every rate moves at each step, and the signs are at rest at the end. max_epochs stands in
# the config; the first tenth warms the learning rate up.
_base_ = ['./pab_cifar.py']

train_cfg = dict(max_epochs=8)
optim_wrapper = dict(
    optimizers=dict(
        bop=dict(_delete_=True, type='TopFlips', owns=['Conv2d.weight'], flip_share=3e-3, adaptivity_rate=1e-2)
    )
)
param_scheduler = dict(
    _delete_=True,
    bop=[dict(type='CosineAnnealingParamScheduler', param_name='flip_share', T_max=8, convert_to_iter_based=True)],
    sgd=[
        dict(type='LinearLR', start_factor=0.01, end=0.8, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', begin=0.8, T_max=7.2, convert_to_iter_based=True),
    ],
)
default_hooks = dict(ar_decay=None)
