"""A pruner of the user's own: one method, and the errors that help to write it."""

from fractions import Fraction

import pytest

from pab.pruners import Pruner, kept_count
from pab.registry import PRUNERS
from tests.test_pruners.pruning import build, kept, same, total


@PRUNERS.register_module()
class Power(Pruner):
    """Score a weight by a power of its magnitude: a pruner as a user writes one."""

    def __init__(self, power, **settings):
        super().__init__(**settings)
        self.power = power

    def score(self, weights, stream=None):
        assert stream is not None
        return {name: w.abs() ** self.power for name, w in weights.items()}


def test_a_pruner_of_the_users_own(net):
    assert same(build('Power', 0.2, power=3).prune(net), build('Mag', 0.2).prune(net))
    assert build('Power', power=3).needs == {'weights'}


def test_the_score_of_a_pruned_weight_does_not_matter(net):
    class Small(Pruner):
        def score(self, weights):
            return {name: 1 / w.abs() for name, w in weights.items()}  # infinite once pruned

    masks = Small(0.2, rounds=3).prune(net)
    assert same(masks, Small(0.2).prune(net))
    assert kept(masks) == kept_count(total(masks), Fraction('0.2'))


def test_a_score_that_asks_for_something_unknown():
    with pytest.raises(TypeError, match=r"Wants: score asks for 'data'; a score may ask for weights, masks"):

        class Wants(Pruner):
            def score(self, data):
                return data


def test_a_pruner_without_a_score():
    with pytest.raises(TypeError, match=r'Pruner: a pruner defines score\(\.\.\.\)'):
        Pruner(density=0.5)


def test_a_score_of_another_shape_or_name(net):
    class Flat(Pruner):
        def score(self, weights):
            return {name: w.flatten() for name, w in weights.items()}

    with pytest.raises(ValueError, match=r"Flat: the score of 'conv1.weight' has shape"):
        Flat(0.5).prune(net)

    class Less(Pruner):
        def score(self, weights):
            return {name: w for name, w in weights.items() if name != 'short.weight'}

    with pytest.raises(ValueError, match=r'Less: score must return one tensor for each weight; check short.weight'):
        Less(0.5).prune(net)
