"""A trained network as a file for other programs: ONNX, or a program of ``torch.export``.

The file holds the plain network: no masks, because pruned weights are 0 already, of every layer with a special
backward pass (:mod:`pab.contracts`) the ordinary forward pass, and of one with latents the used weight. The input
``images`` (N, C, H, W), float32, are normalised as the network was trained; N is free. The output ``logits`` is
(N, num_classes). No file is written before its content has been loaded and has given the model's own outputs. Beside
weights, graph and metadata the file holds nothing: no image, no path, no line of source.
"""

import copy
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule
from torch.fx.experimental.optimization import fuse
from torch.nn.modules.batchnorm import _BatchNorm

from .contracts import special_layers
from .files import check_free, write_atomically
from .models import network_of
from .narrowing import plain_copy

FORMATS = {'onnx': '.onnx', 'torch': '.pt2'}  # torch.export.load takes no other ending
TORCH_FOR_ONNX = '2.7'  # setup.cfg's extra export has the same
FOLDABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
SINGLE = 10  # images that are also checked one at a time
Run = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Exported:
    """The result of an export."""

    size: int  # of the file, in bytes
    batch_norms: tuple[int, int]  # layers of the model, and how many of them the file still has
    difference: float | None  # largest |logit of the file - logit of the model|; None when nothing could run the file
    largest: float  # largest |logit| of the model


def check_target(file: str | os.PathLike, format: str, overwrite: bool) -> None:
    """Refuse an unknown format, a file of another ending (ValueError), and one that is there (FileExistsError).

    An ImportError, too, for ONNX with a torch that cannot export it.
    """
    if format not in FORMATS:
        raise ValueError(f'export: format must be {" or ".join(FORMATS)}, got {format!r}')
    if Path(file).suffix != FORMATS[format]:
        raise ValueError(f'export: a file of format {format} must end in {FORMATS[format]}, got {file}')
    if format == 'onnx' and torch.__version__ < TORCH_FOR_ONNX:
        raise ImportError(
            f'export: ONNX needs torch {TORCH_FOR_ONNX} or newer, which translates BatchNorm, and this is '
            f'{torch.__version__}; update torch, or take the format torch'
        )
    check_free(file, overwrite)


def plain_network(model: nn.Module, fold_batch_norm: bool = False) -> nn.Module:
    """Return a copy of a model's network, on the CPU, for evaluation, without masks, latents, special backward passes.

    Args:
        model: an ImageClassifier or a bare network; stays as it is.
        fold_batch_norm: merge every BatchNorm whose only input is a convolution (or linear layer) that nothing else
            reads into that layer. Layers with a special backward pass then count as the torch layers they derive from.

    Raises:
        ValueError: there is no such BatchNorm, or torch.fx cannot follow the network's forward pass.
    """
    network = plain_copy(model)
    if not fold_batch_norm:
        return network
    for _, layer in special_layers(network):
        for kind in FOLDABLE:
            if isinstance(layer, kind):
                layer.__class__ = kind  # torch's fuse asks for exactly these types
    before = _batch_norms(network)
    try:
        folded = fuse(network, inplace=True) if before else network
    except Exception as error:  # whatever a forward pass does with the stand-ins of torch.fx
        raise _failed('torch.fx cannot follow the network, so leave its BatchNorm as it is', error) from error
    if _batch_norms(folded) == before:
        raise ValueError(f'export: none of the {before} BatchNorm layers follows a convolution; do not ask for folding')
    return folded


def export(
    model: nn.Module,
    file: str | os.PathLike,
    images: Tensor,
    format: str,
    *,
    network: nn.Module | None = None,
    fold_batch_norm: bool = False,
    tolerance: float = 1e-5,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write the network of a model for other programs, checked against the model itself.

    The check runs all ``images`` in one batch and the first ten one at a time.

    Args:
        model: an ImageClassifier or a bare network, images -> logits, both float32; stays as it is.
        file: where, ending in .onnx or .pt2; its folder is made.
        images: (N, C, H, W) float32, normalised as the network takes them; real ones, better than random ones, lead
            through all of the network.
        format: 'onnx', checked by onnxruntime where that is installed, or 'torch', a program of ``torch.export``.
        network: what to write instead of the model's own network, such as :func:`pab.narrow` of it; it is
            checked against the model all the same.
        fold_batch_norm: see :func:`plain_network`.
        tolerance: largest difference of a logit, as a share of the largest |logit| of the model; >= 0.
        metadata: plain data for whoever uses the file: ``metadata_props`` of ONNX (JSON, but strings as they are),
            or the extra file ``metadata.json`` of a torch program.
        overwrite: whether a file that is there may be replaced.

    Raises:
        FileExistsError: the file is there and ``overwrite`` is False.
        ImportError: onnx or onnxscript is missing, or torch is older than 2.7 and the format ONNX.
        ValueError: an argument is wrong, torch cannot export the network, or the result differs from the model; no
            file is written then.
    """
    check_target(file, format, overwrite)
    if not isinstance(images, Tensor) or images.dim() != 4 or len(images) == 0 or images.dtype != torch.float32:
        got = f'{images.dtype} {images.shape}' if isinstance(images, Tensor) else repr(images)[:100]
        raise ValueError(f'export: images must be a tensor (N, C, H, W), float32, N >= 1, got {got}')
    images = images.cpu().contiguous()
    if not (isinstance(tolerance, Real) and tolerance >= 0):
        raise ValueError(f'export: tolerance must be 0 or more, got {tolerance!r}')
    try:
        json.dumps(dict(metadata or {}), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f'export: metadata must be plain data that JSON can hold: {error}') from error
    with torch.no_grad():
        original = copy.deepcopy(network_of(model)).cpu().eval()
        expected, network = _logits(original, images), plain_network(network or model, fold_batch_norm)
        program = _traced(network, images.shape[1:])
        content, run = (_onnx if format == 'onnx' else _torch)(program, metadata or {})
        difference = run and _check(run, images, expected, tolerance)
    write_atomically(content, Path(file).expanduser())
    return Exported(
        len(content), (_batch_norms(original), _batch_norms(network)), difference, float(expected.abs().max())
    )


def _logits(network: nn.Module, images: Tensor) -> Tensor:
    """Run a network on images; ValueError unless it gives logits (N, classes), float32."""
    types = {value.dtype for value in network.state_dict().values() if isinstance(value, Tensor)}
    if odd := [kind for kind in types if kind.is_floating_point and kind != torch.float32]:
        raise ValueError(
            f'export: the network has numbers of {odd[0]}, and a file takes float32; call its float() before'
        )
    try:
        logits = network(images)
    except Exception as error:  # whatever a forward pass does with images of another kind
        raise _failed(f'{type(network).__name__} takes no images of shape {tuple(images.shape)}', error) from error
    if (
        not isinstance(logits, Tensor)
        or logits.dim() != 2
        or (len(logits), logits.dtype) != (len(images), torch.float32)
    ):
        got = f'{logits.dtype} {tuple(logits.shape)}' if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f'export: the network must give logits (N, classes), float32, got {got}; wrap it in a module whose forward '
            'pass returns them'
        )
    if not logits.isfinite().all():
        raise ValueError(
            f'export: {type(network).__name__} itself gives logits that are NaN or infinite, so there is nothing to '
            'compare with; give finite images, or an earlier checkpoint'
        )
    return logits


def _traced(network: nn.Module, shape: torch.Size) -> ExportedProgram:
    """The program of a network for images of a shape (C, H, W), without what it was traced from."""
    try:
        example = torch.zeros(2, *shape)  # a batch of 1 would be taken for a constant
        program = torch.export.export(network, (example,), dynamic_shapes=({0: Dim('batch')},), strict=False)
    except Exception as error:  # torch has no common class for what it cannot trace
        raise _failed(f'torch.export cannot follow {type(network).__name__}', error) from error
    program._example_inputs = None  # the setter of torch 2.6 takes no None
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta.pop('stack_trace', None)  # paths and lines of the source
    return program


def _onnx(program: ExportedProgram, metadata: Mapping[str, Any]) -> tuple[bytes, Run | None]:
    """The content of an ONNX file, and what runs it: None without onnxruntime."""
    try:
        import onnx  # noqa: F401 (torch imports it)
        from onnxscript import optimizer
    except ImportError as error:
        raise ImportError(f'export: ONNX needs {error.name}: pip install onnx onnxscript onnxruntime') from error
    names = {'input_names': ['images'], 'output_names': ['logits'], 'dynamic_shapes': ({0: 'batch'},)}
    # torch's optimize would fold BatchNorm without being asked
    exported = torch.onnx.export(program, dynamo=True, optimize=False, verbose=False, external_data=False, **names)
    optimizer.fold_constants(exported.model)
    optimizer.remove_unused_nodes(exported.model)
    for name, value in metadata.items():
        exported.model.metadata_props[name] = value if isinstance(value, str) else json.dumps(value)
    content = exported.model_proto.SerializeToString()
    try:
        import onnxruntime
    except ImportError:
        return content, None
    session = onnxruntime.InferenceSession(content, providers=['CPUExecutionProvider'])
    return content, lambda images: torch.from_numpy(session.run(None, {'images': images.numpy()})[0])


def _torch(program: ExportedProgram, metadata: Mapping[str, Any]) -> tuple[bytes, Run]:
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={'metadata.json': json.dumps(dict(metadata))})
    return content.getvalue(), torch.export.load(io.BytesIO(content.getvalue())).module()


def _check(run: Run, images: Tensor, expected: Tensor, tolerance: float) -> float:
    """The largest difference of a logit; ValueError if it is too large, or the best class is another one."""
    single = torch.cat([run(image) for image in images[:SINGLE].split(1)])
    got, expected = torch.cat([run(images), single]), torch.cat([expected, expected[:SINGLE]])
    difference = float((got - expected).abs().max())
    others = int((got.argmax(1) != expected.argmax(1)).sum())
    allowed = tolerance * float(expected.abs().max())
    if not difference <= allowed or others:  # a NaN is no small difference
        raise ValueError(
            f'export: the result differs from the model, so no file was written: logits by up to {difference:.2g} '
            f'(allowed: {allowed:.2g}), the best class for {others} of {len(got)} images. PSG with predictive_forward '
            'and layers whose exact forward pass is another one cannot be exported; for rounding, raise the tolerance'
        )
    return difference


def _batch_norms(network: nn.Module) -> int:
    return sum(isinstance(module, _BatchNorm) for module in network.modules())


def _failed(what: str, error: Exception) -> ValueError:
    return ValueError(f'export: {what}: {(str(error).strip().splitlines() or [type(error).__name__])[0]}')
