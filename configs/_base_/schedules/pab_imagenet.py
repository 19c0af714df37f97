# Peek-a-Boo on ImageNet: SynFlow before training, Bop on the convolutions, SGD on the rest, 100 epochs.
_base_ = ['../runtime.py']

train_cfg = dict(type='ResumableEpochLoop', max_epochs=100)
val_cfg = dict()
test_cfg = dict()

optim_wrapper = dict(
    constructor='OwnershipConstructor',
    optimizers=dict(
        bop=dict(type='Bop', owns=['Conv2d.weight'], adaptivity_rate=1e-3, threshold=1e-6),
        sgd=dict(type='SGD', owns='rest', lr=0.1, momentum=0.9, weight_decay=1e-4),
    ),
)
param_scheduler = dict(bop=[], sgd=[dict(type='StepLR', step_size=30, gamma=0.1)])
# lr 0.1 belongs to a batch of 256 in total; with enable=True another batch scales it
auto_scale_lr = dict(enable=False, base_batch_size=256)

default_hooks = dict(
    prune=dict(
        type='PruneHook',
        pruner=dict(
            type='SynFlow',
            density=0.5,
            rounds=100,
            schedule='exponential',
            scope='global',
            prunable=['Conv2d', 'Linear'],
        ),
        epoch=0,
    ),
    # the reference's ImageNet script lowers the rate before the 30th epoch, its CIFAR script after the 45th
    ar_decay=dict(type='ARDecayHook', interval=30, gamma=0.15, timing='before'),
    flips=dict(type='FlipCountHook'),
    checkpoint=dict(max_keep_ckpts=3),
)
