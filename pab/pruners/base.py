"""What all pruners share: rounds, counts, scope, the float64 network. A subclass is its score."""

import functools
import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from ..models.draws import stream
from .groups import Group, make_groups
from .inputs import Loss, as_batches, as_input_shape, as_loss, check_flips
from .masks import get_masks
from .n_of_m import parse_n_of_m
from .network import ScoringNetwork, count_outputs, scoring_mode
from .rounds import Rounds
from .settings import PruneSettings
from .targets import classifier_weight, prunable_layers

INGREDIENTS = {  # what a score may ask for, by the names of its arguments
    'weights': 'parameter name -> float64 weight with the earlier rounds pruned to 0',
    'masks': 'parameter name -> bool tensor of what earlier rounds kept',
    'network': 'network(weights, images) -> logits; float64, evaluation mode, exact gradients',
    'batches': 'list of (images, labels), images in float64, token ids as they are',
    'loss': 'loss(outputs, labels) -> tensor of one entry; where none is given the score has its own',
    'input_shape': '(C, H, W) of one image',
    'flips': 'parameter name -> number of sign flips of each weight',
    'stream': 'stream(name) -> numpy RandomState fixed by seed and name',
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
        scope: where weights compete. 'global': over all tensors. 'local': in each tensor, which keeps what
            ``allocation`` gives it. 'n:m', such as '2:4' with density 0.5: in every block of m consecutive inputs of a
            filter (for a convolution: input channels at one kernel position), which keeps n; of r < m inputs that are
            left over at the end, :math:`r - \lfloor (1 - n/m)\, r \rfloor` stay. Rounds count block by block, too, and
            those that remove nothing are not scored. Floors and a density of the classifier do not go with 'n:m'.
        prunable: patterns (:mod:`pab.patterns`) that select the weights that may be pruned, such as
            ``['Conv2d', '!name:*.downsample.*']``; see :func:`~pab.pruners.targets.prunable_layers`.
        classifier_density: density of the classifier, the Linear layer with as many outputs as there are classes, apart
            from the others; None treats it as any other.
        min_per_tensor: least number of weights that every tensor keeps; the total stays exact.
        allocation: how scope 'local' spreads the density: 'uniform', the same in every tensor, or 'erk', higher in a
            tensor with few weights for its dimensions (:func:`~pab.pruners.allocation.erk`). With 'erk' all tensors
            together keep the count above after the last round, and in the rounds before each one follows the schedule
            to its own density.

    Raises:
        TypeError, ValueError: a setting of the wrong type or out of range, or two that do not fit each other.
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
        allocation: str = 'uniform',
    ):
        name = type(self).__name__
        if not hasattr(self, 'score'):
            raise TypeError(f'{name}: a pruner defines score(...), with arguments among {", ".join(INGREDIENTS)}')
        self.settings = PruneSettings(
            name, density, rounds, schedule, scope, prunable, classifier_density, min_per_tensor, allocation
        )
        if not self.settings.is_final:
            raise ValueError(self.settings.density_rule)
        asked = inspect.signature(self.score).parameters
        self.asks = tuple(asked)
        """What the score can use, by name."""
        self.needs = frozenset(key for key, parameter in asked.items() if parameter.default is parameter.empty)
        """What of that it cannot do without."""

    def groups(
        self,
        model: nn.Module,
        *,
        density: Real | None = None,
        classifier_density: Real | None = None,
        input_shape: Sequence[int] | None = None,
        num_classes: int | None = None,
    ) -> list[Group]:
        """Tell which weights would compete, and how many of them would stay; nothing is scored.

        Arguments and errors are those of :meth:`prune`.
        """
        settings = self._settings(density, classifier_density)
        layers = prunable_layers(model, settings.prunable)
        if parse_n_of_m(settings.scope):
            _check_inputs(settings, layers)
        shapes = {name: tuple(model.get_parameter(name).shape) for name in layers}
        classifier = None
        if settings.classifier_density is not None:
            if num_classes is None and input_shape is not None:
                num_classes = count_outputs(model, input_shape)
            classifier = classifier_weight(model, list(shapes), num_classes)
        return make_groups(
            shapes,
            settings.scope,
            settings.density,
            settings.min_per_tensor,
            classifier,
            settings.classifier_density,
            settings.allocation,
        )

    def prune(
        self,
        model: nn.Module,
        batches: Sequence[tuple[Tensor, Tensor]] | None = None,
        *,
        density: Real | None = None,
        classifier_density: Real | None = None,
        flips: Mapping[str, Tensor] | None = None,
        loss: Loss | None = None,
        input_shape: Sequence[int] | None = None,
        num_classes: int | None = None,
        seed: int = 0,
        on_round: Callable[[int, int, float], None] | None = None,
    ) -> dict[str, Tensor]:
        """Compute masks; the model and every random state are afterwards as they were, also when this raises.

        Args:
            model: any network on any device; not wrapped for distributed training. Masks that it has already are
                respected: what they removed stays removed.
            batches: (images (N, C, H, W), labels (N,)), one pair or more, for scores that read data. Instead of images
                whatever the model takes, or a dict of its keyword arguments; integers of 32 or 64 bits (token ids) and
                bools keep their type, all else becomes float64.
            loss: ``loss(outputs, labels)``, a tensor of one entry, for a model whose outputs are no logits, or another
                loss than the cross-entropy. GraSP's divides logits by 200 before.
            density, classifier_density: replace those of the settings, for a pruning in several shots.
            flips: parameter name -> number of sign flips of each weight, for scores that read the history.
            input_shape: (C, H, W); by default that of the batches, else ``model.input_shape``.
            num_classes: tells the classifier for ``classifier_density``; by default the number of the model's outputs
                for one image, if ``input_shape`` is known.
            seed: fixes all that is random; the masks depend on it, the model and the arguments alone.
            on_round: called as ``on_round(done, total, density)`` after every round.

        Returns:
            Parameter name -> bool tensor of the weight's shape and device, True where the weight stays.

        Raises:
            ValueError: a need of the score was not given, ``prunable`` matches no layer, no layer is the classifier, a
                score is not finite, the floors do not fit the density, or earlier masks left less than is to stay.
        """
        settings = self._settings(density, classifier_density)
        with scoring_mode(model, seed):
            weights = {name: model.get_parameter(name) for name in prunable_layers(model, settings.prunable)}
            batches = as_batches(batches, next(iter(weights.values())).device, settings.owner)
            input_shape = as_input_shape(input_shape, batches, model, settings.owner)
            if flips is not None:
                check_flips(flips, weights, settings.owner)
            groups = self.groups(
                model,
                density=density,
                classifier_density=classifier_density,
                input_shape=input_shape,
                num_classes=num_classes,
            )
            rounds = Rounds(weights, get_masks(model), groups, settings)
            possible = {
                'weights': rounds.weights,
                'masks': rounds.masks,
                'network': ScoringNetwork(model, given=weights),
                'batches': batches,
                'loss': as_loss(loss, settings.owner),
                'input_shape': input_shape,
                'flips': flips,
                'stream': functools.partial(stream, f'prune/{seed}'),  # others than those of an initialisation
            }
            given = {name: possible[name] for name in self.asks if possible[name] is not None}
            if lacking := sorted(self.needs - set(given)):
                raise ValueError(
                    f'{settings.owner}: its score needs {lacking[0]}, {INGREDIENTS[lacking[0]]}; '
                    f'give prune(..., {lacking[0]}=...)'
                )
            for done, kept_density in rounds.run(lambda: self.score(**given)):
                if on_round is not None:
                    on_round(done, settings.rounds, kept_density)
        masks = {name: rounds.masks[name].clone() for name in weights}
        if empty := [name for name, mask in masks.items() if not mask.any()]:
            text = f'{settings.owner}: no weight is left in {", ".join(empty)}; min_per_tensor keeps some'
            print_log(text, logger='current', level=logging.WARNING)
        return masks

    def _settings(self, density: Real | None, classifier_density: Real | None) -> PruneSettings:
        changed = {'density': density, 'classifier_density': classifier_density}
        return replace(self.settings, **{key: value for key, value in changed.items() if value is not None})


def _check_inputs(settings: PruneSettings, layers: Mapping[str, nn.Module]) -> None:
    if turned := [name for name, layer in layers.items() if getattr(layer, 'transposed', False)]:
        raise ValueError(
            f'{settings.owner}: scope {settings.scope!r} needs weights of shape (out, in, ...), which {turned[0]!r} of '
            f"a transposed convolution is not; add '!name:{turned[0]}' to prunable"
        )
