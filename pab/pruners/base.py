"""What all pruners share: rounds, counts, scope, the float64 network. A subclass is its score."""

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from .inputs import as_batches, as_flips, as_input_shape, to_double
from .masks import get_masks
from .network import ScoringNetwork, scoring_mode
from .report import empty_tensors
from .rounds import Rounds
from .schedules import as_density
from .selection import make_groups
from .settings import PruneSettings
from .streams import Streams
from .targets import classifier_weight, prunable_layers

INGREDIENTS = {  # what a score may ask for, by the names of its arguments
    'weights': 'parameter name -> float64 weight with the earlier rounds pruned to 0',
    'magnitudes': 'parameter name -> float64 absolute value of these weights',
    'masks': 'parameter name -> bool tensor of what earlier rounds kept',
    'network': 'network(weights, images) -> logits; float64, evaluation mode, exact gradients',
    'batches': 'list of (images, labels), images in float64',
    'input_shape': '(C, H, W) of one image',
    'flips': 'parameter name -> number of sign flips of each weight',
    'out': 'parameter name -> float64 tensor that may take the score, to save memory',
    'generator': 'generator(name) -> numpy RandomState fixed by seed and name',
}


class Pruner:
    r"""Mask the weights with the lowest score, in one round or more.

    A subclass is one method, ``score``, that returns a tensor of scores for each weight tensor; the highest stay. Its
    argument names say what it needs, out of ``INGREDIENTS``::

        @PRUNERS.register_module()
        class Cube(Pruner):
            def score(self, weights):
                return {name: w.abs() ** 3 for name, w in weights.items()}

    A subclass with arguments of its own takes them first and hands the others on:
    ``def __init__(self, power, **settings): super().__init__(**settings)``.

    Round t of T keeps exactly :math:`N - \lfloor (1 - d_t) N \rfloor` of N weights, chosen by scores that are computed
    again on the network as the round before left it. Of equal scores the lower position stays: order of the tensors in
    the model, then index. A pruned weight never comes back.

    Args:
        density: d, kept / total of the prunable weights after the last round, in (0, 1]; counted exactly as written.
        rounds: T, at least 1.
        schedule: 'exponential', d_t = d^(t/T), or 'linear', d_t = 1 - (1 - d) t/T.
        scope: 'global', one threshold over all tensors, or 'local', the density in every tensor.
        prunable: classes of the layers whose ``weight`` may be pruned; subclasses match too.
        classifier_density: density of the last Linear layer apart from the others; None treats it as any other.
        min_per_tensor: least number of weights that every tensor keeps; the total stays exact.

    Raises:
        TypeError, ValueError: a setting of the wrong type or out of range.
    """

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        if 'score' not in vars(cls):
            return
        for name, parameter in list(inspect.signature(cls.score).parameters.items())[1:]:
            if name not in INGREDIENTS or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                raise TypeError(
                    f'{cls.__name__}: score asks for {name!r}; a score may ask for {", ".join(INGREDIENTS)}'
                )

    def __init__(
        self,
        density: Real,
        rounds: int = 1,
        schedule: str = 'exponential',
        scope: str = 'global',
        prunable: Sequence[str] = ('Conv2d',),
        classifier_density: Real | None = None,
        min_per_tensor: int = 0,
    ):
        if not hasattr(self, 'score'):
            raise TypeError(f'{self._name}: a pruner defines score(...), with arguments among {", ".join(INGREDIENTS)}')
        self.settings = PruneSettings.checked(
            self._name,
            density=density,
            rounds=rounds,
            schedule=schedule,
            scope=scope,
            prunable=prunable,
            classifier_density=classifier_density,
            min_per_tensor=min_per_tensor,
        )
        asked = inspect.signature(self.score).parameters.values()
        self.asks = tuple(parameter.name for parameter in asked)
        """What the score can use, by name."""
        self.needs = frozenset(parameter.name for parameter in asked if parameter.default is parameter.empty)
        """What of that it cannot do without."""

    @property
    def _name(self) -> str:
        return type(self).__name__

    def prune(
        self,
        model: nn.Module,
        batches: Sequence[tuple[Tensor, Tensor]] | None = None,
        *,
        density: Real | None = None,
        classifier_density: Real | None = None,
        flips: Mapping[str, Tensor] | None = None,
        input_shape: Sequence[int] | None = None,
        seed: int = 0,
        on_round: Callable[[int, int, float], None] | None = None,
    ) -> dict[str, Tensor]:
        """Compute masks; the model and every random state are afterwards as they were, also when this raises.

        Args:
            model: any network on any device; not wrapped for distributed training. Masks that it has already are
                respected: what they removed stays removed.
            batches: (images (N, C, H, W), labels (N,)), one pair or more, for scores that read data.
            density: replaces the one of the settings, for a pruning in several shots.
            classifier_density: replaces the one of the settings, likewise.
            flips: parameter name -> number of sign flips of each weight, for scores that read the history.
            input_shape: (C, H, W); by default that of the batches, else ``model.input_shape``.
            seed: fixes all that is random; the masks depend on it, the model and the arguments alone.
            on_round: called as ``on_round(done, total, density)`` after every round.

        Returns:
            Parameter name -> bool tensor of the weight's shape and device, True where the weight stays.

        Raises:
            ValueError: a need of the score was not given, ``prunable`` matches no layer, a score is not finite, the
                floors do not fit the density, or earlier masks left less than the density asks for.
        """
        settings = self._settings(density, classifier_density)
        layers = prunable_layers(model, settings.prunable)
        classifier = None if settings.classifier_density is None else classifier_weight(model, layers)
        groups = make_groups(list(layers), settings.scope, settings.density, classifier, settings.classifier_density)
        with scoring_mode(model, seed):
            rounds = Rounds(
                {name: layer.weight for name, layer in layers.items()}, get_masks(model), groups, settings, self._name
            )
            ingredients = {
                'weights': rounds.weights,
                'masks': rounds.masks,
                'out': rounds.scores,
                'generator': Streams(seed),
                **self._given(model, batches, flips, input_shape, rounds),
            }
            if 'network' in self.asks:
                ingredients['network'] = ScoringNetwork(model, given=rounds.weights)
            if 'magnitudes' in self.asks:
                ingredients['magnitudes'] = rounds.magnitudes()
            ingredients = {name: ingredients[name] for name in self.asks if name in ingredients}
            for done, kept_density in rounds.run(lambda: self.score(**ingredients)):
                if on_round is not None:
                    on_round(done, settings.rounds, kept_density)
        masks = {name: rounds.masks[name].clone() for name in layers}
        if empty := empty_tensors(masks):
            print_log(
                f'{self._name}: no weight is left in {", ".join(empty)}; min_per_tensor keeps some',
                logger='current',
                level=logging.WARNING,
            )
        return masks

    def _settings(self, density: Real | None, classifier_density: Real | None) -> PruneSettings:
        settings = self.settings
        if density is not None:
            settings = replace(settings, density=as_density(density, self._name))
        if classifier_density is not None:
            classifier_density = as_density(classifier_density, self._name, 'classifier_density')
            settings = replace(settings, classifier_density=classifier_density)
        return settings

    def _given(self, model, batches, flips, input_shape, rounds: Rounds) -> dict[str, Any]:
        """Collect what the caller gave of what the score asks for, and refuse to go on without."""
        batches = as_batches(batches, self._name)
        given = {
            'batches': to_double(batches, rounds.device) if batches and 'batches' in self.asks else None,
            'input_shape': as_input_shape(input_shape, batches, model, self._name),
            'flips': as_flips(flips, rounds.weights, self._name) if 'flips' in self.asks else None,
        }
        for name, value in given.items():
            if value is None and name in self.needs:
                raise ValueError(
                    f'{self._name}: its score needs {name}, {INGREDIENTS[name]}; give prune(..., {name}=...)'
                )
        return {name: value for name, value in given.items() if value is not None}
