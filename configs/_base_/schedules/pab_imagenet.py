# 100 epochs, half of all weights, those of the classifier included.
_base_ = ['./pab.py']

train_cfg = dict(max_epochs=100)
optim_wrapper = dict(optimizers=dict(sgd=dict(weight_decay=1e-4)))
param_scheduler = dict(signs=[], sgd=[dict(type='StepLR', step_size=30, gamma=0.1)])
# lr 0.1 belongs to a batch of 256 in total, over all GPUs; it is scaled for another
auto_scale_lr = dict(enable=True, base_batch_size=256)

default_hooks = dict(
    prune=dict(pruner=dict(density=0.5, prunable=['Conv2d', 'Linear'])),
    # the reference's ImageNet script lowers the rate before the 30th epoch, its CIFAR script after the 45th
    ar_decay=dict(interval=30, timing='before'),
    checkpoint=dict(max_keep_ckpts=3),
)
