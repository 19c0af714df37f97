"""Numbers of the research code: the quantiser, and 38 layers with every kind of setting."""

import json
from dataclasses import fields

import numpy as np
import pytest
import torch

from pab.psg import PSGConfig, PSGConv2d, quantize as q

SCALES = {
    'per-tensor mean of per-sample max': lambda x: q.input_range(x)[1],
    'per-row max': q.channel_scale,
    'per-tensor max': q.tensor_scale,
}


def load(folder, name):
    with np.load(folder / f'{name}.npz') as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files if key != 'meta'}
        return json.loads(str(file['meta'])), arrays


def relative_error(got, want):
    got, want = got.detach().double(), want.double()
    return float((got - want).norm() / want.norm())


@pytest.mark.parametrize('case', range(5))
def test_quantizer(golden_folder, case):
    meta, arrays = load(golden_folder, 'quantize')
    setting, x = meta[case], arrays[f'{case}_x']
    scale = SCALES[setting['range']](x)
    assert torch.equal(scale.flatten(), arrays[f'{case}_scale'].flatten())
    got = q.quantize(x, setting['bits'], -scale if setting['signed'] else 0 * scale, scale)
    assert relative_error(got, arrays[f'{case}_q']) < 1e-6


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('case', range(38))
def test_layer(golden_folder, case, channels_last):
    meta, arrays = load(golden_folder, 'psg_conv')
    setting = meta[case]
    names = ('x', 'w', 'mask', 'grad_out', 'y', 'grad_x', 'grad_w')
    x, w, mask, grad_out, y, grad_x, grad_w = (arrays[f'{case}_{name}'] for name in names)
    sizes = [setting[key] for key in ('cin', 'cout', 'k', 'stride', 'padding', 'dilation', 'groups')]
    psg = PSGConfig(**{field.name: setting[field.name] for field in fields(PSGConfig) if field.name in setting})
    layer = PSGConv2d(*sizes, bias=False, psg=psg)
    layer.weight.data = w * mask
    order = torch.channels_last if channels_last else torch.contiguous_format
    out = layer.to(memory_format=order)(x.requires_grad_().contiguous(memory_format=order))
    out.backward(grad_out)
    assert relative_error(out, y) < 1e-6
    assert relative_error(x.grad, grad_x) < 1e-6
    assert relative_error(layer.weight.grad * mask, grad_w) < 1e-6
