"""Weights that a network begins with, and parameters that stay as they are."""

from urllib.error import URLError

import pytest
import torch
from mmengine.config import Config
from torch import nn
from torchvision import models

from pab.models import ImageClassifier, TorchvisionModel, initialize_, load_weights_
from pab.optim import assign_owners
from pab.pruners import SNIP, Mag, SynFlow, apply_masks_, check_masks
from pab.registry import MODELS, OPTIMIZERS, RUNNERS
from tests.small_run import TinyNet, small_config

NAME = 'ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1'


def two_layers(num_classes: int = 4, width: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width, num_classes))


@pytest.fixture
def file(tmp_path):
    network = initialize_(two_layers(), seed=9)
    network[1].running_mean.fill_(2.0)
    torch.save(network.state_dict(), tmp_path / 'weights.pth')
    return tmp_path / 'weights.pth', network.state_dict()


@pytest.mark.parametrize('form', ['alone', 'of a checkpoint', 'of a classifier', 'of a distributed model'])
def test_a_file_of_any_form(file, form):
    path, state = file
    if form == 'of a checkpoint':
        torch.save({'state_dict': state, 'meta': {}}, path)
    elif form == 'of a classifier':
        torch.save(ImageClassifier(two_layers()).state_dict() | {f'network.{n}': v for n, v in state.items()}, path)
    elif form == 'of a distributed model':
        torch.save({f'module.{name}': value for name, value in state.items()}, path)
    network = two_layers()
    assert load_weights_(network, path) == []
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_a_head_of_another_size_is_drawn_by_the_seed(file):
    model = ImageClassifier(two_layers(7), init=dict(seed=3), weights=str(file[0]))
    model.init_weights()
    fresh = initialize_(two_layers(7), seed=3)
    assert torch.equal(model.network[3].weight, fresh[3].weight)
    assert torch.equal(model.network[3].bias, fresh[3].bias)
    assert torch.equal(model.network[0].weight, file[1]['0.weight'])
    assert model.network[1].running_mean.tolist() == [2.0] * 3


def test_latents_stay(file):
    network = ImageClassifier(two_layers(), converter=dict(type='LatentSigns')).network
    latent = network[0].latent.clone()
    load_weights_(network, file[0])
    assert torch.equal(network[0].latent, latent)
    assert torch.equal(network[0].weight, file[1]['0.weight'])


def test_a_pruned_run_begins_with_them(tmp_path):
    source = initialize_(TinyNet(), seed=8)
    torch.save(source.state_dict(), tmp_path / 'weights.pth')
    options = dict(model__weights=str(tmp_path / 'weights.pth'), default_hooks__prune__epoch=0)
    options.update(train_cfg__max_epochs=1)
    runner = RUNNERS.build(small_config(tmp_path / 'run', **options))
    runner.train()
    check_masks(runner.network)
    state = runner.network.state_dict()
    mask = state['conv2.weight_mask']
    assert 0 < mask.sum() < mask.numel()
    assert torch.equal(state['conv2.weight'].abs(), source.conv2.weight.abs() * mask)


def test_what_is_missing_is_listed(file):
    path, state = file
    other = nn.Sequential(*two_layers()[:3], nn.Identity(), nn.Linear(3, 4), nn.PReLU())
    with pytest.raises(ValueError, match=r'3 missing: 4\.weight, 4\.bias, 5\.weight; 2 unknown: 3\.weight, 3\.bias$'):
        load_weights_(other, path)
    with pytest.raises(
        ValueError, match=r'7 of another shape: 0\.weight \(3, 1, 3, 3\), here \(5, 1, 3, 3\), .* and 4 more'
    ):
        load_weights_(two_layers(width=5), path)
    before = two_layers().state_dict()
    assert before.keys() == state.keys()


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (None, r'weights: there is no file .*; torchvision has weights by names such as'),
        (b'', r'cannot be loaded \('),
        ([1, 2], 'holds no state dict'),
        ({'epoch': 3}, 'holds no state dict'),
        (nn.Linear(1, 1), r'cannot be loaded \(Weights only load failed'),  # a whole module would run code
    ],
)
def test_a_file_that_is_none(tmp_path, content, message):
    path = tmp_path / 'weights.pth'
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        load_weights_(two_layers(), path)


def test_weights_of_torchvision_by_name(monkeypatch):
    theirs = initialize_(models.shufflenet_v2_x0_5(), seed=4).state_dict()
    monkeypatch.setattr(models._api, 'load_state_dict_from_url', lambda *_, **__: theirs)
    network = TorchvisionModel('shufflenet_v2_x0_5', 5)
    state = torch.get_rng_state()
    assert load_weights_(network, NAME) == ['fc.weight', 'fc.bias']
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(network.conv5[0].weight, theirs['conv5.0.weight'])
    with pytest.raises(ValueError, match=r'ShuffleNet.* is of another network than this Sequential; 8 missing'):
        load_weights_(two_layers(), NAME)


def test_without_a_network_the_way_out_is_told(monkeypatch):
    def unreachable(*_, **__):
        raise URLError('Name or service not known')

    monkeypatch.setattr(models._api, 'load_state_dict_from_url', unreachable)
    with pytest.raises(OSError, match=r'cannot fetch ShuffleNet.*not known.*; fetch https:.*\.pth elsewhere'):
        load_weights_(two_layers(), NAME)
    with pytest.raises(ValueError, match=r"unknown name 'ResNet18_Weights\.V3'; did you mean ResNet18"):
        load_weights_(two_layers(), 'ResNet18_Weights.V3')


def test_a_run_begins_with_them_and_resumes_without(tmp_path):
    source = initialize_(TinyNet(), seed=8)
    source.linear = nn.Linear(6, 9)
    path = tmp_path / 'weights.pth'
    torch.save(source.state_dict(), path)

    def run(**options):
        cfg = small_config(tmp_path / 'run', model__weights=str(path), model__freeze=['name:conv1.*'], **options)
        cfg.default_hooks.prune = None
        runner = RUNNERS.build(cfg)
        runner.train()
        return runner.network.state_dict()

    state = run(train_cfg__max_epochs=1)
    assert torch.equal(state['conv1.weight'], source.conv1.weight)
    assert torch.equal(state['conv2.weight'].abs(), source.conv2.weight.abs())
    assert not torch.equal(state['conv2.weight'], source.conv2.weight)
    assert state['linear.weight'].shape == (4, 6)
    path.unlink()
    with pytest.raises(ValueError, match='weights: there is no file'):
        run(train_cfg__max_epochs=1, overwrite=True)
    resumed = run(train_cfg__max_epochs=2, resume=True, default_hooks__resume_check__allow_changes=True)
    assert torch.equal(resumed['conv1.weight'], source.conv1.weight)
    assert not torch.equal(resumed['linear.weight'], state['linear.weight'])


# freezing


def test_frozen_parameters_and_statistics_stay():
    model = ImageClassifier(two_layers(), freeze=['Conv2d', 'name:1.*']).train()
    assert [name for name, p in model.network.named_parameters() if p.requires_grad] == ['3.weight', '3.bias']
    before = {name: value.clone() for name, value in model.network.state_dict().items()}
    model(torch.rand(4, 1, 3, 3), torch.tensor([0, 1, 2, 3]), mode='loss')['loss'].backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    changed = [name for name, value in model.network.state_dict().items() if not torch.equal(value, before[name])]
    assert changed == ['3.weight', '3.bias']
    assert model.network[3].training
    half = ImageClassifier(two_layers(), freeze=['name:1.weight']).train()
    assert half.network[1].training  # its shift still follows the data


@pytest.mark.parametrize(
    ('freeze', 'error', 'message'),
    [
        (['name:layer9.*'], ValueError, r"freeze: 'name:layer9\.\*' matches no parameter of the Sequential"),
        (['!Conv2d'], ValueError, 'ImageClassifier: freeze selects nothing'),
        ('Conv2d', TypeError, 'ImageClassifier: freeze must be a list of patterns'),
    ],
)
def test_patterns_that_freeze_nothing(freeze, error, message):
    with pytest.raises(error, match=message):
        ImageClassifier(two_layers(), freeze=freeze)


# a network of torchvision's kinds from its weights to a file


@MODELS.register_module()
def SmallViT(num_classes=3):
    """torchvision's vision transformer, small: (N, 3, 8, 8) -> (N, num_classes)."""
    return models.VisionTransformer(8, 4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8, num_classes=num_classes)


@MODELS.register_module()
def SmallSwin(num_classes=3):
    """torchvision's Swin transformer, small: (N, 3, 8, 8) -> (N, num_classes)."""
    settings = dict(patch_size=[4, 4], embed_dim=8, depths=[2], num_heads=[2], window_size=[2, 2])
    return models.SwinTransformer(**settings, num_classes=num_classes, stochastic_depth_prob=0.0)


@MODELS.register_module()
def SmallConvNeXt(num_classes=3):
    """torchvision's ConvNeXt, small: (N, 3, 8, 8) -> (N, num_classes)."""
    blocks = [models.convnext.CNBlockConfig(8, None, 2)]
    return models.ConvNeXt(blocks, layer_scale=0.5, num_classes=num_classes)


IMAGES, LABELS = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(2)), torch.tensor([0, 1, 2, 0, 1, 2])
PRUNABLE = {
    'SmallViT': ['Conv2d.weight', 'Linear.weight', 'MultiheadAttention.in_proj_weight', '!name:heads*'],
    'SmallSwin': ['Conv2d.weight', 'Linear.weight', '!name:head*'],
    'SmallConvNeXt': ['Conv2d.weight', 'Linear.weight', '!name:classifier*'],
}


@pytest.mark.parametrize('pruner', [Mag, SNIP, SynFlow])
@pytest.mark.parametrize('network', PRUNABLE)
def test_pruned_trained_by_signs_and_packed(network, pruner, tmp_path):
    compact = pytest.importorskip('pab.compact')
    prunable = PRUNABLE[network]
    model = ImageClassifier(dict(type=network), init=dict(seed=7))
    model.init_weights()
    masks = pruner(density=0.5, prunable=prunable).prune(model.network, [(IMAGES, LABELS)], input_shape=(3, 8, 8))
    apply_masks_(model.network, masks)
    start = {name: p.detach().clone() for name, p in model.network.named_parameters()}
    optimizers = {
        'signs': dict(type='Bop', owns=prunable, adaptivity_rate=0.5, threshold=1e-9),
        'sgd': dict(type='SGD', owns='rest', lr=0.1),
    }
    owned = assign_owners(model, {name: settings['owns'] for name, settings in optimizers.items()})
    built = [
        OPTIMIZERS.build({k: v for k, v in settings.items() if k != 'owns'} | {'params': list(owned[name].values())})
        for name, settings in optimizers.items()
    ]
    for _ in range(3):
        model(IMAGES, LABELS, mode='loss')['loss'].backward()
        for optimizer in built:
            optimizer.step()
            optimizer.zero_grad()
    check_masks(model)
    for name, p in model.network.named_parameters():
        assert p.isfinite().all()
        if name in masks:  # magnitudes stay those of the seed
            assert torch.equal(p.abs(), start[name].abs())
    assert sum(int((p != start[name]).sum()) for name, p in model.network.named_parameters() if name in masks) > 0
    assert sum(int(mask.sum()) for mask in masks.values()) == -(-sum(mask.numel() for mask in masks.values()) // 2)
    cfg = Config(dict(model=dict(network=dict(type=network), init=dict(seed=7))))
    cfg.optim_wrapper = dict(constructor='OwnershipConstructor', optimizers=optimizers)
    compact.pack(cfg, {'state_dict': model.state_dict()}, tmp_path / 'network.pab')
    loaded = compact.load(tmp_path / 'network.pab')
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, model.network.state_dict()[name]), name
    assert set(compact.info(tmp_path / 'network.pab')['signs']) == masks.keys()


@pytest.mark.parametrize('pruner', [Mag, SNIP, SynFlow])
def test_weights_of_a_file_pruned_and_trained_by_sgd(pruner, tmp_path):
    source = initialize_(SmallViT(num_classes=9), seed=1)
    torch.save(source.state_dict(), tmp_path / 'vit.pth')
    model = ImageClassifier(dict(type='SmallViT'), weights=str(tmp_path / 'vit.pth'), freeze=['name:*pos_embedding'])
    model.init_weights()
    head = model.network.heads.head.weight.clone()
    masks = pruner(density=0.5, prunable=['Linear.weight', '!name:*head*']).prune(
        model.network, [(IMAGES, LABELS)], input_shape=(3, 8, 8)
    )
    apply_masks_(model.network, masks)
    name = 'encoder.layers.encoder_layer_0.mlp.0.weight'
    assert torch.equal(model.network.get_parameter(name), source.get_parameter(name) * masks[name])
    optimizer = torch.optim.SGD(assign_owners(model, {'sgd': 'rest'})['sgd'].values(), lr=0.1)
    losses = []
    for _ in range(8):
        loss = model(IMAGES, LABELS, mode='loss')['loss']
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    check_masks(model)
    assert losses[-1] < losses[0]
    assert not torch.equal(model.network.heads.head.weight, head)
    assert torch.equal(model.network.encoder.pos_embedding, source.encoder.pos_embedding)
