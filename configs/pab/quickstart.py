# The whole method in under a minute on two CPU cores: digits, a small ResNet, 30 % of its random weights, signs only.
_base_ = [
    '../_base_/models/psg_classifier.py',
    '../_base_/datasets/digits.py',
    '../_base_/schedules/pab_cifar.py',
]

model = dict(
    network=dict(type='CIFARResNet', depth=8, num_classes=10, in_channels=1),
    input_shape=(1, 8, 8),
)
train_cfg = dict(max_epochs=20)
# 460 steps are few: an average over the last hundred or so follows the gradient in time
optim_wrapper = dict(optimizers=dict(signs=dict(adaptivity_rate=1e-2)))
param_scheduler = dict(sgd=[dict(type='MultiStepLR', milestones=[10, 15], gamma=0.1)])
default_hooks = dict(ar_decay=dict(interval=5), logger=dict(interval=23))
