# Eight epochs on CIFAR-10, ten minutes on two CPU cores: the run of the results table.
_base_ = ['./r20_cifar10.py']

train_cfg = dict(max_epochs=8)
param_scheduler = dict(sgd=[dict(type='MultiStepLR', milestones=[4, 6], gamma=0.1)])
data_preprocessor = dict(padding_value='mean')
default_hooks = dict(ar_decay=dict(interval=2))
