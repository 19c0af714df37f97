"""Large numbers and times as people read them."""

from datetime import timedelta


def short(amount: float) -> str:
    """A number >= 0 with three digits and k, M, G, T, P, E or Z, such as ``'1.23M'``."""
    for letter in ('', 'k', 'M', 'G', 'T', 'P', 'E'):
        if amount < 999.5:
            return f'{amount:.3g}{letter}'
        amount /= 1000
    return f'{amount:.3g}Z'


def clock(seconds: float) -> str:
    """Hours, minutes and whole seconds, such as ``'0:02:12'``."""
    return str(timedelta(seconds=round(seconds)))
