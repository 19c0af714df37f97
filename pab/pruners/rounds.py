"""The rounds of one pruning: score, mask the lowest, score again."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from .schedules import SCHEDULES, kept_count
from .selection import Group, lowest
from .settings import PruneSettings


class Rounds:
    """State between rounds: weights, scores and masks, each laid end to end in one flat tensor, group after group.

    Attributes:
        weights: parameter name -> float64 view, 0 where pruned.
        masks: parameter name -> bool view, True where kept.
        device: of all of them.

    Args:
        weights: parameter name -> weight, in order of position.
        masks: parameter name -> bool tensor of an earlier pruning; may lack names, or have others.
        groups: who competes with whom.
        settings: of the pruner.

    Raises:
        ValueError: earlier masks left fewer weights than are to be kept.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        groups: Sequence[Group],
        settings: PruneSettings,
    ):
        self._groups, self._settings, self._owner = groups, settings, settings.owner
        shapes = {name: weights[name].shape for group in groups for name in group.names}
        self.device = next(iter(weights.values())).device
        flat_weights = torch.empty(sum(map(torch.Size.numel, shapes.values())), dtype=torch.float64, device=self.device)
        flat_scores, flat_masks = torch.empty_like(flat_weights), torch.ones_like(flat_weights, dtype=torch.bool)
        self.weights, self._scores, self.masks = (
            _views(flat, shapes) for flat in (flat_weights, flat_scores, flat_masks)
        )
        for name, weight in self.weights.items():
            weight.copy_(weights[name].detach())
            if name in masks:
                self.masks[name].copy_(masks[name])
        flat_weights.masked_fill_(~flat_masks, 0)
        sizes = [sum(group.sizes) for group in groups]
        self._parts = list(zip(*(flat.split(sizes) for flat in (flat_weights, flat_scores, flat_masks)), strict=True))
        self._living = [int(alive.count_nonzero()) for _, _, alive in self._parts]
        self._check_earlier_masks()

    def run(self, score: Callable[[], Mapping[str, Tensor]]) -> Iterator[tuple[int, float]]:
        """Do the rounds; yield (rounds done, density reached) after each.

        Args:
            score: returns a score for every weight, of its shape; called once a round, and not at all in a round that
                removes nothing.

        Raises:
            ValueError: a score is missing, of another shape or not finite.
        """
        total = sum(sum(group.sizes) for group in self._groups)
        for done in range(1, self._settings.rounds + 1):
            counts = [min(pair) for pair in zip(self._counts(done), self._living, strict=True)]
            if counts != self._living:
                self._take(score())
                for group, part, living, count in zip(self._groups, self._parts, self._living, counts, strict=True):
                    weights, scores, alive = part
                    gone = lowest(scores, alive, living - count, group.sizes, self._settings.min_per_tensor)
                    alive[gone] = False
                    weights[gone] = 0
                self._living = counts
            yield done, sum(self._living) / total

    def _counts(self, done: int) -> list[int]:
        if done == self._settings.rounds:
            return [group.count for group in self._groups]
        schedule, rounds = SCHEDULES[self._settings.schedule], self._settings.rounds
        own = [kept_count(sum(group.sizes), schedule(group.density, done, rounds)) for group in self._groups]
        return [max(group.count, count) for group, count in zip(self._groups, own, strict=True)]

    def _take(self, scores: Mapping[str, Tensor]) -> None:
        if odd := set(self._scores) ^ set(scores):
            raise ValueError(
                f'{self._owner}: score must return one tensor for each weight; check {", ".join(sorted(odd))}'
            )
        for name, buffer in self._scores.items():
            if scores[name].shape != buffer.shape:
                raise ValueError(
                    f'{self._owner}: the score of {name!r} has shape {tuple(scores[name].shape)}, '
                    f'its weight {tuple(buffer.shape)}'
                )
            buffer.copy_(scores[name].detach())
            # what is pruned takes no part any more; one sum spares a closer look at what is finite
            if not buffer.sum().isfinite() and not (buffer.isfinite() | ~self.masks[name]).all():
                raise ValueError(
                    f'{self._owner}: the score of {name!r} is not finite; look for NaN or infinity in weights and data'
                )

    def _check_earlier_masks(self) -> None:
        for group, living in zip(self._groups, self._living, strict=True):
            if living < group.count:
                raise ValueError(
                    f'{self._owner}: density {float(group.density):g} keeps {group.count} weights of '
                    f'{", ".join(group.names)}, but earlier masks left {living}; '
                    'a pruned weight never comes back, so ask for a lower density'
                )
        for name, mask in self.masks.items():
            least = min(self._settings.min_per_tensor, mask.numel())
            if (living := int(mask.count_nonzero())) < least:
                raise ValueError(
                    f'{self._owner}: min_per_tensor asks for {least} weights in {name!r}, '
                    f'but earlier masks left {living}'
                )


def _views(flat: Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    parts = flat.split([shape.numel() for shape in shapes.values()])
    return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
