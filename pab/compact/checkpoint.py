"""From a config and its checkpoint to a compact file, and from a file to what a run loads as a checkpoint."""

import inspect
import os
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from ..contracts import sign_optimizers
from ..hooks.prune import RECORD
from ..pruners import apply_masks_
from ..registry import DATASETS, MODELS, OPTIMIZERS
from .container import CompactError
from .network import info, load, save

NETWORK = 'network.'  # begins the names of the network's tensors in an ImageClassifier
MASK = '_mask'


def pack(
    cfg: Config,
    checkpoint: Mapping[str, Any],
    file: str | os.PathLike,
    *,
    seed: int | None = None,
    values: str = 'float32',
    derive_mask: bool = False,
) -> None:
    """Write the network of a checkpoint to a compact file.

    Args:
        cfg: what it was trained with; its model is an ImageClassifier.
        checkpoint: as :func:`pab.run.loading.load_safely` reads it.
        file: where.
        seed: of the initial weights; by default the config's, else the one that the checkpoint says its run had.
        values: 'float32' or 'float16', for what is stored as numbers.
        derive_mask: leave the mask out; loading prunes again.

    Raises:
        CompactError: see :func:`pab.compact.save`.
    """
    model = cfg.get('model') or {}
    if not isinstance(model.get('network'), dict) or not isinstance(checkpoint.get('state_dict'), Mapping):
        raise CompactError('pack: needs a config whose model has a network, and a checkpoint that training wrote')
    state = {n.removeprefix(NETWORK): t for n, t in checkpoint['state_dict'].items() if n.startswith(NETWORK)}
    plain = {key: value for key, value in model.items() if key != 'converter'}
    classifier = MODELS.build({**plain, 'data_preprocessor': cfg.get('data_preprocessor')})
    masks = {name: state[name + MASK] for name in state if name + MASK in state}
    try:
        apply_masks_(classifier.network, masks)
        classifier.network.load_state_dict(state)
    except (RuntimeError, ValueError) as error:
        raise CompactError(f'pack: the checkpoint is not of the model of this config: {error}') from error
    record, meta = checkpoint.get(RECORD), checkpoint.get('meta') or {}
    if seed is None:
        held = (classifier.init or {}).get('seed')
        seed = next((s for s in (held, (record or {}).get('seed'), meta.get('seed')) if s is not None), None)
    save(
        classifier,
        file,
        seed=seed,
        signs=_sign_patterns(cfg),
        values=values,
        derive=_derivation(cfg, record) if derive_mask else None,
        classes=(meta.get('dataset_meta') or {}).get('classes', ()),
        preprocessing=_preprocessing(cfg),
        pruning=record and {**record, 'pruned_from': None},
    )


def as_checkpoint(file: str | os.PathLike) -> dict[str, Any]:
    """Read a compact file as a checkpoint of an ImageClassifier, with its masks and the record of its pruning.

    Raises:
        FileNotFoundError, CompactError: as for :func:`pab.compact.load`.
    """
    state = {NETWORK + name: value for name, value in load(file).state_dict().items()}
    told = info(file)
    checkpoint = {
        'meta': {'seed': told['init']['seed'], 'dataset_meta': {'classes': told['classes']}},
        'state_dict': state,
    }
    return checkpoint if told['pruning'] is None else {**checkpoint, RECORD: told['pruning']}


def _sign_patterns(cfg: Config) -> list[str]:
    """What the sign optimizers of a config own; all convolutions, which then do not fit, where it has none."""
    patterns = []
    for settings in (cfg.get('optim_wrapper') or {}).get('optimizers', {}).values():
        chosen = {key: value for key, value in settings.items() if key != 'owns'}
        optimizer = OPTIMIZERS.build({**chosen, 'params': [nn.Parameter(torch.zeros(1))]})
        if sign_optimizers([optimizer]):
            patterns += settings['owns']
    return patterns or ['Conv2d.weight']


def _derivation(cfg: Config, record: Mapping | None) -> dict[str, Any]:
    hooks = [*(cfg.get('default_hooks') or {}).values(), *(cfg.get('custom_hooks') or [])]
    hook = next((hook for hook in hooks if hook and hook.get('type') == 'PruneHook'), None)
    if hook is None or record is None:
        raise CompactError(
            'pack: there is no mask to derive: the config has no PruneHook, or the checkpoint no pruning'
        )
    return {'pruner': hook['pruner'], 'seed': record['seed'], 'shots': hook.get('shots', 1)}


def _preprocessing(cfg: Config) -> dict[str, Any]:
    """Mean and std of the pixels in [0, 1], and how the test set's images come to their size."""
    held = {
        key: list(cfg.data_preprocessor[key]) for key in ('mean', 'std') if key in (cfg.get('data_preprocessor') or {})
    }
    dataset = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    known = inspect.signature(DATASETS.get(dataset['type'])).parameters if 'type' in dataset else {}
    sizes = {key: dataset.get(key, known[key].default) for key in ('resize', 'size') if key in known}
    return {**held, **sizes}
