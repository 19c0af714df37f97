"""Networks without the channels that pruning has left without use.

========  ==================================================================
channels  the channels that a network needs, found on its graph
cut       layers without the others
========  ==================================================================
"""

from .channels import Cut, find_cuts
from .cut import cut_

__all__ = ['Cut', 'cut_', 'find_cuts']
