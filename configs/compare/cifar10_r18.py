# The runs of cifar10_r20.py by the full recipe; for a GPU.
_base_ = ['./cifar10_r20.py']

title = (
    'ResNet-18 on CIFAR-10, 180 epochs with a batch of 128, one schedule (warm-up, cosine) for all but rewinding, '
    'bfloat16'
)
environment = dict(PAB_BUDGET='r18_cifar10')
