"""From a config, and the masks of its network, to the costs of the run."""

import copy
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from ..contracts import exact_gradients, sign_optimizers
from ..latent import merge_latents_
from ..pruners import prunable_layers
from ..registry import HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from ..run.checkpoint import load_any
from .count import (
    LayerCost,
    Work,
    count_layers,
    count_weights,
    dense_sgd,
    latent_signs,
    pruning_work,
    saved_bytes,
    step_work,
)


def masks_of_config(cfg: Mapping) -> dict[str, Tensor]:
    """The masks with which a config's training begins: its network, initialised and pruned anew; {} without pruning.

    Raises:
        ValueError: the pruner reads data or a training history; a checkpoint has its masks.
    """
    settings = (cfg.get('default_hooks') or {}).get('prune')
    if not settings:
        return {}
    hook = HOOKS.build(dict(settings))
    if unknown := hook.pruner.needs & {'batches', 'flips'}:
        raise ValueError(
            f'analyze: {type(hook.pruner).__name__} needs {" and ".join(sorted(unknown))}, which only a run has; give '
            'a checkpoint of the run, or of tools/prune.py'
        )
    model = _initial_model(cfg)
    return hook.pruner.prune(model.network, input_shape=model.input_shape, seed=_seed(cfg))


def _seed(cfg: Mapping) -> int:
    return (cfg.get('randomness') or {}).get('seed') or 0


def _initial_model(cfg: Mapping) -> nn.Module:
    """The model with the weights that a run of the config starts with."""
    torch.manual_seed(_seed(cfg))
    model = MODELS.build(cfg['model'])
    model.init_weights()
    return model


def masks_of_checkpoint(path: str) -> dict[str, Tensor]:
    """The masks of the network in a checkpoint or a compact file, by parameter name; {} when it is not pruned."""
    content = load_any(path)
    if not isinstance(content, Mapping) or not isinstance(content.get('state_dict'), Mapping):
        raise ValueError(f'analyze: {path} is no checkpoint: it has no state_dict')
    state = content['state_dict']
    names = {key: key.removesuffix('_mask').removeprefix('network.') for key in state if key.endswith('weight_mask')}
    return {name: state[key] for key, name in names.items()}


@dataclass
class RunCosts:
    """What a run costs, beside two other ways to train the same network.

    Attributes:
        layers: of the pruned network.
        step: work of one training step, by the way of training: 'this config', 'dense SGD', 'latent signs'.
        schedule: work of the whole training, pruning included, likewise.
        storage: bytes, by what takes them, likewise.
        batch, steps, epochs: images of a step, steps of the schedule, epochs of the schedule.
    """

    layers: list[LayerCost]
    step: dict[str, Work]
    schedule: dict[str, Work]
    storage: dict[str, dict[str, float]]
    batch: int
    steps: int
    epochs: int


def run_costs(cfg: Mapping, masks: Mapping[str, Tensor], train_images: int) -> RunCosts:
    """Work out the costs of a config's run.

    They are those that :class:`pab.hooks.CostHook` counts in the run, to the last digit, if the network is pruned once
    and the number of weights in use does not change. After a shot before the last, every layer with a mask counts with
    the density that leads to its final one as the whole network's does. Storage is that of training, in float32; the
    saved activations are those of a real forward pass.

    Args:
        cfg: the whole config.
        masks: parameter name in the network -> bool tensor, True where the weight is left.
        train_images: images of an epoch.
    """
    model = _initial_model(cfg)
    network, shape = model.network, tuple(model.input_shape)
    settings = dict(cfg['optim_wrapper'])
    constructor = settings.pop('constructor')
    wrapper = OPTIM_WRAPPER_CONSTRUCTORS.build(dict(type=constructor, optim_wrapper_cfg=settings))(model)
    optimizers = [single.optimizer for single in wrapper.values()]
    names = {param: name for name, param in network.named_parameters()}
    signs = [
        names[param]
        for optimizer in sign_optimizers(optimizers)
        for group in optimizer.param_groups
        for param in group['params']
    ]
    hook = (cfg.get('default_hooks') or {}).get('prune')
    prune_hook = HOOKS.build(dict(hook)) if hook else None
    _check_masks(network, masks, prune_hook.pruner.settings.prunable if prune_hook else None)
    layers = count_layers(network, shape, masks, signs)
    ways = {'this config': layers, 'dense SGD': dense_sgd(layers), 'latent signs': latent_signs(layers)}
    loader, accumulated = cfg['train_dataloader'], cfg['optim_wrapper'].get('accumulative_counts', 1)
    batch, epochs = loader['batch_size'], cfg['train_cfg']['max_epochs']
    passes = train_images // batch if loader.get('drop_last') else math.ceil(train_images / batch)
    images, updates = min(passes * batch, train_images), [passes * epoch // accumulated for epoch in range(epochs)]
    updates.append(math.ceil(passes * epochs / accumulated))  # the last pass makes one in any case

    def work_of(rows: list[LayerCost], start: int, end: int) -> Work:
        """Of the epochs from start to before end."""
        return step_work(rows, images * (end - start), updates[end] - updates[start])

    schedule = {way: work_of(rows, 0, epochs) for way, rows in ways.items()}
    if prune_hook:
        prune_hook.fit_to(epochs)
        pruning = pruning_work(prune_hook.pruner, network, shape, prune_hook.data.num_samples).times(prune_hook.shots)
        schedule['latent signs'] = schedule['latent signs'].plus(pruning)
        schedule['this config'] = pruning
        for shot, (start, end) in enumerate(itertools.pairwise([0, *prune_hook.shot_epochs, epochs])):
            rows = _after_shot(prune_hook, shot, layers, masks) if shot else count_weights(layers, network)
            schedule['this config'] = schedule['this config'].plus(work_of(rows, start, end))
    step = {way: step_work(rows, batch * accumulated) for way, rows in ways.items()}
    storage = _storage(network, shape, layers, batch)
    return RunCosts(layers, step, schedule, storage, batch * accumulated, updates[-1], epochs)


def _after_shot(hook: Any, shot: int, layers: list[LayerCost], masks: Mapping[str, Tensor]) -> list[LayerCost]:
    """The layers as they are expected to be after a shot, from 1, given what they are after the last."""

    def left(row: LayerCost, count: int) -> int:
        return math.ceil(row.total * hook.density_after(Fraction(count, row.total), shot))

    return [
        replace(row, kept=left(row, row.kept), learning=row.updated and left(row, row.updated))
        if row.parameter in masks
        else row
        for row in layers
    ]


def _check_masks(network: nn.Module, masks: Mapping[str, Tensor], prunable: Sequence[str] | None) -> None:
    """Refuse masks of another network, or of other layers than a config prunes."""
    parameters = dict(network.named_parameters())
    wrong = [n for n, mask in masks.items() if n not in parameters or mask.shape != parameters[n].shape]
    expected = prunable_layers(network, prunable) if prunable else {}
    if wrong := wrong + sorted(expected.keys() ^ masks.keys()):
        raise ValueError(
            f'analyze: the masks are not those of this config, see {", ".join(wrong[:3])}; give the config and the '
            'options that the checkpoint was trained with'
        )


def _storage(network: nn.Module, shape: tuple[int, ...], layers: list[LayerCost], batch: int) -> dict[str, dict]:
    plain = copy.deepcopy(network)
    merge_latents_(plain)
    with exact_gradients(plain):
        activations = saved_bytes(plain, shape) * batch
    parameters = list(network.parameters())
    own, learned = _bytes(parameters), _bytes(param for param in parameters if param.requires_grad)
    usual = _bytes(plain.parameters())
    signs = 4 * sum(row.total for row in layers if row.sign_trained and not row.tied_to)
    dense = {'weights': usual, 'optimizer state': usual, 'saved activations': activations}
    return {
        'this config': {
            'weights': own,
            'optimizer state': learned,
            'saved activations': saved_bytes(network, shape) * batch,
        },
        'dense SGD': dense,
        # the latent weights and their momentum, beside the frozen magnitudes
        'latent signs': {**dense, 'weights': usual + signs},
    }


def _bytes(parameters: Iterable[Tensor]) -> int:
    return 4 * sum(param.numel() for param in parameters)
