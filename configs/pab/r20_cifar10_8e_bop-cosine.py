# As r20_cifar10_8e.py, with schedules that move at each step.
_base_ = [
    '../_base_/models/resnet20_cifar.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/pab_short.py',
]

data_preprocessor = dict(padding_value='mean')
