# ResNet-20, the first 10,000 images of CIFAR-10, six epochs of 157 steps; for two CPU cores.
_base_ = ['./r18_cifar10.py']

model = dict(network=dict(depth=20))
# twice the steps of a batch of 128: a training by signs takes as many as it can get
train_dataloader = dict(batch_size=64, dataset=dict(num_samples=10000))
data_preprocessor = dict(padding_value='mean')
train_cfg = dict(max_epochs=6, val_interval=2)
param_scheduler = dict(
    sgd=[
        dict(type='LinearLR', start_factor=0.01, end=1, convert_to_iter_based=True),
        dict(type='CosineAnnealingLR', begin=1, convert_to_iter_based=True),
    ],
)

_top_flips_rate = 1e-2
_rewind_iter = 100
