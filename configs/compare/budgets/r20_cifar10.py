# What all runs of the comparison share: ResNet-20, the first 10,000 images of CIFAR-10, six epochs of 157 steps, in
# bfloat16. By itself: SynFlow before training, then SGD on every weight that is left.
_base_ = [
    '../../_base_/models/resnet20_cifar.py',
    '../../_base_/datasets/cifar10.py',
    '../../_base_/schedules/pab_cifar.py',
]

model = dict(converter=None)
# twice the steps of a batch of 128: a training by signs takes as many as it can get
train_dataloader = dict(batch_size=64, dataset=dict(num_samples=10000))
data_preprocessor = dict(padding_value='mean')
train_cfg = dict(max_epochs=6, val_interval=2)
optim_wrapper = dict(
    precision='bfloat16',
    optimizers=dict(_delete_=True, sgd=dict(type='SGD', owns='rest', lr=0.1, momentum=0.9, weight_decay=5e-4)),
)
param_scheduler = dict(
    _delete_=True,
    sgd=[
        dict(type='LinearLR', start_factor=0.01, end=1, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', begin=1, T_max=5, convert_to_iter_based=True),
    ],
)
default_hooks = dict(ar_decay=None, flips=None, checkpoint=dict(max_keep_ckpts=2))
