_base_ = ['../_base_/models/conv6_cifar.py', '../_base_/datasets/cifar10.py', '../_base_/schedules/pab_cifar.py']
