"""pab: sparse networks that are never trained, only unmasked.

Its floors, from the top; what is below knows nothing of what is above, and parts of one floor nothing of each other:

- __main__
- cli
- benchmarks
- contrib
- compare
- hooks, prediction
- compact, costs, export, report, run
- narrowing
- latent
- optim, pruners
- datasets, evaluation, models, psg
- converter, preprocessing, transforms
- registry
- checks, command, compiled, contracts, files, machine, patterns, state_dicts
"""

from pkgutil import resolve_name as _resolve_name
from typing import Any as _Any

__version__ = '0.1.0'


def __getattr__(name: str) -> _Any:
    """Import ``pab.load``, ``pab.predict`` and ``pab.narrow`` when they are asked for, as they need torch."""
    if name in ('load', 'predict', 'narrow'):
        return _resolve_name(f'pab.{"narrowing" if name == "narrow" else "prediction"}:{name}')
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
