"""The costs of a network and its training.

=====  ==================================================================
count  the formulas, and the counts of layers, steps, prunings and bytes
run    the costs of a step of a config's run, beside other ways to train its network
=====  ==================================================================
"""

from .count import (
    LayerCost,
    Work,
    count_layers,
    count_weights,
    dense_sgd,
    latent_signs,
    pruning_work,
    saved_bytes,
    step_work,
)
from .run import RunCosts, masks_of_checkpoint, masks_of_config, run_costs

__all__ = [
    'LayerCost',
    'RunCosts',
    'Work',
    'count_layers',
    'count_weights',
    'dense_sgd',
    'latent_signs',
    'masks_of_checkpoint',
    'masks_of_config',
    'pruning_work',
    'run_costs',
    'saved_bytes',
    'step_work',
]
