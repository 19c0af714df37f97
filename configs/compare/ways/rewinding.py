# Lottery tickets: a dense training and three more, each with fewer weights, which go back to their values at step 2000.
_base_ = ['./synflow_sgd.py']

train_cfg = dict(max_epochs=720)
param_scheduler = dict(
    sgd=[
        dict(type='CosineRestartLR', periods=[180] * 4, restart_weights=[1] * 4, eta_min=0, convert_to_iter_based=True)
    ]
)
default_hooks = dict(
    prune=dict(_delete_=True, type='RewindHook', pruner=dict(type='Mag', density=0.3), cycles=3, rewind_iter=2000)
)
