"""A geometric schedule: by hand, at each step, and what it refuses."""

import pytest
import torch

from pab.registry import PARAM_SCHEDULERS


def values(steps, epoch_length=1, **settings):
    """What a setting of 8 becomes, before each of some steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=8.0)
    scheduler = PARAM_SCHEDULERS.build(
        dict(type='GeometricParamScheduler', param_name='lr', **settings),
        default_args=dict(optimizer=optimizer, epoch_length=epoch_length),
    )
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize(
    ('settings', 'course'),
    [
        (dict(end_factor=1 / 8, end=4), [8, 4, 2, 1, 1]),  # three factors of 1/2 lead from the first to the fourth
        (dict(end_factor=1 / 4, begin=1, end=4), [8, 8, 4, 2, 2]),
        (dict(end_factor=4, end=3), [8, 16, 32, 32]),
        (dict(end_factor=1 / 8, end=1), [8, 8]),  # there is no second epoch to be lower in
        (dict(end_factor=1 / 8, end=2, epoch_length=2, convert_to_iter_based=True), [8, 4, 2, 1, 1]),
    ],
)
def test_by_hand(settings, course):
    assert values(len(course), **settings) == pytest.approx(course)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(end_factor=0, end=4), 'end_factor must be > 0, got 0'),
        (dict(end_factor=float('nan'), end=4), 'end_factor must be > 0, got nan'),
        (dict(end_factor=0.1), 'end must be given outside of a run'),
    ],
)
def test_refusals(settings, message):
    with pytest.raises(ValueError, match=message):
        values(1, **settings)
