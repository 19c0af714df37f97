"""PSG layers under DistributedDataParallel: two processes see the mean of what each would see alone."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import distributed as dist, nn

from pab.psg import PSGConfig, convert_psg_

WORLD = 2


def network():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, stride=2), nn.Flatten(), nn.Linear(36, 2))
    return convert_psg_(net, PSGConfig(input_bits=5), layers=('Conv2d', 'Linear'))


def gradients(net, rank):
    images = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(rank))
    images = images.abs() if rank else images  # each process decides for itself whether its batch is signed
    net(images).square().sum().backward()
    return [p.grad.clone() for p in net.parameters()]


def work(rank, port, folder):
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    dist.init_process_group('gloo', rank=rank, world_size=WORLD)
    torch.save(gradients(nn.parallel.DistributedDataParallel(network()), rank), folder / f'{rank}.pth')
    dist.barrier()
    dist.destroy_process_group()
    time.sleep(1)  # gloo's threads may otherwise outlive the interpreter and abort it


def test_gradients_are_the_mean_over_ranks(tmp_path):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    workers = [subprocess.Popen([sys.executable, __file__, str(r), str(port), str(tmp_path)]) for r in range(WORLD)]
    assert [worker.wait(timeout=120) for worker in workers] == [0] * WORLD
    alone = [gradients(network(), rank) for rank in range(WORLD)]
    for rank in range(WORLD):
        for got, *each in zip(torch.load(tmp_path / f'{rank}.pth'), *alone, strict=True):
            torch.testing.assert_close(got, sum(each) / WORLD)


if __name__ == '__main__':
    work(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
