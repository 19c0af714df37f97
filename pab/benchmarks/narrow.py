"""Training and inference without the channels that pruning has left without use, beside the dense network."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from ..costs.count import count_layers
from ..costs.narrow import block_width, narrow_macs
from ..export import export
from ..narrowing import TrainedPart, find_cuts, narrow
from ..optim import Bop, TopFlips
from ..pruners import SynFlow, apply_masks_, get_masks
from ..psg import PSGConfig, convert_psg_
from .networks import Case, Contender, dense, make_network, sgd, two_optimizers
from .timing import Row, Settings, alternate, row

DENSITIES = (0.3, 0.1, 0.05)
WAYS = {  # the peer is SGD on all weights of the dense network
    'SGD': lambda network: [sgd(network.parameters())],
    'TopFlips': two_optimizers(lambda params, **_: TopFlips(params)),
    'PSG + Bop': two_optimizers(Bop),
}


def measure(settings: Settings) -> list[Row]:
    """Steps in float32 and bfloat16, and onnxruntime."""
    rows = []
    for case in _cases(settings):
        for density in DENSITIES[2:] if settings.tiny else DENSITIES:
            network = make_network(case)
            pruner = SynFlow(density=density, rounds=10 if settings.tiny else 100)
            apply_masks_(network, pruner.prune(network, input_shape=(3, case.size, case.size), seed=0))
            for precision in (None, torch.bfloat16):
                rows += _steps(replace(case, precision=precision), density, network, settings)
            if settings.device == 'cpu' and find_spec('onnxruntime') and find_spec('onnxscript'):
                rows += _inference(case, density, network, settings)
    return rows


def _cases(settings: Settings) -> list[Case]:
    if settings.tiny:
        return [Case('ResNet-8 tiny', dict(type='CIFARResNet', depth=8, width=8), 4, 8, 10)]
    many = 8 if settings.device == 'cuda' else 1
    return [
        Case('ResNet-18', dict(type='CIFARResNet', depth=18), 32 * many, 32, 10),
        Case('ResNet-20', dict(type='CIFARResNet', depth=20), 64 * many, 32, 10),
        Case('VGG-16', dict(type='CIFARVGG', depth=16), 32 * many, 32, 10),
    ]


def _steps(case: Case, density: float, network: nn.Module, settings: Settings) -> list[Row]:
    kind = 'bfloat16' if case.precision else 'float32'
    contenders = {f'narrow, {way}': _narrow(case, make, way, settings, network) for way, make in WAYS.items()}
    contenders['dense SGD'] = dense(case, settings)
    seconds = alternate({name: contender.step for name, contender in contenders.items()}, settings)
    rows = []
    for name in contenders:
        where = f'{case.name}, batch {case.batch}, {kind}, density {density}'
        peer = 'dense SGD' if name != 'dense SGD' else None
        details = _forecast(case, network) if name == 'dense SGD' else {}
        rows.append(row('narrow', where, name, seconds, peer, **details))
    return rows


def _narrow(case: Case, make: Callable, way: str, settings: Settings, pruned: nn.Module) -> Contender:
    network, masks = make_network(case), get_masks(pruned)
    apply_masks_(network, masks)
    if way == 'PSG + Bop':
        convert_psg_(network, PSGConfig())
    contender = Contender(case, network, make, settings)
    cuts = find_cuts(network, (3, case.size, case.size), masks)
    TrainedPart(network, cuts).enter(contender.optimizers)
    return contender


def _forecast(case: Case, network: nn.Module) -> dict[str, str]:
    shape = (3, case.size, case.size)
    small, layers = narrow(network, shape, multiple=1), count_layers(network, shape)  # as it trains
    sizes = {layer.name: tuple(small.get_submodule(layer.name).weight.shape[:2]) for layer in layers}
    whole = narrow_macs(layers, {})
    counts = {'MACs': narrow_macs(layers, sizes), 'in blocks': narrow_macs(layers, sizes, block_width())}
    return {name: f'{count / whole:.3f}' for name, count in counts.items()}


def _inference(case: Case, density: float, network: nn.Module, settings: Settings) -> list[Row]:
    """A batch by onnxruntime, on as many threads as torch has."""
    import onnxruntime

    images, shape, runs = torch.randn(case.batch, 3, case.size, case.size), (3, case.size, case.size), {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        for name, small in (('narrow', narrow(network, shape)), ('whole', None)):
            file = Path(folder) / f'{name}.onnx'
            export(network, file, images[:2], 'onnx', network=small, fold_batch_norm=True, tolerance=1e-4)
            session = onnxruntime.InferenceSession(str(file), options, providers=['CPUExecutionProvider'])
            runs[name] = lambda session=session: session.run(None, {'images': images.numpy()}) and None
    seconds = alternate(runs, settings)
    where = f'{case.name}, batch {case.batch}, density {density}'
    peers = {'narrow': 'whole', 'whole': None}
    return [row('onnxruntime', where, name, seconds, peer) for name, peer in peers.items()]
