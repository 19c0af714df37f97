import numpy as np
import pytest
import torch
from torch import nn

from pab.optim import Bop


def parameter(*values):
    return nn.Parameter(torch.tensor(values))


def step(optimizer, weight, *grad):
    """Step on a gradient, one number for all or one for each weight; return the weights."""
    weight.grad = torch.tensor(grad).to(weight).expand_as(weight).clone()
    optimizer.step()
    return weight.tolist()


def test_two_steps_by_hand():
    w = parameter(0.5, -0.5)
    opt = Bop([w], adaptivity_rate=0.5, threshold=0.1)
    assert step(opt, w, 0.4) == [-0.5, -0.5]  # m = 0.2: only the first agrees in sign
    assert int(opt.last_flips) == 1
    assert step(opt, w, -1.0) == [0.5, 0.5]  # m = -0.4: both agree
    assert int(opt.last_flips) == 2
    assert opt.state[w]['tensor_flips'].dtype == torch.int64
    assert int(opt.state[w]['tensor_flips']) == 3
    assert 'weight_flips' not in opt.state[w]


def test_first_step_gradient_starts_like_the_reference():
    w = parameter(1.0, 1.0)
    opt = Bop([w], adaptivity_rate=0.25, threshold=0.0, first_step='gradient')
    assert step(opt, w, 4.0, -4.0) == [-1.0, 1.0]
    assert opt.state[w]['moving_average'].tolist() == [5.0, -5.0]  # (1 + gamma) g


def test_sixty_steps_of_the_reference(golden_folder):
    gold = np.load(golden_folder / 'bop.npz')
    mask = torch.from_numpy(gold['mask']).bool()
    w = nn.Parameter(torch.from_numpy(gold['w0']) * mask)
    opt = Bop([w], adaptivity_rate=0.5, threshold=float(gold['tau']), first_step='gradient')
    for step, grad in enumerate(gold['grads']):
        opt.param_groups[0]['adaptivity_rate'] = float(gold['ar'][step])
        w.grad = torch.from_numpy(grad) * mask
        opt.step()
        assert torch.equal(w.detach(), torch.from_numpy(gold['weights'][step])), f'step {step}'
        assert int(opt.last_flips) == gold['flips'][step], f'step {step}'
    torch.testing.assert_close(opt.state[w]['moving_average'], torch.from_numpy(gold['moving_average']))


def test_equality_flips_and_below_does_not():
    w = parameter(1.0, 1.0)
    assert step(Bop([w], adaptivity_rate=0.5, threshold=0.25), w, 0.5, 0.4999) == [-1.0, 1.0]


def test_zero_weight_never_flips_and_keeps_a_positive_zero():
    w = parameter(0.0, 0.0, 0.0)
    opt = Bop([w], adaptivity_rate=0.5, threshold=0.0)
    for grad in (1.0, -1.0, 0.0):
        step(opt, w, grad)
        assert int(opt.last_flips) == 0
    assert not torch.signbit(w.detach()).any()


def test_tiny_averages_flip_at_threshold_zero():
    # The product of these two underflows, their signs do not.
    w = parameter(1e-30)
    opt = Bop([w], adaptivity_rate=0.5, threshold=0.0)
    step(opt, w, 1e-30)
    assert int(opt.last_flips) == 1


def test_flips_per_weight():
    w = parameter(1.0, -1.0, 0.0)
    opt = Bop([w], adaptivity_rate=0.9, threshold=0.0, flips_per_weight=True)
    for grad in (1.0, -10.0, 100.0):
        step(opt, w, grad)
    assert opt.state[w]['weight_flips'].tolist() == [3, 2, 0]
    assert opt.state[w]['weight_flips'].dtype == torch.int32
    assert int(opt.state[w]['tensor_flips']) == 5


def test_groups_closures_and_missing_gradients():
    a, b, c = (nn.Parameter(torch.ones(2)) for _ in range(3))
    opt = Bop([dict(params=[a], threshold=10.0), dict(params=[b, c])], adaptivity_rate=0.5, threshold=0.0)

    def closure():
        opt.zero_grad(set_to_none=True)
        loss = a.sum() + b.sum()
        loss.backward()
        return loss

    assert opt.step(closure).item() == 4.0
    assert a.tolist() == [1.0, 1.0]  # its threshold is out of reach
    assert b.tolist() == [-1.0, -1.0]
    assert c.tolist() == [1.0, 1.0]
    assert c not in opt.state or not opt.state[c]
    opt.zero_grad(set_to_none=False)
    assert a.grad.tolist() == [0.0, 0.0]


def test_weights_that_are_counted_from_now_on():
    w = nn.Parameter(torch.ones(2))
    opt = Bop([w], adaptivity_rate=0.5, threshold=0.0)
    for grad in (1.0, -4.0):
        step(opt, w, grad)
        opt.param_groups[0]['flips_per_weight'] = True  # as a resumed run may be told
    assert opt.state[w]['weight_flips'].tolist() == [1, 1]
    assert int(opt.state[w]['tensor_flips']) == 4
    opt.param_groups[0]['flips_per_weight'] = False
    opt.step()
    assert 'weight_flips' not in opt.state[w]


def test_the_state_of_another_optimizer_is_refused():
    w = nn.Parameter(torch.ones(2))
    other = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    w.grad = torch.ones(2)
    other.step()
    with pytest.raises(ValueError, match=r"Bop: its state has tensor_flips, the one to .*'momentum_buffer'"):
        Bop([w]).load_state_dict(other.state_dict())


def test_half_precision_weights_are_averaged_in_float32():
    w = nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    opt = Bop([w], adaptivity_rate=1e-3, threshold=1e-6)
    for _ in range(3):
        step(opt, w, 1.0)
    average = opt.state[w]['moving_average']
    assert average.dtype == torch.float32
    torch.testing.assert_close(average, torch.full((4,), 1 - 0.999**3))
    other = Bop([w])
    other.load_state_dict(opt.state_dict())
    assert other.state[w]['moving_average'].dtype == torch.float32


@pytest.mark.parametrize(
    'settings, message',
    [
        (dict(lr='abc'), r"Bop: lr must be >= 0, got 'abc'"),
        (dict(adaptivity_rate=0.0), r'Bop: adaptivity_rate must lie in \(0, 1\), got 0.0'),
        (dict(adaptivity_rate=1.0), r'must lie in \(0, 1\), got 1.0'),
        (dict(first_step='one'), "Bop: unknown first_step 'one'; known: zero, gradient"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        Bop([nn.Parameter(torch.ones(1))], **settings)
