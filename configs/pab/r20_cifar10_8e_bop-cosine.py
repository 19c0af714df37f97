# As r20_cifar10_8e.py, with the learning rate on a cosine and a rate of Bop that falls at each epoch.
_base_ = ['../_base_/models/resnet20_cifar.py', '../_base_/datasets/cifar10.py', '../_base_/schedules/bop_cosine.py']

data_preprocessor = dict(padding_value='mean')
train_cfg = dict(max_epochs=8)
param_scheduler = dict(
    sgd=[
        dict(type='LinearLR', start_factor=0.01, end=0.8, convert_to_iter_based=True),
        # 7.2 epochs are no whole number of steps; without T_max they would be rounded
        dict(type='CosineAnnealingLR', begin=0.8, T_max=7.2, convert_to_iter_based=True),
    ],
)
