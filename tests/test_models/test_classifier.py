import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pab.models import ImageClassifier, initialize_
from pab.pruners import SynFlow
from pab.psg import PSGConv2d
from pab.registry import CONVERTERS, MODELS

NETWORK = {'type': 'CIFARResNet', 'depth': 8, 'width': 4, 'in_channels': 1}


def build(**kwargs) -> ImageClassifier:
    return MODELS.build({'type': 'ImageClassifier', 'network': NETWORK, **kwargs})


@pytest.fixture
def images():
    return torch.randn(6, 1, 8, 8)


@pytest.fixture
def labels():
    return torch.tensor([0, 9, 1, 2, 3, 3])


def test_three_modes(images, labels):
    model = build().eval()
    logits = model(images)
    assert logits.shape == (6, 10)
    assert torch.equal(logits, model(images, labels, mode='tensor'))
    loss = model(images, labels, mode='loss')
    assert loss.keys() == {'loss'}
    by_hand = -logits.log_softmax(1)[torch.arange(6), labels].mean()
    torch.testing.assert_close(loss['loss'], by_hand)
    (prediction,) = model(images, labels, mode='predict')
    assert torch.equal(prediction['logits'], logits)
    assert prediction['labels'] is labels


def test_label_smoothing(images, labels):
    model = build(label_smoothing=0.2).eval()
    target = 0.8 * F.one_hot(labels, 10) + 0.02
    by_hand = -(target * model(images).log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(model(images, labels, mode='loss')['loss'], by_hand)


def test_class_weights(images, labels):
    weights = [0.5 + number for number in range(10)]
    model = build(class_weights=weights).eval()
    of_images = torch.tensor(weights)[labels]
    by_hand = -(model(images).log_softmax(1)[torch.arange(6), labels] * of_images).sum() / of_images.sum()
    torch.testing.assert_close(model(images, labels, mode='loss')['loss'], by_hand)
    assert model.state_dict().keys() == build().state_dict().keys()
    for given in (labels, F.one_hot(labels, 10).float()):
        with pytest.raises(ValueError, match='class_weights need one number for each of the logits, got 3 and 10'):
            build(class_weights=[1, 2, 3])(images, given, mode='loss')


def test_class_probabilities_as_labels(images, labels):
    model = build().eval()
    mixed = F.one_hot(labels, 10).float()
    torch.testing.assert_close(model(images, mixed, mode='loss'), model(images, labels, mode='loss'))


def test_initial_weights_are_those_of_the_network_alone():
    models = [build(init={'scheme': 'kaiming_laplace', 'seed': 4}, converter=how) for how in (None, {'type': 'PSG'})]
    alone = initialize_(MODELS.build(NETWORK), 'kaiming_laplace', 4)
    for model in models:
        model.init_weights()
        for (name, got), want in zip(model.network.named_parameters(), alone.parameters(), strict=True):
            assert torch.equal(got, want), name


def test_the_seed_of_torch_is_the_default_and_the_log_tells_it(monkeypatch):
    lines = []
    monkeypatch.setattr('pab.models.classifier.print_log', lambda text, logger: lines.append(text))
    torch.manual_seed(11)
    model = build()
    torch.rand(3)  # drawing doesn't matter
    model.init_weights()
    want = initialize_(MODELS.build(NETWORK), 'kaiming_normal', 11)
    assert torch.equal(model.network.conv1.weight, want.conv1.weight)
    assert lines == ["Initial weights: scheme 'kaiming_normal', seed 11"]


def test_init_weights_acts_once():
    model = build()
    model.init_weights()
    assert model.is_init
    with torch.no_grad():
        model.network.conv1.weight.fill_(3)
    model.init_weights()
    assert (model.network.conv1.weight == 3).all()


def test_init_none_leaves_it_to_the_network():
    class OwnRule(nn.Conv2d):
        def init_weights(self):
            nn.init.ones_(self.weight)

    model, own = build(init=None), ImageClassifier(OwnRule(1, 1, 1), init=None)
    before = copy.deepcopy(model.network.state_dict())
    for each in (model, own):
        each.init_weights()
    assert all(torch.equal(before[key], value) for key, value in model.network.state_dict().items())
    assert own.network.weight.item() == 1


def test_channels_last_changes_the_layout_only(images):
    last, first = build(channels_last=True).eval(), build(channels_last=False).eval()
    first.load_state_dict(last.state_dict())
    weight = last.network.layer1[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()
    assert first.network.layer1[0].conv1.weight.is_contiguous()
    torch.testing.assert_close(last(images), first(images))
    last.init_weights()
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_converter():
    psg = {'type': 'PSG', 'input_bits': 4}
    for converter in (psg, [psg]):
        model = build(converter=converter)
        convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
        assert len(convs) == 9
        assert all(type(m) is PSGConv2d for m in convs)


def test_converters_run_in_their_order(monkeypatch):
    monkeypatch.setattr(CONVERTERS, 'build', lambda config: lambda network: calls.append((config['type'], network)))
    calls = []
    model = build(converter=[{'type': 'first'}, {'type': 'second'}])
    assert [name for name, _ in calls] == ['first', 'second']
    assert all(network is model.network for _, network in calls)


def test_train_step_of_mmengine_learns(images, labels):
    from mmengine.optim import OptimWrapper

    model = build()
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    losses = [model.train_step({'images': images, 'labels': labels}, wrapper)['loss'].item() for _ in range(8)]
    assert losses[-1] < losses[0] / 2
    (prediction,) = model.val_step({'images': images, 'labels': labels})
    assert prediction['logits'].shape == (6, 10)


def test_a_built_network_and_an_input_shape():
    network = MODELS.build(NETWORK)
    model = ImageClassifier(network, input_shape=[1, 8, 8])
    assert model.network is network
    assert model.input_shape == (1, 8, 8)
    assert build().input_shape is None


SHAPE = r'ImageClassifier: input_shape must be \(channels, height, width\), got '


@pytest.mark.parametrize(
    ('options', 'error', 'message'),
    [
        ({'init': {'sede': 1}}, ValueError, "unknown key of init 'sede'; known: scheme, seed"),
        ({'init': {'scheme': 'he'}}, ValueError, "initialize_: unknown scheme 'he'; known: standard"),
        ({'init': {'seed': -3}}, ValueError, 'seed must be an int >= 0, got -3'),
        ({'label_smoothing': 1}, ValueError, r'ImageClassifier: label_smoothing must lie in \[0, 1\), got 1'),
        *(
            ({'class_weights': wrong}, ValueError, 'ImageClassifier: class_weights must be a list of numbers > 0')
            for wrong in ('even', 1.0, [1, 0], [1, 'a'])
        ),
        ({'input_shape': (8, 8)}, ValueError, SHAPE + r'\(8, 8\)'),
        ({'input_shape': 3}, ValueError, SHAPE + '3'),
        ({'input_shape': '388'}, ValueError, SHAPE + "'388'"),
        (
            {'input_shape': (1, 8, 0)},
            ValueError,
            'ImageClassifier: each entry of input_shape must be an int >= 1, got 0',
        ),
    ],
)
def test_bad_settings(options, error, message):
    with pytest.raises(error, match=message):
        build(**options)


@pytest.mark.parametrize(
    ('changes', 'error', 'message'),
    [
        ({'mode': 'train'}, ValueError, "ImageClassifier: unknown mode 'train'; known: tensor, loss, predict"),
        ({'labels': None}, ValueError, "ImageClassifier: mode='loss' needs labels, got None"),
        (
            {'images': torch.zeros(6, 1, 8, 8, dtype=torch.uint8)},
            TypeError,
            r'images must be floating point, got torch\.uint8; data_preprocessor=',
        ),
        *(
            ({'labels': torch.tensor([0, wrong, 1, 2, 3, 3])}, ValueError, r'lie in \[0, 10\), .* got .* num_classes')
            for wrong in (10, -1)
        ),
        ({'labels': torch.zeros(6, 7)}, ValueError, "mixed labels need .*, got 7 and 10; set num_classes='auto'"),
    ],
)
def test_bad_batches(images, labels, changes, error, message):
    with pytest.raises(error, match=message):
        build()(**{'images': images, 'labels': labels, 'mode': 'loss', **changes})


@pytest.mark.slow
def test_a_compiled_network_is_the_same_network():
    options = dict(network=dict(type='ConvNet', depth=2, image_size=4), converter=dict(type='PSG'))
    plain, compiled = (MODELS.build(dict(type='ImageClassifier', compile=flag, **options)) for flag in (False, True))
    compiled.load_state_dict(plain.state_dict())
    captured = torch._dynamo.utils.counters['stats']
    captured.clear()
    expected, masks = (SynFlow(density=0.5).prune(model, input_shape=(3, 4, 4)) for model in (plain, compiled))
    assert all(torch.equal(mask, masks[name]) for name, mask in expected.items())
    assert not captured  # scores are computed without compiling
    images = torch.rand(3, 3, 4, 4)
    for model in (plain, compiled):
        model(images, torch.arange(3), mode='loss')['loss'].backward()
    assert captured['calls_captured'] > 0
    for name, param in plain.named_parameters():
        torch.testing.assert_close(compiled.get_parameter(name).grad, param.grad, rtol=1e-4, atol=1e-6)
