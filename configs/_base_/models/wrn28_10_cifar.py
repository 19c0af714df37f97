_base_ = ['./psg_classifier.py']

model = dict(
    network=dict(type='WideResNet', depth=28, widen_factor=10, num_classes=10),
    input_shape=(3, 32, 32),
)
