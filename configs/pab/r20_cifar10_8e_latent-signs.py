# Eight epochs on CIFAR-10 with signs by latent weights: the rival of optimizers without them.
_base_ = ['./r20_cifar10_8e_bop-cosine.py']

model = dict(converter=dict(_delete_=True, type='LatentSigns', mode='flipping'))
optim_wrapper = dict(
    optimizers=dict(
        _delete_=True,
        latent=dict(type='SGD', owns=['Conv2d.latent'], lr=1.0, momentum=0.9),
        sgd=dict(type='SGD', owns='rest', lr=0.1, momentum=0.9, weight_decay=5e-4),
    ),
)
param_scheduler = dict(_delete_=True, latent={{_base_.param_scheduler.sgd}}, sgd={{_base_.param_scheduler.sgd}})
default_hooks = dict(flips=None)
