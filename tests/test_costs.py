"""Costs against numbers worked out by hand."""

import re

import pytest
import torch
from torch import nn

from pab.cli.analyze import structure_table
from pab.compact import info, pack
from pab.costs.count import count_layers, count_weights, dense_sgd, latent_signs, pruning_work, saved_bytes, step_work
from pab.costs.narrow import describe_narrowing, narrow_macs
from pab.costs.run import masks_of_checkpoint, masks_of_config, needs_images, run_costs
from pab.costs.structure import form_obstacle, structure_of
from pab.latent import Biprop, EdgePopup, LatentSigns
from pab.narrowing import find_cuts
from pab.pruners import SNIP, FlipFreq, Mag, SynFlow, apply_masks_
from pab.psg import PSGConfig, convert_psg_
from pab.registry import MODELS, RUNNERS
from tests.test_pruners.pruning import warnings_of


class Four(nn.Module):
    """A strided 3x3 convolution, a grouped one, a 1x1 and a linear layer: 8x8 images of 3 channels -> 10 logits."""

    def __init__(self):
        super().__init__()
        self.strided = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.grouped = nn.Conv2d(8, 16, 3, padding=1, groups=4, bias=False)
        self.pointwise = nn.Conv2d(16, 4, 1, bias=False)
        self.linear = nn.Linear(4, 10)

    def forward(self, x):
        return self.linear(self.pointwise(self.grouped(self.strided(x))).mean((2, 3)))


BY_HAND = {
    # outputs x products for each: 8 channels of 4 x 4, 3 x 3 x 3 inputs each
    'strided': 8 * 4 * 4 * 27,
    'grouped': 16 * 4 * 4 * (8 // 4) * 9,
    'pointwise': 4 * 4 * 4 * 16,
    'linear': 10 * 4,
}


HALF = torch.arange(16 * 2 * 9).view(16, 2, 3, 3) % 2 == 0  # a mask of grouped.weight


def test_macs_by_hand():
    rows = {row.name: row for row in count_layers(Four(), (3, 8, 8))}
    assert {name: row.macs for name, row in rows.items()} == BY_HAND
    assert rows['grouped'].weight == (16, 2, 3, 3)
    assert rows['grouped'].output == (16, 4, 4)
    assert [row.kept for row in rows.values()] == [216, 288, 64, 40]


def test_a_step_by_hand():
    net = convert_psg_(Four(), PSGConfig(input_bits=8, grad_bits=16))
    rows = count_layers(net, (3, 8, 8), {'grouped.weight': HALF}, ['strided.weight', 'grouped.weight'])
    work = step_work(rows, batch=10)
    forward = 3456 + 4608 / 2 + 1024 + 40
    assert work.macs == {
        'forward': 10 * forward,
        'input gradient': 10 * (forward - 3456),
        'weight gradient': 10 * forward,
        'optimizer': 2 * (216 + 144) + 3 * (64 + 40),
    }
    # the linear layer is not converted: 32 bits on both sides; the convolutions have 8 and 16
    assert work.bit_operations['weight gradient'] == 10 * ((forward - 40) * 8 * 16 + 40 * 32 * 32)
    assert work.bit_operations['forward'] == 10 * forward * 1024
    dense = step_work(dense_sgd(rows), batch=10)
    assert dense.macs['weight gradient'] == 10 * sum(BY_HAND.values())
    assert dense.macs['optimizer'] == 3 * (216 + 288 + 64 + 40)
    latent = step_work(latent_signs(rows), batch=10)
    assert latent.macs['forward'] == work.macs['forward']
    assert latent.bit_operations['weight gradient'] == 10 * forward * 1024


@pytest.mark.parametrize('converter', [EdgePopup, Biprop])
def test_all_weights_of_a_layer_learn_which_are_used(converter):
    net = converter(density=0.25, layers=['!name:strided', 'Conv2d'])(Four())
    net.strided.weight.requires_grad_(False)
    rows = count_layers(net, (3, 8, 8))
    assert [(row.kept, row.learning) for row in rows] == [(216, 0), (72, 288), (16, 64), (40, 40)]
    work = step_work(rows, batch=10)
    forward = 3456 + 4608 // 4 + 1024 // 4 + 40
    assert work.macs == {
        'forward': 10 * forward,
        'input gradient': 10 * (forward - 3456),
        'weight gradient': 10 * (4608 + 1024 + 40),
        'optimizer': 3 * (288 + 64 + 40),
    }
    assert step_work(dense_sgd(rows), batch=10).macs['optimizer'] == 3 * (216 + 288 + 64 + 40)


def test_a_mask_and_weights_that_are_not_used():
    net = LatentSigns(mode='pruning')(Four())
    with torch.no_grad():
        net.grouped.latent.view(-1)[:100] = -1.0  # of these, those of even positions have a mask that keeps them
    masks = {'grouped.weight': HALF}
    (row,) = [row for row in count_layers(net, (3, 8, 8), masks) if row.name == 'grouped']
    assert (row.kept, row.learning) == (94, 144)
    apply_masks_(net, masks)
    assert row in count_layers(net, (3, 8, 8), masks)
    with torch.no_grad():
        net.grouped.latent.view(-1)[:100] = 1.0
    (row,) = count_weights([row], net, masks)
    assert (row.kept, row.learning, row.sparse_macs) == (144, 144, 4608 // 2)


@pytest.mark.parametrize('settings', [dict(rounds=1), dict(rounds=1, min_per_tensor=30), dict(scope='2:4')])
def test_a_pruning_counts_whatever_is_kept(settings):
    net, pruner = Four(), SynFlow(density=0.5, **settings)
    before = pruning_work(pruner, net, (3, 8, 8), images=1)
    apply_masks_(net, pruner.prune(net, input_shape=(3, 8, 8)))
    with warnings_of() as messages:  # scores of 0 where weights are pruned are no news
        assert pruning_work(pruner, net, (3, 8, 8), images=1) == before
    assert messages == []
    assert before.macs['pruning'] > 0


@pytest.mark.parametrize('pruner', [Mag, FlipFreq])
def test_scores_without_the_network_multiply_nothing(pruner):
    assert pruning_work(pruner(density=0.5), Four(), (3, 8, 8), images=1).macs == {'pruning': 0}


@pytest.mark.parametrize('rounds', [1, 5])
def test_the_work_of_a_pruning(rounds):
    total = sum(BY_HAND.values())
    # forward, weight gradient, and input gradient of all but the first layer
    work = pruning_work(SynFlow(density=0.5, rounds=rounds), Four(), (3, 8, 8), images=100)
    assert work.macs == {'pruning': rounds * (3 * total - BY_HAND['strided'] - BY_HAND['linear'])}
    assert work.bit_operations['pruning'] == work.macs['pruning'] * 64 * 64
    data = pruning_work(SNIP(density=0.5, rounds=rounds), Four(), (3, 8, 8), images=100)
    assert data.macs['pruning'] == 100 * work.macs['pruning']


@pytest.mark.parametrize('tied', ['layer', 'weight'])
def test_the_second_use_of_a_weight_is_as_sparse_as_the_first(tied):
    """8 x 8 channels, 3 x 3, on 4 x 4: 9,216 MACs a use; 122 of 576 weights stay, so 1,952 a use, stored once."""
    first = nn.Conv2d(8, 8, 3, padding=1, bias=False)
    second = first if tied == 'layer' else nn.Conv2d(8, 8, 3, padding=1, bias=False)
    second.weight = first.weight
    net, mask = nn.Sequential(first, nn.ReLU(), second), torch.zeros(576, dtype=torch.bool)
    mask[:122] = True
    rows = count_layers(net, (8, 4, 4), {'0.weight': mask.view(8, 8, 3, 3)}, ['0.weight'])
    assert sum(row.macs for row in rows) == 2 * 9216
    assert sum(row.sparse_macs for row in rows) == 2 * 1952
    work = step_work(rows, batch=2)
    assert work.macs['forward'] == work.macs['weight gradient'] == 2 * 2 * 1952
    assert work.macs['optimizer'] == 2 * 122


def test_products_outside_of_layers():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.project = nn.Linear(4, 4, bias=False)

        def forward(self, x):
            x = self.project(x)
            return x @ x.transpose(1, 2)

    rows = count_layers(Attention(), (5, 4))
    assert [(row.name, row.macs) for row in rows] == [('project', 5 * 4 * 4), ('(functions)', 5 * 5 * 4)]
    step_work(rows, batch=1)


def test_saved_bytes_by_hand():
    net = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 2, bias=False))
    # the input for the first weight, the ReLU's output for itself and for the second weight
    assert saved_bytes(net, (4,)) == 4 * (4 + 6)


@pytest.mark.parametrize(
    ('masks', 'message'),
    [
        ({'conv9.weight': torch.ones(1, dtype=torch.bool)}, r'not those of this config, see conv9.weight'),
        ({'conv1.weight': torch.ones(2, 3, 3, 3, dtype=torch.bool)}, r'not those of this config, see conv1.weight'),
        ({}, r'not those of this config, see conv1.weight, layer1'),
    ],
)
def test_masks_of_another_network_are_refused(tiny_config, masks, message):
    with pytest.raises(ValueError, match=message):
        run_costs(tiny_config(), masks)


@pytest.mark.parametrize('content', [[1], {'a': 1}])
def test_a_file_that_is_no_checkpoint_has_no_masks(content):
    with pytest.raises(ValueError, match=r'the file is no checkpoint: it has no state_dict'):
        masks_of_checkpoint(content)


@pytest.mark.usefixtures('untraced')
def test_the_masks_of_a_config_are_those_of_its_run(tiny_config):
    cfg = tiny_config(train_cfg=dict(max_epochs=1))
    RUNNERS.build(cfg).train()
    trained = masks_of_checkpoint(torch.load(f'{cfg.work_dir}/epoch_1.pth'))
    anew = masks_of_config(cfg)
    assert trained.keys() == anew.keys()
    assert all(torch.equal(mask, anew[name]) for name, mask in trained.items())
    run_costs(cfg, trained)


def structures(net, shape, masks, signs=()):
    layers = count_layers(net, shape, masks, {f'{name}.weight' for name in signs})
    return {row.name: row for row in structure_of(net, layers, masks, find_cuts(net, shape, masks))}


def test_what_layers_take_and_would_save_by_hand():
    first = nn.Conv2d(4, 2, 1, bias=False)
    net = nn.Sequential(first, nn.Conv2d(2, 4, 3, padding=1), nn.Flatten(), nn.Linear(16, 8))
    masks = {'0.weight': torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]).bool()[..., None, None]}
    rows = structures(net, (4, 2, 2), masks, signs=['0'])
    point, three, linear = rows.values()
    # one of two channels between the convolutions is dead, but a training keeps two
    assert [row.narrow_macs for row in rows.values()] == [32, 288, 128]
    assert point.channel_density == (1.0, 0.0)
    # 8 bits say which half stays, 4 more the signs
    assert (point.full_bytes, point.compact_bytes) == (32, round(12 / 8))
    # 8 weights at 4 pixels; 16 bytes in 16 bits become 8, and 4 places of 2 bits
    assert (point.saved_macs, point.saved_bytes, point.obstacle) == (16, 7, '')
    assert (three.channel_density, three.full_bytes, three.compact_bytes) == ((), 288, 288)
    assert (three.saved_macs, three.saved_bytes) == (0, 0)
    assert three.obstacle == 'a 3x3 convolution is no matrix product'
    assert (linear.compact_bytes, linear.saved_macs, linear.obstacle) == (512, 64, '')
    net = nn.Sequential(nn.Conv2d(4, 3, 1, bias=False), nn.Conv2d(3, 4, 3, padding=1), *net[2:])
    masks = {'0.weight': torch.tensor([1, 1, 0]).bool().repeat(4, 1).T[..., None, None]}
    # one of three is dead: 8 of 12 x 4 products, and 72 of 108 x 4
    assert [row.narrow_macs for row in structures(net, (4, 2, 2), masks, signs=['0']).values()] == [32, 288, 128]


@pytest.mark.parametrize(
    ('layer', 'obstacle'),
    [
        (nn.Linear(8, 3), ''),
        (nn.Linear(6, 3), 'its inputs are no multiple of 4'),
        (nn.Conv2d(8, 8, 1, groups=2), 'a 1x1 convolution in groups is no matrix product'),
        (nn.Conv2d(8, 8, 1, padding=1), 'a padded convolution is no matrix product'),
        (nn.Conv2d(8, 8, 1, padding='same', stride=1), ''),
        (nn.Embedding(8, 8), 'Embedding is not an ordinary Linear or Conv2d'),
    ],
)
def test_which_forms_have_kernels(layer, obstacle):
    assert form_obstacle(layer) == obstacle


def test_a_shared_weight_is_stored_once():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    first, second = structures(net, (4,), {'0.weight': torch.ones(4, 4, dtype=torch.bool)}).values()
    assert (first.full_bytes, second.full_bytes, second.compact_bytes, second.saved_bytes) == (64, 0, 0, 0)
    assert second.channel_density == (1.0,) * 4
    assert second.saved_macs == first.saved_macs == 8


@MODELS.register_module()
class Opaque(nn.Sequential):
    """A network that torch.export cannot follow."""

    def __init__(self):
        super().__init__(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))

    def forward(self, images):
        if torch.compiler.is_exporting():
            raise ValueError('labels are missing')
        return super().forward(images)


@pytest.mark.usefixtures('untraced')
def test_a_file_of_weights_that_is_gone_is_not_needed_for_the_costs_of_a_checkpoint(tiny_config):
    cfg = tiny_config(model__weights='gone.pth', model__network__width=2)
    masks = masks_of_config(tiny_config(model__network__width=2))
    assert run_costs(cfg, masks).layers
    with pytest.raises(ValueError, match=r'weights: there is no file gone\.pth'):
        masks_of_config(cfg)  # a pruner reads them


def test_a_network_that_cannot_be_traced_has_no_narrow_column(tiny_config):
    cfg = tiny_config(model__network=dict(_delete_=True, type='Opaque'))
    costs = run_costs(cfg, masks_of_config(cfg))
    assert [row.narrow_macs for row in costs.structure] == [None, None]
    told = structure_table(costs)
    assert 'narrow' not in '\n'.join(told[:-1])
    assert re.match(r'narrow: torch.export cannot follow Opaque on images of shape \(1, 8, 8\): .+$', told[-1])


@pytest.mark.usefixtures('untraced')
def test_the_size_of_a_compact_file_is_near(tiny_config, tmp_path):
    cfg = tiny_config(model=dict(network=dict(width=8)), train_cfg=dict(max_epochs=1))
    RUNNERS.build(cfg).train()
    checkpoint = torch.load(f'{cfg.work_dir}/epoch_1.pth')
    pack(cfg, checkpoint, tmp_path / 'net.pab')
    sizes = info(tmp_path / 'net.pab')['bytes']
    rows = run_costs(cfg, masks_of_checkpoint(checkpoint)).structure
    predicted = sum(row.compact_bytes for row in rows if row.channel_density)
    assert predicted == pytest.approx(sizes['mask'] + sizes['signs'], rel=0.1)


@pytest.mark.parametrize('pruner', ['SNIP', 'GraSP'])
def test_a_pruner_that_reads_images_gets_noise(tiny_config, pruner):
    cfg = tiny_config(
        default_hooks=dict(prune=dict(pruner=dict(type=pruner, rounds=1))), train_dataloader=dict(dataset=None)
    )
    assert needs_images(cfg)
    masks = masks_of_config(cfg)
    kept, total = (sum(map(count, masks.values())) for count in (torch.sum, torch.numel))
    assert int(kept) == total - int(0.7 * total)
    assert all(torch.equal(mask, masks[name]) for name, mask in masks_of_config(cfg).items())
    assert not needs_images(tiny_config())
    assert not needs_images(tiny_config(default_hooks=dict(prune=None)))


def test_narrow_macs_by_hand(monkeypatch):
    """Of 12 outputs 5 stay, and of 20 inputs 9: in blocks of 8 that is 8 of 12, and 16 of 20."""
    network = nn.Sequential(nn.Conv2d(3, 20, 1), nn.Conv2d(20, 12, 1), nn.Conv2d(12, 7, 1))
    layers = count_layers(network, (3, 2, 2))
    assert narrow_macs(layers, {}) == 4 * (60 + 240 + 84)
    sizes = {'0': (9, 3), '1': (5, 9), '2': (7, 5)}
    assert narrow_macs(layers, sizes) == 4 * (27 + 45 + 35)
    assert narrow_macs(layers, sizes, block=8) == 4 * (16 * 3 + 8 * 16 + 7 * 8)
    assert narrow_macs(layers, sizes, block=16) == 4 * (16 * 3 + 12 * 16 + 84)
    for capability, told in (('AVX512', 'blocks of 16 channels'), ('AVX2', 'blocks of 8 channels')):
        monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda capability=capability: capability)
        text = describe_narrowing(layers, sizes)
        assert '3 of 3 layers are smaller: 0.001536 -> 0.000428 million MACs an image (0.279)' in text
        assert f'{told}, as this processor computes: {0.844 if told[10] == "1" else 0.604}' in text
        assert ('nothing is gained in 2 7x12 -> 7x5' in text) == (capability == 'AVX512')
