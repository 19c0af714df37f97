"""Base of all pruners: rounds, counts, scope, the float64 network. A subclass is its score."""

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from numbers import Real
from typing import Any

from torch import Tensor, nn

from ..models.draws import stream
from .groups import Group, make_groups
from .inputs import Loss, as_batches, as_input_shape, as_loss, check_flips
from .masks import get_masks
from .n_of_m import parse_n_of_m
from .rounds import Rounds
from .schedules import as_density
from .scoring_network import ScoringNetwork, scoring_mode
from .settings import PruneSettings
from .targets import prunable_layers, prunable_places

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
    the model, then index; scores are equal that differ by less than their 2^-40th part. A pruned weight never comes
    back. A warning names tensors that end up empty, and tensors in which position decides for more than a
    hundredth of the weights that stay, with that share.

    Args:
        density: d, kept / total of the prunable weights after the last round, in (0, 1]; counted exactly as written. Or
            densities by layer, a list of pairs (pattern of :mod:`pab.patterns`, density)::

                [('name:conv1.*', 1.0), ('Linear', 0.5), ('rest', 0.3)]  # the other tensors have density 0.3
                [('name:conv1.*', 1.0), ('Linear', 0.5), ('total', 0.3)]  # all tensors together have density 0.3

            Every tensor that a pattern names keeps exactly its density, by itself; ``scope`` and ``allocation`` say how
            the others share theirs, which with 'total' is what the named ones leave of it. One of 'rest' and 'total' is
            needed unless the patterns name every prunable tensor.
        rounds: T, at least 1.
        schedule: 'exponential', d_t = d^(t/T), or 'linear', d_t = 1 - (1 - d) t/T.
        scope: where weights compete. 'global': over all tensors. 'local': in each tensor, which keeps what
            ``allocation`` gives it. 'n:m', such as '2:4' with density 0.5: in every block of m consecutive inputs of a
            filter (for a convolution: input channels at one kernel position), which keeps n; of r < m inputs that are
            left over at the end, :math:`r - \lfloor (1 - n/m)\, r \rfloor` stay. Rounds count block by block, too, and
            a round that removes nothing is not scored. Floors and densities by layer do not go with 'n:m'.
        prunable: patterns (:mod:`pab.patterns`) that select the weights that may be pruned, such as
            ``['Conv2d', '!name:*.downsample.*']``; see :func:`~pab.pruners.targets.prunable_layers`.
        min_per_tensor: least number of weights that every tensor keeps; the total stays exact, and so does a tensor's
            density of its own.
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
        density: Real | Sequence[tuple[str, Real]],
        rounds: int = 1,
        schedule: str = 'exponential',
        scope: str = 'global',
        prunable: Sequence[str] = ('Conv2d',),
        min_per_tensor: int = 0,
        allocation: str = 'uniform',
    ):
        name = type(self).__name__
        if not hasattr(self, 'score'):
            raise TypeError(f'{name}: a pruner defines score(...), with arguments among {", ".join(INGREDIENTS)}')
        self.settings = PruneSettings(name, density, rounds, schedule, scope, prunable, min_per_tensor, allocation)
        asked = inspect.signature(self.score).parameters
        self.asks = tuple(asked)
        """Names of all that the score can use."""
        self.needs = frozenset(key for key, parameter in asked.items() if parameter.default is parameter.empty)
        """Names of what it cannot do without."""

    def groups(self, model: nn.Module, *, shot: Callable[[Fraction], Fraction] | None = None) -> list[Group]:
        """Tell which weights would compete, and how many of them would stay; nothing is scored.

        Arguments and errors are those of :meth:`prune`.
        """
        settings = self.settings
        places = prunable_places(model, settings.prunable)
        if parse_n_of_m(settings.scope):
            _check_inputs(settings, {name: found[0].layer for name, found in places.items()})
        shapes = {name: tuple(model.get_parameter(name).shape) for name in places}
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        named, rest = settings.density.by_tensor(places, sizes)
        if shot is not None:
            named = {name: _in_shot(settings, density, shot) for name, density in named.items()}
            rest = None if rest is None else _in_shot(settings, rest, shot)
        return make_groups(shapes, settings.scope, rest, settings.min_per_tensor, settings.allocation, named)

    def prune(
        self,
        model: nn.Module,
        batches: Sequence[tuple[Tensor, Tensor]] | None = None,
        *,
        shot: Callable[[Fraction], Fraction] | None = None,
        flips: Mapping[str, Tensor] | None = None,
        loss: Loss | None = None,
        input_shape: Sequence[int] | None = None,
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
                loss than the cross-entropy: a mean over the labels, by whose number SNIP and GraSP weigh it
                (those of -100 do not count). GraSP's own divides logits by 200 before.
            shot: for a pruning in several shots, the function from each density of the settings to the one after this
                shot, between it and 1, such as ``functools.partial(linear, done=1, rounds=3)``.
            flips: parameter name -> number of sign flips of each weight, for scores that read the history.
            input_shape: (C, H, W); by default that of the batches, else ``model.input_shape``.
            seed: fixes all that is random; the masks depend on it, the model and the arguments alone.
            on_round: called as ``on_round(done, total, density)`` after every round.

        Returns:
            Parameter name -> bool tensor of the weight's shape and device, True where the weight stays.

        Raises:
            ValueError: a need of the score was not given, ``prunable`` matches no layer, densities by layer do not fit
                the model, a score is not finite, a network that is not pruned yet has only scores of 0 by its
                gradients, the floors do not fit the density, or earlier masks left less than is to stay.
        """
        settings = self.settings
        with scoring_mode(model, seed):
            weights = {name: model.get_parameter(name) for name in prunable_layers(model, settings.prunable)}
            batches = as_batches(batches, next(iter(weights.values())).device, settings.owner)
            input_shape = as_input_shape(input_shape, batches, model, settings.owner)
            if flips is not None:
                check_flips(flips, weights, settings.owner)
            network = ScoringNetwork(model, given=weights) if 'network' in self.asks else None
            rounds = Rounds(weights, get_masks(model), self.groups(model, shot=shot), settings, network)
            possible = {
                'weights': rounds.weights,
                'masks': rounds.masks,
                'network': network,
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
            rounds.warn()
        return {name: rounds.masks[name].clone() for name in weights}


def _in_shot(settings: PruneSettings, density: Fraction, shot: Callable[[Fraction], Fraction]) -> Fraction:
    reached = as_density(shot(density), settings.owner, 'what shot returns')
    if reached < density:
        raise ValueError(
            f'{settings.owner}: shot must return a density between that of the settings and 1, got {float(reached):g} '
            f'for {float(density):g}'
        )
    return reached


def _check_inputs(settings: PruneSettings, layers: Mapping[str, nn.Module]) -> None:
    if turned := [name for name, layer in layers.items() if getattr(layer, 'transposed', False)]:
        raise ValueError(
            f'{settings.owner}: scope {settings.scope!r} needs weights of shape (out, in, ...), which {turned[0]!r} of '
            f"a transposed convolution is not; add '!name:{turned[0]}' to prunable"
        )
