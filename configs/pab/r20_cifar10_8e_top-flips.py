# Eight epochs on CIFAR-10 with a set share of flips in each step (TopFlips).
_base_ = [
    '../_base_/models/resnet20_cifar.py',
    '../_base_/datasets/cifar10.py',
    '../_base_/schedules/top_flips_cosine_8e.py',
]

data_preprocessor = dict(padding_value='mean')
