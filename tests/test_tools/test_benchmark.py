"""The benchmark runs in its smallest setting, and its baseline computes what pab computes; no time is judged."""

import functools
import json

import pytest
import torch
from torch import nn

from pab.benchmarks import baseline, sparse, timing
from pab.cli import benchmark as benchmark_command
from pab.optim import Bop
from pab.psg import PSGConfig, convert_psg_


@pytest.fixture
def benchmark(tool):
    """A function: arguments -> what tools/benchmark.py printed, and how it ended."""
    return functools.partial(tool, 'benchmark.py')


@pytest.mark.parametrize(
    ('measures', 'more'),
    [
        (['step', 'bop', 'prune', 'data', 'loop'], {'saved for backward'}),
        pytest.param(['narrow'], {'onnxruntime'}, marks=pytest.mark.slow),  # it exports and traces again and again
    ],
)
def test_tiny_measures(benchmark, tmp_path, measures, more):
    file = tmp_path / 'result.json'
    printed, status = benchmark(*measures, '--tiny', '--repeats', 2, '--warmup', 1, '--json', file)
    assert status == 0
    found = json.loads(file.read_text())
    assert found['environment']['threads'] == 1
    assert found['environment']['torch'] == torch.__version__
    rows = found['rows']
    assert 'Epoch(train)' not in printed
    assert {row['measure'] for row in rows} == {*measures, *more}
    for row in rows:
        assert row['median'] > 0
        assert (row['peer'] is None) == (row['ratio'] is None)
        assert f'| {row["name"]} ' in printed
        if row['ratio'] is not None:
            assert f'{row["ratio"]:.3f}' in printed
    ours = [row['details'] for row in rows if row['name'] == 'PSG + Bop' and row['measure'] == 'step']
    assert len(ours) == ('step' in measures)
    assert all({'forward', 'backward', 'optimizer', 'images_per_second'} <= set(details) for details in ours)


MEASURES = "['step', 'narrow', 'bop', 'prune', 'data', 'loop', 'sparse', 'start', 'all']"


@pytest.mark.parametrize(
    'args, message',
    [
        (['stepp'], f"no measure ['stepp']; there are {MEASURES}"),
        (['bop', '--repeats', '0'], '--repeats must be at least 1, got 0'),
    ],
)
def test_wrong_arguments(benchmark, args, message):
    printed, status = benchmark(*args)
    assert status == 2
    assert message in printed


def test_results_have_a_place_before_anything_is_measured(benchmark, tmp_path):
    """A folder that is missing is made; a file that is there is kept unless --force is given.

    Here ``sparse`` measures nothing, for lack of a GPU, and says so.
    """
    file, new = tmp_path / 'kept.json', tmp_path / 'new' / 'folder' / 'result.json'
    file.write_text('mine')
    for target, message in (
        (file, 'kept.json is there; choose another file, or pass --force'),
        (tmp_path, 'is there; choose another file\n'),
        (file / 'below.json', 'below.json cannot be written: '),
    ):
        printed, status = benchmark('sparse', '--json', target)
        assert (status, message in printed, 'measuring' in printed) == (2, True, False)
    assert file.read_text() == 'mine'
    for written, options in ((file, ['--force']), (new, [])):
        printed, status = benchmark('sparse', '--json', written, *options)
        assert status == 0
        assert printed.count('sparse is not measured: 2:4 kernels need a CUDA GPU (--device cuda)\n') == 1
        assert '| measure' not in printed
        assert json.loads(written.read_text())['rows'] == []


def test_ratios_are_medians_of_pairs():
    seconds = {'a': [2.0, 9.0, 4.0, 4.0, 6.0], 'b': [1.0, 3.0, 4.0, 2.0, 2.0]}  # ratios 2 3 1 2 3
    row = timing.row('m', 'c', 'a', seconds, peer='b', required=2.0)
    assert (row.median, row.ratio, row.met) == (4000.0, 2.0, True)
    assert row.ratio_spread == 0.5
    assert timing.row('m', 'c', 'b', seconds).met is None
    assert timing.Row('m', 'c', 'b', 7.0, 0.0, 's', required=6.0).met is False
    assert '| NO ' in timing.table([timing.Row('m', 'c', 'b', 7.0, 0.0, 's', required=6.0)])


def test_contenders_take_turns_and_warm_up():
    calls = []
    runs = {'a': lambda: calls.append('a'), 'b': lambda: calls.append('b') or 0.5}
    seconds = timing.alternate(runs, timing.Settings(repeats=3, warmup=1))
    assert calls == ['a', 'b'] * 4
    assert len(seconds['a']) == 3
    assert seconds['b'] == [0.5] * 3


def test_sparse_compares_layers_that_agree():
    settings = timing.Settings(repeats=1, warmup=0, tiny=True)
    compressed = []

    def compress(weight):
        compressed.append(weight)
        return weight

    rows = [r for case in sparse._cases(settings) for r in sparse._compare(*case, settings, compress)]
    assert [(r.case, r.name, r.peer) for r in rows] == [
        (case, f'{kind} bfloat16', peer)
        for case in ('1x1 tiny', 'Linear tiny')
        for kind, peer in (('2:4', 'dense bfloat16'), ('dense', None))
    ]
    assert [(w.shape, w.dtype, int(w.count_nonzero())) for w in compressed] == [((64, 64), torch.bfloat16, 2048)] * 2
    with pytest.raises(AssertionError):  # a kernel that multiplies wrongly is not timed
        sparse._compare(*sparse._cases(settings)[1], settings, lambda weight: 2 * weight)


def make_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.ReLU(), nn.Conv2d(6, 4, 3, stride=2, padding=1, bias=False)
    ).double()


def test_baseline_layers_compute_what_pab_computes():
    nets = baseline.convert_to_baseline_(make_net()), convert_psg_(make_net(), PSGConfig())
    x, grad = torch.randn(2, 3, 8, 8).double(), torch.randn(2, 4, 4, 4).double()
    outputs, grads = [], []
    for net in nets:
        leaf = x.clone().requires_grad_()
        outputs.append(net(leaf))
        outputs[-1].backward(grad)
        grads.append([leaf.grad, *(p.grad for p in net.parameters())])
    torch.testing.assert_close(*outputs)
    torch.testing.assert_close(*grads)
    assert all(g.count_nonzero() for g in grads[0])


def test_baseline_bop_is_pabs():
    weights = [nn.Parameter(torch.randn(40)) for _ in range(2)]
    with torch.no_grad():
        weights[0][::5] = 0
        weights[1].copy_(weights[0])
    settings = dict(adaptivity_rate=0.2, threshold=0.01)
    optimizers = baseline.PerParameterBop([weights[0]], **settings), Bop([weights[1]], **settings)
    for _ in range(8):
        grad = torch.randn(40)
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = grad.clone()
            optimizer.step()
        assert torch.equal(*weights)
        assert int(optimizers[0].last_flips) == int(optimizers[1].last_flips) > 0


def test_results_are_printed_where_the_disk_fills_up_meanwhile(tmp_path, monkeypatch, capsys):
    def full(data, path):
        raise OSError(f'cannot write {str(path)!r}: No space left on device')

    file = tmp_path / 'result.json'
    file.write_text('old')
    monkeypatch.setattr(benchmark_command, 'write_atomically', full)
    monkeypatch.setattr('sys.argv', ['benchmark', 'sparse', '--json', str(file), '--force'])
    with pytest.raises(SystemExit, match=r'^error: cannot write .*result\.json.: No space left on device$'):
        benchmark_command.main()
    assert file.read_text() == 'old'
    assert 'cpu' in capsys.readouterr().out
