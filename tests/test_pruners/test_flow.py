"""The flow for an image of ones equals torch's own, forward and backward, whatever the network does."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.func import functional_call

from pab.models import initialize_
from pab.pruners import SynFlow
from pab.pruners.flow import FewWindows, NeedsEveryPixel, RepetitiveImage, total_flow
from pab.psg import PSGConfig, convert_psg_
from pab.registry import MODELS
from tests.test_pruners.flowing import SHAPE, compare, few, ones, parameters, positive


class Residual(nn.Module):
    """More distinct rows on one path than on the other; everything in place that can be."""

    def __init__(self, width=24, stride=2):
        super().__init__()
        self.stem = nn.Conv2d(4, width, 3, padding=1, bias=False)
        self.conv1 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(width, width, 1, stride, bias=False)
        self.bn = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.bn(self.stem(x)))
        y = self.conv2(self.relu(self.conv1(x)))
        y += self.bn(self.shortcut(x))
        return self.relu(y)


@pytest.mark.parametrize('size', [9, 32])
@pytest.mark.parametrize('stride', [1, 2])
def test_a_residual_block(size, stride):
    block = Residual(stride=stride).double().eval()
    shape = (4, size, size)
    compare(block, parameters(block), lambda: few(shape), lambda: ones(shape))


@pytest.mark.parametrize(
    'pool',
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.AvgPool2d(2),
        nn.AvgPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(2, divisor_override=3),
        nn.MaxPool2d(np.int64(2)),
    ],
    ids=str,
)
def test_pooling(pool):
    network = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), pool, nn.Conv2d(5, 6, 3)).double()
    compare(network, parameters(network))


class Odd(nn.Module):
    """A convolution, something else, and two convolutions."""

    def __init__(self, function):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.function = function
        self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.gate = nn.Parameter(torch.rand(1, 4, 1, 1))

    def forward(self, x):
        x = self.conv(x)
        x = self.function(x - 2, self)  # entries of either sign
        return self.second(self.second(x[:, :4])).mean((2, 3))


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 3


@torch.jit.script
def scripted(x):
    return x * torch.sigmoid(x)


def write(x, net):
    x[:, :, 0] = 7
    return x


def view_then_change(x, net):
    view = x.view(1, 4, -1)
    x += net.second(x.clone())
    return view.view(x.shape) + x


def change_a_part(x, net):
    y = net.second(F.relu(x))
    y.narrow(1, 0, 2).add_(x[:, :2])
    return F.relu(y)


def relu_in_place_after_a_slice(x, net):
    part = x[:, :, ::2, ::2]
    y = F.relu(x, inplace=True)
    return F.pad(part, (0, y.shape[3] - part.shape[3], 0, y.shape[2] - part.shape[2])) + y


def relu_in_place_then_the_input(x, net):
    return net.second(F.relu(x, inplace=True)) + x


def change(name, *args):
    def function(x, net):
        getattr(x, name)(*args)
        return net.second(x) + x

    return function


SMALL = {
    'relu6': lambda x, net: F.relu6(x),
    'silu, in place': lambda x, net: F.silu(x, inplace=True) + x,
    'hardtanh, in place by position': lambda x, net: F.hardtanh(x, 0.0, 100.0, True) + x,
    'relu in place': relu_in_place_then_the_input,
    'product': lambda x, net: x * x / 2,
    'gate': lambda x, net: net.gate * x * net.gate,
    'facts': lambda x, net: x * x.size(dim=1) / x.size(-1) * x.dim(),
    'per channel': lambda x, net: x + net.gate[0],
    'number': lambda x, net: x.sub_(0.5) * 2 - x,
    'cat': lambda x, net: torch.cat([net.second(x)[:, :0], x, net.second(x)], 1),
    'cat of images': lambda x, net: torch.cat([x, net.second(x), F.relu(net.second(net.second(x)))], dim=1),
}
ORDINARY = {
    'mean': lambda x, net: x + x.mean((2, 3), keepdim=True).expand(x.shape),
    'adaptive pooling': lambda x, net: F.adaptive_avg_pool2d(x, 3),
    'reflection': lambda x, net: F.pad(x, (1, 1, 1, 1), mode='reflect'),
    'slice': lambda x, net: x[:, :, 2:5],
    'flip': lambda x, net: x + x.flip(2),
    'interpolate': lambda x, net: F.interpolate(x, scale_factor=2),
    'one row': lambda x, net: x * torch.linspace(0, 1, 12, dtype=torch.float64),
    'dispatcher': lambda x, net: torch.ops.aten.sigmoid.default(x),
    'dispatcher, in place': lambda x, net: [torch.ops.aten.mul_.Tensor(x, x.clone()), net.second(x)][1],
    'out': lambda x, net: torch.mul(x.detach(), 2, out=torch.empty_like(x)) + x,
    'write': write,
    'a view, then a change': view_then_change,
    'a change of a view': change_a_part,
    'a slice, then relu in place': relu_in_place_after_a_slice,
    'relu of a part': lambda x, net: [F.relu(x[:, :3], inplace=True), net.second(x)][1],
    'relu of the same': lambda x, net: [F.relu(x.contiguous(), inplace=True), net.second(x)][1],
    'relu after dropout': lambda x, net: [F.relu(F.dropout(x, 0.5, False), inplace=True), net.second(x)][1],
    'power in place': change('__ipow__', 2),
    'clamp in place': change('clamp_', 0, 5),
    'data': lambda x, net: [x.data.mul_(2), net.second(x)][1],
}
REFUSED = {
    'custom function': lambda x, net: Double.apply(x),
    'no gradient': lambda x, net: x * torch.no_grad()(lambda: x.mean())(),
    'swallowed': lambda x, net: swallow(x),
    'hook': lambda x, net: [x.register_hook(lambda grad: grad / 10), net.second(x)][1],
    'gradient': lambda x, net: x * torch.autograd.grad(net.second(x).sum(), x, retain_graph=True)[0].mean(),
    'scripted': lambda x, net: scripted(x),
}


def swallow(x):
    try:
        return Double.apply(x)
    except Exception:
        return x


@pytest.mark.parametrize('name', SMALL)
def test_functions_that_keep_an_image_small(name):
    network = Odd(SMALL[name]).double()
    compare(network, parameters(network))
    with FewWindows():
        assert isinstance(network.function(network.conv(few((4, 32, 32))), network), RepetitiveImage) or 'cat' in name


@pytest.mark.parametrize('name', ORDINARY)
def test_other_functions_work_on_the_ordinary_image(name):
    network = Odd(ORDINARY[name]).double()
    compare(network, parameters(network))


@pytest.mark.parametrize('name', REFUSED)
def test_what_cannot_be_followed_is_computed_on_every_pixel(name):
    network = Odd(REFUSED[name]).double()
    network.requires_grad_()
    weights = {n: p.detach().requires_grad_() for n, p in network.named_parameters()}

    def call(weights, image):
        return functional_call(network, weights, (image,))

    want = torch.autograd.grad(call(weights, ones()).sum(), list(weights.values()), materialize_grads=True)
    out = {n: torch.empty_like(w) for n, w in weights.items()}
    got = torch.autograd.grad(total_flow(call, weights, SHAPE, out), list(weights.values()), materialize_grads=True)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-14)
    if name not in ('scripted', 'swallowed'):
        with FewWindows() as mode, pytest.raises(NeedsEveryPixel):
            call(weights, few())
        assert mode.refused


def test_an_error_of_the_network_is_its_own():
    weights = {'w': torch.rand(4, 4, 20, 20, dtype=torch.float64)}
    with pytest.raises(RuntimeError, match="Kernel size can't be greater than actual input size"):
        total_flow(lambda w, x: F.conv2d(x, w['w']), weights, SHAPE, weights)


def test_an_image_that_a_network_keeps_can_be_used_later():
    with FewWindows():
        image = F.conv2d(few(), positive(2, 4, 3, 3), padding=1)
    assert isinstance(image, RepetitiveImage)
    assert image.sum().item() == pytest.approx(float(image.plain().sum()))


@pytest.mark.parametrize(
    'name',
    [
        'resnet18',
        'densenet121',
        'mobilenet_v2',
        'mobilenet_v3_small',
        'squeezenet1_1',
        'shufflenet_v2_x0_5',
        'regnet_y_400mf',
        'googlenet',
    ],
)
def test_torchvision_networks(name):
    options = dict(init_weights=False, aux_logits=False) if name == 'googlenet' else {}
    network = getattr(torchvision.models, name)(num_classes=4, **options).double().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()  # so that there are entries of either sign
            module.running_var.uniform_(0.5, 2)
    compare(network, list(network.parameters()), lambda: few((3, 64, 64)), lambda: ones((3, 64, 64)), rtol=1e-8)


@pytest.mark.parametrize('depth', [20, 18])
def test_the_networks_of_the_recipes_stay_small(depth):
    network = MODELS.build(dict(type='CIFARResNet', depth=depth, width=4))
    initialize_(network, 'kaiming_normal', 0)
    convert_psg_(network, PSGConfig())
    sizes, modes = [], []

    class Watched(FewWindows):
        def __init__(self, *args):
            super().__init__(*args)
            modes.append(self)

    network.layer2[0].register_forward_hook(lambda module, inputs, output: sizes.append(type(output)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('pab.pruners.flow.FewWindows', Watched)
        SynFlow(density=0.5, rounds=2).prune(network, input_shape=(3, 32, 32))
    assert sizes == [RepetitiveImage] * 2
    assert len(modes) == 2
    assert not any(mode.refused for mode in modes)
