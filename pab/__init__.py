"""pab: sparse networks that are never trained, only unmasked.

Its floors, from the top; what is below knows nothing of what is above, and parts of one floor nothing of each other:

- contrib
- compare
- hooks
- compact, costs, export, report, run
- narrow
- latent
- optim, pruners
- datasets, evaluation, models, psg
- converter, preprocessing
- registry
- checks, compiled, contracts, files, machine, patterns, state_dicts
"""

__version__ = '0.1.0'
