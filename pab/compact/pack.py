"""From the config and a checkpoint of a run to a compact file."""

import inspect
from pathlib import Path

import torch
from mmengine.config import Config
from torch import nn

from ..contracts import sign_optimizers
from ..hooks.prune import RECORD
from ..pruners import apply_masks_
from ..registry import DATASETS, MODELS, OPTIMIZERS
from .network import save

NETWORK, MASK = 'network.', '_mask'  # how the names of a checkpoint's tensors begin and end


def pack(
    cfg: Config,
    checkpoint: dict,
    file: Path,
    seed: int | None = None,
    values: str = 'float32',
    derive_mask: bool = False,
) -> None:
    """Write the network of a checkpoint, with what its config and the checkpoint itself say of it."""
    model = cfg.get('model') or {}
    state = checkpoint.get('state_dict') if isinstance(checkpoint, dict) else None
    if not isinstance(model.get('network'), dict) or not isinstance(state, dict):
        raise ValueError('pack needs a config whose model has a network, and a checkpoint that training wrote')
    init = model.get('init', {})
    if init is None:
        raise ValueError('pack: init=None leaves the initial weights to the network, so there is no seed of them')
    with torch.device('meta'):  # no weights but those of the checkpoint
        network = MODELS.build(model['network'])
    state = {name.removeprefix(NETWORK): tensor for name, tensor in state.items() if name.startswith(NETWORK)}
    try:
        apply_masks_(network, {name: state[name + MASK] for name in state if name + MASK in state})
        network.load_state_dict(state, assign=True)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f'pack: the checkpoint is not of the model of this config: {error}') from error
    record, meta = checkpoint.get(RECORD), checkpoint.get('meta') or {}
    seeds = seed, init.get('seed'), (record or {}).get('seed'), meta.get('seed')
    save(
        network,
        file,
        network=model['network'],
        seed=next((s for s in seeds if s is not None), 0),
        scheme=init.get('scheme', 'kaiming_normal'),
        signs=sign_patterns(cfg),
        values=values,
        derive=derivation(cfg, record) if derive_mask else None,
        classes=(meta.get('dataset_meta') or {}).get('classes', ()),
        preprocessing=preprocessing(cfg),
        input_shape=model.get('input_shape') or (),
        pruning=record and {**record, 'pruned_from': None},
    )


def sign_patterns(cfg: Config) -> list[str]:
    """What the sign optimizers of a config own; all convolutions, which then do not fit, where it has none."""
    patterns = []
    for settings in (cfg.get('optim_wrapper') or {}).get('optimizers', {}).values():
        chosen = {key: value for key, value in settings.items() if key != 'owns'}
        optimizer = OPTIMIZERS.build({**chosen, 'params': [nn.Parameter(torch.zeros(1))]})
        if sign_optimizers([optimizer]):
            patterns += settings['owns']
    return patterns or ['Conv2d.weight']


def derivation(cfg: Config, record: dict | None) -> dict:
    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])]
    hook = next((hook for hook in hooks if hook and hook.get('type') == 'PruneHook'), None)
    if hook is None or record is None:
        raise ValueError('pack --derive-mask: the config has no PruneHook, or the checkpoint was not pruned by one')
    return {
        'pruner': {**hook['pruner'], 'density': record['density']},
        'seed': record['seed'],
        'shots': record['shots'],
    }


def preprocessing(cfg: Config) -> dict:
    """Mean and std of the pixels in [0, 1], and how the test set's images come to their size."""
    held = {
        key: list(cfg.data_preprocessor[key]) for key in ('mean', 'std') if key in (cfg.get('data_preprocessor') or {})
    }
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    known = inspect.signature(DATASETS.get(dataset['type'])).parameters if 'type' in dataset else {}
    sizes = {key: dataset.get(key, known[key].default) for key in ('resize', 'size') if key in known}
    return {**held, **sizes}
