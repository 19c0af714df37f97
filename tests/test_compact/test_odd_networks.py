"""Networks that are built in odd ways, runs of them, and what a file says of them."""

import copy

import pytest
import torch
from torch import nn

from pab import compact
from pab.compact import CompactError, network as network_module
from pab.compact.checkpoint import as_checkpoint
from pab.compact.container import read
from pab.models import initialize_
from pab.pruners import Mag, apply_masks_, get_masks
from pab.registry import MODELS

from .kinds import BOP, kind
from .networks import RESNET, TiedNet, change, same, trained


@MODELS.register_module()
class FirstStage(nn.Module):
    """The first of many layers that its constructor makes."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Sequential(*(nn.Conv2d(1, 2, 3) for _ in range(40)))[0]


@MODELS.register_module()
class ReadsNumbers(nn.Module):
    """Rates of layers by linspace, as ConvNeXt and Swin draw them: a tensor on the meta device has no numbers."""

    def __init__(self):
        super().__init__()
        self.rates = [rate.item() for rate in torch.linspace(0, 0.1, 3)]
        self.layer = nn.Conv2d(1, 2, 3)


@MODELS.register_module()
class Twice(nn.Module):
    """One module under two names: (N, 1, H, W) -> (N, 10)."""

    def __init__(self):
        super().__init__()
        conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        self.layers = nn.Sequential(conv, nn.ReLU(), conv)
        self.head = nn.Linear(64, 10)

    def forward(self, images):
        return self.head(self.layers(images).flatten(1))


@MODELS.register_module()
class TokenNet(nn.Module):
    """A parameter of its own, which no scheme draws: (N, 1, H, W) -> (N, 10)."""

    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 64))
        self.layer = nn.Conv2d(1, 1, 3, padding=1)
        self.head = nn.Linear(64, 10)

    def forward(self, images):
        return self.head(self.layer(images).flatten(1) + self.token)


@MODELS.register_module()
class Inner(nn.Module):
    """A network with a part called network."""

    def __init__(self):
        super().__init__()
        self.network = nn.Conv2d(1, 2, 3)
        self.head = nn.Linear(2, 4)


@MODELS.register_module()
class OddTypes(nn.Module):
    """Parameters and buffers of several types: one has two names, one no numbers, some no dimension."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.wide, self.short = nn.Linear(2, 2).double(), nn.Linear(2, 2).bfloat16()
        self.again = nn.Linear(2, 2).double()
        self.again.weight = self.wide.weight
        self.register_buffer('halves', torch.tensor([1.0, 2.0, 3.0]).half())
        self.register_buffer('nothing', torch.zeros(0, 2))
        self.register_buffer('steps', torch.tensor(3))
        self.register_buffer('sum', torch.tensor(1 / 3).double())
        self.register_buffer('used', torch.tensor([[True], [False]]))


@MODELS.register_module()
class Changing(nn.Module):
    """A class of one's own, of which a later version has other parameters."""

    FORMS = dict(a=torch.ones(2, 3), b=torch.ones(3, 2))

    def __init__(self):
        super().__init__()
        for name, value in self.FORMS.items():
            self.register_parameter(name, nn.Parameter(value.clone()))


@MODELS.register_module()
class Versioned(Twice):
    """A network that reads a state without a version as one of long ago, as MNASNet does."""

    _version = 2

    def _load_from_state_dict(self, state, prefix, local_metadata, *args):
        assert local_metadata.get('version') == 2
        super()._load_from_state_dict(state, prefix, local_metadata, *args)


@pytest.mark.parametrize('name', ['FirstStage', 'ReadsNumbers', 'Twice', 'Inner', 'OddTypes'])
@pytest.mark.parametrize('pruned', [False, True])
def test_a_network_comes_back_however_it_is_built(name, pruned, tmp_path):
    model = initialize_(MODELS.build(dict(type=name)), seed=7)
    if pruned:
        apply_masks_(model, Mag(density=0.5).prune(model))
    change(model)
    compact.save(model, tmp_path / 'net.pab', network=dict(type=name), seed=7, input_shape=(3, 640, 640))
    loaded = compact.load(tmp_path / 'net.pab')
    assert same(model, loaded)
    assert compact.info(tmp_path / 'net.pab')['input_shape'] == [3, 640, 640]
    if name == 'Twice':
        assert loaded.layers[0] is loaded.layers[2]
    torch.save(as_checkpoint(tmp_path / 'net.pab'), tmp_path / 'net.pth')  # as tools/compact.py unpack does
    again = MODELS.build(dict(type=name))
    apply_masks_(again, get_masks(loaded))
    again.load_state_dict(
        {n.removeprefix('network.'): t for n, t in torch.load(tmp_path / 'net.pth')['state_dict'].items()}
    )
    assert same(model, again)


@pytest.mark.parametrize('values', ['float32', 'float16'])
def test_values_are_joined_by_their_type(values, tmp_path):
    model = initialize_(OddTypes(), seed=7)
    apply_masks_(model, Mag(density=0.5).prune(model))
    change(model).steps += 2**40
    compact.save(model, tmp_path / 'net.pab', network=dict(type='OddTypes'), seed=7, values=values)
    tensors = read(tmp_path / 'net.pab')[1]
    bias = [model.conv.bias] if values == 'float32' else []
    expected = {
        'bfloat16': [model.short.bias, model.short.weight],
        'bool': [model.used],
        'float16': [model.halves] if bias else [model.conv.bias.half(), model.halves],
        'float64': [model.again.bias, model.sum, model.wide.bias, model.wide.weight],  # the first of its two names
        **({'float32': bias} if bias else {}),
        'int64': [model.steps],
    }
    assert {name for name in tensors if 'values' in name} == {f'values/{dtype}' for dtype in expected}
    for dtype, own in expected.items():
        assert torch.equal(tensors[f'values/{dtype}'], torch.cat([value.detach().flatten() for value in own])), dtype
    loaded = compact.load(tmp_path / 'net.pab')
    assert loaded.again.weight is loaded.wide.weight
    if not bias:
        model.conv.bias.data = model.conv.bias.data.half().float()
    assert same(model, loaded)


@pytest.mark.parametrize(
    'now, numbers',
    [
        (dict(a=torch.ones(3, 2), b=torch.ones(2, 3)), 12),  # the same names and as many numbers
        (dict(a=torch.ones(2, 3), c=torch.ones(3, 2)), 12),
        (dict(a=torch.ones(2, 3), b=torch.ones(6)), 12),
        (dict(a=torch.ones(2, 3), b=torch.ones(3, 2).half()), 12),
        (dict(a=torch.ones(2, 3), b=torch.ones(3, 3)), 15),
        (dict(a=torch.ones(2, 3), b=torch.ones(3, 2), c=torch.ones(0)), 12),
    ],
)
def test_a_class_that_has_changed_since_is_told_in_a_line(now, numbers, tmp_path, monkeypatch):
    compact.save(Changing(), tmp_path / 'net.pab', network=dict(type='Changing'), seed=None, signs=())
    assert same(Changing(), compact.load(tmp_path / 'net.pab'))
    monkeypatch.setattr(Changing, 'FORMS', dict(reversed(Changing.FORMS.items())))
    assert torch.equal(compact.load(tmp_path / 'net.pab').b, torch.ones(3, 2))  # the order does not matter
    monkeypatch.setattr(Changing, 'FORMS', now)
    message = (
        rf'net.pab cannot be loaded: its tensors are not those .*: {numbers} numbers, and 12 where it was written$'
    )
    with pytest.raises(CompactError, match=message):
        compact.load(tmp_path / 'net.pab')


def test_save_refuses_what_load_would_refuse(tmp_path, monkeypatch):
    monkeypatch.setattr(network_module, 'MEMORY', (1000, 1))
    with pytest.raises(CompactError, match=r'could not be loaded, so none is written: its network takes more than the'):
        compact.save(trained(), tmp_path / 'net.pab', network=RESNET, seed=7)
    assert not list(tmp_path.iterdir())


def test_save_compares_what_will_be_loaded(tmp_path, monkeypatch):
    decode = network_module.sign_coding.decode_

    def wrong(names, state, *args):
        decode(names, state, *args)
        state[names[0]].detach().neg_()

    monkeypatch.setattr(network_module.sign_coding, 'decode_', wrong)
    with pytest.raises(CompactError, match=r'would give back another conv1.weight'):
        compact.save(trained(), tmp_path / 'net.pab', network=RESNET, seed=7)
    assert not list(tmp_path.iterdir())


def test_minus_zero_is_0_where_it_is_pruned(tmp_path):
    model = trained()
    expected = copy.deepcopy(model)
    weight = model.conv1.weight.data
    weight[weight == 0] = -0.0
    compact.save(model, tmp_path / 'net.pab', network=RESNET, seed=7)
    assert same(expected, compact.load(tmp_path / 'net.pab'))


def run_of(name, tmp_path, optimizer='sgd', pruned=True, **model):
    """Config and checkpoint of a run of a network in MODELS, and its model."""
    cfg, _, _ = kind('sgd', tmp_path)
    cfg.model.network = dict(type=name)
    cfg.model.update(model)
    cfg.optim_wrapper.optimizers = dict(sgd=dict(type='SGD', owns='rest', lr=0.1))
    if optimizer == 'bop':
        cfg.optim_wrapper.optimizers.signs = BOP
    model = MODELS.build({**cfg.model, 'data_preprocessor': cfg.data_preprocessor})
    model.init_weights()
    if pruned:
        apply_masks_(model.network, Mag(density=0.5).prune(model.network))
    change(model.network)
    return cfg, {'meta': {}, 'state_dict': model.state_dict()}, model


@pytest.mark.parametrize('optimizer', ['sgd', 'bop'])
@pytest.mark.parametrize('pruned', [False, True])
@pytest.mark.parametrize('name', ['Twice', 'TiedNet'])
def test_a_run_of_shared_weights_is_packed(name, pruned, optimizer, tmp_path):
    cfg, checkpoint, model = run_of(name, tmp_path, optimizer, pruned)
    compact.pack(cfg, checkpoint, tmp_path / 'net.pab')
    loaded = compact.load(tmp_path / 'net.pab')
    assert same(model.network, loaded)
    shared = 'layers.0.weight' if name == 'Twice' else 'first.weight'
    assert compact.info(tmp_path / 'net.pab')['signs'] == ([shared] if optimizer == 'bop' else [])
    if isinstance(loaded, TiedNet):
        assert loaded.first.weight is loaded.second.weight


def test_weights_that_the_network_ties_and_the_checkpoint_does_not_are_refused(tmp_path):
    cfg, checkpoint, _ = run_of('TiedNet', tmp_path, pruned=False)
    checkpoint['state_dict']['network.first.weight'] = checkpoint['state_dict']['network.first.weight'] + 1
    with pytest.raises(ValueError, match=r'not of the model of this config: first.weight has another type or value'):
        compact.pack(cfg, checkpoint, tmp_path / 'net.pab')


def test_a_checkpoint_of_another_type_of_numbers_is_refused(tmp_path):
    cfg, checkpoint, _ = run_of('Twice', tmp_path)
    checkpoint['state_dict']['network.head.bias'] = checkpoint['state_dict']['network.head.bias'].double()
    with pytest.raises(ValueError, match=r'not of the model of this config: head.bias has another type or value'):
        compact.pack(cfg, checkpoint, tmp_path / 'net.pab')
    checkpoint['state_dict']['network.head.bias'] = [0.0] * 10
    with pytest.raises(ValueError, match=r'not of the model of this config'):
        compact.pack(cfg, checkpoint, tmp_path / 'net.pab')


@pytest.mark.parametrize('pruned', [False, True])
def test_a_network_that_draws_its_own_weights_is_packed_without_a_seed(pruned, tmp_path):
    cfg, checkpoint, model = run_of('TokenNet', tmp_path, pruned=pruned, init=None)
    compact.pack(cfg, checkpoint, tmp_path / 'net.pab')
    assert same(model.network, compact.load(tmp_path / 'net.pab'))
    assert compact.info(tmp_path / 'net.pab')['init'] is None
    assert 'seed' not in as_checkpoint(tmp_path / 'net.pab')['meta']
    with pytest.raises(ValueError, match='init=None leaves the initial weights to the network'):
        compact.pack(cfg, checkpoint, tmp_path / 'net.pab', seed=3)


def test_layers_whose_state_has_versions_are_packed(tmp_path):
    cfg, checkpoint, model = run_of('Versioned', tmp_path, pruned=False)
    compact.pack(cfg, checkpoint, tmp_path / 'net.pab')
    assert same(model.network, compact.load(tmp_path / 'net.pab'))


def test_a_file_says_what_the_run_normalised_by_and_what_its_classes_are(tmp_path):
    """The preprocessor of the model counts before that of the top level, as in a run."""
    cfg, checkpoint, _ = run_of('Twice', tmp_path)
    cfg.data_preprocessor.update(mean=[0.5], std=[0.5])
    cfg.model.data_preprocessor = dict(type='ImagePreprocessor', mean=[0.25], std=[0.75])
    checkpoint['meta']['dataset_meta'] = {'classes': ('cat', 'dog')}
    compact.pack(cfg, checkpoint, tmp_path / 'net.pab')
    told = compact.info(tmp_path / 'net.pab')
    assert (told['preprocessing']['mean'], told['preprocessing']['std']) == ([0.25], [0.75])
    assert told['classes'] == ['cat', 'dog']
    assert as_checkpoint(tmp_path / 'net.pab')['meta']['dataset_meta']['classes'] == ('cat', 'dog')
