import math
import re
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from pab.run.divergence import first_bad
from pab.run.layer_statistics import layer_statistics
from tests.small_run import run_in_child, small_config, train


def net():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(inplace=True), nn.Linear(3, 1))


def statistics(model, images=None):
    images = torch.tensor([[1.0, -2.0], [3.0, 4.0]]) if images is None else images
    return layer_statistics(model, lambda: model(images).sum(), nullcontext)


def test_the_first_loss_that_is_not_finite():
    nan, inf = math.nan, math.inf
    assert first_bad([(3, dict(loss=1.0, accuracy=nan)), (4, dict(loss=2.0))]) is None
    assert first_bad([(3, dict(loss=1.0)), (4, dict(loss_aux=inf, loss=nan)), (5, dict(loss=nan))]) == (
        4,
        'loss_aux',
        inf,
    )


def test_statistics_by_hand():
    model = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0]]))
        model[1].weight.fill_(3.0)
    result = statistics(model)
    assert result.loss == 3 * (1 + 4) + 3 * (3 - 8) == 0
    first, second = result.layers
    assert (first.name, first.weights, first.output, first.gradient) == ('0', (2.0, 0), (5.0, 0), (3.0, 0))
    assert (second.name, second.weights, second.output, second.gradient) == ('1', (3.0, 0), (15.0, 0), (1.0, 0))


def test_weights_that_are_not_finite_are_the_origin():
    model = net()
    model[3].weight.data[0, 1] = math.inf
    result = statistics(model)
    assert result.origin == 'the weights of 3 (1 are not finite)'
    assert '(1 bad)' in result.table().splitlines()[-1]


def test_an_output_that_is_not_finite_is_the_origin():
    model = net()
    model[0].weight.data.fill_(3e38)  # finite, the product is not
    assert re.match(r'the output of 0 \(\d numbers are not finite, its weights are\)', statistics(model).origin)


def test_a_gradient_that_is_not_finite_is_the_origin():
    class Root(nn.Module):
        def forward(self, x):
            return x.abs().sqrt()  # of 0: finite, with an infinite gradient

    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Identity(), Root())
    model[0].weight.data.zero_()
    assert re.match(r'the gradient at the output of 1 \(4 numbers', statistics(model).origin)


def test_looking_changes_nothing():
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model[0].weight.grad = torch.ones(3, 2)
    statistics(model, torch.tensor([[1.0, math.nan], [3.0, 4.0]]))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model[0].weight.grad.sum() == 6
    assert model[3].weight.grad is None
    assert not any(module._forward_hooks for module in model.modules())


def _poison(cfg, step, layer):
    """Make one weight infinite before a step."""

    def prepare(runner):
        run_iter = type(runner.train_loop).run_iter

        def poisoned(loop, index, batch):
            if runner.iter + 1 == step:
                weight = runner.model.get_submodule(layer).weight.data
                weight[weight != 0] = math.inf
            run_iter(loop, index, batch)

        type(runner.train_loop).run_iter = poisoned

    return train(cfg, prepare)


@pytest.mark.parametrize(('step', 'seen'), [(2, 4), (9, 10), (13, 14)])  # looked at every fourth step of ten
def test_a_run_stops_within_a_logging_interval(tmp_path, step, seen):
    folder = tmp_path / 'run'
    status, error = run_in_child(_poison, small_config(folder), step, 'network.linear')
    assert status == 0
    assert isinstance(error, FloatingPointError)
    text = str(error)
    assert f'training stopped: loss is nan since step {step} (seen at step {seen}, epoch {1 + seen // 11};' in text
    assert re.search(r'; learning rate [\d.e-]+, adaptivity rate 0\.\d+\); it began in the ', text)
    assert f'the state in diverged_iter_{seen}.pth' in text
    state = torch.load(folder / f'diverged_iter_{seen}.pth')
    assert state['meta']['iter'] == seen
    assert not all(value.isfinite().all() for value in state['state_dict'].values() if value.is_floating_point())
    log = next(folder.glob('*/*.log')).read_text()
    assert re.search(r'network.linear +\S+ \(\d+ bad\)', log)
    periodic = [torch.load(f) for f in folder.glob('epoch_*.pth')]
    assert all(v.isfinite().all() for c in periodic for v in c['state_dict'].values() if v.is_floating_point())


def test_no_checkpoint_to_resume_from_has_a_loss_that_is_not_finite(tmp_path):
    options = dict(default_hooks__checkpoint__by_epoch=False, default_hooks__checkpoint__interval=3)
    _, error = run_in_child(_poison, small_config(tmp_path / 'run', **options), 5, 'network.conv2')
    assert 'since step 5 (seen at step 6' in str(error)
    assert sorted(f.name for f in (tmp_path / 'run').glob('*.pth')) == ['diverged_iter_6.pth', 'iter_3.pth']
    status, end = run_in_child(train, small_config(tmp_path / 'run', resume=True, **options))
    assert (status, end['progress']) == (0, (3, 30))
