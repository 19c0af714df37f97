"""Optimizers, and the rule that says which parameter belongs to which."""

from .averaging import keep_signs
from .bop import Bop
from .constructor import OwnershipConstructor, assign_owners
from .geometric import GeometricParamScheduler
from .moves import Moves
from .second_order_bop import SecondOrderBop
from .sign_optimizer import SignOptimizer
from .top_flips import TopFlips
from .wrapper import SharedBackward

__all__ = [
    'Bop',
    'GeometricParamScheduler',
    'Moves',
    'OwnershipConstructor',
    'SecondOrderBop',
    'SharedBackward',
    'SignOptimizer',
    'TopFlips',
    'assign_owners',
    'keep_signs',
]
