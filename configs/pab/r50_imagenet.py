# ResNet-50 on ImageNet: half of its weights, signs by Bop with PSG gradients, 100 epochs.
_base_ = [
    '../_base_/models/resnet50_imagenet.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/pab_imagenet.py',
]
