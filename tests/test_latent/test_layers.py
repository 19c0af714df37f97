"""Layers with a used weight, for every way to make one."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pab.contracts import exact_gradients, layers_with_used_weight
from pab.latent import merge_latents_
from pab.models import initialize_
from pab.optim import assign_owners
from pab.pruners import SNIP, GraSP, Mag, SynFlow, apply_masks_, check_masks, get_masks
from pab.psg import PSGConv2d
from pab.registry import CONVERTERS, MODELS
from tests.test_latent.latents import DRAWN, WAYS, convert, convolutions, every_way, every_way_that_draws, plain

PSG = dict(type='PSG', input_bits=4, grad_bits=6, threshold=0.1)


@pytest.fixture
def images():
    return torch.randn(4, 3, 8, 8)


def move_latents_(network):
    """Some latents change their sign, and scores their order, as by training."""
    for layer in convolutions(network):
        for name in layer.latents:
            getattr(layer, name).data += 0.05 * torch.randn_like(getattr(layer, name))


def train(network, images, steps=3):
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.5, momentum=0.9, weight_decay=1e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network(images), torch.arange(len(images)) % 5).backward()
        optimizer.step()


@every_way
def test_the_forward_pass_multiplies_by_the_used_weight(way, images):
    network = convert(plain(), WAYS[way])
    move_latents_(network)
    twin = plain()
    twin.load_state_dict(network.state_dict(), strict=False)
    for layer, other in zip(convolutions(network), convolutions(twin), strict=True):
        other.weight.data.copy_(layer.used_weight())
    assert torch.equal(network(images), twin(images))
    assert list(layers_with_used_weight(network)) == ['0.weight', '3.weight', '5.weight']


@every_way
def test_latents_change_and_weights_only_where_they_are_trained_too(way, images):
    network = convert(plain(), WAYS[way])
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    train(network, images)
    changed = {name for name, p in network.named_parameters() if not torch.equal(p, before[name])}
    latents = {f'{at}.{own}' for at in (0, 3, 5) for own in network[at].latents}
    latents |= {f'{at}.weight' for at in (0, 3, 5) if way not in DRAWN}
    assert changed == latents | {'1.weight', '1.bias', '3.bias', '7.weight', '7.bias'}


@every_way
def test_below_it_a_psg_layer_gives_the_gradient(way):
    """The gradient of the latent is PSG's gradient of the used weight, passed on as an ordinary one would be."""
    images, upstream = torch.randn(4, 3, 8, 8).relu(), torch.randn(4, 6, 8, 8)
    network = convert(nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False)), PSG, WAYS[way])
    move_latents_(network)
    layer, alone = network[0], PSGConv2d(3, 6, 3, padding=1, bias=False, psg=network[0].psg)
    assert isinstance(layer, PSGConv2d)
    used = layer.used_weight()
    alone.weight.data.copy_(used)
    alone(images).backward(upstream)
    used.backward(alone.weight.grad)  # by the latent's own rule, from PSG's gradient
    expected = {name: getattr(layer, name).grad.clone() for name in layer.latents}
    layer.zero_grad()
    out = network(images)
    out.backward(upstream)
    for name in layer.latents:
        assert torch.equal(getattr(layer, name).grad, expected[name]), name
    if way == 'flipping':
        assert torch.equal(layer.latent.grad, alone.weight.grad * layer.weight)
    layer.zero_grad()
    with exact_gradients(network):  # as pruners see it
        out = network(images)
    seen = layer.weight if layer.scored_as_drawn else layer.used_weight()
    assert torch.equal(out, F.conv2d(images, seen, padding=1))
    if not layer.scored_as_drawn:
        out.backward(upstream)
        name = layer.latents[0]
        assert not torch.equal(getattr(layer, name).grad, expected[name])


@every_way
def test_pruned_weights_stay_out_of_use(way, images):
    network = convert(plain(), WAYS[way])
    masks = Mag(0.5).prune(plain())
    apply_masks_(network, masks)
    F.cross_entropy(network(images), torch.arange(4)).backward()
    for name, layer in layers_with_used_weight(network).items():
        gradient = getattr(layer, layer.latents[0]).grad
        assert gradient[masks[name]].any()
        assert not gradient[~masks[name]].any()
    move_latents_(network)
    train(network, images)
    check_masks(network)
    for name, layer in layers_with_used_weight(network).items():
        assert layer.used_weight()[masks[name]].any()
        assert not layer.used_weight()[~masks[name]].any()
        assert torch.equal(get_masks(network)[name], masks[name])


@pytest.mark.parametrize('below', [None, PSG], ids=['plain', 'PSG'])
@pytest.mark.parametrize('masked', [False, True])
@every_way
def test_merging_keeps_logits_bit_for_bit(way, masked, below, images):
    network = convert(plain(), *([below] if below else []), WAYS[way])
    masks = Mag(0.5).prune(plain()) if masked else {}
    apply_masks_(network, masks)
    move_latents_(network)
    train(network, images)
    used = {name: layer.used_weight().detach().clone() for name, layer in layers_with_used_weight(network).items()}
    logits = network.eval()(images)
    assert merge_latents_(network) == list(used)
    assert torch.equal(network(images), logits)
    assert merge_latents_(network) == []
    assert torch.equal(network(images), logits)
    assert {type(layer) for layer in convolutions(network)} == {PSGConv2d if below else nn.Conv2d}
    assert all(layer.psg.input_bits == 4 for layer in convolutions(network) if below)
    assert set(network.state_dict()) == set(plain().state_dict()) | {f'{name}_mask' for name in get_masks(network)}
    for name, weight in used.items():
        assert torch.equal(network.get_parameter(name), weight)
        assert network.get_parameter(name).requires_grad
        mask = get_masks(network).get(name)
        assert (mask is None) == (bool(weight.all()) and not masked)
        assert mask is None or torch.equal(mask, weight != 0)
    train(network.train(), images)  # as a plain network does
    check_masks(network)


@every_way_that_draws
def test_the_same_seed_gives_the_same_latents_whatever_the_order(way):
    network = convert(plain(), WAYS[way], seed=3)
    first, second = convert(plain(seed=9), WAYS[way], seed=3), convert(plain(seed=9), WAYS[way], seed=4)
    for key, value in network.state_dict().items():
        assert torch.equal(value, first.state_dict()[key]), key
    name = f'3.{network[3].latents[0]}'
    assert not torch.equal(network.state_dict()[name], second.state_dict()[name])
    one = convert(nn.Sequential(plain()[3]), dict(WAYS[way], scope='local') if 'scope' in WAYS[way] else WAYS[way])
    alone = initialize_(nn.ModuleDict({'3': one[0]}), seed=3)
    assert torch.equal(alone.state_dict()[name], network.state_dict()[name])
    torch.testing.assert_close(plain(seed=3).state_dict()['3.weight'], network.state_dict()['3.weight'], rtol=0, atol=0)


@every_way_that_draws
def test_without_an_initialisation_latents_are_torchs_to_draw(way, images):
    model = dict(type='ImageClassifier', converter=WAYS[way], init=None, channels_last=False)
    drawn = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        network = plain()
        weights = [layer.weight.clone() for layer in convolutions(network)]
        classifier = MODELS.build(dict(model, network=network))
        classifier.init_weights()
        assert all(torch.equal(a.weight, w) for a, w in zip(convolutions(network), weights, strict=True))
        assert classifier(images).isfinite().all()
        drawn.append(getattr(network[0], network[0].latents[0]).detach())
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@every_way_that_draws
def test_owners(way):
    network = convert(plain(), dict(type='AffineFreeBatchNorm'), WAYS[way])
    latent = network[0].latents[0]
    owned = assign_owners(network, {'signs': [f'Conv2d.{latent}'], 'sgd': 'rest'})
    assert list(owned['signs']) == [f'{at}.{latent}' for at in (0, 3, 5)]
    bounds = [f'{at}.{name}' for at in (0, 3, 5) for name in network[at].latents[1:]]
    assert sorted(owned['sgd']) == sorted([*bounds, '3.bias', '7.weight', '7.bias'])  # nothing that is frozen
    with pytest.raises(ValueError, match=r"matching no trainable parameter: 'Conv2d.weight' of signs"):
        assign_owners(network, {'signs': ['Conv2d.weight'], 'sgd': 'rest'})


@pytest.mark.parametrize('pruner', [Mag, SNIP, GraSP, SynFlow])
@every_way
def test_masks_are_those_of_the_plain_network(way, pruner, images):
    """At the start, where latent signs use every weight with its own sign."""
    masks, others = (
        pruner(0.3, rounds=3).prune(network, [(images, torch.arange(4))])
        for network in (plain(), convert(plain(), WAYS[way]))
    )
    assert all(torch.equal(mask, others[name]) for name, mask in masks.items())


def test_layers_that_share_a_weight_may_use_it_differently(images):
    network = nn.Sequential(nn.Conv2d(3, 3, 3, bias=False), nn.Conv2d(3, 3, 3, bias=False))
    network[1].weight = network[0].weight
    CONVERTERS.build(WAYS['flipping'])(network)
    move_latents_(network)
    logits = network(images)
    merge_latents_(network)
    assert torch.equal(network(images), logits)


@every_way
def test_channels_last_changes_no_choice(way, images):
    networks = [convert(plain(), WAYS[way]) for _ in range(2)]
    networks[1].to(memory_format=torch.channels_last)
    order = images.contiguous(memory_format=torch.channels_last)
    for network, batch in zip(networks, (images, order), strict=True):
        network(batch).square().sum().backward()
    for one, other in zip(*map(convolutions, networks), strict=True):
        torch.testing.assert_close(one.used_weight(), other.used_weight())  # biprop's mean is a sum in another order
        assert torch.equal(one.used_weight() != 0, other.used_weight() != 0)
        for name in one.latents:
            torch.testing.assert_close(getattr(one, name).grad, getattr(other, name).grad, rtol=1e-4, atol=1e-5)
    assert networks[1][3].used_weight().is_contiguous(memory_format=torch.channels_last)
