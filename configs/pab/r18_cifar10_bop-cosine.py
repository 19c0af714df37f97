# As long as r18_cifar10.py, with the learning rate on a cosine.
_base_ = ['../_base_/models/resnet18_cifar.py', '../_base_/datasets/cifar10.py', '../_base_/schedules/bop_cosine.py']
