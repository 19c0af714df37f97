"""Convolutions as matrix products equal torch's, forward and backward."""

import pytest
import torch
import torch.nn.functional as F

from pab.pruners.flow import OneImageConvolutions

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
}


def gradients(image, weight, bias, mode, settings):
    leaves = [t.clone().requires_grad_() for t in (image, weight, bias)]
    with mode:
        output = F.conv2d(leaves[0], leaves[1], leaves[2], **settings)
    return output, torch.autograd.grad((output * output).sum(), leaves)


@pytest.mark.parametrize('case', CASES)
@pytest.mark.parametrize('image', ['random', 'ones', 'half'])
@pytest.mark.parametrize('outside', [3, 80])
def test_equals_the_ordinary_convolution(case, image, outside):
    settings = dict(CASES[case])
    kernel = settings.pop('kernel')
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    weight = torch.rand(outside, 4, *kernel, dtype=torch.float64)
    bias = torch.rand(outside, dtype=torch.float64)
    image = {
        'random': torch.rand(1, 4, 15, 12, dtype=torch.float64),
        'ones': torch.ones(1, 4, 15, 12, dtype=torch.float64),
        'half': torch.rand(1, 4, 15, 6, dtype=torch.float64).repeat_interleave(2, 3),
    }[image]
    want = gradients(image, weight, bias, torch.enable_grad(), settings)
    got = gradients(image, weight, bias, OneImageConvolutions(), settings)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


def test_channels_last():
    image = torch.rand(1, 4, 6, 5, dtype=torch.float64).to(memory_format=torch.channels_last)
    weight = torch.rand(7, 4, 3, 3, dtype=torch.float64).to(memory_format=torch.channels_last)
    bias = torch.rand(7, dtype=torch.float64)
    want = gradients(image, weight, bias, torch.enable_grad(), {})
    got = gradients(image, weight, bias, OneImageConvolutions(), {})
    torch.testing.assert_close(got, want, rtol=1e-12, atol=0)


def test_the_gradient_lands_in_the_buffer_and_a_second_use_is_added():
    weight = torch.rand(4, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    image, buffer = torch.ones(1, 4, 6, 6, dtype=torch.float64), torch.empty(4, 4, 3, 3, dtype=torch.float64)
    with OneImageConvolutions([(weight, buffer)]):
        once = F.conv2d(image, weight, padding=1).sum()
    (grad,) = torch.autograd.grad(once, weight)
    assert grad.data_ptr() == buffer.data_ptr()
    with OneImageConvolutions([(weight, buffer)]):
        twice = F.conv2d(F.conv2d(image, weight, padding=1), weight, padding=1).sum()
    (want,) = torch.autograd.grad(F.conv2d(F.conv2d(image, weight, padding=1), weight, padding=1).sum(), weight)
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
    with OneImageConvolutions():
        assert torch.equal(F.conv2d(image, weight, **settings), want)
