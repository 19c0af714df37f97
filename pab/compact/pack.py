"""From the config and a checkpoint of a run, of whatever kind, to a compact file."""

import inspect
import os
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from ..contracts import sign_optimizers
from ..latent import merge_latents_
from ..models import ImageClassifier
from ..optim.constructor import assign_owners
from ..pruners import apply_masks_
from ..registry import CONVERTERS, DATASETS, MODELS, OPTIMIZERS
from ..state_dicts import NETWORK, PRUNING_RECORD, masks_in, network_in
from .checkpoint import PRUNING
from .network import save


def pack(
    cfg: Config,
    checkpoint: dict[str, Any],
    file: str | os.PathLike,
    seed: int | None = None,
    values: str = 'float32',
    derive_mask: bool = False,
) -> nn.Module:
    """Write the network of a checkpoint, with what its config and the checkpoint itself say of it.

    Weights of sign optimizers, and those in use in layers with latents, are stored by their signs. All others, such as
    those that SGD trained, are values.

    Args:
        cfg: of the run; its converters may be any.
        checkpoint: what the run wrote.
        file: where; a file that is there is replaced.
        seed: of the initial weights; None takes that of the config's ``init``, of the pruning, or of the run.
        values: as for :func:`pab.compact.save`.
        derive_mask: leave the mask out; loading prunes again, as the config's PruneHook did.

    Returns:
        The network that the file holds: plain, with its masks.

    Raises:
        ValueError: the checkpoint is not of this config, or the config does not say what a file must.
        CompactError: as for :func:`pab.compact.save`.
    """
    network, signs = _trained_network(cfg, checkpoint)
    model, init = cfg['model'], cfg['model'].get('init', {})
    if init is None and signs:
        raise ValueError('pack: init=None leaves the initial weights to the network, so there is no seed of them')
    init, meta, record = init or {}, checkpoint.get('meta') or {}, checkpoint.get(PRUNING_RECORD) or {}
    seeds = seed, init.get('seed'), record.get('seed'), meta.get('seed')
    record = {key: record[key] for key in PRUNING} | {'pruned_from': None} if PRUNING.keys() <= record.keys() else None
    save(
        network,
        file,
        network=model['network'],
        seed=next((s for s in seeds if s is not None), 0),
        scheme=init.get('scheme', 'kaiming_normal'),
        fan_share=init.get('fan_share', 1.0),
        signs=[f'name:{name}' for name in signs],
        values=values,
        derive=_derivation(cfg, record) if derive_mask else None,
        classes=(meta.get('dataset_meta') or {}).get('classes', ()),
        preprocessing=_preprocessing(cfg),
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
    with torch.device('meta'):  # no weights but those of the checkpoint
        network = MODELS.build(model['network'])
    converters = model.get('converter') or []
    with torch.random.fork_rng(devices=[]):  # new latents draw numbers
        for config in [converters] if isinstance(converters, dict) else converters:
            CONVERTERS.build(config)(network)
    # copies, because merging writes into weights
    state = {name: tensor.clone() for name, tensor in network_in(state).items()}
    try:
        apply_masks_(network, masks_in(state))
        network.load_state_dict(state, assign=True)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f'pack: the checkpoint is not of the model of this config: {error}') from error
    signs = _sign_trained(cfg, network)
    return network, [*signs, *merge_latents_(network)]


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
    return [name.removeprefix(NETWORK) for own in signing for name in owned[own]]


def _derivation(cfg: Config, record: dict[str, Any] | None) -> dict[str, Any]:
    """How the run's PruneHook pruned, for a mask that loading computes again."""
    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])]
    hook = next((hook for hook in hooks if hook and hook.get('type') == 'PruneHook'), None)
    if hook is None or record is None:
        raise ValueError('pack --derive-mask: the config has no PruneHook, or the checkpoint was not pruned by one')
    return {
        'pruner': {**hook['pruner'], 'density': record['density']},
        'seed': record['seed'],
        'shots': record['shots'],
    }


def _preprocessing(cfg: Config) -> dict[str, Any]:
    """Mean and std of the pixels in [0, 1], and how the test set's images come to their size."""
    held = {
        key: list(cfg.data_preprocessor[key]) for key in ('mean', 'std') if key in (cfg.get('data_preprocessor') or {})
    }
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    known = inspect.signature(DATASETS.get(dataset['type'])).parameters if 'type' in dataset else {}
    sizes = {key: dataset.get(key, known[key].default) for key in ('resize', 'size') if key in known}
    return {**held, **sizes}
