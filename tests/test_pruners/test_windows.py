"""A convolution over distinct windows equals torch's own, forward and backward."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pab.pruners.flow import FewWindows, RepetitiveImage
from tests.test_pruners.flowing import SHAPE, compare, few, ones, positive

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
