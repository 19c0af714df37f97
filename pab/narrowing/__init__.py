"""Networks without the channels that pruning has left without use.

========  ==================================================================
channels  the channels that a network needs, found on its graph
cut       layers without the others, for good or while they train
network   the smaller network, for other programs
========  ==================================================================
"""

from .channels import Cut, find_cuts
from .cut import TrainedPart, cut_
from .network import narrow, plain_copy

__all__ = ['Cut', 'TrainedPart', 'cut_', 'find_cuts', 'narrow', 'plain_copy']
