"""The rounds of one pruning: score, mask the lowest, score again."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from .schedules import SCHEDULES, kept_count
from .selection import Group, lowest, share_counts
from .settings import PruneSettings


class Rounds:
    """State between rounds: weights, scores and masks, each laid end to end in one flat tensor, group after group.

    Attributes:
        weights: parameter name -> float64 view, 0 where pruned.
        scores: parameter name -> float64 view, where a score may be computed in place.
        masks: parameter name -> bool view, True where kept.
        device: of all of them.

    Args:
        weights: parameter name -> weight, in order of position.
        masks: parameter name -> bool tensor of an earlier pruning; may lack names, or have others.
        groups: who competes with whom.
        settings: of the pruner.
        owner: class of the pruner, for errors.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        masks: Mapping[str, Tensor],
        groups: list[Group],
        settings: PruneSettings,
        owner: str,
    ):
        self._groups, self._settings, self._owner = groups, settings, owner
        names = [name for group in groups for name in group.names]
        shapes = {name: weights[name].shape for name in names}
        self.device = weights[names[0]].device
        self._sizes = [[shapes[name].numel() for name in group.names] for group in groups]
        total = sum(map(sum, self._sizes))
        self._flat_weights = torch.empty(total, dtype=torch.float64, device=self.device)
        self._flat_scores = torch.empty_like(self._flat_weights)
        self._flat_masks = torch.ones(total, dtype=torch.bool, device=self.device)
        self.weights = _views(self._flat_weights, shapes)
        self.masks = _views(self._flat_masks, shapes)
        self.scores = _views(self._flat_scores, shapes)
        self._flat_magnitudes: Tensor | None = None
        for name in names:
            self.weights[name].copy_(weights[name].detach())
            if name in masks:
                self.masks[name].copy_(masks[name])
        self._flat_weights *= self._flat_masks
        sizes = [sum(part) for part in self._sizes]
        self._parts = list(zip(self._flat_scores.split(sizes), self._flat_masks.split(sizes), strict=True))
        self._final = share_counts(self._sizes, [group.density for group in groups], settings.min_per_tensor)
        self._living = [int(alive.count_nonzero()) for _, alive in self._parts]
        self._check_earlier_masks()

    def magnitudes(self) -> dict[str, Tensor]:
        """Return the absolute weights, parameter name -> float64 view; once asked for they are kept up to date."""
        if self._flat_magnitudes is None:
            self._flat_magnitudes = self._flat_weights.abs()
        return _views(self._flat_magnitudes, {name: weight.shape for name, weight in self.weights.items()})

    def run(self, score: Callable[[], Mapping[str, Tensor]]) -> Iterator[tuple[int, float]]:
        """Do the rounds; yield (rounds done, density reached) after each.

        Args:
            score: returns a score for every weight, of its shape; called once a round, and not at all in a round that
                removes nothing.

        Raises:
            ValueError: a score is missing, of another shape or not finite.
        """
        for done in range(1, self._settings.rounds + 1):
            counts = [min(count, living) for count, living in zip(self._counts(done), self._living, strict=True)]
            if counts != self._living:
                self._take(score())
                start = 0
                for part, (scores, alive), living, count in zip(
                    self._sizes, self._parts, self._living, counts, strict=True
                ):
                    gone = lowest(scores, alive, living - count, part, self._settings.min_per_tensor)
                    alive[gone] = False
                    self._forget(gone + start)
                    start += len(alive)
                self._living = counts
            yield done, sum(self._living) / self._flat_masks.numel()

    def _counts(self, done: int) -> list[int]:
        if done == self._settings.rounds:
            return self._final
        schedule = SCHEDULES[self._settings.schedule]
        densities = [schedule(group.density, done, self._settings.rounds) for group in self._groups]
        own = [kept_count(sum(part), density) for part, density in zip(self._sizes, densities, strict=True)]
        return [max(last, count) for last, count in zip(self._final, own, strict=True)]  # no group falls below its end

    def _forget(self, gone: Tensor) -> None:
        for flat in (self._flat_weights, self._flat_magnitudes):
            if flat is not None:
                flat[gone] = 0

    def _take(self, scores: Mapping[str, Tensor]) -> None:
        if odd := set(self.scores) ^ set(scores):
            raise ValueError(
                f'{self._owner}: score must return one tensor for each weight; check {", ".join(sorted(odd))}'
            )
        for name, buffer in self.scores.items():
            if scores[name].shape != buffer.shape:
                raise ValueError(
                    f'{self._owner}: the score of {name!r} has shape {tuple(scores[name].shape)}, '
                    f'its weight {tuple(buffer.shape)}'
                )
            if scores[name].data_ptr() != buffer.data_ptr():
                buffer.copy_(scores[name].detach())
        if self._flat_scores.sum().isfinite():  # one pass; only a sum that is not finite makes us look closer
            return
        for name, buffer in self.scores.items():
            if not (buffer.isfinite() | ~self.masks[name]).all():  # what is pruned takes no part any more
                raise ValueError(
                    f'{self._owner}: the score of {name!r} is not finite; look for NaN or infinity in weights and data'
                )

    def _check_earlier_masks(self) -> None:
        for group, living, count in zip(self._groups, self._living, self._final, strict=True):
            if living < count:
                raise ValueError(
                    f'{self._owner}: density {float(group.density):g} keeps {count} weights of '
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
