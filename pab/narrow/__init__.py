"""Networks without the channels that pruning has left without use.

========  ==================================================================
channels  the channels that a network needs, found on its graph
cut       layers without the others
network   the smaller network, for other programs
========  ==================================================================
"""

from .channels import Cut, find_cuts
from .cut import cut_
from .network import narrow, plain_copy

__all__ = ['Cut', 'cut_', 'find_cuts', 'narrow', 'plain_copy']
