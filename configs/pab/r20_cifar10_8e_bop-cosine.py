# As r20_cifar10_8e.py, with the learning rate on a cosine and a rate of Bop that falls at each epoch.
_base_ = [
    '../_base_/models/resnet20_cifar.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/bop_cosine_8e.py',
]

data_preprocessor = dict(padding_value='mean')
