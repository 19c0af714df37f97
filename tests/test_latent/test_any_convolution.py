"""A latent sits on any convolution, and a network with such layers is copied and stored as any other."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from pab.latent import EdgePopup, LatentSigns, merge_latents_
from pab.models import initialize_
from pab.psg import convert_psg_
from tests.small_run import run_in_child
from tests.test_latent.latents import WAYS, Standardized, convert, every_way, plain

IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def through_pickle(network):
    return pickle.loads(pickle.dumps(network))


@every_way
def test_a_convolution_of_ones_own_computes_with_the_used_weight(way):
    network, images = nn.Sequential(Standardized(3, 6, 3, padding=1), nn.ReLU(), Standardized(6, 4, 3)), IMAGES
    twin = copy.deepcopy(network)
    convert(network, WAYS[way])
    twin.load_state_dict(network.state_dict(), strict=False)
    for layer, other in zip(network[::2], twin[::2], strict=True):
        assert isinstance(layer, Standardized)
        assert layer.gain > 1  # drawn by its own rule
        other.weight.data.copy_(layer.used_weight())
    out = network(images)
    assert torch.equal(out, twin(images))
    out.square().sum().backward()
    assert getattr(network[0], network[0].latents[0]).grad.any()
    assert isinstance(network[0].weight, nn.Parameter)
    assert merge_latents_(network) == ['0.weight', '2.weight']
    assert [type(layer) for layer in network[::2]] == [Standardized] * 2
    assert torch.equal(network(images), out)


@pytest.mark.parametrize(('kind', 'size'), [(nn.Conv1d, [8]), (nn.Conv3d, [5] * 3), (nn.ConvTranspose2d, [4] * 2)])
def test_convolutions_of_other_dimensions(kind, size):
    layer, images = kind(3, 4, 3), torch.ones(2, 3, *size)
    network = EdgePopup(0.5, layers=['name:*'])(nn.Sequential(copy.deepcopy(layer)))
    layer.weight.data.copy_(network[0].used_weight())
    assert torch.equal(network(images), layer(images))


def test_a_forward_pass_that_raises_leaves_the_weight_as_it_was():
    layer = LatentSigns()(nn.Conv2d(3, 4, 3))
    weight = layer.weight
    with pytest.raises(RuntimeError):
        layer(torch.ones(1, 5, 8, 8))
    assert layer.weight is weight


@pytest.mark.parametrize(
    'layer', [nn.LazyConv2d(4, 3), weight_norm(nn.Conv2d(3, 4, 3)), EdgePopup(0.5)(nn.Conv2d(3, 4, 3))]
)
def test_layers_without_a_weight_to_replace_are_refused(layer):
    with pytest.raises(ValueError, match=r'LatentSigns: .* convolutions with a parameter weight and without other la'):
        LatentSigns()(nn.Sequential(layer))


@pytest.mark.parametrize('copied', [copy.deepcopy, through_pickle])
@pytest.mark.parametrize('below', [False, True], ids=['plain', 'PSG'])
@every_way
def test_a_copy_is_the_same_network_and_apart(way, below, copied):
    network = plain()
    network[0] = Standardized(3, 8, 3, padding=1, bias=False)
    network = convert(convert_psg_(network) if below else network, WAYS[way])
    twin, expected = copied(network), network(IMAGES)
    assert [type(layer) for layer in twin] == [type(layer) for layer in network]
    assert torch.equal(twin(IMAGES), expected)
    for name, parameter in twin.named_parameters():
        assert parameter.requires_grad == network.get_parameter(name).requires_grad
        parameter.data.zero_()
    assert torch.equal(network(IMAGES), expected)


def test_a_whole_network_is_stored_for_another_process(tmp_path):
    network = convert(convert_psg_(plain()), WAYS['biprop, global'])
    torch.save((network, IMAGES, network(IMAGES)), tmp_path / 'network.pt')
    code = (
        'import torch\n'
        'network, images, expected = torch.load(file, weights_only=False)\n'
        'assert torch.equal(network(images), expected)\n'
        'assert type(network[0]).__name__ == "BipropPSGConv2d"\n'
    )
    # exec is what the other process is given to call: it has imported nothing of this file
    status, error = run_in_child(exec, code, {'file': tmp_path / 'network.pt'})
    assert status == 0 and error is None, error


def test_the_seed_draws_a_layer_of_ones_own_whatever_the_order():
    first = convert(nn.Sequential(Standardized(3, 4, 3)), WAYS['ternary'], seed=5)
    again = initialize_(copy.deepcopy(first), seed=5)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())
