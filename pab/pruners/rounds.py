"""The rounds of one pruning: score, mask the lowest, score again."""

from collections.abc import Callable, Iterator

import torch

from .groups import Group
from .network import Tensors
from .schedules import SCHEDULES
from .settings import PruneSettings


class Rounds:
    """State between rounds: ``weights`` in float64, 0 where pruned, and ``masks``, by parameter name.

    The tensors of a group are views of one flat tensor, in which they compete. The masks of an earlier pruning, which
    may lack names or have others, are respected; ValueError if they left fewer weights than are to be kept.
    """

    def __init__(self, weights: Tensors, masks: Tensors, groups: list[Group], settings: PruneSettings):
        self._groups, self._settings, self._flat = groups, settings, []
        self.weights: Tensors = {}
        self.masks: Tensors = {}
        for group in groups:
            members = {name: weights[name].detach() for name in group.names}
            earlier = [masks.get(name, torch.ones_like(w, dtype=torch.bool)) for name, w in members.items()]
            alive = torch.cat([mask.flatten() for mask in earlier])
            flat = torch.cat([w.double().flatten() for w in members.values()]).masked_fill_(~alive, 0)
            self._flat.append((flat, alive))
            views = zip(members.items(), flat.split(group.sizes), alive.split(group.sizes), strict=True)
            for (name, w), weight, mask in views:
                self.weights[name], self.masks[name] = weight.view(w.shape), mask.view(w.shape)
        self._living = [int(alive.count_nonzero()) for _, alive in self._flat]
        self._check_earlier_masks()

    def run(self, score: Callable[[], Tensors]) -> Iterator[tuple[int, float]]:
        """Do the rounds; yield (rounds done, density reached) after each.

        ``score()`` returns a score for every weight, else ValueError; a round that removes nothing does without.
        """
        total = sum(sum(group.sizes) for group in self._groups)
        for done in range(1, self._settings.rounds + 1):
            groups = self._groups_in(done)
            survivors = [group.survivors(alive) for group, (_, alive) in zip(groups, self._flat, strict=True)]
            if survivors != self._living:
                self._remove(self._checked(score()), groups)
                self._living = survivors
            yield done, sum(self._living) / total

    def _remove(self, scores: Tensors, groups: list[Group]) -> None:
        for group, (weights, alive) in zip(groups, self._flat, strict=True):
            flat = torch.cat([scores.pop(name).flatten() for name in group.names])  # pop: a large network's memory
            gone = group.losers(flat, alive, self._settings.min_per_tensor)
            alive[gone] = False
            weights[gone] = 0

    def _groups_in(self, done: int) -> list[Group]:
        """The groups with what they keep in a round, from 1."""
        schedule, rounds = SCHEDULES[self._settings.schedule], self._settings.rounds
        if done == rounds:
            return self._groups
        return [group.at(schedule(group.density, done, rounds)) for group in self._groups]

    def _checked(self, scores: Tensors) -> Tensors:
        owner, checked = self._settings.owner, {}
        if odd := set(self.weights) ^ set(scores):
            raise ValueError(f'{owner}: score must return one tensor for each weight; check {", ".join(sorted(odd))}')
        for name, weight in self.weights.items():
            score = checked[name] = scores[name].detach().to(weight)
            if score.shape != weight.shape:
                raise ValueError(
                    f'{owner}: the score of {name!r} has shape {tuple(score.shape)}, its weight {tuple(weight.shape)}'
                )
            # what is pruned takes no part any more; one sum spares a closer look at what is finite
            if not score.sum().isfinite() and not (score.isfinite() | ~self.masks[name]).all():
                raise ValueError(
                    f'{owner}: the score of {name!r} is not finite; look for NaN or infinity in weights and data'
                )
        return checked

    def _check_earlier_masks(self) -> None:
        owner, floor = self._settings.owner, self._settings.min_per_tensor
        for group, (_, alive) in zip(self._groups, self._flat, strict=True):
            if (left := group.survivors(alive)) < group.count:
                raise ValueError(
                    f'{owner}: {group.rule} keeps {group.count} weights of {", ".join(group.names)}, but earlier masks '
                    f'left {left} of them; a pruned weight never comes back, so ask for a lower density or start from '
                    'the dense network'
                )
        for name, mask in self.masks.items():
            least = min(floor, mask.numel())
            if (living := int(mask.count_nonzero())) < least:
                raise ValueError(
                    f'{owner}: min_per_tensor asks for {least} weights in {name!r}, but earlier masks left {living}'
                )
