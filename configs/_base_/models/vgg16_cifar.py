_base_ = ['./psg_classifier.py']

model = dict(
    network=dict(type='CIFARVGG', depth=16, num_classes=10),
    input_shape=(3, 32, 32),
)
