"""BatchNorm whose scale and shift stay 1 and 0."""

import torch
from torch import nn

from pab.latent import AffineFreeBatchNorm
from pab.models import initialize_


def test_it_is_batch_norm_without_affine():
    network = AffineFreeBatchNorm()(nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)))
    others = nn.Sequential(nn.BatchNorm2d(4, affine=False), nn.BatchNorm2d(4, affine=False))
    images = torch.randn(5, 4, 3, 3, requires_grad=True)
    twins = images.detach().clone().requires_grad_()
    for _ in range(3):
        outputs = network(images), others(twins)
        assert torch.equal(*outputs)
    for output in outputs:
        (output**3).sum().backward()
    assert torch.equal(images.grad, twins.grad)
    assert torch.equal(network.eval()(images), others.eval()(twins))
    assert all(map(torch.equal, network.buffers(), others.buffers()))


def test_scale_and_shift_are_kept_and_frozen():
    network = nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4))
    names = set(network.state_dict())
    nn.init.normal_(network[0].weight)
    AffineFreeBatchNorm(layers=['name:0'])(network)
    assert network[0].weight.tolist() == [1] * 4
    assert network[0].bias.tolist() == [0] * 4
    assert [p.requires_grad for p in network.parameters()] == [False, False, True, True]
    assert set(network.state_dict()) == names
    initialize_(network)
    assert [p.requires_grad for p in network.parameters()] == [False, False, True, True]
