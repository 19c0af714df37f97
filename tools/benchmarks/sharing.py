"""What a batch that is shared by processes, and gradients that travel in bfloat16, change in the flips of Bop.

    python tools/benchmarks/sharing.py

The quickstart's network trains on digits in one process, on whole batches of 64 and with batch norm in evaluation mode.
Beside the averages that decide its flips run others, along the same weights: from the mean of the gradients of the two
halves, each with PSG scales of its own, and from that mean rounded as the communication hook rounds it. Printed are
the relative distance of the gradients, and how many decisions to flip or not would have been others.
"""

from pathlib import Path

import torch
from mmengine.config import Config
from torch import Tensor, nn

from pab.pruners import apply_masks_
from pab.registry import DATASETS, MODELS, PRUNERS

STEPS, BATCH, RATE, THRESHOLD = 138, 64, 1e-2, 1e-6


def gradients(model: nn.Module, params: list[Tensor], images: Tensor, labels: Tensor) -> list[Tensor]:
    loss = nn.functional.cross_entropy(model.network(images), labels)
    return list(torch.autograd.grad(loss, params))


def compressed(parts: list[list[Tensor]], dtype: torch.dtype = torch.bfloat16) -> list[Tensor]:
    """The sum of the processes' gradients, each divided by their number and rounded, and the sum rounded."""
    return [sum(g.to(dtype) / len(parts) for g in same).float() for same in zip(*parts, strict=True)]


def main(psg: bool) -> None:
    cfg = Config.fromfile(str(Path(__file__).parents[2] / 'configs' / 'pab' / 'quickstart.py'))
    if not psg:
        cfg.model.converter = None
    cfg.data_preprocessor.crop_padding = 0
    torch.manual_seed(0)
    model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    model.init_weights()
    masks = PRUNERS.build(cfg.default_hooks.prune.pruner).prune(model.network, input_shape=(1, 8, 8))
    apply_masks_(model.network, masks)
    data = DATASETS.build(cfg.train_dataloader.dataset)
    batch = model.data_preprocessor(data.__getitems__(range(len(data))))
    images, labels = batch['images'], batch['labels']
    with torch.no_grad():
        for module in model.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # the statistics of the whole set
        model.train()(images, labels, mode='loss')
    model.eval()
    params = [p for name, p in model.network.named_parameters() if name in masks]
    rest = [p for name, p in model.network.named_parameters() if name not in masks]
    sgd = torch.optim.SGD(rest, lr=0.01, momentum=0.9)

    ways = ('whole batch', 'two halves', 'two halves in bfloat16')
    averages = {way: [torch.zeros_like(p) for p in params] for way in ways}
    distance, otherwise, flips = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, 0), 0
    order = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        chosen = torch.randperm(len(images), generator=order)[:BATCH]
        x, y = images[chosen], labels[chosen]
        halves = [gradients(model, params, x[i::2], y[i::2]) for i in range(2)]
        loss = nn.functional.cross_entropy(model.network(x), y)
        whole = torch.autograd.grad(loss, params + rest)
        for p, g in zip(rest, whole[len(params) :], strict=True):
            p.grad = g
        sgd.step()
        mean = [sum(same) / 2 for same in zip(*halves, strict=True)]
        seen = dict(zip(ways, (whole[: len(params)], mean, compressed(halves)), strict=True))
        decided = {}
        for way, grads in seen.items():
            grads = [g * masks_of for g, masks_of in zip(grads, masks.values(), strict=True)]
            for m, g in zip(averages[way], grads, strict=True):
                m.mul_(1 - RATE).add_(g, alpha=RATE)
            decided[way] = [_flips(p, m) for p, m in zip(params, averages[way], strict=True)]
            distance[way] += _distance(grads, seen[ways[0]] if way == ways[1] else mean) / STEPS
        with torch.no_grad():
            for p, flip in zip(params, decided[ways[0]], strict=True):
                p.copy_(torch.where(flip, -p, p))
        flips += sum(int(flip.sum()) for flip in decided[ways[0]])
        for way, before in ((ways[1], ways[0]), (ways[2], ways[1])):
            otherwise[way] += sum(int((a != b).sum()) for a, b in zip(decided[way], decided[before], strict=True))
    print(f'PSG {"on" if psg else "off"}: {flips:,} flips in {STEPS} steps')
    for way, before in ((ways[1], ways[0]), (ways[2], ways[1])):
        print(f'  {way} beside {before}: gradients {distance[way]:.2e} apart, {otherwise[way]:,} decisions differ')


def _flips(weight: Tensor, average: Tensor) -> Tensor:
    return (average.abs() >= THRESHOLD) & (average * weight > 0)


def _distance(some: list[Tensor], others: list[Tensor]) -> float:
    flat, other = (torch.cat([g.flatten() for g in grads]) for grads in (some, others))
    return float((flat - other).norm() / other.norm())


if __name__ == '__main__':
    for psg in (False, True):
        main(psg)
