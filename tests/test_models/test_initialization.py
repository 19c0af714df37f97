import math

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import VisionTransformer
from torchvision.models.convnext import CNBlock

from pab.models import SCHEMES, CIFARResNet, draws, initialize_

# variance of one weight times fan_in, with fan_out = 2 fan_in
VARIANCE = {
    'standard': 1 / 3,
    'kaiming_normal': 2,
    'kaiming_uniform': 2,
    'kaiming_constant_signed': 2,
    'kaiming_constant_unsigned': 2,  # about zero, as its mean is not zero
    'kaiming_laplace': 2,
    'xavier_normal': 2 / 3,
    'xavier_constant': 2 / 3,
}


def weight_of(layer: nn.Module, scheme: str, seed: int = 0) -> torch.Tensor:
    return initialize_(layer, scheme, seed).weight.detach()


@pytest.mark.parametrize('scheme', SCHEMES)
def test_variance(scheme):  # a scheme without a row above fails
    weight = weight_of(nn.Conv2d(64, 64, 3, groups=2), scheme)  # fan_in 32 * 9, fan_out 64 * 9
    variance = weight.square().mean().item() * 32 * 9
    # the square of a Laplace number has five times the mean's variance, so 3 standard errors are 5 %
    assert variance == pytest.approx(VARIANCE[scheme], rel=0.06)
    if scheme != 'kaiming_constant_unsigned':
        assert abs(weight.mean()) < 4 * weight.std() / math.sqrt(weight.numel())


@pytest.mark.parametrize(
    ('scheme', 'want'),
    [  # these literals are a promise to every stored network: never change them
        ('standard', [0.05624634027481079, 0.06070145592093468, 0.13831834495067596, -0.1096409261226654]),
        ('kaiming_normal', [0.2680903971195221, 0.289325088262558, -0.47764885425567627, 0.20134657621383667]),
        ('kaiming_uniform', [0.13777483999729156, 0.14868758618831635, 0.33880937099456787, -0.2685643136501312]),
        ('kaiming_constant_signed', [0.2357022613286972, 0.2357022613286972, 0.2357022613286972, -0.2357022613286972]),
        ('kaiming_constant_unsigned', [0.2357022613286972] * 4),
        ('kaiming_laplace', [-0.18414145708084106, -0.19100536406040192, 0.4107625484466553, 0.03127138316631317]),
        ('xavier_normal', [0.21889489889144897, 0.2362329512834549, -0.3899986743927002, 0.16439878940582275]),
        ('xavier_constant', [0.19245009124279022, 0.19245009124279022, 0.19245009124279022, -0.19245009124279022]),
    ],
)
def test_frozen_weights(scheme, want):
    net = initialize_(nn.Sequential(nn.Conv2d(4, 2, 3)), scheme, seed=0)
    assert net[0].weight.flatten()[:4].tolist() == want
    assert net[0].bias.tolist() == [0.10241297632455826, 0.10905174165964127]


def test_linear_layers_are_standard_whatever_the_scheme():
    wants = initialize_(nn.Linear(50, 20), 'standard')
    for scheme in SCHEMES:
        layer = initialize_(nn.Linear(50, 20), scheme)
        assert torch.equal(layer.weight, wants.weight)
        assert torch.equal(layer.bias, wants.bias)
        assert layer.weight.abs().max() <= 1 / math.sqrt(50)
        assert 0.5 / math.sqrt(50) < layer.bias.abs().max() <= 1 / math.sqrt(50)


def test_norms_become_the_identity_and_prelu_what_torch_gives_it():
    norms = nn.BatchNorm2d(2), nn.BatchNorm2d(2, affine=False), nn.GroupNorm(1, 2), nn.LayerNorm(2)
    net = nn.Sequential(*norms, nn.PReLU())
    for tensor in (*net.parameters(), *net.buffers()):
        tensor.data.fill_(7)
    initialize_(net)
    assert [p.tolist() for p in net.parameters()] == [[1, 1], [0, 0]] * 3 + [[0.25]]
    assert [b.tolist() for b in net.buffers()] == [[0, 0], [1, 1], 0] * 2  # running mean and variance, batches seen


def test_nothing_but_seed_name_and_shape_decides():
    alone = nn.ModuleDict({'a': nn.Conv2d(3, 4, 3)})
    among = nn.ModuleDict({'z': nn.Conv2d(3, 4, 3), 'a': nn.Conv2d(3, 4, 3, bias=False), 'n': nn.BatchNorm2d(4)})
    torch.manual_seed(123)
    among = among.to(memory_format=torch.channels_last)
    initialize_(alone, seed=5)
    initialize_(among, seed=5)
    assert torch.equal(alone['a'].weight, among['a'].weight)
    assert not torch.equal(alone['a'].weight, among['z'].weight)
    assert not torch.equal(alone['a'].weight, initialize_(among, seed=6)['a'].weight)


def test_the_random_state_of_torch_and_numpy_stays():
    network = CIFARResNet(depth=8, width=2)
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()
    initialize_(network)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state[1])


def test_dtype_is_one_rounding_of_the_same_numbers():
    double = weight_of(nn.Conv2d(3, 4, 3).double(), 'kaiming_normal')
    assert double.dtype == torch.float64
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        weight = weight_of(nn.Conv2d(3, 4, 3).to(dtype), 'kaiming_normal')
        assert torch.equal(weight, double.to(dtype))


@pytest.mark.parametrize('layer', [nn.Conv1d(4, 6, 5), nn.Conv3d(2, 3, 2), nn.ConvTranspose2d(4, 6, 3)])
def test_other_convolutions(layer):
    weight = weight_of(layer, 'kaiming_constant_signed')
    fan_in, _ = nn.init._calculate_fan_in_and_fan_out(weight)
    assert weight.abs().unique().tolist() == pytest.approx([math.sqrt(2 / fan_in)])


def test_parameters_stay_the_same_objects():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = list(net.parameters())
    assert initialize_(net) is net
    assert all(a is b for a, b in zip(before, net.parameters(), strict=True))
    assert all(p.requires_grad and p.grad_fn is None for p in before)


def test_a_shared_weight_takes_its_first_name():
    first, second = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    net = initialize_(nn.ModuleDict({'first': first, 'second': second}))
    alone = initialize_(nn.ModuleDict({'first': nn.Linear(4, 4)}))
    assert torch.equal(net['second'].weight, alone['first'].weight)


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(3))


class SeededScale(Scale):
    def initialize_(self, stream):
        self.scale.copy_(torch.from_numpy(stream('scale').random_sample(3)))


def test_an_unknown_layer_is_refused_before_anything_changes():
    net = nn.Sequential(nn.Conv2d(1, 1, 1), Scale())
    before = net[0].weight.item()
    with pytest.raises(ValueError, match=r"no rule draws parameter '1\.scale' of a Scale; give .* initialize_\("):
        initialize_(net)
    assert net[0].weight.item() == before


def test_a_layer_may_bring_its_own_rule():
    net = initialize_(nn.Sequential(SeededScale(), SeededScale()), seed=3)
    again = initialize_(nn.Sequential(SeededScale(), SeededScale()), seed=3)
    assert torch.equal(net[0].scale, again[0].scale)
    assert net[0].scale.std() > 0
    assert not torch.equal(net[0].scale, net[1].scale)


def test_tokens_positions_and_attention_by_hand():
    def network():
        return VisionTransformer(16, 2, num_layers=1, num_heads=2, hidden_dim=32, mlp_dim=8, num_classes=3)

    net = initialize_(network(), seed=5)
    positions = net.encoder.pos_embedding  # (1, 65, 32)
    want = draws.normal(draws.stream(5, 'encoder.pos_embedding'), 65 * 32) * 0.02
    assert torch.equal(positions, torch.from_numpy(want).float().view_as(positions))
    assert net.class_token.std().item() == pytest.approx(0.02, rel=0.4)
    attention = net.encoder.layers[0].self_attention  # as three linear layers of 32 inputs
    assert attention.in_proj_weight.shape == (96, 32)
    assert attention.in_proj_weight.std().item() == pytest.approx(math.sqrt(1 / 3 / 32), rel=0.05)
    assert 0.9 < attention.in_proj_bias.abs().max() * math.sqrt(32) <= 1
    for name, value in initialize_(network(), seed=5).state_dict().items():
        assert torch.equal(value, net.state_dict()[name]), name
    assert not torch.equal(initialize_(network(), seed=6).class_token, net.class_token)


def test_layer_scales_stay_as_built_and_are_known_to_be():
    block = CNBlock(4, layer_scale=1e-6, stochastic_depth_prob=0.0)
    assert torch.equal(initialize_(block).layer_scale, torch.full((4, 1, 1), 1e-6))
    with torch.no_grad():
        block.layer_scale[2] = 0.5
    before = block.block[0].weight.clone()
    with pytest.raises(ValueError, match=r"parameter 'layer_scale' of a CNBlock is a scale that has been trained"):
        initialize_(block)
    assert torch.equal(block.block[0].weight, before)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(scheme='kaiming'), "unknown scheme 'kaiming'; known: standard, kaiming_normal"),
        *((dict(seed=seed), f'seed must be an int >= 0, got {seed!r}') for seed in (-1, 0.5, None, True)),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=f'initialize_: {message}'):
        initialize_(nn.Conv2d(1, 1, 1), **settings)


def test_seeds_of_any_size():
    large = weight_of(nn.Conv2d(1, 9, 3), 'kaiming_normal', 2**64 - 1)
    assert not torch.equal(large, weight_of(nn.Conv2d(1, 9, 3), 'kaiming_normal', 2**32 - 1))
