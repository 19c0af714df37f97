"""Compare ways to train signs on a small budget: ResNet-20, SynFlow density 0.3, CIFAR-10 at 16 x 16 or 32 x 32.

    python tools/screen_signs.py --rule share --share 3e-3 --gamma 1e-2

Exact gradients under bfloat16 autocast, batch 128, crop and flip; SGD (0.1, momentum 0.9, weight decay 5e-4) on
BatchNorm and classifier, with a warm-up over a tenth of the steps and a cosine. It prints the test accuracy after
each epoch, for the screening in docs/results.md. A rule that earns its place becomes an optimizer of pab.
"""

import argparse
import math

import torch
import torch.nn.functional as F
from torch import nn

from pab.datasets import CIFAR10
from pab.models import CIFARResNet, ImagePreprocessor, initialize_
from pab.pruners import SynFlow

RULES = {
    'bop': 'Bop: w flips where its average m agrees in sign',
    'share': 'the share of each tensor with the largest m * sign(w) flips; then m is multiplied by --reset',
    'sum': 'the same, with m a plain sum of the gradients',
    'control': 'as share, by a threshold of each tensor that a controller moves',
    'normalised': 'as share, of m / sqrt(v), v the average of the squared gradient',
    'latent': 'latent signs: w = |w| sign(t), t by SGD with --latent-lr and momentum 0.9',
    'sgd': 'the magnitudes too, by SGD',
}


def main() -> None:
    rules = '\n'.join(f'  {name:11} {text}' for name, text in RULES.items())
    parser = argparse.ArgumentParser(
        description=f'{__doc__}\nrules:\n{rules}', formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--rule', choices=RULES, default='share')
    parser.add_argument('--share', type=float, default=3e-3, help='flips / kept weights in the first step')
    parser.add_argument('--gamma', type=float, default=1e-2, help='share of the newest gradient in m')
    parser.add_argument('--gamma-end', type=float, default=1.0, help='gamma falls exponentially to this multiple')
    parser.add_argument('--reset', type=float, default=0.0, help='factor on m after a flip')
    parser.add_argument('--latent-lr', type=float, default=1.0)
    parser.add_argument('--steps', action='store_true', help='lr x 0.1 at 1/2 and 3/4; gamma x 0.15 each quarter')
    parser.add_argument('--init', default='kaiming_normal')
    parser.add_argument('--images', type=int, default=25000, help='how many of the training images')
    parser.add_argument('--epochs', type=int, default=4)
    parser.add_argument('--size', type=int, choices=(16, 32), default=16, help='side of the images, averaged to 16')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    Screening(args).run()


class Screening:
    """One run of one rule."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.net = initialize_(CIFARResNet(20), args.init, args.seed)
        masks = SynFlow(density=0.3, rounds=100).prune(self.net, input_shape=(3, 32, 32))
        self.net.to(memory_format=torch.channels_last)
        params = dict(self.net.named_parameters())
        self.weights = [params[name] for name in masks]
        self.masks = list(masks.values())
        self.kept = [int(mask.sum()) for mask in self.masks]
        with torch.no_grad():
            for weight, mask in zip(self.weights, self.masks, strict=True):
                weight.mul_(mask)
        self.m = [torch.zeros_like(weight) for weight in self.weights]
        self.v = [torch.zeros_like(weight) for weight in self.weights]
        self.latent = [weight.detach().clone() for weight in self.weights]
        self.thresholds: list = [None] * len(self.weights)
        signs = {id(weight) for weight in self.weights}
        rest = [p for p in params.values() if id(p) not in signs or args.rule == 'sgd']
        self.sgd = torch.optim.SGD(rest, lr=0.1, momentum=0.9, weight_decay=5e-4)
        self.prepare = ImagePreprocessor(
            (0.4914, 0.4822, 0.4465),
            (0.2023, 0.1994, 0.2010),
            crop_padding=args.size // 8,
            padding_value='mean',
            flip=True,
        )
        self.train, self.test = (self._images(split) for split in ('train', 'test'))
        self.train = tuple(part[: args.images] for part in self.train)
        self.total = args.epochs * math.ceil(args.images / 128)
        self.time = 0

    def run(self) -> None:
        images, labels = self.train
        for epoch in range(self.args.epochs):
            flips, steps = 0, 0
            for batch in torch.randperm(len(images)).split(128):
                data = self.prepare(dict(images=images[batch], labels=labels[batch]), True)
                with torch.autocast('cpu', torch.bfloat16):
                    loss = F.cross_entropy(self.net(data['images']), labels[batch])
                loss.backward()
                self.sgd.param_groups[0]['lr'] = 0.1 * self._fall(0.1)
                flips, steps = flips + int(self._step()), steps + 1
                self.sgd.step()
                self.net.zero_grad()
                self.time += 1
            rate = flips / sum(self.kept) / steps
            print(f'epoch {epoch + 1}: test accuracy {self._accuracy():.2f} %, flips {rate:.2e} of the weights a step')

    @torch.no_grad()
    def _step(self) -> int:
        for weight, mask in zip(self.weights, self.masks, strict=True):
            weight.grad.mul_(mask)
        return 0 if self.args.rule == 'sgd' else sum(self._flip(i, weight) for i, weight in enumerate(self.weights))

    def _flip(self, i: int, weight: nn.Parameter) -> int:
        args, m, grad, sign = self.args, self.m[i], weight.grad, weight.sign()
        if args.rule == 'latent':
            self.latent[i].sub_(m.mul_(0.9).add_(grad), alpha=args.latent_lr * self._fall(0.1))
            flips = (self.latent[i] > 0) != (weight > 0)
            flips &= weight != 0
        else:
            part = self.time / self.total
            gamma = args.gamma * (0.15 ** int(part * 4) if args.steps else args.gamma_end**part)
            m.add_(grad) if args.rule == 'sum' else m.lerp_(grad, gamma)
            evidence = m * sign
            if args.rule == 'normalised':
                self.v[i].lerp_(grad * grad, gamma)
                evidence /= self.v[i].sqrt() + 1e-12
            flips = (evidence >= (1e-6 if args.rule == 'bop' else self._threshold(i, evidence))) & (evidence > 0)
            if args.rule != 'bop':
                m[flips] *= args.reset
        weight.copy_(torch.where(flips, -weight, weight))
        return flips.sum()

    def _threshold(self, i: int, evidence: torch.Tensor) -> torch.Tensor:
        """What as many entries reach as are to flip."""
        due = self.args.share * self._fall(0.0) * self.kept[i]
        if self.args.rule == 'control' and self.time:
            threshold = self.thresholds[i]
        else:
            count = max(1, int(due)) if self.args.rule == 'control' else int(due + torch.rand(()))
            threshold = evidence.flatten().topk(count).values[-1] if count else torch.tensor(math.inf)
        if self.args.rule == 'control':
            excess = ((evidence >= threshold).sum() - due) / max(due, 1)
            self.thresholds[i] = threshold * torch.exp(0.1 * excess.clamp(max=3))
        return threshold

    def _fall(self, warm_up: float) -> float:
        part = self.time / self.total
        if self.args.steps:
            return 1.0 if part < 0.5 else 0.1 if part < 0.75 else 0.01
        if part < warm_up:
            return (self.time + 1) / (warm_up * self.total)
        return 0.5 + 0.5 * math.cos(math.pi * (part - warm_up) / (1 - warm_up))

    def _images(self, split: str) -> tuple[torch.Tensor, torch.Tensor]:
        data = CIFAR10(split)
        images = F.avg_pool2d(data.images.float(), 32 // self.args.size).round().to(torch.uint8)
        return images, data.labels.long()

    @torch.no_grad()
    def _accuracy(self) -> float:
        self.net.eval()
        right = 0
        for images, labels in zip(*(part.split(500) for part in self.test), strict=True):
            logits = self.net(self.prepare(dict(images=images, labels=labels), False)['images'])
            right += int((logits.argmax(1) == labels).sum())
        self.net.train()
        return 100 * right / len(self.test[1])


if __name__ == '__main__':
    main()
