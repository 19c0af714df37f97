import copy
import io

import pytest
import torch
import torchvision
from torch import nn

from pab.psg import PSG, PSGConfig, PSGConv2d, PSGLayer, PSGLinear, convert_psg_, exact_gradients
from pab.registry import CONVERTERS


def small_net():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 6, 3, stride=2), nn.ReLU()),
        nn.Flatten(),
        nn.Linear(6 * 9, 5),
    )


def images():
    return torch.randn(4, 3, 9, 9)


def psg_layers(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, PSGLayer)}


def settings_of(model):
    return {name: (type(m), m.psg) for name, m in psg_layers(model).items()}


def test_settings_arrive():
    cfg = PSGConfig(input_bits=4)
    net = small_net()
    assert convert_psg_(net, cfg, layers=['Conv2d', 'Linear']) is net
    assert settings_of(net) == {'0': (PSGConv2d, cfg), '2.0': (PSGConv2d, cfg), '4': (PSGLinear, cfg)}
    net = CONVERTERS.build(dict(type='PSG', input_bits=4, layers=['Linear'], input_signed=False))(small_net())
    assert settings_of(net) == {'4': (PSGLinear, PSGConfig(input_bits=4, input_signed=False))}


def test_converting_again_gives_new_settings():
    net = convert_psg_(small_net())
    convert_psg_(net, PSGConfig(input_bits=4), layers=['Linear'])
    convert_psg_(net, PSGConfig(input_bits=2, input_signed=True), layers=['name:0'])
    settings = {name: (m.psg.input_bits, m.psg.input_signed) for name, m in psg_layers(net).items()}
    assert settings == {'0': (2, True), '2.0': (8, None), '4': (4, None)}


def test_errors():
    with pytest.raises(TypeError, match=r"PSGConfig.* unexpected keyword argument 'bits'"):
        CONVERTERS.build(dict(type='PSG', bits=4))
    with pytest.raises(ValueError, match='threshold must be finite and >= 0'):
        CONVERTERS.build(dict(type='PSG', threshold=-1.0))
    with pytest.raises(ValueError, match=r"PSGConfig: unknown input_signed \{'0': True\}; known: True, False, None"):
        CONVERTERS.build(dict(type='PSG', input_signed={'0': True}))
    with pytest.raises(TypeError, match=r'cfg must be a PSGConfig, got .* write PSGConfig\(\*\*cfg\)'):
        convert_psg_(small_net(), dict(input_bits=8))


def gradients(net, x):
    net.zero_grad()
    net(x).square().sum().backward()
    return [p.grad.clone() for p in net.parameters()]


def test_exact_gradients():
    net, x = small_net(), images()
    want = gradients(net, x)
    convert_psg_(net, PSGConfig(input_bits=3, predictive_forward=True), layers=('Conv2d', 'Linear'))
    psg = gradients(net, x)
    with exact_gradients(net):
        assert all(torch.equal(a, b) for a, b in zip(gradients(net, x), want, strict=True))
        with exact_gradients(net[2]):
            pass
        assert all(m.exact for m in psg_layers(net).values())
        loss = net(x).square().sum()
        grad = torch.autograd.grad(loss, net[0].weight, create_graph=True)[0]
        assert torch.autograd.grad(grad.square().sum(), net[0].weight)[0].any()  # twice differentiable
    assert not any(torch.equal(a, b) for a, b in zip(psg, want, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(gradients(net, x), psg, strict=True))
    with pytest.raises(KeyError), exact_gradients(net):
        raise KeyError
    assert not any(m.exact for m in psg_layers(net).values())
    with exact_gradients(nn.ReLU()):
        pass


def test_copy_pickle_and_state():
    net, x = convert_psg_(small_net(), PSGConfig(input_bits=4, input_signed=True)), images()
    want = gradients(net, x)
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(net), torch.load(buffer, weights_only=False)):
        assert settings_of(twin) == settings_of(net)
        assert all(torch.equal(a, b) for a, b in zip(gradients(twin, x), want, strict=True))
    plain = small_net()
    plain.load_state_dict(net.state_dict())
    net.load_state_dict(plain.state_dict())
    assert 'psg=PSGConfig(input_bits=4' in repr(net)


def mobilenet():
    return torchvision.models.mobilenet_v2(num_classes=10, width_mult=0.25, dropout=0)


def vision_transformer():
    net = torchvision.models.VisionTransformer(32, 8, num_layers=3, num_heads=3, hidden_dim=48, mlp_dim=96)
    nn.init.normal_(net.heads.head.weight)  # torchvision's is 0, and with it every gradient before
    return net


@pytest.mark.parametrize('bits', [4, 8])
@pytest.mark.parametrize('make', [mobilenet, vision_transformer])
def test_no_layer_is_worse_than_with_signed_input(make, bits):
    net, images = make(), torch.randn(8, 3, 32, 32)
    errors = {}
    for signed in (True, False, None):
        PSG(['Conv2d', 'Linear'], byte_mask_relu=False, input_bits=bits, input_signed=signed)(net)
        errors[signed] = gradient_errors(net, images)
    behind_relu = 0
    for name, error in errors[None].items():
        assert error <= errors[True][name], name
        behind_relu += error < errors[True][name]
    assert behind_relu == (35 if make is mobilenet else 0)
    # unsigned everywhere but in the first layer, as behind ReLUs, cuts off what linear bottlenecks and GELU pass on
    assert max(list(errors[False].values())[1:]) > 0.4 > 1.5 * max(errors[None].values())


def gradient_errors(net, images):
    """Relative distance of each PSG layer's weight gradient from the exact one."""

    def weight_gradients():
        net.zero_grad()
        nn.functional.cross_entropy(net(images), torch.arange(len(images))).backward()
        return {name: layer.weight.grad.clone() for name, layer in psg_layers(net).items()}

    got = weight_gradients()
    with exact_gradients(net):
        want = weight_gradients()
    return {name: float((got[name] - want[name]).norm() / want[name].norm()) for name in want}
