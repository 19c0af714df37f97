"""What every pruner must do, and the settings they share."""

import copy
import itertools
import random
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pab.pruners import apply_masks_, density_table, describe_kept_share, kept_count
from pab.psg import convert_psg_
from pab.registry import PRUNERS
from tests.test_pruners.pruning import ALL, BOTH, build, kept, same, total, warnings_of


def test_the_registry_holds_these(net):
    build('Mag')
    assert set(ALL) <= set(PRUNERS.module_dict)


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('density', [1.0, 0.9, 0.5, 0.05, 1e-4])
@pytest.mark.parametrize('rounds', [1, 3])
def test_every_pruner_keeps_what_was_asked(name, density, rounds, net, batches, flips):
    masks = build(name, density, rounds=rounds, prunable=BOTH).prune(net, batches, flips=flips)
    assert kept(masks) == kept_count(total(masks), Fraction(str(density)))
    assert all(mask.dtype == torch.bool for mask in masks.values())
    assert list(masks) == ['conv1.weight', 'conv2.weight', 'short.weight', 'fc.weight']


@pytest.mark.parametrize('name', ALL)
def test_every_pruner_never_revives(name, net, batches, flips):
    pruner = build(name, 0.2, rounds=6, schedule='linear', prunable=BOTH)
    seen = []
    score = pruner.score

    def spy(**given):
        seen.append({key: w.clone() for key, w in given['weights'].items()})
        return score(**given)

    pruner.score = spy
    masks = pruner.prune(net, batches, flips=flips)
    seen.append({key: masks[key] * net.get_parameter(key).double() for key in masks})
    assert len(seen) == 7
    for before, after in itertools.pairwise(seen):
        assert all(not ((before[key] == 0) & (after[key] != 0)).any() for key in before)


@pytest.mark.parametrize('name', ALL)
def test_every_pruner_is_fixed_by_the_seed(name, net, batches, flips):
    pruner = build(name, rounds=3, prunable=BOTH)
    first = pruner.prune(net, batches, flips=flips, seed=5)
    torch.manual_seed(99)
    np.random.seed(99)
    assert same(first, pruner.prune(copy.deepcopy(net), batches, flips=flips, seed=5))
    assert same(first, pruner.prune(net, batches, flips=flips, seed=6)) == (name != 'Rand')


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('breaks', [False, True])
def test_every_pruner_leaves_the_model_alone(name, breaks, net, batches, flips):
    net.train()
    net.bn1.eval()
    net.fc.weight.grad = torch.ones_like(net.fc.weight)
    state = copy.deepcopy(net.state_dict())
    numbers = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    pruner = build(name, rounds=2, prunable=BOTH)

    def on_round(*_):
        if breaks:
            raise KeyboardInterrupt

    if breaks:
        with pytest.raises(KeyboardInterrupt):
            pruner.prune(net, batches, flips=flips, on_round=on_round)
    else:
        pruner.prune(net, batches, flips=flips)

    assert same(state, net.state_dict())
    assert net.training
    assert net.conv1.training
    assert not net.bn1.training
    assert torch.equal(net.fc.weight.grad, torch.ones_like(net.fc.weight))
    assert net.conv1.weight.grad is None
    assert torch.equal(numbers[0], torch.get_rng_state())
    assert np.array_equal(numbers[1], np.random.get_state()[1])
    assert numbers[2] == random.getstate()
    assert not net.conv1.weight._backward_hooks


@pytest.mark.parametrize('name', ALL)
def test_every_pruner_takes_a_half_precision_model_and_no_grad(name, net, batches, flips):
    net.bfloat16().requires_grad_(False)
    with torch.inference_mode():
        masks = build(name, prunable=BOTH).prune(net, batches, flips=flips)
    assert kept(masks) == kept_count(total(masks), Fraction('0.3'))


@pytest.mark.parametrize('name', ['SNIP', 'GraSP', 'SynFlow'])
def test_sign_gradient_layers_score_as_plain_ones(name, net, batches):
    plain = build(name, rounds=2, prunable=BOTH).prune(net, batches)
    convert_psg_(net)
    assert type(net.conv1).__name__ == 'PSGConv2d'
    assert same(plain, build(name, rounds=2, prunable=BOTH).prune(net, batches))


def test_the_order_of_memory_changes_nothing(net):
    pruner = build('SynFlow', 0.1, rounds=5, prunable=BOTH)
    plain = pruner.prune(net, input_shape=(3, 8, 8))
    assert same(plain, pruner.prune(net.to(memory_format=torch.channels_last), input_shape=(3, 8, 8)))


def test_dropout_is_off_and_integer_buffers_pass(net, batches):
    plain = build('SNIP').prune(net, batches)
    noisy = nn.Sequential(nn.Dropout(0.9), net)
    noisy.register_buffer('steps', torch.tensor(3))
    masks = build('SNIP').prune(noisy, batches)
    assert all(torch.equal(mask, masks[f'1.{name}']) for name, mask in plain.items())


def test_a_shared_weight_counts_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Conv2d(4, 4, 3, padding=1)
            self.b = nn.Conv2d(4, 4, 3, padding=1)
            self.b.weight = self.a.weight

        def forward(self, images):
            return self.b(F.relu(self.a(images))).mean(dim=(2, 3))

    model = Twice()
    masks = build('SynFlow', rounds=2).prune(model, input_shape=(4, 6, 6))
    assert list(masks) == ['a.weight']
    assert kept(masks) == 44
    apply_masks_(model, masks)
    model(torch.ones(1, 4, 6, 6)).sum().backward()
    assert not model.b.weight.grad[~masks['a.weight']].any()


def test_scores_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten())
    model[0].weight.data = torch.tensor([3.0, -2.0]).view(2, 1, 1, 1)
    image, label = torch.full((1, 1, 1, 1), 0.5), torch.tensor([1])

    def scores(name, **given):
        pruner, seen = build(name, 0.5), []
        score = pruner.score
        pruner.score = lambda **got: seen.append({k: s.clone() for k, s in score(**got).items()}) or seen[-1]
        pruner.prune(model, [(image, label)], **given)
        return seen[0]['0.weight'].flatten().tolist()

    # logits 1.5 and -1, p = softmax; dL/dw = (p0, p1 - 1) / 2 = (q, -q), so |g w| = (3 q, 2 q)
    assert scores('SNIP') == pytest.approx([0.6, 0.4])
    assert scores('Mag') == [3, 2]
    assert scores('SynFlow') == [3, 2]  # ones in, weights summed
    assert scores('FlipFreq', flips={'0.weight': torch.tensor([4, 1]).view(2, 1, 1, 1)}) == [-4, -1]
    # z = w / 400; L = log(e^z0 + e^z1) - z1, g = (p, -p) / 400, H g = p q (2 p / 400) / 400^2 (1, -1); times w
    assert scores('GraSP')[0] / scores('GraSP')[1] == pytest.approx(1.5)
    assert scores('GraSP')[0] > 0


def test_random_scores_differ_by_tensor_and_are_those_of_numpy():
    opened = []

    class Watched(type(build('Rand'))):
        def score(self, weights, stream):
            opened.append([stream(name).standard_normal(3) for name in ('conv.weight', 'conv.weight', 'fc.weight')])
            return weights

    Watched(0.5, rounds=2).prune(nn.Conv2d(1, 2, 3), seed=7)
    (first, again, other), later = opened
    assert np.array_equal(first, again)
    assert np.array_equal(first, later[0])
    assert not np.array_equal(first, other)
    # frozen: the masks of a seed must never change
    assert first == pytest.approx([1.3336668903820903, -0.23759322390044754, -0.6689730018288462], abs=1e-12)


@pytest.mark.parametrize('scope', ['global', 'local'])
def test_a_floor_in_each_tensor(scope, net):
    plain = build('Mag', 0.05, scope=scope, prunable=BOTH).prune(net)
    masks = build('Mag', 0.05, scope=scope, prunable=BOTH, min_per_tensor=12, rounds=4).prune(net)
    assert kept(masks) == kept(plain)
    assert min(int(mask.sum()) for mask in masks.values()) == 12
    assert min(int(mask.sum()) for mask in plain.values()) < 12


def test_a_floor_that_does_not_fit(net):
    with pytest.raises(ValueError, match=r'min_per_tensor: 30 weights in each of 4 tensors need 120 kept weights'):
        build('Mag', 0.05, prunable=BOTH, min_per_tensor=30).prune(net)


def test_emptied_tensors_are_named(net):
    with warnings_of() as messages:
        masks = build('Mag', 0.05, prunable=BOTH).prune(net)
    empty = [name for name, mask in masks.items() if not mask.any()]
    assert empty
    assert messages == [f'Mag: no weight is left in {", ".join(empty)}; min_per_tensor keeps some']


def test_tensors_in_which_position_decides_are_named(net):
    """Of 200 weights that stay, the last n are as large as the first n that go."""
    size = net.conv2.weight.numel()
    for n, told in ((size // 2, ['100%']), (3 * size // 100, ['6%']), (size // 200 + 1, ['1%']), (size // 250, [])):
        net.conv2.weight.data = torch.linspace(2, 1, size).view_as(net.conv2.weight)
        net.conv2.weight.data.flatten()[size // 2 - n : size // 2 + n] = 1.5
        with warnings_of() as messages:
            build('Mag', 0.5, scope='local').prune(net)
        text = 'Mag: scores are equal, so position decides which weights stay in conv2.weight ({})'
        assert messages == [text.format(share) for share in told]


def test_constant_magnitudes_do_not_depend_on_the_order_of_sums(resnet20):
    """Scores that are equal on paper: with another order of memory, and with noise of rounding."""
    for parameter in resnet20.parameters():
        if parameter.dim() == 4:
            parameter.data.fill_(parameter[0].numel() ** -0.5)
    model = resnet20.double()
    pruner = build('SynFlow', 0.3, rounds=4)
    score, before = pruner.score, pruner.prune(model, input_shape=(3, 8, 8))

    def noisy(**given):
        return {name: s * (1 + torch.randn_like(s) * 1e-15) for name, s in score(**given).items()}

    pruner.score = noisy
    for seed in range(3):
        assert same(before, pruner.prune(model, input_shape=(3, 8, 8), seed=seed))
    pruner.score = score
    assert same(before, pruner.prune(model.to(memory_format=torch.channels_last), input_shape=(3, 8, 8)))


@pytest.mark.parametrize('name', ['SNIP', 'GraSP'])
def test_batches_weigh_what_they_hold(name, net):
    """However 20 images are cut into batches, the mask is that of one batch, though single images differ a lot."""
    stream = torch.Generator().manual_seed(4)
    images, labels = torch.randn(20, 3, 8, 8, generator=stream), torch.randint(10, (20,), generator=stream)
    images[-1] *= 20
    whole = build(name, rounds=2, prunable=BOTH).prune(net, [(images, labels)])
    for sizes in ((13, 7), (19, 1), (10, 10), (1,) * 20):
        cut = list(zip(images.split(sizes), labels.split(sizes), strict=True))
        assert same(whole, build(name, rounds=2, prunable=BOTH).prune(net, cut))


@pytest.mark.parametrize('name', ['SNIP', 'GraSP'])
def test_labels_that_the_loss_ignores_do_not_count(name, net):
    """Images without a label change nothing, wherever they are; 20 images of which 9 have one."""
    stream = torch.Generator().manual_seed(4)
    images = torch.randn(20, 3, 8, 8, generator=stream) * torch.logspace(-2, 2, 20).view(-1, 1, 1, 1)
    labels = torch.randint(10, (20,), generator=stream)
    labels[[0, 1, 2, 3, 4, 6, 8, 12, 13, 15, 19]] = -100
    counts = labels >= 0
    alone = build(name, rounds=2, prunable=BOTH).prune(net, [(images[counts], labels[counts])])
    for sizes in ([20], [5, 15], [10, 10], [9, 9, 2]):
        cut = list(zip(images.split(sizes), labels.split(sizes), strict=True))
        assert same(alone, build(name, rounds=2, prunable=BOTH).prune(net, cut))
    with pytest.raises(ValueError, match=r'batches: all labels are -100, which the loss ignores'):
        build(name).prune(net, [(images[:5], labels[:5])])


@pytest.mark.parametrize('name', ['SNIP', 'GraSP'])
def test_batches_of_labels_of_any_shape_weigh_what_they_hold(name, net):
    """A label for each of several places of an image, as of tokens, and labels that are no integers."""
    stream = torch.Generator().manual_seed(4)
    images = torch.randn(8, 3, 8, 8, generator=stream) * torch.logspace(-2, 2, 8).view(-1, 1, 1, 1)
    labels = torch.randint(10, (8, 4), generator=stream)
    labels[:2, 1:] = -100

    def loss(logits, labels):
        return F.cross_entropy(logits[:, :, None].expand(-1, -1, labels.shape[1]), labels)

    cut = list(zip(images.split([2, 6]), labels.split([2, 6]), strict=True))
    whole = build(name, prunable=BOTH).prune(net, [(images, labels)], loss=loss)
    assert same(whole, build(name, prunable=BOTH).prune(net, cut, loss=loss))
    for soft in (F.one_hot(labels[:, 0]).double(), F.one_hot(labels[:, 0]).bool()):
        loss = lambda logits, labels: F.cross_entropy(logits, labels.double())  # noqa: E731
        whole = build(name, prunable=BOTH).prune(net, [(images, soft)], loss=loss)
        cut = list(zip(images.split([2, 6]), soft.split([2, 6]), strict=True))
        assert same(whole, build(name, prunable=BOTH).prune(net, cut, loss=loss))


@pytest.mark.parametrize('name', ['SNIP', 'GraSP', 'SynFlow'])
@pytest.mark.parametrize('tied', ['layer', 'weight'])
def test_what_is_used_twice_stays_a_parameter(name, tied, net):
    """One layer under two names, or two layers with one weight, and one buffer."""
    first = nn.Conv2d(4, 4, 3, padding=1)
    second = first if tied == 'layer' else nn.Conv2d(4, 4, 3, padding=1)
    second.weight, second.bias = first.weight, first.bias
    model = nn.Sequential(first, nn.BatchNorm2d(4), second, nn.AdaptiveAvgPool2d(1), nn.Flatten()).bfloat16()
    model[1].running_var.fill_(2)
    ids = [id(parameter) for parameter in model.parameters()]
    batch = torch.ones(3, 4, 6, 6), torch.tensor([0, 1, 3])
    masks = build(name, 0.5).prune(model, [batch])
    assert [id(parameter) for parameter in model.parameters()] == ids
    assert model[0].weight is model[2].weight
    assert {(type(p), p.dtype) for p in model.parameters()} == {(nn.Parameter, torch.bfloat16)}
    assert {b.dtype for b in model.buffers()} == {torch.bfloat16, torch.int64}
    apply_masks_(model, masks)
    model(torch.ones(1, 4, 6, 6).bfloat16()).sum().backward()
    assert not first.weight.grad[~masks['0.weight']].any()
    assert int((second.weight != 0).sum()) == 72


def test_attention_has_a_second_derivative():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mix = nn.Conv2d(3, 8, 4, stride=4), nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, 5)

        def forward(self, images):
            tokens = self.embed(images).flatten(2).mT
            return self.head(self.mix(tokens, tokens, tokens, need_weights=False)[0].mean(1))

    torch.manual_seed(0)
    batch = torch.randn(4, 3, 8, 8), torch.arange(4)
    masks = build('GraSP', prunable=BOTH).prune(Attention(), [batch])
    assert kept(masks) == kept_count(total(masks), Fraction('0.3'))


def test_a_function_without_a_second_derivative_is_refused_by_name():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Hardsigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(
        ValueError, match=r'GraSP: .* second derivatives, .*aten::hardsigmoid_backward .* such as SNIP'
    ) as refused:
        build('GraSP').prune(model, [(torch.randn(4, 3, 8, 8), torch.arange(4))])
    assert '\n' not in str(refused.value)


def test_the_share_of_the_whole_network(net):
    """216 + 1152 + 128 weights of convolutions, of which half go; 64 numbers of BatchNorm, 160 + 10 of the head."""
    apply_masks_(net, build('Mag', 0.5).prune(net))
    assert describe_kept_share(net) == (
        'Of all 1,746 parameters of the network 998 stay (0.5716); 250 are not prunable, '
        'the largest tensor of them fc.weight'
    )


def test_table():
    masks = {'a.weight': torch.tensor([True, False, True, True]), 'long.weight': torch.zeros(1000, dtype=torch.bool)}
    assert density_table(masks).splitlines() == [
        'tensor       kept  total  density',
        'a.weight        3      4   0.7500',
        'long.weight     0  1,000    empty',
        'all             3  1,004   0.0030',
    ]


def test_progress(net):
    seen = []
    build('Mag', 0.25, rounds=2).prune(net, on_round=lambda *report: seen.append(report))
    assert seen == [(1, 2, 0.5), (2, 2, 0.25)]
