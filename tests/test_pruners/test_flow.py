"""SynFlow where a flow of ones would be stopped; numbers by hand."""

import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from pab.pruners import ScoringNetwork, SynFlow, apply_masks_
from pab.pruners.blocked import find_blocked
from pab.pruners.flow import KeepFlow
from tests.test_pruners.pruning import BOTH, build, kept, same, warnings_of


def chain(*layers):
    """A 1x1 convolution with weights 2 and 3 for one channel, layers behind it, and a sum: R = f(2) + f(3)."""
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), *layers, nn.Flatten())
    model[0].weight.data = torch.tensor([2.0, -3.0]).view(2, 1, 1, 1)
    return model


def scores_of(model, input_shape=(1, 1, 1), prunable=('Conv2d',), **settings):
    pruner, seen = SynFlow(0.5, prunable=prunable, **settings), []
    score = pruner.score
    pruner.score = lambda **given: seen.append({k: s.clone() for k, s in score(**given).items()}) or seen[-1]
    pruner.prune(model, input_shape=input_shape)
    return {name: score.flatten().tolist() for name, score in seen[0].items()}


@pytest.mark.parametrize(
    'layer', [nn.ReLU6(), nn.Hardtanh(), nn.Hardswish(), nn.SiLU(), nn.GELU(), nn.Mish(), nn.Tanh(), nn.Softsign()]
)
def test_a_bounded_activation_passes_positive_values(layer):
    assert scores_of(chain(layer))['0.weight'] == [2, 3]


class Function(nn.Module):
    """A function as a layer, of a tensor that may be changed."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x * 1)


@pytest.mark.parametrize(
    'function',
    [
        lambda x: x.clamp(max=1),
        lambda x: torch.clamp(input=x, max=1),
        lambda x: x.clamp_(0, 1),
        lambda x: x.clip_(max=1),
        lambda x: torch.clip(x, -1, 1),
        lambda x: torch.clamp_max(x, 1),
        lambda x: x.clamp_max_(torch.tensor(1.0)),
        lambda x: torch.minimum(x, torch.tensor(1.0)),
        lambda x: torch.fmin(torch.ones(2, 1, 1), other=x),
        lambda x: torch.min(x, torch.ones(())),
        lambda x: x.minimum(torch.ones(1, 2, 1, 1)),
        lambda x: x.tanh_(),
        lambda x: torch.special.erf(x * 9),
        lambda x: x.arctan_(),
        lambda x: F.hardtanh_(x),
        lambda x: F.logsigmoid(x * 9),
        lambda x: torch.special.log_softmax(x, 1),
        lambda x: F.local_response_norm(x, 2, alpha=99),
        lambda x: F.relu6(input=x * 9),
        lambda x: torch.square(x).sqrt_(),
        lambda x: (x**3).pow(1 / 3),
    ],
)
def test_functions_and_methods_pass_positive_values(function):
    scores = scores_of(chain(Function(function)))['0.weight']
    assert scores in (pytest.approx([2, 3]), [18, 27])  # as often as the test multiplies by 9


def test_the_base_of_a_power_gets_the_flow_once():
    assert scores_of(chain(Function(lambda x: x.__ipow__(3))))['0.weight'] == pytest.approx([8, 27])
    assert scores_of(chain(Function(lambda x: 1 / x.pow_(-1))))['0.weight'] == pytest.approx([2, 3])


def test_the_minimum_of_two_activations_and_along_an_axis_stay():
    assert scores_of(chain(Function(lambda x: torch.minimum(x, x.flip(1)))))['0.weight'] == [4, 0]
    assert scores_of(chain(Function(lambda x: torch.min(x, 1, keepdim=True).values)))['0.weight'] == [2, 0]
    assert scores_of(chain(Function(lambda x: x.min().view(1, 1))))['0.weight'] == [2, 0]


@pytest.mark.parametrize('layer', [nn.SiLU(inplace=True), nn.Hardtanh(), nn.GELU(), nn.GroupNorm(1, 2, affine=False)])
def test_what_a_stand_in_returns_may_be_changed_in_place(layer):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            x = x * 1
            output = layer(x)
            output += 7
            return output * 1 if getattr(layer, 'inplace', False) else output + x

    assert scores_of(chain(Residual()))['0.weight'] == ([2, 3] if getattr(layer, 'inplace', False) else [4, 6])


@pytest.mark.parametrize(
    'gate',
    [
        lambda x, z: x * torch.sigmoid(z),
        lambda x, z: x * F.hardsigmoid(z, inplace=True),
        lambda x, z: x * z.sigmoid_(),
        lambda x, z: (torch.special.expit(z) * 1).mul_(x),
        lambda x, z: torch.addcmul(torch.zeros(1), x, torch.sigmoid_(z)),
        lambda x, z: torch.zeros_like(x).addcmul_(x, z.sigmoid()),
        lambda x, z: F.glu(torch.cat([x, z], 1), 1),
    ],
)
def test_a_gate_is_open_and_passes_its_relative_change(gate):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.squeeze, self.excite = nn.Conv2d(2, 1, 1, bias=False), nn.Conv2d(1, 2, 1, bias=False)
            self.squeeze.weight.data.fill_(100)  # a sigmoid of what follows is 1, its derivative 0
            self.excite.weight.data.fill_(100)

        def forward(self, x):
            return gate(x, self.excite(self.squeeze(x)))

    scores = scores_of(chain(Gated()))
    # R = 2 g0 + 3 g1, g = 1; half of it, 1 and 1.5, flows through the gates, 2.5 in all, at every layer in front of
    # them; of what the squeeze receives, 2/5 comes from the first channel. So w dR/dw of the first layer is
    # 2 / 2 + 2/5 2.5 and 3 / 2 + 3/5 2.5
    assert scores['1.excite.weight'] == pytest.approx([1, 1.5])
    assert scores['1.squeeze.weight'] == pytest.approx([1, 1.5])
    assert scores['0.weight'] == pytest.approx([2, 3])
    assert build('SynFlow', 0.5, keep_flow=False).prune(chain(Gated()), input_shape=(1, 1, 1)).keys() == scores.keys()


@pytest.mark.parametrize(
    'norm',
    [
        nn.GroupNorm(1, 2),
        nn.InstanceNorm2d(2, affine=True),
        nn.BatchNorm2d(2, track_running_stats=False),
        nn.Sequential(nn.Flatten(), nn.LayerNorm(2)),
        nn.Sequential(nn.Flatten(), nn.RMSNorm(2)),
    ],
)
def test_a_normalisation_by_data_keeps_scale_and_shift(norm):
    scaled = norm[-1] if isinstance(norm, nn.Sequential) else norm
    scaled.weight.data.copy_(torch.tensor([-5.0, 7]))
    assert scores_of(chain(norm))['0.weight'] == [10, 21]


def test_the_eps_of_an_rms_norm_is_no_shift():
    weight = torch.tensor([2.0, 3])
    with KeepFlow():
        assert torch.equal(nn.functional.rms_norm(torch.ones(1, 2), (2,), weight, 0.5)[0], weight)


def test_weights_of_zero_count_as_constants():
    """A head of zeros for 4 inputs counts as 1/2 everywhere, the scale of a BatchNorm as 1."""
    model = nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.BatchNorm2d(4, eps=0), nn.Flatten(), nn.Linear(4, 3))
    model[0].weight.data = torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1, 1)
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[3].weight)
    scores = scores_of(model, prunable=BOTH)
    assert scores['0.weight'] == [1.5, 3, 4.5, 6]  # three outputs take half of each
    assert scores['3.weight'] == [0.5, 1, 1.5, 2] * 3
    with pytest.raises(ValueError, match=r'SynFlow: every score is 0, since nothing passes 3 \(Linear\);'):
        scores_of(model, keep_flow=False)


def test_a_tensor_that_pruning_has_emptied_stays_empty():
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False), nn.Flatten())
    pruner = build('SynFlow', 0.5)
    weights = {'0.weight': torch.ones(2, 1, 1, 1).double(), '1.weight': torch.zeros(2, 2, 1, 1).double()}
    masks = {name: w.bool() for name, w in weights.items()}
    scores = pruner.score(weights, masks, ScoringNetwork(model, given=weights), (1, 1, 1))
    assert not any(score.any() for score in scores.values())


@pytest.mark.parametrize('causal', [False, True])
def test_attention_weights_are_equal_shares(causal):
    query, value = torch.rand(1, 2, 3, 4).double() * 1000, torch.rand(1, 2, 3, 4).double()
    query.requires_grad_()
    with KeepFlow():
        output = F.scaled_dot_product_attention(query, query, value, is_causal=causal)
        by_hand = torch.softmax((query @ query.mT).masked_fill(~torch.ones(3, 3).bool().tril(), -torch.inf), -1) @ value
    mean = (
        value.cumsum(2) / torch.arange(1, 4).view(3, 1) if causal else value.mean(2, keepdim=True).expand(-1, -1, 3, -1)
    )
    torch.testing.assert_close(output, mean)
    if causal:
        torch.testing.assert_close(by_hand, output)
    assert (torch.autograd.grad(output.sum(), query)[0] > 0).all()


class Mixer(nn.Module):
    """A layer of 2 channels by a function of its input x and of a weight, of shapes (1, 3, 2) and (2, 2)."""

    def __init__(self, mix):
        super().__init__()
        self.mix, self.weight = mix, nn.Parameter(torch.tensor([[3.0, -1], [2, 5]]))

    def forward(self, images):
        x = images.flatten(2).mT
        return self.mix(x, self.weight).mT.reshape(images.shape)


@pytest.mark.parametrize(
    'mix',
    [
        lambda x, w: (x @ w) * torch.sigmoid(x),
        lambda x, w: torch.einsum('nic,njc->nij', x, F.linear(x, w)).softmax(-1) @ x,
        lambda x, w: torch.bmm(F.normalize(x @ w.T, dim=-1), x.mT).softmax(-1).matmul(x),
        lambda x, w: F.scaled_dot_product_attention(x @ w, x, x, torch.tensor([0.0, 0, -torch.inf])),
        lambda x, w: F.layer_norm(x @ w, (2,)) * (x * x),
    ],
)
def test_factors_share_the_flow_of_their_product(mix):
    """The flow through the layers in front equals what passes the one behind, as in a chain of ReLUs."""
    scores = scores_of(chain(Mixer(mix), nn.Conv2d(2, 2, 1, bias=False)), (1, 1, 3))
    assert sum(scores['0.weight']) == pytest.approx(sum(scores['2.weight']))
    assert sum(scores['0.weight']) > 0


@pytest.mark.parametrize('need_weights', [False, True])
@pytest.mark.parametrize('mask', [None, torch.ones(3, 3).bool().triu(1)])
def test_the_attention_inside_of_a_layer_of_torch_has_its_stand_in(need_weights, mask):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.MultiheadAttention(2, 1, bias=False, batch_first=True)
            self.inner.in_proj_weight.data.mul_(1000)  # a softmax of what follows is 0 and 1

        def forward(self, images):
            x = images.flatten(2).mT * torch.tensor([[1.0], [2], [3]])
            return self.inner(x, x, x, need_weights=need_weights, attn_mask=mask)[0].mT.reshape(images.shape)

    torch.manual_seed(0)
    model = chain(Attention(), nn.Conv2d(2, 2, 1, bias=False))
    scores = scores_of(model, (1, 1, 3), BOTH)
    flows = [sum(score) for score in scores.values()]
    assert flows == pytest.approx([flows[0]] * 3)
    # tokens are 1, 2 and 3 times the first one, so equal shares are 2 times it, or 1, 3/2 and 2 times it: R by hand
    first, inner, last = model[0].weight.abs().flatten(), model[1].inner, model[2].weight.abs().flatten(1)
    token = inner.out_proj.weight.abs() @ inner.in_proj_weight[4:].abs() @ first
    assert flows[0] == pytest.approx((6 if mask is None else 4.5) * (last @ token).sum().item())


def test_a_layer_scale_counts_as_one():
    class Branch(nn.Module):
        def __init__(self, scale):
            super().__init__()
            self.inner, self.gamma = nn.Conv2d(2, 2, 1, bias=False), nn.Parameter(torch.full((2, 1, 1), scale))
            self.inner.weight.data.fill_(1)

        def forward(self, x):
            return x + self.gamma * self.inner(x)

    assert scores_of(chain(Branch(1e-6)))['1.inner.weight'] == [2, 3, 2, 3]
    assert scores_of(chain(Branch(-0.1)))['1.inner.weight'] == [2, 3, 2, 3]
    assert scores_of(chain(Branch(0.5)))['1.inner.weight'] == [1, 1.5, 1, 1.5]
    trained = Branch(0.0625)
    trained.gamma.data[0] = 0.125
    assert scores_of(chain(trained))['1.inner.weight'] == [0.25, 0.375, 0.125, 0.1875]
    scores = scores_of(chain(Branch(0.0625)), keep_flow=False)
    assert scores['1.inner.weight'] == [0.125, 0.1875, 0.125, 0.1875]


def test_a_network_of_relus_scores_alike_with_and_without(net):
    plain = build('SynFlow', 0.1, rounds=5, keep_flow=False).prune(net, input_shape=(3, 8, 8))
    assert same(plain, build('SynFlow', 0.1, rounds=5).prune(net, input_shape=(3, 8, 8)))


class Block(nn.Module):
    """ReLU6 behind weights that saturate it, in place as torchvision has it, beside a path that is free."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3)
        self.limit = nn.ReLU6(inplace=True)
        self.first.weight.data.fill_(10)

    def forward(self, images):
        return (self.limit(self.first(images)) + self.second(images)).flatten(1)


def test_layers_that_stop_the_flow_are_named():
    model = Block()
    with warnings_of() as messages:
        build('SynFlow', 0.5, keep_flow=False).prune(model, input_shape=(1, 5, 5))
    assert messages[0] == 'SynFlow: every score is 0 in first.weight; nothing passes limit (ReLU6)'
    assert model.limit.inplace
    assert not model.limit._forward_hooks
    with warnings_of() as messages:
        build('SynFlow', 0.5).prune(model, input_shape=(1, 5, 5))
    assert not any('every score' in message for message in messages)


@pytest.mark.parametrize(
    ('function', 'name'),
    [
        (lambda x: x.clamp_(max=1), 'clamp_'),
        (lambda x: torch.minimum(x, torch.ones(())), 'minimum'),
        (lambda x: (x * 100).sigmoid(), 'sigmoid'),
        (lambda x: torch.cat([x.floor(), x.floor()], 1)[:, :2], 'floor'),
    ],
)
def test_functions_that_stop_the_flow_are_named(function, name):
    """The layers around them pass what they get."""

    class Limited(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1, bias=False)

        def forward(self, x):
            return function(self.conv(x))

    model = chain(Limited(), nn.Conv2d(2, 2, 1, bias=False))
    model[1].conv.weight.data.fill_(1)
    with warnings_of() as messages:
        build('SynFlow', 0.9, keep_flow=False).prune(model, input_shape=(1, 1, 1))
    assert messages[0] == f'SynFlow: every score is 0 in 0.weight, 1.conv.weight; nothing passes {name} of 1 (Limited)'
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in model.modules())


class Signs(nn.Module):
    def forward(self, x):
        return (x > 0).to(x)


def test_a_layer_without_any_gradient_is_named():
    first, last = nn.Conv2d(2, 2, 1, bias=False), nn.Linear(2, 2, bias=False)
    net = nn.Sequential(first, Signs(), nn.Flatten(), last)
    with warnings_of() as messages:
        build('SynFlow', 0.75, prunable=('Conv2d', 'Linear')).prune(net, input_shape=(2, 1, 1))
    assert messages[0] == 'SynFlow: every score is 0 in 0.weight; the gradient ends at 1 (Signs)'
    with pytest.raises(ValueError, match=r'every score is 0, since the gradient ends at 1 \(Signs\);'):
        build('SynFlow', 0.5).prune(nn.Sequential(first, Signs()), input_shape=(2, 1, 1))


@pytest.mark.parametrize(
    ('cut', 'reason'),
    [
        (lambda x: x.detach(), 'the gradient ends at detach of 1 (Residual)'),
        (lambda x: x.data, 'the gradient ends at data of 1 (Residual)'),
        (torch.zeros_like, 'the gradient ends at zeros_like of 1 (Residual)'),
        (lambda x: (x > 0).float(), 'no gradient of the outputs reaches these weights'),
    ],
)
def test_where_a_block_cuts_the_gradient(cut, reason):
    """Beside a shortcut, which everything passes, and a gate, whose stand-in has a constant part."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 1, bias=False)

        def forward(self, x):
            return x.sigmoid() + cut(self.conv(x))

    with warnings_of() as messages:
        build('SynFlow', 0.5).prune(chain(Residual(), nn.Conv2d(2, 2, 1, bias=False)), input_shape=(1, 1, 1))
    assert messages[0] == f'SynFlow: every score is 0 in 1.conv.weight; {reason}'


@pytest.mark.parametrize('name', ['SNIP', 'GraSP'])
def test_a_head_of_zeros_is_named_by_scores_of_data(name, net, batches):
    nn.init.zeros_(net.fc.weight)
    with pytest.raises(
        ValueError, match=rf'{name}: every score is 0, since nothing passes fc \(Linear\); draw weights'
    ):
        build(name).prune(net, batches)
    masks = build('Mag', 0.5).prune(net)
    apply_masks_(net, masks)  # a run that prunes in several shots goes on
    with warnings_of() as messages:
        assert kept(build(name, 0.3).prune(net, batches)) == 449
    assert 'every score is 0 in conv1.weight' in messages[0]


def test_overflow_is_told_from_nan(net):
    net.conv1.weight.data.fill_(1e30)
    net.conv2.weight.data.fill_(1e38)
    net.fc.weight.data.fill_(1e38)
    net.bn1.weight.data.fill_(1e38)
    net.bn2.weight.data.fill_(1e38)
    deep = nn.Sequential(net, *[nn.Linear(10, 10) for _ in range(4)])
    for layer in deep[1:]:
        layer.weight.data.fill_(1e38)
    with pytest.raises(ValueError, match=r'leave the range of float64, or are NaN, from 4 \(Linear\) on'):
        build('SynFlow').prune(deep, input_shape=(3, 8, 8))
    net.conv1.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match=r"the weight '0.conv1.weight' has NaN or infinity"):
        build('SynFlow').prune(deep, input_shape=(3, 8, 8))


def test_blocked_layers_of_a_network_without_gradients():
    layer = nn.Linear(2, 2).requires_grad_(False)
    assert find_blocked(layer, functools.partial(layer, torch.ones(1, 2))) == []


def test_the_layer_scale_of_convnext_counts_as_one():
    def network():
        torch.manual_seed(0)
        blocks = [CNBlockConfig(8, 16, 2), CNBlockConfig(16, None, 1)]
        return ConvNeXt(blocks, layer_scale=1e-6, num_classes=3)

    given, ones = network(), network()
    scales = [name for name, _ in given.named_parameters() if name.endswith('layer_scale')]
    assert len(scales) == 3
    for name in scales:
        ones.get_parameter(name).data.fill_(1)
    settings = dict(input_shape=(3, 16, 16), prunable=BOTH)
    assert scores_of(given, **settings) == scores_of(ones, **settings)
    without = scores_of(given, keep_flow=False, **settings)
    assert without != scores_of(ones, keep_flow=False, **settings)
