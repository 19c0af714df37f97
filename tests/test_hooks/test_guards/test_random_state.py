import random

import numpy as np
import torch

from pab.hooks.guards.random_state import seed_all, step_seed


def draws():
    return random.random(), np.random.rand(), torch.rand(()).item()


def test_a_seed_fixes_all_three_generators():
    seed_all(step_seed(0, 7, 0))
    first = draws()
    draws()
    seed_all(step_seed(0, 7, 0))
    assert draws() == first


def test_seeds_differ_by_seed_step_and_rank():
    seeds = {step_seed(seed, step, rank) for seed in range(3) for step in range(30) for rank in range(4)}
    assert len(seeds) == 3 * 30 * 4
