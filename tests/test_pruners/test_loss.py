"""Scores of networks that read token ids, take keyword arguments, or return something else than logits."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.test_pruners.pruning import build, kept, same

DATA = ['GraSP', 'SNIP']


class Tagger(nn.Module):
    """Token ids and a mask of those that count -> logits in a dict."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.rnn = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, ids, counts):
        hidden, _ = self.rnn(self.embedding(ids))
        return {'logits': self.head(hidden.masked_fill(~counts[..., None], 0).sum(1))}


class Logits(nn.Module):
    """The same as one tensor of one argument; every id counts."""

    def __init__(self, tagger):
        super().__init__()
        self.tagger = tagger

    def forward(self, ids):
        return self.tagger(ids, torch.ones_like(ids, dtype=torch.bool))['logits']


@pytest.fixture
def tagger():
    torch.manual_seed(0)
    return Tagger()


@pytest.fixture(params=[torch.int32, torch.int64])
def ids(request):
    return torch.randint(20, (6, 7), generator=torch.Generator().manual_seed(1)).to(request.param)


LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
PRUNABLE = ['Linear', 'name:*rnn.weight_*']


def own_loss(name):
    temperature = {'GraSP': 200, 'SNIP': 1}[name]
    return lambda outputs, labels: F.cross_entropy(outputs['logits'] / temperature, labels)[None]


@pytest.mark.parametrize('name', DATA)
def test_token_ids_keywords_and_a_loss_of_ones_own(name, tagger, ids):
    pruner = build(name, 0.4, prunable=PRUNABLE)
    plain = pruner.prune(Logits(tagger), [(ids, LABELS)])
    assert kept(plain) == -(-sum(mask.numel() for mask in plain.values()) * 4 // 10)
    inputs = dict(ids=ids, counts=torch.ones_like(ids, dtype=torch.bool))
    masks = pruner.prune(tagger, [(inputs, LABELS)], loss=own_loss(name))
    assert same({f'tagger.{key}': mask for key, mask in masks.items()}, plain)
    half = dict(inputs, counts=inputs['ids'] < 10)
    assert not same(pruner.prune(tagger, [(half, LABELS)], loss=own_loss(name)), masks)
    assert next(tagger.parameters()).dtype == torch.float32


@pytest.mark.parametrize('name', DATA)
def test_bytes_are_pixels(name, net, batches):
    images = (batches[0][0] * 40).clamp(0, 255).to(torch.uint8)
    masks = build(name).prune(net, [(images, batches[0][1])])
    assert same(masks, build(name).prune(net, [(images.float(), batches[0][1])]))


@pytest.mark.parametrize('name', DATA)
def test_another_loss_gives_other_masks(name, net, batches):
    default = build(name).prune(net, batches)
    assert not same(build(name).prune(net, batches, loss=lambda out, labels: out.square().mean()), default)


@pytest.mark.parametrize('name', DATA)
def test_losses_that_do_not_fit(name, tagger, ids):
    pruner, inputs = build(name, prunable=['Linear']), dict(ids=ids, counts=ids >= 0)
    with pytest.raises(TypeError, match=r'loss: cross-entropy needs logits, .* returns a dict; give prune\(.*loss='):
        pruner.prune(tagger, [(inputs, LABELS)])
    for wrong, got in ((lambda out, labels: out['logits'], r'\(6, 5\)'), (lambda out, labels: 0.5, 'float')):
        with pytest.raises(TypeError, match=rf'{name}: loss\(outputs, labels\) must .* one entry, got {got}'):
            pruner.prune(tagger, [(inputs, LABELS)], loss=wrong)
    weighted = torch.nn.CrossEntropyLoss(weight=torch.ones(5))
    with pytest.raises(TypeError, match=rf'{name}: loss.* fails for outputs in float64.* weights of classes, must be'):
        pruner.prune(tagger, [(inputs, LABELS)], loss=lambda out, labels: weighted(out['logits'], labels))
    pruner.prune(tagger, [(inputs, LABELS)], loss=lambda out, labels: weighted.double()(out['logits'], labels))
    with pytest.raises(TypeError, match=rf"{name}: loss.* fails for .*: KeyError: 'logit'; "):
        pruner.prune(tagger, [(inputs, LABELS)], loss=lambda out, labels: out['logit'].mean())
    with pytest.raises(TypeError, match=rf'{name}: loss.* must depend on outputs'):
        pruner.prune(tagger, [(inputs, LABELS)], loss=lambda out, labels: out['logits'].detach().mean())
    with pytest.raises(TypeError, match=r'pairs of tensors \(images, labels\), got a tuple; .* a dict of tensors'):
        pruner.prune(tagger, [(dict(ids=[1, 2]), LABELS)])


@pytest.mark.parametrize('name', DATA)
def test_a_loss_that_is_no_function_is_named(name, tagger, ids):
    with pytest.raises(TypeError, match=rf'^{name}: loss must be a function of \(outputs, labels\), or None, got 3$'):
        build(name, 0.4, prunable=PRUNABLE).prune(Logits(tagger), [(ids, LABELS)], loss=3)


@pytest.mark.parametrize('name', DATA)
def test_ids_and_labels_out_of_range(name, tagger, ids):
    pruner = build(name, 0.4, prunable=PRUNABLE)
    model = Logits(tagger)
    wrong = ids.clone()
    wrong[0, 0] = 20
    told = (
        rf'an index is out of range .* got inputs {wrong.min()} to 20, \(6, 7\), .* tagger.embedding 0 to 19; give ids'
    )
    with pytest.raises(ValueError, match=told):
        pruner.prune(model, [(wrong, LABELS)])
    given = dict(ids=wrong, counts=wrong >= 0)
    with pytest.raises(
        ValueError, match=rf'got ids {wrong.min()} to 20, \(6, 7\); counts 1 to 1, .* embedding 0 to 19;'
    ):
        pruner.prune(tagger, [(given, LABELS)], loss=own_loss(name))
    for label in (5, -1):
        with pytest.raises(
            ValueError, match=rf'labels must lie in \[0, 5\), the number of outputs, got {min(label, 0)} to'
        ):
            pruner.prune(model, [(ids, torch.cat([LABELS[:5], torch.tensor([label])]))])
    pruner.prune(model, [(ids, torch.cat([LABELS[:5], torch.tensor([-100])]))])  # which does not count
