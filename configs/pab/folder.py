# Photographs of your own: PAB_DATA=photos pab train pab/folder takes the classes from their folder.
_base_ = [
    '../_base_/models/psg_classifier.py',
    '../_base_/datasets/folder.py',
    '../_base_/schedules/pab_cifar.py',
]

model = dict(
    # num_classes: the number of folders
    network=dict(type='TorchvisionModel', name='resnet18', num_classes='auto', in_channels='auto'),
    input_shape=(3, 128, 128),
)
train_cfg = dict(max_epochs=30)
# Of the recipes the best in few steps (docs/results.md); both rates end at 0, however long the run is.
optim_wrapper = dict(
    optimizers=dict(
        signs=dict(_delete_=True, type='TopFlips', owns=['Conv2d.weight'], flip_share=3e-3, adaptivity_rate=3e-3)
    )
)
param_scheduler = dict(
    signs=[dict(type='CosineAnnealingParamScheduler', param_name='flip_share', convert_to_iter_based=True)],
    sgd=[dict(type='CosineAnnealingLR', convert_to_iter_based=True)],
)
default_hooks = dict(ar_decay=None)
