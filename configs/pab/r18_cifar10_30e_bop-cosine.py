# Thirty epochs, short on a GPU.
_base_ = ['./r18_cifar10_bop-cosine.py']

train_cfg = dict(max_epochs=30)
param_scheduler = dict(
    sgd=[
        dict(type='LinearLR', start_factor=0.01, end=3, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', begin=3, convert_to_iter_based=True),
    ],
)
