"""Masks hold under every optimizer, whoever writes the gradient, in every copy, and in sharded networks."""

import copy
import gc
import io
import pickle

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.torch_version import TorchVersion

from pab.optim import Bop, SecondOrderBop, TopFlips
from pab.pruners import Mag, SynFlow, apply_masks_, check_masks, get_masks, register_masks_
from pab.pruners.masks import _keepers
from tests.registered import SIGN_OPTIMIZERS
from tests.test_pruners.pruning import assert_pruned, build, train

ELEMENTWISE = [
    getattr(torch.optim, name)
    for name in ('ASGD', 'Adadelta', 'Adagrad', 'Adam', 'AdamW', 'Adamax', 'NAdam', 'RAdam', 'RMSprop', 'Rprop', 'SGD')
]
SETTINGS = {'SGD': dict(lr=0.1, momentum=0.9, weight_decay=1e-2), 'Rprop': {}}
OPTIMIZERS = {
    cls.__name__: lambda params, cls=cls: cls(params, **SETTINGS.get(cls.__name__, dict(lr=0.01, weight_decay=1e-2)))
    for cls in ELEMENTWISE
}
OPTIMIZERS['nesterov'] = lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True)
OPTIMIZERS['centered'] = lambda params: torch.optim.RMSprop(params, lr=0.01, momentum=0.9, centered=True)


class Blend(torch.optim.SGD):
    """Mixes entries: every weight moves by its row's mean gradient, too."""

    @torch.no_grad()
    def step(self, closure=None):
        super().step()
        for param in self.param_groups[0]['params']:
            param.sub_(param.grad.flatten(1).mean(1).view(-1, *[1] * (param.dim() - 1)), alpha=0.1)


MIXING = {
    'Blend': lambda net: Blend([p for p in net.parameters() if p.dim() > 1], lr=0.1, momentum=0.9),
    'Muon': lambda net: torch.optim.Muon([net.fc.weight], lr=0.1),
}
if not hasattr(torch.optim, 'Muon'):  # it came with torch 2.9
    del MIXING['Muon']


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_pruned_weights_stay_zero(optimizer, net, masks, batches):
    apply_masks_(net, masks)
    train(net, OPTIMIZERS[optimizer](net.parameters()), batches)
    assert_pruned(net, masks)


@pytest.mark.parametrize('optimizer', OPTIMIZERS)
def test_momentum_from_before_the_pruning_moves_nothing(optimizer, net, masks, batches):
    optimizer = OPTIMIZERS[optimizer](net.parameters())
    train(net, optimizer, batches)
    assert net.conv1.weight.grad[~masks['conv1.weight']].any()
    apply_masks_(net, masks, [optimizer])
    assert not net.conv1.weight.grad[~masks['conv1.weight']].any()
    optimizer.step()  # with what is left of the last gradient
    train(net, optimizer, batches)
    assert_pruned(net, masks)


@pytest.mark.parametrize('made', ['before', 'after', 'for a copy'])
@pytest.mark.parametrize('optimizer', MIXING)
def test_pruned_weights_stay_zero_under_an_optimizer_that_mixes_entries(optimizer, made, net, masks, batches):
    make = MIXING[optimizer]
    early = make(net)
    train(net, early, batches)
    apply_masks_(net, masks, early)
    net = copy.deepcopy(net) if made == 'for a copy' else net
    train(net, early if made == 'before' else make(net), batches)
    check_masks(net)
    assert net.fc.weight[masks['fc.weight']].all()


@pytest.mark.parametrize('optimizer', [*OPTIMIZERS, *MIXING])
def test_a_gradient_that_is_written_after_the_backward_pass_revives_nothing(optimizer, net, masks, batches):
    apply_masks_(net, masks)
    make = MIXING.get(optimizer) or (lambda net: OPTIMIZERS[optimizer](net.parameters()))
    optimizer = make(net)
    for _ in range(3):
        F.cross_entropy(net(batches[0][0]), batches[0][1]).backward()
        for param in net.parameters():
            param.grad += torch.randn_like(param)
        optimizer.step()
        check_masks(net)
        assert not net.fc.weight[~masks['fc.weight']].signbit().any()  # nor is a 0 negative
    assert net.fc.weight[masks['fc.weight']].all()


@pytest.mark.parametrize('layout', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_what_is_not_finite_is_masked_too(dtype, layout):
    """Pruned entries are +0 in every type and layout, and kept ones stay what they are."""
    mask = torch.rand(4, 3, 3, 3, generator=torch.Generator().manual_seed(0)) < 0.5
    strange = torch.tensor([torch.nan, torch.inf, -torch.inf, -0.0, -2.5], dtype=dtype)[torch.arange(108) % 5]
    strange = strange.view(4, 3, 3, 3).contiguous(memory_format=layout)
    expected = torch.where(mask, strange, 0)
    layer = nn.Conv2d(3, 4, 3, bias=False, dtype=dtype).to(memory_format=layout)
    apply_masks_(layer, {'weight': mask})
    (layer.weight * strange).sum().backward()
    torch.testing.assert_close(layer.weight.grad, expected, rtol=0, atol=0, equal_nan=True)
    assert not layer.weight.grad[~mask].signbit().any()
    layer.weight.data.copy_(strange)
    layer.weight.grad.zero_()
    torch.optim.SGD(layer.parameters(), lr=0.0).step()
    torch.testing.assert_close(
        layer.weight.detach()[~mask], torch.zeros(int((~mask).sum()), dtype=dtype), rtol=0, atol=0
    )
    assert not layer.weight[~mask].signbit().any()


def test_gradients_without_bits_to_view_are_masked_too():
    """A batch of gradients (is_grads_batched), and a conjugate that torch has not written out."""
    mask = torch.eye(3, dtype=torch.bool)
    layer = nn.Linear(3, 3, bias=False)
    apply_masks_(layer, {'weight': mask})
    (grads,) = torch.autograd.grad(layer(torch.ones(3)), layer.weight, torch.eye(3), is_grads_batched=True)
    torch.testing.assert_close(grads, torch.eye(3)[:, :, None] * mask, rtol=0, atol=0)
    layer = nn.Linear(3, 3, bias=False, dtype=torch.complex64)
    apply_masks_(layer, {'weight': mask})
    (layer.weight.conj() * torch.full((3, 3), 2 + 1j)).real.sum().backward()
    torch.testing.assert_close(layer.weight.grad, mask * (2 + 1j), rtol=0, atol=0)


def test_sign_optimizers_need_no_masking(net, masks, batches, monkeypatch):
    apply_masks_(net, masks)
    monkeypatch.setattr('pab.pruners.masks._Keeper.after_step', lambda *_: pytest.fail('a pass for nothing'))
    for cls in SIGN_OPTIMIZERS.values():
        optimizer = cls([net.fc.weight], adaptivity_rate=0.5)
        for _ in range(3):
            net.fc.weight.grad = torch.randn_like(net.fc.weight)
            optimizer.step()
    assert_pruned(net, {'fc.weight': masks['fc.weight']}, gradients=False)


def test_the_gradient_is_that_of_the_product(net, masks, batches):
    dense = copy.deepcopy(net)
    apply_masks_(net, masks)
    for name, mask in masks.items():
        dense.get_parameter(name).data.mul_(mask)
    for model in (net, dense):
        F.cross_entropy(model(batches[0][0]), batches[0][1]).backward()
    for name, parameter in net.named_parameters():
        want = dense.get_parameter(name).grad
        assert torch.equal(parameter.grad, want * masks[name] if name in masks else want)


def clone_by_deepcopy(model):
    return copy.deepcopy(model)


def clone_by_pickle(model):
    return pickle.loads(pickle.dumps(model))


def clone_by_save(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize('clone', [clone_by_deepcopy, clone_by_pickle, clone_by_save])
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_masks_hold_in_a_copy(clone, net, masks, batches):
    apply_masks_(net, masks)
    twin = clone(net)
    train(twin, OPTIMIZERS['SGD'](twin.parameters()), batches)
    assert_pruned(twin, masks)
    assert_pruned(net, masks)
    broken = dict(twin.state_dict(), **{'conv1.weight': torch.ones_like(net.conv1.weight)})
    with pytest.raises(ValueError, match=r'contradicts its mask'):
        twin.load_state_dict(broken)


def test_masks_hold_for_a_new_parameter_and_dtype(net, masks, batches):
    apply_masks_(net, masks)
    net.conv1.weight = nn.Parameter(net.conv1.weight.detach().clone())
    net.double()
    assert net.conv1.weight_mask.dtype == torch.bool
    train(net, OPTIMIZERS['Adam'](net.parameters()), [(x.double(), y) for x, y in batches])
    assert_pruned(net, masks)


def test_frozen_weights_take_masks(net, masks, batches):
    net.conv1.weight.requires_grad_(False)
    apply_masks_(net, masks)
    net.conv1.weight.requires_grad_(True)
    train(net, OPTIMIZERS['SGD'](net.parameters()), batches)
    assert_pruned(net, masks)


def test_hooks_are_put_back_once(net, masks, batches):
    apply_masks_(net, masks)
    apply_masks_(net, masks)
    net(batches[0][0])
    assert len(net.conv1.weight._backward_hooks) == 1
    twin = copy.deepcopy(net)
    register_masks_(twin)
    register_masks_(twin)
    assert len(twin.conv1.weight._backward_hooks) == 1
    assert len(twin.conv1._forward_pre_hooks) == 1


class Attention(nn.Module):
    """Of three pruned weights two are read by their layer's owner and not called, a third stands in no layer."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = F.linear(self.attention(x, x, x)[0], self.head.weight, self.head.bias)
        return x.mean(1)


@pytest.fixture
def attention():
    torch.manual_seed(0)
    model = Attention()
    apply_masks_(model, build('Mag', prunable=['name:*']).prune(model))
    assert list(get_masks(model)) == [
        'attention.in_proj_weight',
        'attention.out_proj.weight',
        'head.weight',
    ]
    return model


@pytest.mark.parametrize('clone', [clone_by_deepcopy, clone_by_pickle, clone_by_save])
def test_masks_hold_in_a_copy_whose_layers_are_not_called(clone, attention):
    twins = [attention, clone(clone(attention))]
    x, labels = torch.randn(4, 5, 8), torch.tensor([0, 1, 2, 0])
    optimizers = [torch.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3) for twin in twins]
    for _ in range(3):
        norms = []
        for twin, optimizer in zip(twins, optimizers, strict=True):
            optimizer.zero_grad()
            F.cross_entropy(twin(x), labels).backward()
            norms.append(nn.utils.clip_grad_norm_(twin.parameters(), 0.1))
            assert_pruned(twin, get_masks(twin))
            optimizer.step()
        assert norms[0] == norms[1]
    for twin in twins:
        assert_pruned(twin, get_masks(twin))
    assert all(torch.equal(a, b) for a, b in zip(attention.parameters(), twins[1].parameters(), strict=True))


def test_a_copy_does_not_live_as_long_as_the_process(attention):
    gc.collect()
    before = len(_keepers)
    twin = copy.deepcopy(attention)
    assert len(_keepers) == before + 3
    del twin
    gc.collect()
    assert len(_keepers) == before


@pytest.mark.parametrize('kind', [nn.LSTM, nn.GRU, nn.RNN])
def test_masks_hold_in_recurrent_layers(kind):
    torch.manual_seed(0)
    model = nn.Sequential(kind(6, 5, num_layers=2, batch_first=True))
    masks = build('Mag', prunable=[f'{kind.__name__}.weight_hh_l0', 'name:*.weight_ih_l1']).prune(model)
    assert list(masks) == ['0.weight_hh_l0', '0.weight_ih_l1']
    apply_masks_(model, masks)
    for twin in (model, copy.deepcopy(model)):
        before = twin[0].weight_hh_l0.detach().clone()
        optimizer = torch.optim.Adam(twin.parameters(), lr=0.01)
        for _ in range(3):
            optimizer.zero_grad()
            twin(torch.randn(3, 4, 6))[0].square().mean().backward()
            assert_pruned(twin, masks)
            optimizer.step()
        assert_pruned(twin, masks)
        assert not torch.equal(twin[0].weight_hh_l0, before)


@pytest.fixture
def mesh():
    if torch.__version__ < '2.7':
        pytest.skip('FSDP2 needs torch 2.7 on a CPU')
    dist.init_process_group('gloo', store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh('cpu', (1,))
    dist.destroy_process_group()


def sharded(net, mesh):
    for part in (net.conv1, net.conv2, net.fc, net):
        fully_shard(part, mesh=mesh)
    return net


@pytest.mark.parametrize('name', ['SGD', 'AdamW', *sorted(MIXING.keys() - {'Blend'})])
def test_a_sharded_network_trains_as_a_whole_one(name, net, masks, batches, mesh):
    apply_masks_(net, masks)
    nets = [net, sharded(copy.deepcopy(net), mesh)]
    for one in nets:
        optimizer = MIXING[name](one) if name in MIXING else OPTIMIZERS[name](one.parameters())
        for images, labels in batches:
            optimizer.zero_grad()
            F.cross_entropy(one(images), labels).backward()
            nn.utils.clip_grad_norm_(one.parameters(), 0.5)
            optimizer.step()
        check_masks(one)
    for whole, part in zip(*(one.parameters() for one in nets), strict=True):
        torch.testing.assert_close(part.full_tensor(), whole, rtol=1e-5, atol=1e-6)


def test_masks_of_a_sharded_network_need_a_torch_that_knows_how(net, masks, mesh, monkeypatch):
    apply_masks_(net, masks)
    sharded(net, mesh)
    monkeypatch.setattr(torch, '__version__', TorchVersion('2.6.0'))
    with pytest.raises(ValueError, match=r'masks: weights sharded by FSDP2 need torch 2.7 or newer, and this is 2.6.0'):
        check_masks(net)


@pytest.mark.parametrize('large', [False, True])
def test_signs_of_a_sharded_network(large, net, masks, batches, mesh, monkeypatch):
    """The parts of a process flip and count as plain tensors do; what ranks a whole tensor refuses."""
    monkeypatch.setattr('pab.optim.flips.BLOCK', 10 if large else 1 << 16)
    apply_masks_(net, masks)
    nets = [net, sharded(copy.deepcopy(net), mesh)]
    with pytest.raises(ValueError, match=r'TopFlips: .* take Bop or SecondOrderBop under fully_shard'):
        TopFlips([nets[1].conv1.weight])
    for kind in (Bop, SecondOrderBop):
        counts = []
        for one in nets:
            optimizer = kind([one.conv1.weight, one.conv2.weight], adaptivity_rate=0.5, flips_per_weight=True)
            for images, labels in batches:
                one.zero_grad()
                F.cross_entropy(one(images), labels).backward()
                optimizer.step()
            check_masks(one)
            assert type(optimizer.last_flips) is torch.Tensor
            counts.append([int(optimizer.last_flips), *(int(s['tensor_flips']) for s in optimizer.state.values())])
        assert counts[0] == counts[1]
        assert counts[0][0] > 0
    assert torch.equal(nets[1].conv1.weight.full_tensor(), net.conv1.weight)


def test_a_sharded_network_loads_what_fits_and_is_not_pruned(net, masks, mesh):
    apply_masks_(net, masks)
    fresh = sharded(copy.deepcopy(net), mesh)
    sharded(net, mesh)
    fresh.load_state_dict(net.state_dict())
    check_masks(fresh)
    with torch.no_grad():
        net.conv1.weight.add_(1)
    for refuse in (lambda: fresh.load_state_dict(net.state_dict()), lambda: check_masks(net)):
        with pytest.raises(ValueError, match=r"conv1.weight' contradicts its mask"):
            refuse()
    for refuse in (
        lambda: SynFlow(0.3).prune(fresh, input_shape=(3, 8, 8)),
        lambda: Mag(0.3).prune(fresh),
        lambda: apply_masks_(fresh, masks),
        lambda: register_masks_(fresh),
    ):
        with pytest.raises(ValueError, match=r"'conv1.weight' is sharded; prune .* before fully_shard"):
            refuse()
