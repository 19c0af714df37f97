"""What the tests of the flow share: an image of ones in both forms, and what is to be equal."""

import torch

from pab.pruners.flow import FewWindows, RepetitiveImage

SHAPE = (4, 15, 12)


def ones(shape=SHAPE):
    return torch.ones(1, *shape, dtype=torch.float64)


def few(shape=SHAPE):
    return RepetitiveImage.of_ones(shape)


def positive(*shape):
    return torch.rand(shape, dtype=torch.float64)


def weigh(output):
    """A scalar that depends on each entry in another way."""
    return (output * torch.linspace(1, 2, output.numel(), dtype=torch.float64).view(output.shape)).sum()


def compare(network, leaves, image=few, plain=ones, rtol=1e-11):
    """network(image) and its gradients, with few windows and by torch alone."""
    want = weigh(network(plain()))
    want = want, *torch.autograd.grad(want, leaves, materialize_grads=True)
    with FewWindows():
        got = weigh(network(image()))
    got = got, *torch.autograd.grad(got, leaves, materialize_grads=True)
    for ours, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=rtol * theirs.detach().abs().max().item())


def parameters(module):
    for parameter in module.parameters():
        parameter.data.abs_().add_(0.01)
    return list(module.parameters())
