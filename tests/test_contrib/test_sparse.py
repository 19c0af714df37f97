"""Layers on 2:4 kernels against plain ones. The kernels need a GPU, so on a CPU the product itself is replaced."""

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.sparse import SparseSemiStructuredTensorCUTLASS

from pab.contrib import sparse
from pab.contrib.sparse import SparseConv1x1, SparseLinear, describe, use_sparse_kernels_
from pab.latent import LatentSigns
from pab.pruners import apply_masks_
from pab.psg import PSGConfig, convert_psg_
from tests.test_pruners.pruning import build

pytestmark = pytest.mark.filterwarnings('ignore:The PyTorch API of SparseSemiStructuredTensor is in prototype')


class OnCPU(SparseSemiStructuredTensorCUTLASS):
    """torch's compressed tensor, with its own compression and dispatch, that multiplies where there is no kernel."""

    @classmethod
    def _validate_device_dim_dtype_shape(cls, original_tensor):
        rows, columns = original_tensor.shape
        if original_tensor.dtype != torch.bfloat16 or not original_tensor.is_contiguous() or rows % 32 or columns % 64:
            raise RuntimeError('Error original_tensor.shape is not supported!\nmore')

    def _mm(self, B, *, bias=None, should_transpose_dense=False, **kwargs):
        # Rows times the transposed weight is all that a layer asks for; torch 2.6 writes it as a transposed product.
        assert B.dtype == self.dtype
        rows = B if should_transpose_dense else B.t()
        product = rows.float() @ self.to_dense().float().t()
        product = (product if bias is None else product + bias.float()).to(B.dtype)
        return product if should_transpose_dense else product.t()


class Scaled(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


def two_of_four(*layers):
    network = nn.Sequential(*layers).eval()
    apply_masks_(network, build('Mag', 0.5, scope='2:4', prunable=['name:*']).prune(network))
    return network


def check_agreement(network, x, expected_type):
    expected = copy.deepcopy(network)
    with torch.no_grad():
        expected[0].weight.copy_(expected[0].weight.bfloat16())
        reasons = use_sparse_kernels_(network, compress=OnCPU.from_dense)
        got, want = network(x), expected(x)
    assert reasons == {'0': ''}
    assert type(network[0]) is expected_type
    assert isinstance(network[0].compressed, OnCPU)
    assert got.dtype == x.dtype
    torch.testing.assert_close(got, want, rtol=0.02, atol=0.02)
    assert network.state_dict().keys() == expected.state_dict().keys()


@pytest.mark.parametrize('shape', [(64,), (5, 64), (2, 3, 64), (0, 64)])
@pytest.mark.parametrize('bias', [True, False])
def test_linear_layers_agree(shape, bias):
    check_agreement(two_of_four(nn.Linear(64, 32, bias=bias)), torch.randn(shape), SparseLinear)


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('options', [dict(), dict(stride=2), dict(stride=(1, 3)), dict(padding='same')])
@pytest.mark.parametrize('shape', [(2, 64, 5, 7), (64, 5, 7)])
def test_1x1_convolutions_agree(shape, options, bias):
    network = two_of_four(nn.Conv2d(64, 32, 1, bias=bias, **options))
    check_agreement(network, torch.randn(shape), SparseConv1x1)


def test_both_memory_formats_agree():
    network, x = two_of_four(nn.Conv2d(64, 32, 1, stride=2)), torch.randn(2, 64, 6, 6)
    use_sparse_kernels_(network, compress=OnCPU.from_dense)
    with torch.inference_mode():
        assert torch.equal(network(x), network(x.contiguous(memory_format=torch.channels_last)))


def test_what_stays_dense_and_why():
    network = two_of_four(
        nn.Conv2d(8, 64, 3),
        nn.BatchNorm2d(64),
        nn.Conv2d(64, 64, 1),
        nn.Conv2d(64, 64, 1, groups=4),
        nn.Conv2d(64, 64, 1, padding=1),
        nn.Conv2d(64, 30, 1),
        nn.Conv2d(30, 64, 1),
        nn.Linear(64, 32),
    )
    network.append(nn.Embedding(3, 4))
    with torch.no_grad():
        network[7].weight[3, 4:7] = 1
    before, types = copy.deepcopy(network.state_dict()), [type(layer) for layer in network]
    reasons = use_sparse_kernels_(network, compress=OnCPU.from_dense)
    assert reasons == {
        '0': 'a 3x3 convolution is no matrix product',
        '2': '',
        '3': 'a 1x1 convolution in groups is no matrix product',
        '4': 'a padded convolution is no matrix product',
        '5': 'Error original_tensor.shape is not supported!',
        '6': 'its inputs are no multiple of 4',
        '7': 'its weight is not 2:4',
        '8': 'Embedding is not an ordinary Linear or Conv2d',
    }
    types[2] = SparseConv1x1
    assert [type(layer) for layer in network] == types
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    first, second, third, *_ = describe(reasons).splitlines()
    assert first == '1 of 8 layers run on 2:4 kernels'
    assert (second, third) == ('0  dense: a 3x3 convolution is no matrix product', '2  sparse')


PREDICTIVE = PSGConfig(predictive_forward=True)


@pytest.mark.parametrize(
    ('convert', 'reason'),
    [
        (convert_psg_, None),  # the plain layer where no gradient is wanted
        (lambda network: convert_psg_(network, PREDICTIVE), 'PSGConv2d is not an ordinary Linear or Conv2d'),
        (LatentSigns(), 'LatentSignConv2d is not an ordinary'),
        (lambda network: LatentSigns()(convert_psg_(network)), 'LatentSignPSGConv2d is not an ordinary'),
        (lambda network: two_of_four(Scaled(64, 32)), 'Scaled is not an ordinary'),
    ],
)
def test_layers_of_other_classes(convert, reason):
    network = convert(two_of_four(nn.Conv2d(64, 32, 1)))
    with pytest.raises(ValueError, match=reason) if reason else nullcontext():
        assert use_sparse_kernels_(network, compress=OnCPU.from_dense) == {'0': ''}


def test_nothing_to_run():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(64, 32), nn.Linear(64, 32))
    with pytest.raises(
        ValueError,
        match=r'^no layer of Sequential can run on 2:4 kernels: its weight is not 2:4 \(2 of 3\); a 3x3 convolution is '
        r"no matrix product \(1 of 3\); a pruner with scope='2:4', density=0.5 and prunable=.* makes 2:4 weights$",
    ):
        use_sparse_kernels_(network, compress=OnCPU.from_dense)
    with pytest.raises(ValueError, match='kernels: none has weights; a pruner'):
        use_sparse_kernels_(nn.Sequential(nn.ReLU()))


@pytest.mark.parametrize(
    ('capability', 'text'),
    [
        (None, '2:4 kernels need a CUDA GPU, and torch sees none here'),
        ((7, 5), '2:4 kernels need a GPU of CUDA capability 8.0 or newer, and this one has 7.5'),
        ((8, 0), None),
        ((10, 0), None),
    ],
)
def test_missing_support(capability, text, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, 'get_device_capability', lambda: capability)
    assert sparse.missing_support() == text


@pytest.mark.cuda
@pytest.mark.skipif(sparse.missing_support() is not None, reason='needs a GPU with 2:4 kernels')
@pytest.mark.parametrize('precision', [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_the_kernels_of_the_gpu_agree(precision):
    network = nn.Sequential(
        two_of_four(nn.Conv2d(64, 128, 1, stride=2)), nn.ReLU(), nn.Flatten(), two_of_four(nn.Linear(128 * 9, 64))
    ).cuda()
    x = torch.randn(7, 64, 5, 5, device='cuda')
    expected = copy.deepcopy(network)(x)
    assert use_sparse_kernels_(network, precision) == {'0.0': '', '3.0': ''}
    torch.testing.assert_close(network(x), expected, rtol=0.05, atol=0.05)
