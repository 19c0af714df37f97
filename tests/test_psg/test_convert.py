import copy
import io

import pytest
import torch
from torch import nn

from pab.psg import PSGConfig, PSGConv2d, PSGLayer, PSGLinear, convert_psg_, exact_gradients
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


def test_only_classes_change():
    net = small_net()
    net[0].register_buffer('weight_mask', torch.ones_like(net[0].weight, dtype=torch.bool))
    net[2].eval()
    net[0].weight.requires_grad_(False)
    calls = []
    net[2][0].register_forward_hook(lambda *_: calls.append('module'))
    net[2][0].weight.register_hook(lambda grad: calls.append('tensor'))
    parameters, keys = list(net.parameters()), list(net.state_dict())
    assert convert_psg_(net) is net
    assert all(a is b for a, b in zip(net.parameters(), parameters, strict=True))
    assert list(net.state_dict()) == keys
    assert [m.training for m in net.modules()] == [True, True, True, False, False, False, True, True]
    assert not net[0].weight.requires_grad
    net(images()).sum().backward()
    assert calls == ['module', 'tensor']


def test_first_input_is_signed_and_settings_arrive():
    cfg = PSGConfig(input_bits=4)
    net = convert_psg_(small_net(), cfg, layers=('Conv2d', 'Linear'))
    assert {name: (type(m), m.input_signed) for name, m in psg_layers(net).items()} == {
        '0': (PSGConv2d, True),
        '2.0': (PSGConv2d, False),
        '4': (PSGLinear, False),
    }
    assert all(m.psg is cfg for m in psg_layers(net).values())


def test_signs_by_name_and_by_function():
    net = convert_psg_(small_net(), input_signed={'2.0': True, '0': False})
    assert [m.input_signed for m in psg_layers(net).values()] == [False, True]
    net = convert_psg_(small_net(), input_signed=lambda name, layer: True if layer.stride == (2, 2) else None)
    assert [m.input_signed for m in psg_layers(net).values()] == [True, True]


def test_converting_again_gives_new_settings():
    net = convert_psg_(small_net())
    convert_psg_(net, PSGConfig(input_bits=4), layers=('Linear',))
    assert {name: (m.psg.input_bits, m.input_signed) for name, m in psg_layers(net).items()} == {
        '0': (8, True),
        '2.0': (8, False),
        '4': (4, False),  # the first of its kind, but not the network's first
    }
    convert_psg_(net, PSGConfig(input_bits=2))
    assert [(m.psg.input_bits, m.input_signed) for m in psg_layers(net).values()] == [(2, True), (2, False), (4, False)]


def test_bare_layers():
    conv = convert_psg_(nn.Conv2d(3, 4, 3))
    assert type(conv) is PSGConv2d
    assert conv.input_signed
    assert not convert_psg_(nn.Linear(3, 4), layers=('Linear',), input_signed={'': False}).input_signed


def test_subclasses_are_left_alone_and_named():
    class Standardized(nn.Conv2d):
        pass

    net = nn.Sequential(nn.Conv2d(3, 3, 1), Standardized(3, 3, 1))
    with pytest.warns(UserWarning, match=r'left alone.*: 1 \(Standardized\)'):
        convert_psg_(net)
    assert type(net[0]) is PSGConv2d
    assert type(net[1]) is Standardized


def test_errors():
    with pytest.raises(ValueError, match=r'ReLU has nothing to convert: no layer of the kinds .*Conv2d'):
        convert_psg_(nn.ReLU())
    with pytest.raises(ValueError, match=r"names layers that are not converted: \['conv1'\]; known are \['0', '2.0'\]"):
        convert_psg_(small_net(), input_signed={'conv1': True})
    with pytest.raises(ValueError, match=r"from \['Conv2d', 'Linear'\], got \('Conv3d',\)"):
        convert_psg_(small_net(), layers=('Conv3d',))
    with pytest.raises(ValueError, match=r"got 'Conv2d'; for one kind write \('Conv2d',\)"):
        convert_psg_(small_net(), layers='Conv2d')
    with pytest.raises(TypeError, match="layer '0' must be True or False, got 1"):
        convert_psg_(small_net(), input_signed={'0': 1})
    with pytest.raises(TypeError, match=r'input_signed must be a dict .* got True'):
        convert_psg_(small_net(), input_signed=True)
    with pytest.raises(TypeError, match=r'model must be an nn.Module, got dict'):
        convert_psg_({})
    with pytest.raises(TypeError, match=r'cfg must be a PSGConfig, got .* write PSGConfig\(\*\*cfg\)'):
        convert_psg_(small_net(), dict(input_bits=8))


def test_a_refused_conversion_changes_nothing():
    net = small_net()
    with pytest.raises(ValueError, match='not converted'):
        convert_psg_(net, input_signed={'conv1': True})
    assert not psg_layers(net)


def test_registered_converter():
    converter = CONVERTERS.build(dict(type='PSG', input_bits=4, layers=('Linear',), input_signed={'4': False}))
    net = small_net()
    assert converter(net) is net
    assert {name: (m.psg, m.input_signed) for name, m in psg_layers(net).items()} == {
        '4': (PSGConfig(input_bits=4), False)
    }
    with pytest.raises(
        TypeError, match=r"PSG: unknown settings \['bits'\]; known are \['grad_bits', .*'weight_bits'\]"
    ):
        CONVERTERS.build(dict(type='PSG', bits=4))
    with pytest.raises(ValueError, match='threshold must be finite and >= 0'):
        CONVERTERS.build(dict(type='PSG', threshold=-1.0))


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
    net, x = convert_psg_(small_net(), PSGConfig(input_bits=4)), images()
    want = gradients(net, x)
    buffer = io.BytesIO()
    torch.save(net, buffer)
    buffer.seek(0)
    for twin in (copy.deepcopy(net), torch.load(buffer, weights_only=False)):
        assert all(torch.equal(a, b) for a, b in zip(gradients(twin, x), want, strict=True))
    plain = small_net()
    plain.load_state_dict(net.state_dict())
    net.load_state_dict(plain.state_dict())


def test_torchvision_network():
    torchvision = pytest.importorskip('torchvision')
    net = torchvision.models.resnet18(num_classes=3)
    keys = list(net.state_dict())
    convert_psg_(net)
    layers = psg_layers(net)
    assert len(layers) == 20
    assert [name for name, m in layers.items() if m.input_signed] == ['conv1']
    assert list(net.state_dict()) == keys
    net(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
