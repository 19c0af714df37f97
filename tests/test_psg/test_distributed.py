"""PSG layers under DistributedDataParallel: two processes see the mean of what each would see alone."""

import torch
from mmengine.config import Config
from torch import nn

from pab.psg import PSGConfig, convert_psg_
from tests.small_run import run_ranks

WORLD = 2


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.Flatten(), nn.Linear(36, 2))
    return convert_psg_(net, PSGConfig(input_bits=5), layers=('Conv2d', 'Linear'))


def gradients(net, rank):
    images = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(rank))
    images = images.abs() if rank else images  # each process decides for itself whether its batch is signed
    net(images).square().sum().backward()
    return [p.grad.numpy().copy() for p in net.parameters()]


def gradients_of_this_rank(cfg):
    return gradients(nn.parallel.DistributedDataParallel(network()), torch.distributed.get_rank())


def test_gradients_are_the_mean_over_ranks():
    ranks = run_ranks(WORLD, gradients_of_this_rank, Config())
    alone = [gradients(network(), rank) for rank in range(WORLD)]
    for status, found in ranks:
        assert status == 0, found
        for got, *each in zip(found, *alone, strict=True):
            torch.testing.assert_close(torch.tensor(got), torch.tensor(sum(each) / WORLD))
