"""Latent signs: the numbers of the research code, and where each mode's gradient goes."""

import json

import numpy as np
import pytest
import torch
from torch import nn

from pab.latent import LatentSigns


def layer_of(mode, weight, latent, **options):
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2:], bias=False, **options)
    conv.weight.data = weight.clone()
    LatentSigns(mode)(conv)
    conv.latent.data = latent.clone()
    return conv


@pytest.mark.parametrize('channels_last', [False, True])
@pytest.mark.parametrize('case', range(3))
def test_numbers_of_the_research_code(golden_folder, case, channels_last):
    with np.load(golden_folder / 'latent_sign.npz') as file:
        meta = json.loads(str(file['meta']))[case]
        gold = {key[2:]: torch.from_numpy(file[key]) for key in file.files if key.startswith(f'{case}_')}
    conv = layer_of(meta['act'], gold['w'] * gold['mask'], gold['latent'], padding=1)
    images, order = gold['x'].requires_grad_(), torch.channels_last if channels_last else torch.contiguous_format
    out = conv.to(memory_format=order)(images.contiguous(memory_format=order))
    out.backward(gold['grad_out'])
    torch.testing.assert_close(out, gold['y'])
    torch.testing.assert_close(images.grad, gold['grad_x'])
    torch.testing.assert_close(conv.latent.grad, gold['grad_latent'])
    if meta['act'] == 'ternary':
        assert (conv.lo.item(), conv.hi.item()) == pytest.approx((meta['lo'], meta['hi']))
        torch.testing.assert_close(conv.lo.grad, gold['grad_lo'])
        torch.testing.assert_close(conv.hi.grad, gold['grad_hi'])
    assert conv.weight.grad is None
    assert not conv.weight.requires_grad


@pytest.mark.parametrize(
    ('mode', 'signs', 'grads'),
    [
        ('flipping', [-1, -1, 0, 1, 1], [2, 2, 2, 2, 2]),
        ('pruning', [0, 0, 0, 1, 1], [2, 2, 2, 2, 2]),  # the gradient of sign(relu(t)) as a whole is 1
        ('ternary', [-1, 0, 0, 0, 1], [2, 0, 0, 0, 2]),  # only where a relu is active
    ],
)
def test_by_hand(mode, signs, grads):
    conv = layer_of(mode, torch.full((1, 5, 1, 1), 2.0), torch.tensor([-0.5, -0.05, 0.0, 0.05, 0.5]).view(1, 5, 1, 1))
    used = conv.used_weight()
    assert used.flatten().tolist() == [2 * sign for sign in signs]
    used.sum().backward()
    assert conv.latent.grad.flatten().tolist() == grads
    if mode == 'ternary':  # above hi: d(t - hi) = -1; below lo: -d(lo - t) = -1
        assert (conv.lo.grad.item(), conv.hi.grad.item()) == (-2, -2)


@pytest.mark.parametrize(
    ('mode', 'names', 'low', 'high'),
    [
        ('flipping', ['latent'], 0.01, 0.1),
        ('pruning', ['latent'], 0.01, 0.1),
        ('ternary', ['hi', 'latent', 'lo'], -1.0, 1.0),
    ],
)
def test_parameters_and_where_they_start(mode, names, low, high):
    conv = LatentSigns(mode)(nn.Conv2d(16, 32, 3, bias=False))
    assert sorted(name for name, p in conv.named_parameters() if p.requires_grad) == names
    assert low <= conv.latent.min() < low + 0.01 * (high - low)
    assert high - 0.01 * (high - low) < conv.latent.max() < high
    assert conv.latent.mean().item() == pytest.approx((low + high) / 2, rel=0.05, abs=0.05)
    if mode == 'ternary':
        assert (conv.lo.tolist(), conv.hi.tolist()) == (pytest.approx([-0.1]), pytest.approx([0.1]))


def test_ternary_bounds_may_cross_zero():
    conv = LatentSigns('ternary')(nn.Conv2d(4, 1, 1, bias=False))
    conv.weight.data.fill_(1)
    conv.lo.data.fill_(0.05)
    conv.latent.data = torch.tensor([0.0, -0.02, 0.06, 0.5]).view(1, 4, 1, 1)
    assert conv.used_weight().flatten().tolist() == [-1, -1, 0, 1]
    conv.used_weight().sum().backward()
    assert conv.lo.grad.tolist() == [-2]  # one for each latent below it


def test_an_unknown_mode():
    with pytest.raises(ValueError, match="LatentSigns: unknown mode 'binary'; known: flipping, pruning, ternary"):
        LatentSigns('binary')
