# ResNet-18, all of CIFAR-10, 180 epochs, in bfloat16: SynFlow before training, then SGD on every weight that it keeps.
_base_ = [
    '../../_base_/models/resnet18_cifar.py',
    '../../_base_/datasets/cifar10.py',
    '../../_base_/schedules/pab_cifar.py',
]

model = dict(converter=None)
train_cfg = dict(val_interval=5)
optim_wrapper = dict(
    precision='bfloat16',
    optimizers=dict(_delete_=True, sgd=dict(type='SGD', owns='rest', lr=0.1, momentum=0.9, weight_decay=5e-4)),
)
param_scheduler = dict(
    _delete_=True,
    sgd=[
        dict(type='LinearLR', start_factor=0.01, end=5, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', begin=5, convert_to_iter_based=True),
    ],
)
default_hooks = dict(ar_decay=None, flips=None, checkpoint=dict(max_keep_ckpts=2))

# read by ways/
_top_flips_rate = 3e-3
_rewind_iter = 2000
