"""Runs of every kind, as their config and a checkpoint of them, made in an instant."""

from pathlib import Path

import torch
from mmengine.config import Config
from torch import nn

from pab.pruners import Mag, apply_masks_, get_masks
from pab.registry import MODELS
from pab.state_dicts import PRUNING_RECORD
from tests.small_run import small_config

SEED = 11
BOP = dict(type='Bop', adaptivity_rate=0.1, threshold=1e-6, owns=['Conv2d.weight'])
PSG = dict(type='PSG', input_bits=8, grad_bits=16)
FLIPPING = dict(type='LatentSigns', mode='flipping')
KINDS = {  # converters; how sign-trained weights are stored; and what else is said of the run
    'bop': ([PSG], 'signs', dict(bop=True, prune=True)),
    'bop and flipping': ([dict(FLIPPING, layers=['name:layer1.*'])], 'signs', dict(bop=True)),
    'sgd': ([], 'values', {}),
    'sgd, pruned': ([], 'values', dict(prune=True)),
    'sgd, no seed': ([], 'values', dict(prune=True, init=None)),
    'flipping': ([FLIPPING], 'signs', {}),
    'flipping, pruned, psg': ([PSG, FLIPPING], 'signs', dict(prune=True)),
    'pruning': ([dict(type='LatentSigns', mode='pruning')], 'drawn', {}),
    'ternary': ([dict(type='LatentSigns', mode='ternary')], 'signs', {}),
    'edge-popup': (
        [dict(type='EdgePopup', density=0.3, scope='global'), dict(type='AffineFreeBatchNorm')],
        'drawn',
        dict(init=dict(scheme='kaiming_constant_signed', seed=SEED, fan_share=0.3)),
    ),
    'sign-in': ([dict(type='SignIn')], 'values', dict(prune=True)),
    'biprop': ([dict(type='Biprop', density=0.2), dict(type='AffineFreeBatchNorm')], 'drawn', {}),
}
CONSTANT = {'biprop'}


def kind(name: str, folder: Path) -> tuple[Config, dict, nn.Module]:
    """The config of a run, the content of a checkpoint of it, and its model in evaluation mode."""
    converter, _, options = KINDS[name]
    cfg = small_config(folder, digits=True)
    cfg.model.update(converter=converter, init=options.get('init', dict(seed=SEED)), channels_last=False)
    cfg.optim_wrapper.optimizers = dict(sgd=dict(type='SGD', owns='rest', lr=0.1))
    if options.get('bop'):
        cfg.optim_wrapper.optimizers.signs = BOP
    cfg.param_scheduler = {name: [] for name in cfg.optim_wrapper.optimizers}
    # what rewinding does is known by no PruneHook, and leaves no record
    cfg.default_hooks.update(prune=None, ar_decay=None, flips=None)
    model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor})
    model.init_weights()
    if options.get('prune'):
        apply_masks_(model.network, Mag(density=0.4).prune(model.network))
    _change(model.network, bop=options.get('bop', False))
    return cfg, {'meta': {'seed': 0}, 'state_dict': model.state_dict(), PRUNING_RECORD: {'pruner': 'Mag'}}, model.eval()


@torch.no_grad()
def _change(network: nn.Module, bop: bool) -> None:
    """Change signs of the weights that Bop owns, and the numbers of everything else that is trained."""
    generator, masks = torch.Generator().manual_seed(1), get_masks(network)
    convolutions = {id(layer.weight) for layer in network.modules() if isinstance(layer, nn.Conv2d)}
    for name, parameter in network.named_parameters():
        if bop and id(parameter) in convolutions and parameter.requires_grad:
            parameter *= torch.randint(0, 2, parameter.shape, generator=generator) * 2 - 1
        elif parameter.requires_grad:
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        if name in masks:
            parameter.masked_fill_(~masks[name], 0)
    for name, buffer in network.named_buffers():
        if 'running' in name:
            buffer += 0.1 * torch.rand(buffer.shape, generator=generator)
