"""A network of one's own that has an attribute ``network`` is not taken for the classifier around one."""

import copy

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import nn

from pab.models import ImageClassifier, network_of
from pab.optim import assign_owners
from pab.pruners import Mag, apply_masks_, get_masks
from pab.registry import MODELS


@MODELS.register_module()
class WithNetwork(nn.Module):
    """A convolution beside a part that is called network: (N, 1, 6, 6) -> (N, 3)."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3)
        self.network = nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), nn.Flatten(), nn.Linear(16, 3))

    def forward(self, images):
        return self.network(torch.relu(self.stem(images)))


@pytest.fixture
def pruned():
    network = WithNetwork()
    model = ImageClassifier(network, init=dict(seed=3))
    model.init_weights()
    apply_masks_(network, Mag(density=0.5).prune(network))
    return model.eval()


def test_the_classifier_is_known_by_its_class(pruned):
    network = pruned.network
    assert network_of(network) is network
    assert network_of(pruned) is network
    other = type('Other', (BaseModel,), {'forward': None})()
    other.network = network
    assert network_of(other) is other


def test_names_of_owners_are_those_of_the_network(pruned):
    rules = dict(bop=['name:network.0.*', 'name:stem.weight'], sgd='rest')
    assert list(assign_owners(pruned.network, rules)['bop']) == ['stem.weight', 'network.0.weight']
    assert list(assign_owners(pruned, rules)['bop']) == ['network.stem.weight', 'network.network.0.weight']


def test_pruned_and_exported_whole(pruned):
    from pab.export import plain_network

    assert get_masks(pruned.network).keys() == {'stem.weight', 'network.0.weight'}
    images = torch.rand(2, 1, 6, 6)
    for model in (pruned, pruned.network):
        plain = plain_network(model)
        assert plain.state_dict().keys() == WithNetwork().state_dict().keys()
        assert torch.equal(plain(images), pruned.network(images))


def test_packed_whole(pruned, tmp_path):
    compact = pytest.importorskip('pab.compact')
    cfg = Config(dict(model=dict(type='ImageClassifier', network=dict(type='WithNetwork'), init=dict(seed=3))))
    optimizers = dict(signs=dict(type='Bop', owns=['Conv2d.weight']), sgd=dict(type='SGD', owns='rest', lr=0.1))
    cfg.optim_wrapper = dict(constructor='OwnershipConstructor', optimizers=optimizers)
    compact.pack(cfg, {'state_dict': copy.deepcopy(pruned.state_dict())}, tmp_path / 'packed.pab')
    settings = dict(network=dict(type='WithNetwork'), seed=3, signs=['Conv2d.weight'])
    compact.save(pruned.network, tmp_path / 'saved.pab', **settings)
    for name in ('packed.pab', 'saved.pab'):
        loaded, expected = compact.load(tmp_path / name).state_dict(), pruned.network.state_dict()
        assert loaded.keys() == expected.keys()
        assert all(torch.equal(value, expected[key]) for key, value in loaded.items())
        assert compact.info(tmp_path / name)['signs'] == ['stem.weight', 'network.0.weight']
