"""Every converter's base, by two of our own: one as a newcomer writes it, one whose layers get parameters."""

import copy
import re
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from torch import nn
from torch.nn import functional as F

from pab.contracts import exact_gradients
from pab.converter import Converter
from pab.optim import OwnershipConstructor
from pab.pruners import SNIP, Mag, SynFlow
from pab.registry import MODELS

ROOT = Path(__file__).parents[1]

METHOD = (ROOT / 'docs' / 'method.md').read_text()
SIGN_GRADIENT, CONFIG = (
    re.search(rf'`mine/{name}`:\n\n```python\n(.*?)```', METHOD, re.DOTALL).group(1)
    for name in ('sign_gradient.py', 'quickstart_sign_gradient.py')
)


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    """The config of a run with a converter that is nowhere but in a user's folder."""
    folder = tmp_path_factory.mktemp('user')
    (folder / 'configs').symlink_to(ROOT / 'configs')
    mine = folder / 'mine'
    mine.mkdir()
    (mine / 'sign_gradient.py').write_text(SIGN_GRADIENT)
    (mine / 'quickstart_sign_gradient.py').write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(mine)
        yield Config.fromfile(mine / 'quickstart_sign_gradient.py')


@pytest.fixture
def model(config):
    return MODELS.build(copy.deepcopy(config.model)).eval()


@pytest.fixture
def batch():
    return [(torch.rand(8, 1, 8, 8), torch.arange(8))]


def convolutions(model):
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]


def test_a_converter_in_a_file_of_ones_own(model, batch):
    assert {type(layer).__name__ for layer in convolutions(model)} == {'SignGradientConv2d'}
    ((images, labels),) = batch
    F.cross_entropy(model(images), labels).backward()
    for layer in convolutions(model):
        assert set(layer.weight.grad.unique().tolist()) <= {-1.0, 0.0, 1.0}
    model.zero_grad()
    with exact_gradients(model):
        F.cross_entropy(model(images), labels).backward()
    assert all(len(layer.weight.grad.unique()) > 3 for layer in convolutions(model))


@pytest.mark.parametrize('pruner', [SNIP(density=0.3), SynFlow(density=0.3, rounds=2)])
def test_pruning_scores_see_the_exact_gradients_of_its_layers(config, model, batch, pruner):
    plain = MODELS.build(dict(config.model, converter=None)).eval()
    plain.load_state_dict(model.state_dict())
    masks, by_magnitude = pruner.prune(model, batch), Mag(density=0.3).prune(model)
    for name, want in pruner.prune(plain, batch).items():
        assert torch.equal(masks[name], want)
    assert not all(torch.equal(masks[name], by_magnitude[name]) for name in masks)  # what signs alone would give


def test_its_layers_refuse_a_scaled_loss(config, model):
    optimizers = dict(sgd=dict(type='SGD', lr=0.1, owns='rest'))
    constructor = OwnershipConstructor(dict(precision='float16', optimizers=optimizers))
    with pytest.raises(ValueError, match=r'the gradient of network\.\S+ does not scale with it: only its sign remains'):
        constructor(model)


def test_a_special_layer_without_the_exact_switch_is_refused():
    class Half(nn.Linear):
        special_backward = True

    with pytest.raises(TypeError, match=r'Half: a class with special_backward = True needs exact = False too'):
        Mag(density=0.3).prune(nn.Sequential(nn.Conv2d(1, 2, 1), Half(2, 2)))


class Scaled(nn.Linear):
    """A linear layer with a trained factor, its weight frozen."""

    def forward(self, input):
        return super().forward(input) * self.factor


class ScaledConv(nn.Conv2d):
    def forward(self, input):
        return super().forward(input) * self.factor


class Scale(Converter):
    classes = {nn.Linear: Scaled, nn.Conv2d: ScaledConv}

    def set_up(self, layer, name):
        layer.factor = nn.Parameter(torch.tensor(2.0))
        layer.weight.requires_grad_(False)


class Standardized(nn.Conv2d):
    pass


def network():
    body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4))
    return nn.ModuleDict(dict(stem=nn.Conv2d(3, 4, 3, bias=False), body=body, fc=nn.Linear(4, 2)))


@pytest.fixture
def log(monkeypatch):
    lines = []
    monkeypatch.setattr('pab.converter.print_log', lambda text, **_: lines.append(text))
    return lines


def test_only_classes_change(log):
    net = network()
    net['stem'].register_buffer('weight_mask', torch.ones_like(net['stem'].weight, dtype=torch.bool))
    net['body'].eval()
    calls = []
    net['fc'].register_forward_hook(lambda *_: calls.append('hook'))
    parameters, state = dict(net.named_parameters()), list(net.state_dict())
    modes = [m.training for m in net.modules()]

    class Silent(Scale):
        set_up = Converter.set_up

    assert Silent()(net) is net
    assert [type(net[name]).__name__ for name in ('stem', 'fc')] == ['ScaledConv', 'Scaled']
    assert all(param is parameters[name] for name, param in net.named_parameters())
    assert list(net.state_dict()) == state
    assert [m.training for m in net.modules()] == modes
    net['fc'].factor = 1
    net['fc'](torch.ones(1, 4))
    assert calls == ['hook']
    assert log == []


def test_layers_may_get_parameters():
    net = Scale()(network())
    assert type(net['fc']) is Scaled
    factors = [name for name, p in net.named_parameters() if p.requires_grad and 'factor' in name]
    assert factors == ['stem.factor', 'body.0.factor', 'fc.factor']
    assert not net['stem'].weight.requires_grad
    x = torch.randn(5, 4)
    torch.testing.assert_close(net['fc'](x), 2 * F.linear(x, net['fc'].weight, net['fc'].bias))


@pytest.mark.parametrize(
    ('layers', 'want'),
    [
        (None, ['stem', 'body.0', 'fc']),
        (['Conv2d'], ['stem', 'body.0']),
        (['Conv2d', '!name:stem'], ['body.0']),
        (['name:*', '!Linear'], ['stem', 'body.0']),
    ],
)
def test_layers_are_selected_by_patterns(layers, want):
    net = Scale(layers)(network())
    assert [name for name, layer in net.named_modules() if type(layer) in (Scaled, ScaledConv)] == want


def test_what_is_left_alone_is_named(log):
    net = nn.ModuleDict(
        dict(
            network(),
            special=Standardized(3, 4, 3),
            line=nn.Conv1d(3, 4, 3),
            volume=nn.Conv3d(3, 4, 3),
            up=nn.ConvTranspose2d(3, 4, 3),
            lazy=nn.LazyConv2d(4, 3),
            lazy_up=nn.LazyConvTranspose2d(4, 3),
            attention=nn.MultiheadAttention(4, 2),
        )
    )
    Scale()(net)
    (line,) = log
    names = 'special (Standardized), line (Conv1d), volume (Conv3d), up (ConvTranspose2d), lazy (LazyConv2d), '
    names += 'lazy_up (LazyConvTranspose2d), attention (MultiheadAttention), '
    names += 'attention.out_proj (NonDynamicallyQuantizableLinear).'
    assert f'Scale: left alone, as they are no layers of exactly the types Linear, Conv2d: {names}' in line
    assert type(net['special']) is Standardized
    log.clear()
    Scale(['Conv2d', '!name:lazy*', '!name:attention*', '!ConvTranspose2d', '!Conv1d', '!Conv3d'])(net)
    assert log[0].split('Conv2d: ')[1].startswith('special (Standardized). ')


def test_a_lazy_layer_is_converted_once_it_has_run():
    net = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(2))
    with pytest.raises(ValueError, match=r'nothing to convert.* others are 0 \(LazyConv2d\), 2 \(LazyLinear\)'):
        Scale()(net)
    net(torch.ones(1, 3, 5, 5))
    assert type(Scale()(net)[0]) is ScaledConv


@pytest.mark.parametrize(
    ('layers', 'kind', 'text'),
    [
        ('Conv2d', TypeError, r"Scale: layers must be a list of patterns .*, got 'Conv2d'"),
        ([], ValueError, 'Scale: layers selects nothing, got'),
        (['!Conv2d'], ValueError, 'Scale: layers selects nothing, got'),
        (['Conv2d', 'Conv3d'], ValueError, r"match no layer with weights: \['Conv3d'\]; .* Linear, Conv2d are"),
        (['Conv2d', '!name:conv1'], ValueError, r"match no layer with weights: \['!name:conv1'\]"),
    ],
)
def test_wrong_layers_are_refused_and_nothing_changes(layers, kind, text):
    net = network()
    with pytest.raises(kind, match=text):
        Scale(layers)(net)
    assert type(net['stem']) is nn.Conv2d


def test_a_bare_layer_is_a_network_too_and_other_things_are_none():
    assert type(Scale()(nn.Linear(3, 4))) is Scaled
    with pytest.raises(TypeError, match=r'Scale: network must be an nn.Module, got dict'):
        Scale()({})
    with pytest.raises(ValueError, match=r'Scale: ReLU has nothing to convert: .* no layers of exactly the types'):
        Scale()(nn.ReLU())
