"""Networks to export, and what reads and runs a file; the libraries for it are imported where they are used."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pab.pruners import apply_masks_
from pab.psg import convert_psg_

PACKAGES = ('onnx', 'onnxruntime', 'onnxscript')
needs_onnx = pytest.mark.skipif(not all(map(find_spec, PACKAGES)), reason=f'needs {", ".join(PACKAGES)}')


@torch.no_grad()
def used(network: nn.Module) -> nn.Module:
    """Give BatchNorm statistics and factors as a training leaves them."""
    generator = torch.Generator().manual_seed(2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.5, generator=generator)
            for tensor in (module.running_var, module.weight):
                tensor.uniform_(0.5, 1.5, generator=generator)
            module.bias.normal_(0, 0.2, generator=generator)
    return network


def trained(network: nn.Module) -> nn.Module:
    """PSG layers, masks of half of the weights, statistics of BatchNorm."""
    network = used(convert_psg_(network, layers=['Conv2d', 'Linear']))
    generator = torch.Generator().manual_seed(0)
    weights = {f'{name}.weight': m.weight for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}
    apply_masks_(network, {name: torch.rand(w.shape, generator=generator) < 0.5 for name, w in weights.items()})
    return network


def stored(file: Path) -> Any:
    """The content of an ONNX file."""
    import onnx

    return onnx.load(file)


def tensors_of(proto: Any) -> dict[str, Any]:
    """The tensors in it, by name."""
    from onnx import numpy_helper

    return {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}


def session_of(file: Path) -> Any:
    """An ONNX file, ready to run."""
    import onnxruntime

    return onnxruntime.InferenceSession(str(file), providers=['CPUExecutionProvider'])


def run_file(file: Path, images: torch.Tensor) -> torch.Tensor:
    if file.suffix == '.onnx':
        return torch.from_numpy(session_of(file).run(['logits'], {'images': images.numpy()})[0])
    return torch.export.load(file).module()(images)
