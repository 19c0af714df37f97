# ResNet-18 on CIFAR-10: 30 % of its weights, signs by Bop with PSG gradients, 180 epochs.
_base_ = ['../_base_/models/resnet18_cifar.py', '../_base_/datasets/cifar10.py', '../_base_/schedules/pab_cifar.py']
