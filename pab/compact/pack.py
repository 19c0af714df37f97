"""From the config and a checkpoint of a run, of whatever kind, to a compact file."""

import copy
import os
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from ..contracts import layers_with_used_weight, sign_optimizers
from ..datasets import classes_in, settle_auto
from ..latent import merge_latents_
from ..models import ImageClassifier
from ..optim.constructor import assign_owners
from ..preprocessing import preprocessing_of
from ..pruners import apply_masks_
from ..registry import CONVERTERS, OPTIMIZERS
from ..state_dicts import MASK, NETWORK_PREFIX, PRUNING_RECORD, network_in
from .checkpoint import PRUNING
from .network import same_bits, save
from .recipe import build_network


def pack(
    cfg: Config,
    checkpoint: dict[str, Any],
    file: str | os.PathLike,
    seed: int | None = None,
    values: str = 'float32',
) -> nn.Module:
    """Write the network of a checkpoint, with what its config and the checkpoint itself say of it.

    Weights of sign optimizers, and used weights of layers with latents beside a frozen weight, are stored by their
    signs; all others, such as weights that SGD trained, as values.

    Args:
        cfg: of the run; its converters may be any.
        checkpoint: what the run wrote.
        file: where; a file that is there is replaced.
        seed: of the initial weights; None takes that of the config's ``init``, of the pruning, or of the run. With
            ``init=None`` the network drew its own weights, and there is none.
        values: as for :func:`pab.compact.save`.

    Returns:
        The network that the file holds: plain, with its masks.

    Raises:
        ValueError: the checkpoint is not of this config, or the config does not say what a file must.
        CompactError: as for :func:`pab.compact.save`.
    """
    cfg = copy.deepcopy(cfg)
    if isinstance(checkpoint, dict):
        settle_auto(cfg, len(classes_in(checkpoint) or ()) or None)
    network, signs = _trained_network(cfg, checkpoint)
    model, init = cfg['model'], cfg['model'].get('init', {})
    if init is None and (signs or seed is not None):
        raise ValueError('pack: init=None leaves the initial weights to the network, so there is no seed of them')
    meta, record = checkpoint.get('meta') or {}, checkpoint.get(PRUNING_RECORD) or {}
    if init is not None:
        seeds = seed, init.get('seed'), record.get('seed'), meta.get('seed'), 0
        seed = next(s for s in seeds if s is not None)
    init = init or {}
    record = {key: record[key] for key in PRUNING} | {'pruned_from': None} if PRUNING.keys() <= record.keys() else None
    save(
        network,
        file,
        network=model['network'],
        seed=seed,
        scheme=init.get('scheme', 'kaiming_normal'),
        fan_share=init.get('fan_share', 1.0),
        signs=[f'name:{name}' for name in signs],
        values=values,
        classes=(meta.get('dataset_meta') or {}).get('classes', ()),
        preprocessing=preprocessing_of(cfg),
        input_shape=model.get('input_shape') or (),
        pruning=record,
    )
    return network


def _trained_network(cfg: Config, checkpoint: dict[str, Any]) -> tuple[nn.Module, list[str]]:
    """The network of a checkpoint, with its masks and without latents, and the names of sign-trained weights."""
    model = cfg.get('model') or {}
    state = checkpoint.get('state_dict') if isinstance(checkpoint, dict) else None
    if not isinstance(model.get('network'), dict) or not isinstance(state, dict):
        raise ValueError('pack needs a config whose model has a network, and a checkpoint that training wrote')
    network = build_network(model['network'])
    converters = model.get('converter') or []
    with torch.random.fork_rng(devices=[]):  # new latents draw numbers
        for config in [converters] if isinstance(converters, dict) else converters:
            CONVERTERS.build(config)(network)
    state = network_in(state)
    # a parameter that has several names is masked by its first
    masks = {name: state[name + MASK] for name, _ in network.named_parameters() if name + MASK in state}
    try:
        apply_masks_(network, masks)
        network.load_state_dict(state)
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        told = ' '.join(str(error).split())
        raise ValueError(
            f'pack: the checkpoint is not of the model of this config: {told}; give the one it had'
        ) from error
    if odd := [name for name, value in network.state_dict().items() if not same_bits(value, state[name].cpu())]:
        raise ValueError(f'pack: the checkpoint is not of the model of this config: {odd[0]} has another type or value')
    signs = _sign_trained(cfg, network)
    layers = layers_with_used_weight(network)
    signs += [name for name, layer in layers.items() if not getattr(layer, 'trains_weight', False)]
    merge_latents_(network)
    return network, signs


def _sign_trained(cfg: Config, network: nn.Module) -> list[str]:
    """Names of what the sign optimizers of a config own in its network."""
    optimizers, kinds = (cfg.get('optim_wrapper') or {}).get('optimizers') or {}, {}
    for name, settings in optimizers.items():
        chosen = {key: value for key, value in settings.items() if key != 'owns'}
        kinds[name] = OPTIMIZERS.build({**chosen, 'params': [nn.Parameter(torch.zeros(1))]})
    if not (signing := [name for name, kind in kinds.items() if sign_optimizers([kind])]):
        return []
    rules = {name: settings['owns'] for name, settings in optimizers.items()}
    owned = assign_owners(ImageClassifier(network, channels_last=False), rules)
    return [name.removeprefix(NETWORK_PREFIX) for own in signing for name in owned[own]]
