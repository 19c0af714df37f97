"""Edge-popup and biprop: which weights are used, how many, and where the gradient of the scores comes from."""

import copy
from fractions import Fraction

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pab.latent import Biprop, EdgePopup, highest
from pab.pruners import kept_count
from tests.test_latent.latents import convert, convolutions, plain, scores_


def four(way, **options):
    """A 1x1 convolution with the weights 1, -2, 3, -5, of which half are used: those with |scores| 4 and 3."""
    conv = nn.Conv2d(4, 1, 1, bias=False)
    conv.weight.data = torch.tensor([1.0, -2.0, 3.0, -5.0]).view(1, 4, 1, 1)
    return scores_(way(0.5, **options)(conv), 0.1, -4.0, -0.2, 3.0)


def global_network():
    return convert(plain(), dict(type='EdgePopup', density=0.3, scope='global'))


def used_weights(network):
    return [layer.used_weight().detach() for layer in convolutions(network)]


def test_highest_by_hand():
    assert highest(torch.tensor([3.0, 1.0, 2.0]), 2).tolist() == [True, False, True]
    assert highest(torch.tensor([[1.0, 1.0], [2.0, 1.0]]), 3).tolist() == [[True, True], [True, False]]  # ties: lower
    assert highest(torch.zeros(3), 1).tolist() == [True, False, False]
    assert highest(torch.zeros(3), 3).all()


@pytest.mark.parametrize('count', [1, 7, 31, 60])
def test_highest_is_the_first_of_a_stable_sort(count):
    scores = torch.randint(0, 6, (3, 20)).float()
    order = scores.flatten().argsort(descending=True, stable=True)
    expected = torch.zeros(60, dtype=torch.bool)
    expected[order[:count]] = True
    assert torch.equal(highest(scores, count).flatten(), expected)


@pytest.mark.parametrize(('through_abs', 'sign'), [(False, [1, 1, 1, 1]), (True, [1, -1, -1, 1])])
@pytest.mark.parametrize(
    ('way', 'used', 'factors'),
    [
        (EdgePopup, [0, -2, 0, -5], [1, -2, 3, -5]),  # the weights
        (Biprop, [0, -3.5, 0, -3.5], [3.5, -3.5, 3.5, -3.5]),  # alpha = (2 + 5) / 2
    ],
)
def test_by_hand(way, used, factors, through_abs, sign):
    conv = four(way, through_abs=through_abs)
    got, upstream = conv.used_weight(), torch.tensor([1.0, 10.0, 100.0, 1000.0])
    assert got.flatten().tolist() == used
    got.backward(upstream.view_as(got))
    # for all four, used or not; the code's variant has the sign of the score too
    assert conv.scores.grad.flatten().tolist() == (upstream * torch.tensor(factors) * torch.tensor(sign)).tolist()
    assert conv.weight.grad is None


def test_biprop_of_a_layer_that_is_used_nowhere_has_finite_gradients():
    """Scope 'global' may leave such a layer, and so may a mask that removes what the scores choose."""
    network = convert(plain(), dict(type='Biprop', density=0.1, scope='global'))
    first = convolutions(network)[0]
    first.scores.data.zero_()
    network(torch.randn(2, 3, 8, 8)).square().sum().backward()
    assert not first.used_weight().any()
    assert all(layer.scores.grad.isfinite().all() for layer in convolutions(network))
    conv = four(Biprop)
    conv.weight.data[0, 1] = 0  # a mask has removed one of the two that the scores would choose: the next one is used
    assert conv.used_weight().flatten().tolist() == [0, 0, 4, -4]  # alpha is the mean of those in use
    conv.weight.data[0, :3] = 0  # fewer are kept than could be used
    assert conv.used_weight().flatten().tolist() == [0, 0, 0, -5]


def test_global_concerns_the_layers_that_are_converted():
    network = plain()
    EdgePopup(0.9, layers=['name:0'])(network)
    EdgePopup(0.1, scope='global', layers=['name:3'])(network)
    shares = [float((layer.used_weight() != 0).float().mean()) for layer in convolutions(network)[:2]]
    assert shares == pytest.approx([0.9, 0.1], abs=0.01)


@pytest.mark.parametrize('way', [EdgePopup, Biprop])
@pytest.mark.parametrize('scope', ['local', 'global'])
@pytest.mark.parametrize('density', [1.0, 0.9, 0.5, 0.3, 0.07, 1e-4])
def test_counts_are_exact(way, scope, density):
    network = convert(plain(), dict(type=way.__name__, density=density, scope=scope))
    for layer in convolutions(network):
        layer.scores.data.round_(decimals=1)  # many equal ones
    weights = used_weights(network)
    used, totals = [int(weight.count_nonzero()) for weight in weights], [weight.numel() for weight in weights]
    exact = Fraction(str(density))
    if scope == 'local':
        assert used == [kept_count(total, exact) for total in totals]
    else:
        assert sum(used) == kept_count(sum(totals), exact)


def test_global_scores_compete_over_all_layers():
    network = global_network()
    last = convolutions(network)[-1]
    last.scores.data += 10
    assert last.used_weight().all()
    scores = torch.cat([layer.scores.detach().abs().flatten() for layer in convolutions(network)])
    used = torch.cat([weight.flatten() != 0 for weight in used_weights(network)])
    assert scores[used].min() >= scores[~used].max()


def test_global_is_the_same_within_a_forward_pass_and_outside(monkeypatch):
    network = global_network()
    layers = convolutions(network)
    group, choices, seen = layers[0].ranking, [], []
    choose = type(group).choose
    monkeypatch.setattr(type(group), 'choose', lambda self: choices.append(1) or choose(self))
    hooks = [layer.register_forward_hook(lambda layer, *_: seen.append(layer.used_weight())) for layer in layers]
    logits = network(torch.ones(1, 3, 8, 8))
    assert len(choices) == 1  # one choice a forward pass, for all layers
    assert group.chosen is None
    for hook, layer, used in zip(hooks, layers, seen, strict=True):
        hook.remove()
        assert torch.equal(layer.used_weight(), used)
    # a new choice once the scores have changed
    layers[-1].scores.data += 10
    assert layers[-1].used_weight().all()
    assert not torch.equal(network(torch.ones(1, 3, 8, 8)), logits)


def test_global_after_a_copy():
    network = global_network()
    before = used_weights(network)
    twin = copy.deepcopy(network)
    for layer in convolutions(twin):
        layer.scores.data.neg_().add_(0.05)
    images = torch.randn(2, 3, 8, 8)
    alone = global_network()
    alone.load_state_dict(twin.state_dict())
    assert torch.equal(twin(images), alone(images))
    group = convolutions(twin)[0].ranking
    assert group is not convolutions(network)[0].ranking
    assert all(mine is own for mine, own in zip(group.layers, convolutions(twin), strict=True))
    assert all(map(torch.equal, used_weights(network), before))


def test_global_after_a_forward_pass_that_raised():
    network = global_network()
    with pytest.raises(RuntimeError):
        network(torch.ones(1, 4, 8, 8))
    last = convolutions(network)[-1]
    last.scores.data += 10
    assert last.used_weight().all()  # what that pass had chosen is forgotten


def test_converted_again_with_another_scope():
    for weight in used_weights(convert(global_network(), dict(type='EdgePopup', density=0.5))):
        assert int(weight.count_nonzero()) == kept_count(weight.numel(), Fraction('0.5'))


@pytest.mark.parametrize('way', [EdgePopup, Biprop])
def test_scores_start_as_torch_draws_weights(way):
    conv = convert(way(0.3)(nn.Sequential(nn.Conv2d(16, 64, 3, groups=2))))[0]
    bound = (8 * 9) ** -0.5
    assert 0.99 * bound < conv.scores.max() < bound
    assert -bound <= conv.scores.min() < -0.99 * bound
    assert sorted(name for name, p in conv.named_parameters() if p.requires_grad) == ['bias', 'scores']


def test_training_changes_which_weights_are_used():
    network = global_network()
    weights = [layer.weight.clone() for layer in convolutions(network)]
    before = used_weights(network)
    optimizer = torch.optim.SGD([layer.scores for layer in convolutions(network)], lr=1.0)
    images, labels = torch.randn(16, 3, 8, 8), torch.arange(16) % 5
    losses = []
    for _ in range(20):
        loss = F.cross_entropy(network(images), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert not all(torch.equal(one != 0, other != 0) for one, other in zip(before, used_weights(network), strict=True))
    assert all(torch.equal(layer.weight, w) for layer, w in zip(convolutions(network), weights, strict=True))
    assert losses[-1] < losses[0]


@pytest.mark.parametrize('way', [EdgePopup, Biprop])
def test_bad_settings(way):
    name = way.__name__
    with pytest.raises(ValueError, match=rf'{name}: density must lie in \(0, 1\], got 0'):
        way(0)
    with pytest.raises(ValueError, match=rf"{name}: unknown scope 'layer'; known: local, global"):
        way(0.5, scope='layer')
