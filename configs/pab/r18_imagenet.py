_base_ = [
    '../_base_/models/resnet18_imagenet.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/pab_imagenet.py',
]
