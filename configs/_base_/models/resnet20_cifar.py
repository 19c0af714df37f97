_base_ = ['./psg_classifier.py']

model = dict(
    network=dict(type='CIFARResNet', depth=20, num_classes=10),
    input_shape=(3, 32, 32),
)
