# Lottery tickets: a dense training and three more, each with fewer weights, which return to values of an early step.
_base_ = ['./synflow_sgd.py']

_epochs = _base_.train_cfg.max_epochs
train_cfg = dict(max_epochs=4 * _epochs)
param_scheduler = dict(
    sgd=[
        dict(
            type='CosineRestartLR',
            periods=[_epochs] * 4,
            restart_weights=[1] * 4,
            eta_min=0,
            convert_to_iter_based=True,
        )
    ]
)
default_hooks = dict(
    prune=dict(
        _delete_=True,
        type='RewindHook',
        pruner=dict(type='Mag', density=0.3),
        cycles=3,
        rewind_iter={{_base_._rewind_iter}},
    )
)
