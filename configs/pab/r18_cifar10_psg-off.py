_base_ = ['./r18_cifar10.py']

model = dict(converter=None)
