_base_ = [
    '../_base_/models/resnet50_imagenet.py',
    '../_base_/datasets/imagenet.py',
    '../_base_/schedules/pab_imagenet.py',
]
