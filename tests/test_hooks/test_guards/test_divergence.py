import json
import math
import re

import pytest
import torch
from torch import nn

from pab.hooks.guards.divergence import look_again
from tests.small_run import run_in_child, run_ranks, runner_hook, small_config, train


def net():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.ReLU(inplace=True), nn.Linear(3, 1))


def origin(model, images=None):
    images = torch.tensor([[1.0, -2.0], [3.0, 4.0]]) if images is None else images
    return look_again(model, lambda: model(images).sum())[0]


def test_nothing_begins_where_all_is_finite():
    assert origin(net()) == ''


def test_weights_that_are_not_finite_are_the_origin():
    model = net()
    model[3].weight.data[0, 1] = math.inf
    assert origin(model) == 'the weights of 3 (1 not finite)'


def test_an_output_that_is_not_finite_is_the_origin():
    model = net()
    model[0].weight.data.fill_(3e38)  # finite, the product is not
    assert re.match(r'the output of 0 \(\d not finite\)', origin(model))


def test_a_gradient_that_is_not_finite_is_the_origin():
    class Root(nn.Module):
        def forward(self, x):
            return x.abs().sqrt()  # of 0: finite, with an infinite gradient

    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Identity(), Root())
    model[0].weight.data.zero_()
    assert origin(model) == 'the gradient between 2 and the output of 1 (4 not finite)'


def test_a_layer_that_does_not_run_itself_is_looked_at():
    model = nn.MultiheadAttention(4, 2)
    model.out_proj.weight.data[1, 2] = math.nan  # only read by the parent
    x = torch.ones(3, 1, 4)
    assert look_again(model, lambda: model(x, x, x)[0].sum())[0] == 'the weights of out_proj (1 not finite)'


@pytest.mark.parametrize(('factor', 'told'), [(8e27, 'the gradient of 1.weight, the largest (8e+27)'), (8e10, '')])
def test_finite_gradients_whose_norm_is_not_are_told_as_such(factor, told):
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
    model[0].weight.data.fill_(1.0), model[0].bias.data.zero_()
    model[1].weight.data.fill_(0.5)
    assert look_again(model, lambda: factor * model(torch.ones(1, 1)).sum()) == ('', told)


def test_looking_changes_no_weight_and_no_gradient():
    model = net()
    before = {name: value.clone() for name, value in model.named_parameters()}
    model[0].weight.grad = torch.ones(3, 2)
    origin(model, torch.tensor([[1.0, math.nan], [3.0, 4.0]]))
    assert all(torch.equal(before[name], value) for name, value in model.named_parameters())
    assert model[0].weight.grad.sum() == 6
    assert model[3].weight.grad is None
    assert not any(module._forward_hooks for module in model.modules())


def _weights(network):
    weight = network.linear.weight.data
    weight[weight != 0] = math.inf


def _output(network):
    def spoil(_layer, _inputs, output):
        return output.masked_fill(torch.eye(6, dtype=torch.bool), math.inf)

    network.conv2.register_forward_hook(spoil)


def _output_gradient(network):
    def spoil(_layer, _inputs, output):
        output.register_hook(lambda grad: grad * math.inf)

    network.bn1.register_forward_hook(spoil)


def _weight_gradient(network):
    network.conv2.weight.register_hook(lambda grad: torch.full_like(grad, math.nan))


def _random(network):
    """Only where dropout draws the zeros that it draws first."""
    first = []

    def spoil(_layer, _inputs, output):
        first.append(output == 0)
        return output.masked_fill(first[0], math.inf) if torch.equal(first[0], first[-1]) else output

    network.dropout.register_forward_hook(spoil)


PLANTED = {
    _weights: r'the weights of network\.linear \(24 not finite\)',
    _output: r'the output of network\.conv2 \(288 not finite\)',
    _output_gradient: r'the gradient between network\.conv2 and the output of network\.bn1 \([\d,]+ not finite\)',
    _weight_gradient: r'the gradient of the weights of network\.conv2 \(324 not finite\)',
    _random: r'the output of network\.dropout \(\d+ not finite\)',
}


def _plant(cfg, step, what, rank=0, late=False):
    """Train, with something that is not finite from a step on; ``late``: look as on a GPU, one update later."""

    def prepare(runner):
        run_iter = type(runner.train_loop).run_iter

        def poisoned(loop, index, batch):
            if runner.iter + 1 == step and runner.rank == rank:
                what(getattr(runner.model, 'module', runner.model).network)
            if late and runner.iter == 0:
                torch.cuda.Event = torch.cpu.Event
                torch.cuda.get_rng_state, torch.cuda.set_rng_state = torch.get_rng_state, torch.set_rng_state
                runner_hook(runner, 'DivergenceHook')._late = True
            run_iter(loop, index, batch)

        type(runner.train_loop).run_iter = poisoned

    return train(cfg, prepare)


# late, the network is looked at in the same way, and only random numbers have to be put back
@pytest.mark.parametrize(
    ('what', 'late'),
    [
        *((what, False) for what in PLANTED),
        *(pytest.param(what, True, marks=[] if what is _random else pytest.mark.slow) for what in PLANTED),
    ],
)
def test_a_run_stops_before_the_update_and_names_the_layer(tmp_path, what, late):
    status, error = run_in_child(_plant, small_config(tmp_path), 13, what, 0, late)
    assert status == 0
    assert isinstance(error, FloatingPointError)
    text = str(error)
    assert re.match(r'training stopped at step 13: a gradient is not finite \(epoch 2; learning rate [\d.e-]+, ', text)
    assert re.search(rf'adaptivity rate 0\.\d+\); it began in {PLANTED[what]}\. The state is in ', text)
    file = f'diverged_iter_{13 + late}.pth'
    assert f'The state is in {file}' in text
    weights = torch.load(tmp_path / file)['state_dict']
    assert all(weights[f'network.{name}.weight'].isfinite().all() for name in ('conv1', 'bn1', 'conv2'))


def test_of_several_passes_for_one_update_the_right_one_is_computed_again(tmp_path):
    """The seventh pass is the first of the three for the third update."""
    cfg = small_config(tmp_path, optim_wrapper__accumulative_counts=3, default_hooks__logger__interval=10)
    _, error = run_in_child(_plant, cfg, 7, _first_pass_only)
    assert 'stopped at step 9: a gradient is not finite' in str(error)
    assert 'it began in the output of network.conv1 (1,728 not finite)' in str(error)


def _first_pass_only(network):
    images = []

    def spoil(_layer, inputs, output):
        images.append(inputs[0])
        return output + math.inf if torch.equal(images[-1], images[0]) else output

    network.conv1.register_forward_hook(spoil)


@pytest.mark.slow
@pytest.mark.parametrize('what', [_output, _weight_gradient])
def test_all_processes_stop_in_the_same_step(tmp_path, what):
    (_, other), (_, error) = run_ranks(2, _plant, small_config(tmp_path), 3, what, 1)
    assert 'stopped at step 3: ' in str(error)
    assert re.search(f'it began in {PLANTED[what]}', str(error).replace('144', '288'))
    assert 'stopped at step 3: ' in str(other)
    assert 'it began in another process. The state' in str(other)


def _infinite_loss(cfg):
    def prepare(runner):
        def spoil(_model, _batch, output):
            return {'loss': output['loss'] + math.inf} if isinstance(output, dict) and runner.iter >= 11 else output

        runner.model.register_forward_hook(spoil)

    return train(cfg, prepare)


def test_an_infinite_loss_with_finite_gradients_is_seen_when_it_is_read(tmp_path):
    _, error = run_in_child(_infinite_loss, small_config(tmp_path))
    assert 'training stopped at step 12: loss is inf (epoch 2; ' in str(error)
    assert 'it began in the loss (1 not finite)' in str(error)
    assert (tmp_path / 'diverged_iter_14.pth').is_file()  # every fourth step of ten is read


def test_no_checkpoint_to_resume_from_is_written_after_it(tmp_path):
    options = dict(default_hooks__checkpoint__by_epoch=False, default_hooks__checkpoint__interval=3)
    _, error = run_in_child(_plant, small_config(tmp_path, **options), 5, _output)
    assert 'stopped at step 5' in str(error)
    assert sorted(f.name for f in tmp_path.glob('*.pth')) == ['diverged_iter_5.pth', 'iter_3.pth']
    status, end = run_in_child(train, small_config(tmp_path, resume=True, **options))
    assert (status, end['progress']) == (0, (3, 30))


def _large(network):
    network.conv2.weight.register_hook(lambda grad: torch.full_like(grad, 8e27))


def test_a_norm_that_overflows_is_not_told_as_a_gradient_that_does(tmp_path):
    _, error = run_in_child(_plant, small_config(tmp_path), 13, _large)
    assert 'stopped at step 13: the norm of the gradients is not finite in float32, though they are (' in str(error)
    assert 'it began in the gradient of network.conv2.weight, the largest (8e+27). The state is in' in str(error)


@pytest.mark.slow
def test_a_resume_that_diverges_again_names_an_older_checkpoint(tmp_path):
    options = dict(default_hooks__checkpoint__save_best=None)
    _, error = run_in_child(_plant, small_config(tmp_path, **options), 23, _output)
    assert 'went on from' not in str(error)  # nothing was resumed
    _, error = run_in_child(_plant, small_config(tmp_path, resume=True, **options), 23, _output)
    older = f'go further back by --resume {tmp_path / "epoch_1.pth"} --overwrite'
    assert 'The run went on from epoch_2.pth, and with the same settings comes here again: ' in str(error)
    assert str(error).endswith(older)
    cfg = small_config(tmp_path, resume=True, load_from=str(tmp_path / 'epoch_1.pth'), overwrite=True, **options)
    assert run_in_child(train, cfg)[1]['progress'] == (3, 30)


@pytest.mark.slow
def test_the_only_checkpoint_has_no_older_one(tmp_path):
    run_in_child(_plant, small_config(tmp_path), 13, _output)
    _, error = run_in_child(_plant, small_config(tmp_path, resume=True), 13, _output)
    assert 'there is no older checkpoint, so change them by --allow-changes, or start anew' in str(error)


def _validate_to_nan(cfg):
    def prepare(runner):
        def spoil(layer, _inputs, output):
            return output * math.nan if runner.iter and not layer.training else output

        runner.network.linear.register_forward_hook(spoil)

    return train(cfg, prepare)


def test_a_validation_of_nan_logits_is_no_best(tmp_path):
    cfg = small_config(tmp_path, report=True, default_hooks__prune=dict(epoch=0, shots=1))
    status, end = run_in_child(_validate_to_nan, cfg)
    assert (status, end['best']) == (0, None)
    assert not list(tmp_path.glob('best_*'))
    numbers = json.loads((tmp_path / 'report.json').read_text())['numbers']
    assert (numbers['accuracy'], numbers['best_accuracy'], numbers['best_epoch']) == (None, None, None)
