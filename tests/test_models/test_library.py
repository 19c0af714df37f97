"""Networks of torchvision and timm by their names."""

import pytest
import torch
from torch import nn
from torchvision import models

from pab.models import TimmModel, TorchvisionModel, initialization, initialize_
from pab.registry import MODELS

ALL = models.list_models(models)
FAMILIES = [
    *('alexnet', 'convnext_tiny', 'densenet121', 'efficientnet_b0', 'googlenet', 'inception_v3', 'maxvit_t'),
    *('mnasnet0_5', 'mobilenet_v2', 'mobilenet_v3_small', 'regnet_x_400mf', 'resnet18', 'resnext50_32x4d'),
    *('shufflenet_v2_x0_5', 'squeezenet1_1', 'swin_t', 'swin_v2_t', 'vgg11_bn', 'vit_b_32', 'wide_resnet50_2'),
]
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ALL if name not in FAMILIES]
# torchvision's numbers have the auxiliary output, and larger images
OTHER_COUNTS = {'inception_v3': 23_834_568, 'vit_h_14': 632_045_800}


def on_meta(name: str, **options) -> nn.Module:
    with torch.device('cpu' if 'regnet' in name else 'meta'):  # RegNet computes its widths by tensors
        return TorchvisionModel(name, **options)


@pytest.mark.parametrize('name', [*FAMILIES, *SLOW])
def test_every_network_has_its_size_and_a_rule_for_each_weight(name, monkeypatch):
    drawn = []
    for function in ('_draw_affine', 'fill_'):
        monkeypatch.setattr(initialization, function, lambda *args: drawn.append(args))
    network = on_meta(name)
    count = sum(p.numel() for p in network.parameters())
    assert count == OTHER_COUNTS.get(name, models.get_model_weights(name).DEFAULT.meta['num_params'])
    initialize_(network)
    assert len(drawn) > 5
    assert sum(p.numel() for p in on_meta(name, num_classes=3).parameters()) < count


@pytest.mark.parametrize(
    ('name', 'size', 'arguments'),
    [('resnet18', 32, {}), ('squeezenet1_1', 32, {}), ('vit_b_32', 64, dict(image_size=64)), ('googlenet', 64, {})],
)
def test_images_of_other_channels_and_sizes(name, size, arguments):
    with torch.device('meta'):
        network = TorchvisionModel(name, 5, in_channels=1, arguments=arguments).train()
        assert network(torch.empty(2, 1, size, size)).shape == (2, 5)  # one output, also when it is trained


def test_the_first_convolution_keeps_its_form():
    with torch.device('meta'):
        plain, grey = (TorchvisionModel('mobilenet_v2', in_channels=channels) for channels in (3, 1))
    for (name, one), (other_name, other) in zip(plain.named_modules(), grey.named_modules(), strict=True):
        assert name == other_name
        assert str(one).replace('Conv2d(3,', 'Conv2d(1,') == str(other)


def test_names_are_those_of_torchvision():
    with torch.device('meta'):
        network = MODELS.build({'type': 'TorchvisionModel', 'name': 'resnet18', 'num_classes': 5})
    names = dict(network.named_parameters())
    assert 'layer2.0.downsample.0.weight' in names
    assert names['fc.weight'].shape == (5, 512)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(name='resnet_18'), r"TorchvisionModel: unknown name 'resnet_18'; did you mean resnet18 or "),
        (dict(name='fcn_resnet50'), r"unknown name 'fcn_resnet50'; did you mean "),  # of another task
        (dict(name='resnet18', num_classes=0), 'TorchvisionModel: num_classes must be an int >= 1, got 0'),
        (dict(name='resnet18', in_channels=0), 'TorchvisionModel: in_channels must be an int >= 1, got 0'),
        (dict(name='resnet18', arguments=dict(depth=3)), r"resnet18 cannot be built with arguments=.*'depth'"),
        (dict(name='vit_b_16', arguments=dict(image_size=65)), 'vit_b_16 cannot be built .*indivisible by patch size'),
        (
            dict(name='resnet18', arguments=dict(weights='DEFAULT')),
            "cannot have 'weights'; ImageClassifier has",
        ),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message), torch.device('meta'):
        TorchvisionModel(**options)


def test_timm():
    pytest.importorskip('timm')
    with torch.device('meta'):
        network = TimmModel('vit_tiny_patch16_224', 5, 1, arguments=dict(img_size=32))
        assert network(torch.empty(2, 1, 32, 32)).shape == (2, 5)
    for name in ('test_vit', 'test_convnext', 'test_efficientnet'):
        with torch.device('meta'):
            initialize_(TimmModel(name, 3))
    with pytest.raises(ValueError, match=r"TimmModel: unknown name 'resnet10'; did you mean resnet10t or"):
        TimmModel('resnet10')
    with pytest.raises(ValueError, match="arguments cannot have 'pretrained'"):
        TimmModel('test_vit', arguments=dict(pretrained=True))


def test_without_timm(monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'timm', None)
    with pytest.raises(ImportError, match='TimmModel: timm is not installed; pip install timm'):
        TimmModel('resnet18')
