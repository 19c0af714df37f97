# As r18_cifar10.py, on CIFAR-100.
_base_ = ['../_base_/models/resnet18_cifar.py', '../_base_/datasets/cifar100.py', '../_base_/schedules/pab_cifar.py']

model = dict(network=dict(num_classes=100))
