"""Large numbers as people read them."""


def short(amount: float) -> str:
    """A number >= 0 with three digits and k, M, G, T, P, E or Z, such as ``'1.23M'``."""
    for letter in ('', 'k', 'M', 'G', 'T', 'P', 'E'):
        if amount < 999.5:
            return f'{amount:.3g}{letter}'
        amount /= 1000
    return f'{amount:.3g}Z'
