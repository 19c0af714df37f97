# Peek-a-Boo: SynFlow before training, then Bop on the convolutions and SGD on the rest.
_base_ = ['../runtime.py']

train_cfg = dict(type='ResumableEpochLoop')
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    constructor='OwnershipConstructor',
    optimizers=dict(
        signs=dict(type='Bop', owns=['Conv2d.weight'], adaptivity_rate=1e-3, threshold=1e-6),
        sgd=dict(type='SGD', owns='rest', lr=0.1, momentum=0.9),
    ),
)
default_hooks = dict(
    prune=dict(
        type='PruneHook', pruner=dict(type='SynFlow', rounds=100, schedule='exponential', scope='global'), epoch=0
    ),
    ar_decay=dict(type='ARDecayHook', gamma=0.15),
    flips=dict(type='FlipCountHook'),
)
