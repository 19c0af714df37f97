"""The flow for an image of equal pixels equals torch's own, forward and backward, whatever the network does."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pab.pruners.flow import FewWindows, NeedsEveryPixel, RepetitiveImage
from pab.registry import PRUNERS

CASES = {
    'plain': dict(kernel=3, padding=1),
    'stride': dict(kernel=3, stride=2, padding=1),
    'shortcut': dict(kernel=1, stride=2),
    'pointwise': dict(kernel=1),
    'padded pointwise': dict(kernel=1, padding=1),
    'large': dict(kernel=7, stride=2, padding=3),
    'dilated': dict(kernel=3, padding=2, dilation=2),
    'oblong': dict(kernel=(1, 3), stride=(2, 1), padding=(0, 1)),
    'wide stride': dict(kernel=2, stride=3),
    'groups': dict(kernel=3, padding=1, groups=2),
    'by name': dict(kernel=3, padding='same'),
}
SHAPE = (4, 15, 12)


def ones(shape=SHAPE):
    return torch.ones(1, *shape, dtype=torch.float64)


def few(shape=SHAPE):
    return RepetitiveImage.of_ones(shape, torch.empty(0, dtype=torch.float64))


def positive(*shape):
    return torch.rand(shape, dtype=torch.float64)


def weigh(output):
    """A scalar that depends on each entry in another way."""
    return (output * torch.linspace(1, 2, output.numel(), dtype=torch.float64).view(output.shape)).sum()


def compare(network, leaves, image=few, plain=ones):
    """network(image) and its gradients, with few windows and by torch alone."""
    want = weigh(network(plain()))
    want = want, torch.autograd.grad(want, leaves)
    with FewWindows():
        got = weigh(network(image()))
    got = got, torch.autograd.grad(got, leaves)
    torch.testing.assert_close(got, want, rtol=1e-11, atol=0)


def parameters(module):
    for parameter in module.parameters():
        parameter.data.abs_().add_(0.01)
    return list(module.parameters())


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('image', ['few', 'ones', 'random'])
@pytest.mark.parametrize('outside', [4, 80])
def test_one_convolution(case, image, outside):
    settings = dict(CASES[case])
    kernel = settings.pop('kernel')
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    weight = positive(outside, 4 // settings.get('groups', 1), *kernel).requires_grad_()
    bias = positive(outside).requires_grad_()
    random = positive(1, *SHAPE).requires_grad_()
    plain = (lambda: random) if image == 'random' else ones
    leaves = [weight, bias, random] if image == 'random' else [weight, bias]
    compare(lambda x: F.conv2d(x, weight, bias, **settings), leaves, few if image == 'few' else plain, plain)


def test_a_chain_of_convolutions_stays_small():
    convolutions = nn.Sequential(*(nn.Conv2d(4, 4, 3, padding=1, bias=False, dtype=torch.float64) for _ in range(3)))
    with FewWindows():
        image = convolutions(few((4, 32, 32)))
    assert isinstance(image, RepetitiveImage)
    assert image.shape == (1, 4, 32, 32)
    assert image.values.shape == (1, 4, 7, 7)  # three rings at the border and the inside
    assert image.rows == (0, 1, 2, *[3] * 26, 4, 5, 6)


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
    'settings', [dict(kernel_size=2), dict(kernel_size=3, stride=2, padding=1), dict(kernel_size=2, ceil_mode=True)]
)
def test_max_pooling(settings):
    network = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.MaxPool2d(**settings), nn.Conv2d(5, 6, 3)).double()
    compare(network, parameters(network))


class Odd(nn.Module):
    """One convolution, and after it something that is not followed."""

    def __init__(self, function):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.function = function

    def forward(self, x):
        return self.function(self.conv(x)).mean((2, 3))


class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 3


def write(x):
    x[:, :, 0] = 7
    return x


def clamp_and_use_again(x):
    y = F.hardtanh(x, 0.0, 100.0, True)
    return x + y


PLAIN = {
    'mean': lambda x: x + x.mean((2, 3), keepdim=True).expand(x.shape),
    'average pooling': lambda x: F.avg_pool2d(x, 2),
    'sigmoid': torch.sigmoid,
    'product': lambda x: x * x,
    'cat': lambda x: torch.cat([x, x], 1),
    'reflection': lambda x: F.pad(x, (1, 1, 1, 1), mode='reflect'),
    'slice': lambda x: x[:, :, 2:5],
    'operator of the dispatcher': lambda x: torch.ops.aten.sigmoid.default(x),
    'flip': lambda x: x + x.flip(2),
}
REFUSED = {
    'custom function': Double.apply,
    'write': write,
    'in place, by name': lambda x: F.silu(x, inplace=True) + x,
    'in place, by position': clamp_and_use_again,
    'in place, a method': lambda x: x.mul_(2) + x,
    'in place, an operator': lambda x: x.__ipow__(2),
    'out': lambda x: torch.mul(x, 2, out=x.detach().clone()),
    'broadcast': lambda x: x + torch.ones(4, 1, 1, dtype=torch.float64),
    'no gradient': lambda x: x * torch.no_grad()(lambda: x.mean())(),
}


@pytest.mark.parametrize('name', PLAIN)
def test_functions_that_need_every_pixel_get_it(name):
    network = Odd(PLAIN[name]).double()
    compare(network, parameters(network))


@pytest.mark.parametrize('name', REFUSED)
def test_refuses_what_it_could_not_follow(name):
    with FewWindows(), pytest.raises(NeedsEveryPixel):
        Odd(REFUSED[name]).double()(few())


@pytest.mark.parametrize('name', sorted(set(REFUSED) - {'out'}))
def test_synflow_then_computes_every_pixel(name):
    network = Odd(REFUSED[name])
    parameters(network)
    weight = network.conv.weight.detach().double().requires_grad_()
    network.double()
    grad = torch.autograd.grad(network.function(F.conv2d(ones(), weight, padding=1)).mean((2, 3)).sum(), weight)[0]
    score = (weight * grad).abs().flatten()
    masks = PRUNERS.build(dict(type='SynFlow', density=0.25)).prune(network, input_shape=SHAPE)
    assert set(score.topk(score.numel() // 4).indices.tolist()) == set(
        masks['conv.weight'].flatten().nonzero().flatten().tolist()
    )


def test_channels_last():
    weight = positive(7, 4, 3, 3).to(memory_format=torch.channels_last).requires_grad_()
    image = positive(1, 4, 6, 5).to(memory_format=torch.channels_last).requires_grad_()
    compare(lambda x: F.conv2d(x, weight), [weight, image], lambda: image, lambda: image)


def test_the_gradient_lands_in_the_buffer_and_a_second_use_is_added():
    weight, buffer = positive(4, 4, 3, 3).requires_grad_(), torch.empty(4, 4, 3, 3, dtype=torch.float64)
    with FewWindows([(weight, buffer)]):
        once = F.conv2d(few(), weight, padding=1).sum()
    (grad,) = torch.autograd.grad(once, weight)
    assert grad.data_ptr() == buffer.data_ptr()
    with FewWindows([(weight, buffer)]):
        twice = F.conv2d(F.conv2d(few(), weight, padding=1), weight, padding=1).sum()
    (want,) = torch.autograd.grad(F.conv2d(F.conv2d(ones(), weight, padding=1), weight, padding=1).sum(), weight)
    (grad,) = torch.autograd.grad(twice, weight)
    torch.testing.assert_close(grad, want, rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ('shape', 'dtype', 'settings'),
    [
        ((2, 4, 6, 6), torch.float64, {}),
        ((1, 4, 6, 6), torch.float32, {}),
        ((1, 8, 6, 6), torch.float64, dict(groups=2)),
        ((1, 4, 6, 6), torch.float64, dict(padding='same')),
        ((4, 6, 6), torch.float64, {}),
    ],
)
def test_others_run_as_ever(shape, dtype, settings):
    image, weight = torch.rand(shape, dtype=dtype), torch.rand(4, 4, 3, 3, dtype=dtype)
    want = F.conv2d(image, weight, **settings)
    with FewWindows():
        assert torch.equal(F.conv2d(image, weight, **settings), want)
