"""Networks without the channels that pruning has left without use."""

from .channels import Cut, find_cuts
from .cut import TrainedPart
from .network import narrow, plain_copy

__all__ = ['Cut', 'TrainedPart', 'find_cuts', 'narrow', 'plain_copy']
