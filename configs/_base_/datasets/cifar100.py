_base_ = ['./cifar10.py']

train_dataloader = dict(dataset=dict(type='CIFAR100'))
val_dataloader = dict(dataset=dict(type='CIFAR100'))
test_dataloader = dict(dataset=dict(type='CIFAR100'))
data_preprocessor = dict(mean=(0.507, 0.487, 0.441), std=(0.267, 0.256, 0.276))
