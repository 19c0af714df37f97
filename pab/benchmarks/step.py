"""A training step with PSG and Bop beside the best dense step."""

import statistics
from dataclasses import replace

import torch

from ..pruners import apply_masks_
from ..psg import PSGConfig
from ..psg.autograd import fast_bfloat16
from .networks import PHASES, Case, Contender, baseline, dense, make_network, ours
from .timing import Row, Settings, alternate, row

PRODUCT = 'PSG of 8 bits in bfloat16 + Bop'
MEMORY_BATCH = {'ResNet-18 CIFAR': 16, 'ResNet-20': 128}


def measure(settings: Settings) -> list[Row]:
    """All cases of the device."""
    rows = []
    for case in _cases(settings):
        rows += _steps(case, settings)
        rows += _memory(case, settings)
    rows += _extras(_cases(settings)[-1 if settings.device == 'cpu' else 0], settings)
    return rows


def _cases(settings: Settings) -> list[Case]:
    if settings.tiny:
        return [Case('ResNet-8 tiny', dict(type='CIFARResNet', depth=8, width=4), 4, 8, 10)]
    resnet18 = dict(type='CIFARResNet', depth=18)
    if settings.device == 'cpu':
        resnet20 = dict(type='CIFARResNet', depth=20)
        kinds = {'': None, ' bfloat16': torch.bfloat16} if fast_bfloat16('cpu') else {'': None}
        return [
            Case(f'{name}{kind}', network, batch, 32, 10, precision)
            for name, network, batch in (('ResNet-18 CIFAR', resnet18, 64), ('ResNet-20', resnet20, 128))
            for kind, precision in kinds.items()
        ]
    resnet50 = dict(type='TorchvisionModel', name='resnet50', num_classes=1000)
    return [
        Case(f'{name} {kind}', network, batch, size, classes, precision)
        for name, network, batch, size, classes in (
            ('ResNet-18 CIFAR', resnet18, 512, 32, 10),
            ('ResNet-50 224', resnet50, 128, 224, 1000),
        )
        for kind, precision in (('TF32', None), ('bfloat16', torch.bfloat16))
    ]


def _steps(case: Case, settings: Settings) -> list[Row]:
    contenders = {
        'PSG + Bop': ours(case, settings),
        'dense SGD': dense(case, settings),
    }
    if settings.device == 'cuda' or case.precision is None:  # its products of bfloat16 do not run on every CPU
        contenders['baseline'] = baseline(case, settings)
    if case.precision is None and fast_bfloat16(settings.device):
        contenders[PRODUCT] = ours(case, settings, psg=PSGConfig(grad_bits=8, bfloat16_product=True))
    if settings.compile:
        contenders['PSG + Bop, compiled'] = ours(case, settings, compile=True)
        contenders['dense SGD, compiled'] = dense(case, settings, compile=True)
    seconds = alternate({name: contender.step for name, contender in contenders.items()}, settings)
    peer = min((name for name in contenders if name.startswith('dense')), key=lambda n: statistics.median(seconds[n]))
    rows = []
    for name, contender in contenders.items():
        details = {'images_per_second': round(case.batch / statistics.median(seconds[name]), 1)}
        details |= _phases(contender, settings)
        to = None if name == peer else peer
        rows.append(row('step', f'{case.name}, batch {case.batch}', name, seconds, to, **details))
    return rows


def _phases(contender: Contender, settings: Settings) -> dict[str, str]:
    measured = [contender.phases() for _ in range(max(3, settings.repeats // 3))]
    return {name: f'{1e3 * statistics.median(m[name] for m in measured):.4g} ms' for name in PHASES}


def _memory(case: Case, settings: Settings) -> list[Row]:
    """Bytes saved for the backward pass on a CPU, the peak of a step on a GPU."""
    on_gpu = settings.device == 'cuda'
    batch = case.batch if on_gpu else MEMORY_BATCH.get(case.name, case.batch)
    case = replace(case, batch=batch)
    megabytes = {}
    makers = {'PSG + Bop': ours, 'dense SGD': dense}
    if on_gpu or case.precision is None:
        makers['baseline'] = baseline
    for name, make in makers.items():
        contender = make(case, settings)
        contender.step()
        megabytes[name] = (contender.peak_bytes() if on_gpu else contender.saved_bytes()) / 2**20
        del contender
    measure_name, peer = 'peak memory' if on_gpu else 'saved for backward', 'dense SGD'
    rows = []
    for name, value in megabytes.items():
        line = Row(measure_name, f'{case.name}, batch {batch}', name, value, 0.0, 'MiB')
        if name != peer:
            line.peer, line.ratio, line.ratio_spread = peer, value / megabytes[peer], 0.0
        rows.append(line)
    return rows


def _extras(case: Case, settings: Settings) -> list[Row]:
    """A step with masks, their hooks and the counting of flips, beside one without."""
    masked_network = make_network(case)
    generator = torch.Generator().manual_seed(1)
    convs = {name: p.shape for name, p in masked_network.named_parameters() if p.dim() == 4}
    apply_masks_(masked_network, {n: torch.rand(shape, generator=generator) < 0.3 for n, shape in convs.items()})
    counts = torch.zeros(1000, dtype=torch.int64, device=settings.device)
    steps = iter(range(10**9))

    def count(contender: Contender) -> None:
        counts[next(steps) % len(counts)] += contender.optimizers[0].last_flips

    masked, bare = 'masks, hooks, flip counts', 'without'
    runs = {
        masked: ours(case, settings, network=masked_network, after_step=count).step,
        bare: ours(case, settings).step,
    }
    seconds = alternate(runs, settings.for_small_ratios())
    where = f'{case.name}, batch {case.batch}'
    return [row('step', where, masked, seconds, peer=bare), row('step', where, bare, seconds)]
