"""The rounds of one pruning: score, mask the lowest, score again."""

import logging
from collections.abc import Callable, Iterator

import torch
from mmengine.logging import print_log

from .groups import Group
from .schedules import SCHEDULES
from .scoring_network import ScoringNetwork, Tensors
from .settings import PruneSettings

SHARE_BY_POSITION = 0.01
"""The share of a tensor's kept weights up to which equal scores at the threshold are no news."""


class Rounds:
    """State between rounds: ``weights`` in float64, 0 where pruned, and ``masks``, by parameter name.

    The tensors of a group are views of one flat tensor, in which they compete. The masks of an earlier pruning, which
    may lack names or have others, are respected; ValueError if they left fewer weights than are to be kept. With the
    ``network`` that the scores call, warnings and errors name its layers.
    """

    def __init__(
        self,
        weights: Tensors,
        masks: Tensors,
        groups: list[Group],
        settings: PruneSettings,
        network: ScoringNetwork | None = None,
    ):
        self._groups, self._settings, self._flat, self._network = groups, settings, [], network
        self._by_position: Tensors = {}
        self._scored = False
        self.weights: Tensors = {}
        self.masks: Tensors = {}
        for group in groups:
            members = {name: weights[name].detach() for name in group.names}
            earlier = [masks.get(name, torch.ones_like(w, dtype=torch.bool)) for name, w in members.items()]
            alive = torch.cat([mask.flatten() for mask in earlier])
            flat = torch.cat([w.double().flatten() for w in members.values()]).masked_fill_(~alive, 0)
            tied = torch.zeros_like(alive)
            self._flat.append((flat, alive, tied))
            views = zip(members.items(), *(part.split(group.sizes) for part in self._flat[-1]), strict=True)
            for (name, w), *parts in views:
                self.weights[name], self.masks[name], self._by_position[name] = (part.view(w.shape) for part in parts)
        self._living = [int(alive.count_nonzero()) for _, alive, _ in self._flat]
        self._check_earlier_masks()

    def run(self, score: Callable[[], Tensors]) -> Iterator[tuple[int, float]]:
        """Do the rounds; yield (rounds done, density reached) after each.

        ``score()`` returns a score for every weight, else ValueError; a round that removes nothing does without.
        """
        total = sum(sum(group.sizes) for group in self._groups)
        for done in range(1, self._settings.rounds + 1):
            groups = self._groups_in(done)
            survivors = [group.survivors(alive) for group, (_, alive, _) in zip(groups, self._flat, strict=True)]
            if survivors != self._living:
                self._remove(self._checked(score()), groups)
                self._living = survivors
            yield done, sum(self._living) / total

    def _remove(self, scores: Tensors, groups: list[Group]) -> None:
        for group, (weights, alive, by_position) in zip(groups, self._flat, strict=True):
            flat = torch.cat([scores.pop(name).flatten() for name in group.names])  # pop: a large network's memory
            gone, tied = group.losers(flat, alive, self._settings.min_per_tensor)
            alive[gone] = False
            weights[gone] = 0
            by_position[tied] = True

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
                raise ValueError(f'{owner}: the score of {name!r} is not finite; {self._not_finite()}')
        if self._network is not None:
            if not self._scored:
                self._check_flow(checked)
            self._network.forget()
        self._scored = True
        return checked

    def _not_finite(self) -> str:
        for name, weight in self.weights.items():
            if not weight.isfinite().all():
                return f'the weight {name!r} has NaN or infinity'
        if self._network is not None and (layer := self._network.overflow()):
            return (
                f'the values of the network leave the range of float64, or are NaN, from {layer} on; look for NaN in '
                'data and parameters, or take a pruner that multiplies no network, such as Mag'
            )
        return 'look for NaN or infinity in data and parameters, or for a gradient that leaves the range of float64'

    def _check_flow(self, scores: Tensors) -> None:
        """Name the tensors with only zero scores in the first round, and the layers that are the reason."""
        owner = self._settings.owner
        zero = [name for name, score in scores.items() if not score.masked_fill(~self.masks[name], 0).any()]
        zero = [name for name in zero if self.masks[name].any()]
        if not zero:
            return
        reason = self._network.blocked()
        if len(zero) == len(scores) and all(alive.all() for _, alive, _ in self._flat):
            raise ValueError(
                f'{owner}: every score is 0, since {reason}; draw weights that are not 0 there, or take a pruner that '
                'needs no gradient, such as Mag'
            )
        self._warn(f'every score is 0 in {", ".join(zero)}; {reason}')

    def warn(self) -> None:
        """Name the tensors without a weight, and those in which position decided about more than a hundredth."""
        if empty := [name for name, mask in self.masks.items() if not mask.any()]:
            self._warn(f'no weight is left in {", ".join(empty)}; min_per_tensor keeps some')
        kept = {name: (mask & self._by_position[name], int(mask.sum())) for name, mask in self.masks.items()}
        shares = {name: int(tied.sum()) / count for name, (tied, count) in kept.items() if count}
        if told := [f'{name} ({share:.0%})' for name, share in shares.items() if share > SHARE_BY_POSITION]:
            self._warn(f'scores are equal, so position decides which weights stay in {", ".join(told)}')

    def _warn(self, text: str) -> None:
        print_log(f'{self._settings.owner}: {text}', logger='current', level=logging.WARNING)

    def _check_earlier_masks(self) -> None:
        owner, floor = self._settings.owner, self._settings.min_per_tensor
        for group, (_, alive, _) in zip(self._groups, self._flat, strict=True):
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
