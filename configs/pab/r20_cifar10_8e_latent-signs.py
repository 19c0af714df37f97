# Eight epochs on CIFAR-10 with signs by latent weights: the rival of optimizers without them.
_base_ = [
    '../_base_/models/resnet20_cifar.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/bop_cosine_8e.py',
]

model = dict(converter=dict(_delete_=True, type='LatentSigns', mode='flipping'))
data_preprocessor = dict(padding_value='mean')
optim_wrapper = dict(
    optimizers=dict(
        _delete_=True,
        latent=dict(type='SGD', owns=['Conv2d.latent'], lr=1.0, momentum=0.9),
        sgd=dict(type='SGD', owns='rest', lr=0.1, momentum=0.9, weight_decay=5e-4),
    ),
)
_warm_up = dict(type='LinearLR', start_factor=0.01, end=0.8, convert_to_iter_based=True)
_cosine = dict(type='CosineAnnealingLR', begin=0.8, T_max=7.2, convert_to_iter_based=True)
param_scheduler = dict(_delete_=True, latent=[_warm_up, _cosine], sgd=[_warm_up, _cosine])
default_hooks = dict(flips=None)
