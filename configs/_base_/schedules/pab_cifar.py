# Peek-a-Boo on CIFAR: SynFlow before training, Bop on the convolutions, SGD on the rest, 180 epochs.
_base_ = ['../runtime.py']

train_cfg = dict(type='ResumableEpochLoop', max_epochs=180)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    constructor='OwnershipConstructor',
    optimizers=dict(
        bop=dict(type='Bop', owns=['Conv2d.weight'], adaptivity_rate=1e-3, threshold=1e-6),
        sgd=dict(type='SGD', owns='rest', lr=0.1, momentum=0.9, weight_decay=5e-4),
    ),
)
param_scheduler = dict(bop=[], sgd=[dict(type='MultiStepLR', milestones=[80, 120], gamma=0.1)])

default_hooks = dict(
    prune=dict(
        type='PruneHook',
        pruner=dict(
            type='SynFlow', density=0.3, rounds=100, schedule='exponential', scope='global', prunable=['Conv2d']
        ),
        epoch=0,
    ),
    ar_decay=dict(type='ARDecayHook', interval=45, gamma=0.15),
    flips=dict(type='FlipCountHook'),
)
