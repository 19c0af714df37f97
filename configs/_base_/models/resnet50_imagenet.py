_base_ = ['./psg_classifier.py']

model = dict(
    network=dict(type='TorchvisionModel', name='resnet50', num_classes=1000),
    converter=dict(threshold=5e-7),
    input_shape=(3, 224, 224),
)
