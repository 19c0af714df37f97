# ResNet-20, all of CIFAR-10, 30 epochs of 782 steps; an hour to two on one CPU core that multiplies bfloat16 fast.
_base_ = ['./r20_cifar10.py']

train_dataloader = dict(dataset=dict(num_samples=None))
train_cfg = dict(max_epochs=30, val_interval=5)
_top_flips_rate = 3e-3
_rewind_iter = 1000
