# As r18_cifar10.py, with exact gradients.
_base_ = ['./r18_cifar10.py']

model = dict(converter=None)
