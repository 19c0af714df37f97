"""What a pruner refuses, and what it says."""

import pytest
import torch
from torch import nn

from pab.pruners import apply_masks_
from pab.registry import PRUNERS
from tests.test_pruners.pruning import ALL, build, same


@pytest.mark.parametrize('name', ALL)
def test_earlier_masks_that_left_too_little(name, net, batches, flips):
    apply_masks_(net, build('Mag', 0.2).prune(net))
    with pytest.raises(ValueError, match=rf'{name}: density 0.3 keeps .* earlier masks left .* never comes back'):
        build(name, 0.3).prune(net, batches, flips=flips)


@pytest.mark.parametrize(
    ('settings', 'error', 'text'),
    [
        (
            dict(density=0),
            ValueError,
            r'Mag: density must lie in \(0, 1\], got 0; it is the share of weights that is kept',
        ),
        (dict(density=1.5), ValueError, r'Mag: density must lie in \(0, 1\], got 1.5'),
        (dict(density='half'), TypeError, r"Mag: density must lie in \(0, 1\], got 'half'"),
        (dict(rounds=0), ValueError, 'Mag: rounds must be an int >= 1, got 0'),
        (dict(rounds=1.5), ValueError, 'Mag: rounds must be an int >= 1, got 1.5'),
        (dict(schedule='cosine'), ValueError, "Mag: unknown schedule 'cosine'; known: exponential, linear"),
        (dict(scope='layer'), ValueError, "Mag: unknown scope 'layer'; known: global, local, n:m with 1 <= n"),
        (dict(prunable='Conv2d'), TypeError, "Mag: prunable must be a list of patterns such as .* got 'Conv2d'"),
        (dict(prunable=()), ValueError, r'Mag: prunable selects nothing, got \[\]'),
        (dict(min_per_tensor=-1), ValueError, 'Mag: min_per_tensor must be an int >= 0, got -1'),
        (dict(min_per_tensor=0.5), ValueError, 'Mag: min_per_tensor must be an int >= 0, got 0.5'),
    ],
)
def test_bad_settings(settings, error, text):
    with pytest.raises(error, match=text):
        PRUNERS.build(dict(dict(type='Mag', density=0.5), **settings))


@pytest.mark.parametrize(
    ('name', 'need'), [('SNIP', 'batches'), ('GraSP', 'batches'), ('SynFlow', 'input_shape'), ('FlipFreq', 'flips')]
)
def test_what_a_score_needs(name, need, net):
    pruner = build(name)
    assert need in pruner.needs
    with pytest.raises(ValueError, match=rf'{name}: its score needs {need}, .* give prune\(\.\.\., {need}='):
        pruner.prune(net)


class TokenNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

    def forward(self, tokens):
        return self.head(self.embedding(tokens).mean(1))


def test_an_input_that_the_network_does_not_take_is_one_line(net):
    told = r'^SynFlow: scores with an input of ones, float64 of shape \(1, 5\), which the network does not take: .*ind'
    with pytest.raises(ValueError, match=told) as caught:
        build('SynFlow', prunable=['Linear']).prune(TokenNet(), input_shape=(5,))
    assert 'take SNIP or GraSP where inputs are token ids' in str(caught.value)
    assert '\n' not in str(caught.value)
    with pytest.raises(ValueError, match=r'shape \(1, 4, 8, 8\), which the network does not take: .*channels'):
        build('SynFlow').prune(net, input_shape=(4, 8, 8))
    assert net.training


def test_where_the_input_shape_comes_from(net, batches):
    pruner = build('SynFlow')
    by_batch = pruner.prune(net, batches)
    assert same(by_batch, pruner.prune(net, input_shape=[3, 8, 8]))
    net.input_shape = (3, 8, 8)
    assert same(by_batch, pruner.prune(net))
    with pytest.raises(ValueError, match=r'SynFlow: input_shape must be the \(C, H, W\) of one image'):
        pruner.prune(net, input_shape=(3, 0, 8))


def test_bad_batches(net, batches, flips):
    with pytest.raises(ValueError, match=r'SNIP: batches is empty'):
        build('SNIP').prune(net, [])
    with pytest.raises(TypeError, match=r'SNIP: batches must hold pairs of tensors \(images, labels\), got a Tensor'):
        build('SNIP').prune(net, batches[0])
    with pytest.raises(TypeError, match=r'SNIP: batches must be a list'):
        build('SNIP').prune(net, batches[0][0])
    del flips['conv1.weight']
    with pytest.raises(ValueError, match=r"FlipFreq: flips has no entry for 'conv1.weight'"):
        build('FlipFreq').prune(net, flips=flips)
    with pytest.raises(ValueError, match=r"FlipFreq: flips of 'conv1.weight' have shape"):
        build('FlipFreq').prune(net, flips=dict(flips, **{'conv1.weight': torch.zeros(3)}))


def test_scores_that_are_not_finite(net, batches):
    net.conv2.weight.data[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"Mag: the score of 'conv2.weight' is not finite"):
        build('Mag').prune(net)
