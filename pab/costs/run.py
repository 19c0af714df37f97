"""The costs of one training step of a config: work, and bytes of memory."""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.optim import OptimWrapperDict
from torch import Tensor, nn

from ..checks import some
from ..contracts import exact_gradients, sign_trained
from ..latent import merge_latents_
from ..models import network_of
from ..narrowing import find_cuts
from ..pruners import prunable_layers
from ..registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS, PRUNERS
from ..state_dicts import masks_in, network_in
from .count import LayerCost, Work, count_layers, dense_sgd, latent_signs, saved_bytes, step_work
from .structure import LayerStructure, structure_of


def masks_of_config(cfg: Mapping) -> dict[str, Tensor]:
    """The masks with which a config's training begins: its network, initialised and pruned anew; {} without pruning.

    Where the pruner reads images, these are noise of their shape.

    Raises:
        ValueError: the pruner reads a training history; a checkpoint has its masks.
    """
    if (pruner := _pruner_of(cfg)) is None:
        return {}
    if 'flips' in pruner.needs:
        raise ValueError(
            f'analyze: {type(pruner).__name__} needs flips, which only a run has; give a checkpoint of the run'
        )
    model = _initial_model(cfg['model'], _seed(cfg))
    network = network_of(model)
    batches = _noise(network, model.input_shape) if 'batches' in pruner.needs else None
    return pruner.prune(network, batches, input_shape=model.input_shape, seed=_seed(cfg))


def needs_images(cfg: Mapping) -> bool:
    """True if the masks of a config's run depend on its images, for which :func:`masks_of_config` takes noise."""
    return 'batches' in getattr(_pruner_of(cfg), 'needs', ())


@torch.no_grad()
def _noise(network: nn.Module, shape: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """Ten images of noise and their labels; the network stays in evaluation."""
    images = torch.randn(10, *shape)
    return [(images, torch.randint(network.eval()(images[:1]).shape[1], (10,)))]


def _pruner_of(cfg: Mapping) -> Any:
    hook = (cfg.get('default_hooks') or {}).get('prune')
    return PRUNERS.build(copy.deepcopy(dict(hook['pruner']))) if hook else None


def _initial_model(settings: Mapping, seed: int) -> nn.Module:
    """The model with the weights that a run starts with."""
    torch.manual_seed(seed)
    model = MODELS.build(dict(settings))
    model.init_weights()
    return model


def _seed(cfg: Mapping) -> int:
    return (cfg.get('randomness') or {}).get('seed') or 0


def masks_of_checkpoint(content: Any) -> dict[str, Tensor]:
    """The masks of the network in a checkpoint's content, by parameter name; {} when it is not pruned."""
    if not isinstance(content, Mapping) or not isinstance(content.get('state_dict'), Mapping):
        raise ValueError('analyze: the file is no checkpoint: it has no state_dict')
    state = content['state_dict']
    return masks_in(network_in(state) or state)


@dataclass
class RunCosts:
    """One training step of a config, beside two other ways to train the same network.

    Attributes:
        layers: of the pruned network.
        structure: of the same layers.
        not_narrowed: why nothing is known of the network without dead channels; '' where it is.
        step: way of training ('this config', 'dense SGD', 'latent signs') -> work of one step.
        storage: way of training -> bytes of weights, optimizer state and saved activations.
        batch: images of a step.
    """

    layers: list[LayerCost]
    structure: list[LayerStructure]
    not_narrowed: str
    step: dict[str, Work]
    storage: dict[str, dict[str, float]]
    batch: int


def run_costs(cfg: Mapping, masks: Mapping[str, Tensor]) -> RunCosts:
    """Count one step of a config's run; :class:`pab.hooks.CostHook` adds up a whole run.

    Storage is that of training, in float32; the saved activations are those of a real forward pass.

    Args:
        cfg: the whole config.
        masks: parameter name in the network -> bool tensor, True where the weight is kept.
    """
    drawn = {key: value for key, value in cfg['model'].items() if key != 'weights'}  # whose file may be gone
    model = _initial_model(drawn, _seed(cfg))
    network, shape = network_of(model), tuple(model.input_shape)
    settings = dict(cfg['optim_wrapper'])
    kind = settings.pop('constructor', 'DefaultOptimWrapperConstructor')
    by_parameter = settings.pop('paramwise_cfg', None)
    constructor = dict(type=kind, optim_wrapper_cfg=settings, paramwise_cfg=by_parameter)
    wrapper = OPTIM_WRAPPER_CONSTRUCTORS.build(constructor)(model)
    wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
    optimizers = [single.optimizer for single in wrappers]
    pruner = _pruner_of(cfg)
    _check_masks(network, masks, pruner.settings.prunable if pruner else None)
    layers = count_layers(network, shape, masks, sign_trained(network, optimizers))
    ways = {'this config': layers, 'dense SGD': dense_sgd(layers), 'latent signs': latent_signs(layers)}
    batch = cfg['train_dataloader']['batch_size']
    images = batch * cfg['optim_wrapper'].get('accumulative_counts', 1)
    step = {way: step_work(rows, images) for way, rows in ways.items()}
    storage = _storage(network, shape, layers, batch)
    cuts, not_narrowed = None, ''
    try:
        cuts = find_cuts(network, shape, masks)
    except ValueError as error:
        not_narrowed = str(error)
    return RunCosts(layers, structure_of(network, layers, masks, cuts), not_narrowed, step, storage, images)


def _check_masks(network: nn.Module, masks: Mapping[str, Tensor], prunable: Sequence[str] | None) -> None:
    """Refuse masks of another network, or of other layers than a config prunes."""
    parameters = dict(network.named_parameters())
    wrong = [n for n, mask in masks.items() if n not in parameters or mask.shape != parameters[n].shape]
    expected = prunable_layers(network, prunable) if prunable else {}
    if wrong := wrong + sorted(expected.keys() ^ masks.keys()):
        raise ValueError(
            f'analyze: the masks are not those of this config, see {some(wrong)}; give the config and the '
            'options that the checkpoint was trained with'
        )


def _storage(network: nn.Module, shape: tuple[int, ...], layers: list[LayerCost], batch: int) -> dict[str, dict]:
    plain = copy.deepcopy(network)
    merge_latents_(plain)
    with exact_gradients(plain):
        activations = saved_bytes(plain, shape) * batch
    weights = _bytes(plain.parameters())
    dense = {'weights': weights, 'optimizer state': weights, 'saved activations': activations}
    signs = 4 * sum(row.total for row in layers if row.sign_trained and not row.tied_to)
    return {
        'this config': {
            'weights': _bytes(network.parameters()),
            'optimizer state': _bytes(param for param in network.parameters() if param.requires_grad),
            'saved activations': saved_bytes(network, shape) * batch,
        },
        'dense SGD': dense,
        # the latent weights and their momentum, beside the frozen magnitudes
        'latent signs': {**dense, 'weights': weights + signs},
    }


def _bytes(parameters: Iterable[Tensor]) -> int:
    return 4 * sum(param.numel() for param in parameters)
