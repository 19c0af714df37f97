"""From a config, and the masks of its network, to the costs of the run."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..contracts import exact_gradients, sign_optimizers
from ..pruners import prunable_layers
from ..registry import HOOKS, MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from ..run.checkpoint import load_any
from .count import LayerCost, Work, count_layers, dense_sgd, latent_signs, pruning_work, saved_bytes, step_work


def masks_of_config(cfg: Mapping) -> dict[str, Tensor]:
    """The masks with which a config's training begins: its network, initialised and pruned anew; {} without pruning.

    Raises:
        ValueError: the pruner reads data or a training history; a checkpoint has its masks.
    """
    settings = (cfg.get('default_hooks') or {}).get('prune')
    if not settings:
        return {}
    hook, seed = HOOKS.build(dict(settings)), (cfg.get('randomness') or {}).get('seed') or 0
    if unknown := hook.pruner.needs & {'batches', 'flips'}:
        raise ValueError(
            f'analyze: {type(hook.pruner).__name__} needs {" and ".join(sorted(unknown))}, which only a run has; give '
            'a checkpoint of the run, or of tools/prune.py'
        )
    torch.manual_seed(seed)
    model = MODELS.build(cfg['model'])
    model.init_weights()
    return hook.pruner.prune(model.network, input_shape=model.input_shape, seed=seed)


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

    Epochs before the last shot of a pruning count as dense. Storage is that of training, in float32; the saved
    activations are those of a real forward pass.

    Args:
        cfg: the whole config.
        masks: parameter name in the network -> bool tensor, True where the weight is left.
        train_images: images of an epoch.
    """
    model = MODELS.build(cfg['model'])
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
    batch = cfg['train_dataloader']['batch_size'] * cfg['optim_wrapper'].get('accumulative_counts', 1)
    epochs = cfg['train_cfg']['max_epochs']
    steps_of_epoch = math.ceil(train_images / batch)
    step = {way: step_work(rows, batch) for way, rows in ways.items()}
    schedule = {way: work.times(steps_of_epoch * epochs) for way, work in step.items()}
    if prune_hook:
        pruning = pruning_work(prune_hook.pruner, network, shape, prune_hook.data.num_samples).times(prune_hook.shots)
        before = steps_of_epoch * prune_hook.epoch
        dense = step_work([replace(row, kept=row.total) for row in layers], batch)
        pruned_part = step['this config'].times(steps_of_epoch * epochs - before)
        schedule['this config'] = pruned_part.plus(dense.times(before)).plus(pruning)
        schedule['latent signs'] = schedule['latent signs'].plus(pruning)
    storage = _storage(network, shape, layers, batch)
    return RunCosts(layers, step, schedule, storage, batch, steps_of_epoch * epochs, epochs)


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
    parameters = 4 * sum(param.numel() for param in network.parameters())
    learned = 4 * sum(row.total for row in layers if row.sign_trained)
    plain = copy.deepcopy(network)
    with exact_gradients(plain):
        activations = saved_bytes(plain, shape) * batch
    shared = {'weights': parameters, 'optimizer state': parameters, 'saved activations': activations}
    return {
        'this config': {**shared, 'saved activations': saved_bytes(network, shape) * batch},
        'dense SGD': shared,
        # the latent weights and their momentum, beside the frozen magnitudes
        'latent signs': {**shared, 'weights': parameters + learned},
    }
