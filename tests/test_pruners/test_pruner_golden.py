"""The numbers of the reference: first-round scores and final masks."""

import numpy as np
import pytest
import torch

from pab.pruners import Pruner
from pab.registry import PRUNERS

RUNS = 16


def first_scores(pruner: Pruner) -> list:
    """Note what the score returns in every round."""
    seen, score = [], pruner.score
    pruner.score = lambda **given: seen.append({k: s.clone() for k, s in score(**given).items()}) or seen[-1]
    return seen


@pytest.mark.parametrize('run', range(RUNS))
def test_scores_and_masks_of_the_reference(run, golden, net):
    meta = golden.meta[run]
    model = golden.load_into(net)
    pruner = PRUNERS.build(
        dict(
            type=meta['pruner'],
            density=meta['density'],
            rounds=meta['iterations'],
            schedule=meta['schedule'],
            scope=meta['scope'],
            prunable=('Conv2d', 'Linear'),
        )
    )
    scores = first_scores(pruner)
    batches = [(golden[f'batch{i}_x'], golden[f'batch{i}_y']) for i in range(2)]

    masks = pruner.prune(model, batches)

    assert list(masks) == golden.keys(f'{run}_score/')
    for name, mask in masks.items():
        torch.testing.assert_close(scores[0][name], golden[f'{run}_score/{name}'], rtol=1e-9, atol=1e-15)
        assert torch.equal(mask, golden[f'{run}_mask/{name}'].bool()), name


def test_every_run_of_the_file_is_tested(golden):
    assert len(golden.meta) == RUNS


@pytest.mark.parametrize('density', [0.3, pytest.param(0.05, marks=pytest.mark.slow)])
def test_synflow_on_resnet20(density, golden_resnet20, resnet20):
    model = golden_resnet20.load_into(resnet20)
    pruner = PRUNERS.build(dict(type='SynFlow', density=density, rounds=100))

    masks = pruner.prune(model, input_shape=(3, 32, 32))

    prefix = f'mask{density}/'
    assert set(masks) == set(golden_resnet20.keys(prefix))
    for name, mask in masks.items():
        packed = torch.from_numpy(np.packbits(mask.numpy()))
        assert torch.equal(packed, golden_resnet20[prefix + name].flatten()), name
