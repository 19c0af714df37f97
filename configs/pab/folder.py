# Photographs of your own, by the path of their folder: PAB_DATA=photos python tools/train.py configs/pab/folder.py
_base_ = [
    '../_base_/models/psg_classifier.py',
    '../_base_/datasets/folder.py',
    '../_base_/schedules/bop_cosine.py',
]

model = dict(
    # num_classes: the number of folders
    network=dict(type='TorchvisionModel', name='resnet18', num_classes='auto', in_channels='auto'),
    input_shape=(3, 128, 128),
)
train_cfg = dict(max_epochs=30)
# of all recipes for few steps the best (docs/results.md): a share of the signs flips in each, and in the last ones none
optim_wrapper = dict(
    optimizers=dict(
        signs=dict(_delete_=True, type='TopFlips', owns=['Conv2d.weight'], flip_share=3e-3, adaptivity_rate=3e-3)
    )
)
param_scheduler = dict(
    signs=[dict(type='CosineAnnealingParamScheduler', param_name='flip_share', convert_to_iter_based=True)],
)
