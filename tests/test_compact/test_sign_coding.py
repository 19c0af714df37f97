"""What of weights the seed gives: magnitudes, magnitudes and signs, or nothing."""

from pathlib import Path

import pytest
import torch
from torch import nn

from pab import compact
from pab.compact import CompactError, network
from pab.models import CIFARResNet, initialize_
from pab.pruners import Mag, Rand, apply_masks_

from .networks import RESNET, same, trained


@pytest.fixture
def file(tmp_path):
    return tmp_path / 'network.pab'


def constant(network: nn.Module, magnitude: float = 0.25) -> nn.Module:
    """Give the kept weights of conv1 one magnitude, and leave their signs."""
    with torch.no_grad():
        weight = network.conv1.weight
        weight.copy_(torch.where(weight == 0, 0, magnitude).copysign(weight))
    return network


def test_a_magnitude_of_a_tensor_s_own_is_a_number(file):
    model = constant(trained())
    compact.save(model, file, network=RESNET, seed=7)
    told = compact.info(file)
    assert told['constant'] == ['conv1.weight']
    assert not told['drawn']
    assert same(model, compact.load(file))
    compact.save(trained(), file, network=RESNET, seed=7)
    assert told['bytes']['values'] == compact.info(file)['bytes']['values'] + 4
    assert told['bytes']['signs'] == compact.info(file)['bytes']['signs']
    for magnitude in (float('inf'), float('nan')):
        with pytest.raises(CompactError, match=r'weights left in conv1.weight'):
            compact.save(constant(model, magnitude), file, network=RESNET, seed=7)


def test_signs_that_nobody_flipped_take_nothing(file):
    model = initialize_(CIFARResNet(8, width=4), 'kaiming_constant_signed', 7, fan_share=0.4)
    apply_masks_(model, Rand(density=0.4).prune(model, seed=1))
    options = dict(network=RESNET, seed=7, scheme='kaiming_constant_signed', fan_share=0.4)
    compact.save(constant(model), file, **options)
    told = compact.info(file)
    assert (told['drawn'], told['constant'], told['bytes']['signs']) == (True, ['conv1.weight'], 0)
    assert told['init']['fan_share'] == 0.4
    assert same(model.eval(), compact.load(file))
    with torch.no_grad():
        model.linear.weight += 1  # no sign-trained weight
        model.layer3[0].conv1.weight.neg_().masked_fill_(model.layer3[0].conv1.weight == 0, 0)  # no -0
    compact.save(model, file, **options)
    assert not compact.info(file)['drawn']
    assert same(model, compact.load(file))


def test_a_machine_that_draws_other_signs_says_so(file, monkeypatch):
    """Where no signs are stored, those that the seed gives are compared too; all magnitudes are equal here."""
    model = initialize_(CIFARResNet(8, width=4), 'kaiming_constant_signed', 7)
    compact.save(model, file, network=RESNET, seed=7, scheme='kaiming_constant_signed')
    monkeypatch.setattr(network, 'initialize_', lambda net, scheme, seed, _: initialize_(net, scheme, seed + 1))
    with pytest.raises(CompactError, match=r"'kaiming_constant_signed' and seed 7 give other magnitudes"):
        compact.load(file)


@pytest.mark.parametrize('pruner', [None, Mag(density=0.3)])
def test_weights_that_changed_are_numbers(pruner, file):
    """After SGD nothing is known by its sign; the mask is coded as any other."""
    model = initialize_(CIFARResNet(8, width=4), seed=7)
    if pruner:
        apply_masks_(model, pruner.prune(model))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 1.5
    compact.save(model.eval(), file, network=RESNET, seed=7, signs=())
    told = compact.info(file)
    assert same(model, compact.load(file))
    assert (told['signs'], told['bytes']['signs']) == ([], 0)
    left = sum(int(p.count_nonzero()) for p in model.parameters() if p.dim() == 4)
    others = sum(t.nbytes for n, t in model.state_dict().items() if 'mask' not in n and t.dim() != 4)
    assert told['bytes']['values'] == others + 4 * left


def drawn_network() -> nn.Module:
    """Weights and signs as drawn, but for the magnitude of conv1; half of the weights pruned."""
    model = initialize_(CIFARResNet(8, width=2), 'kaiming_normal', 2026, fan_share=0.5)
    apply_masks_(model, Mag(density=0.5).prune(model))
    return constant(model).eval()


def test_a_stored_file_is_read_for_ever():
    golden = Path(__file__).parent / 'golden' / 'drawn.pab'
    told = compact.info(golden)
    assert (told['drawn'], told['constant'], told['init']['fan_share']) == (True, ['conv1.weight'], 0.5)
    assert same(drawn_network(), compact.load(golden))
