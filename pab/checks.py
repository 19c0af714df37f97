"""Checks of arguments that many classes share."""

import difflib
from collections.abc import Iterable, Sequence

SHOWN = 20  # names that a message lists


def check_ints(owner: str, low: int = 1, **values: int) -> None:
    """ValueError naming the class ``owner`` and the argument unless every value is an int >= ``low``."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            auto = '; point PAB_DATA to the data, which say it, or give a number' if value == 'auto' else ''
            raise ValueError(f'{owner}: {name} must be an int >= {low}, got {value!r}{auto}')


def some(names: Sequence, most: int = 3) -> str:
    """The first names of a list, and how many more it has; 'none' for an empty one."""
    more = f' and {len(names) - most} more' if len(names) > most else ''
    return (', '.join(map(str, names[:most])) or 'none') + more


def known_choice(owner: str, name: str, value, known) -> None:
    """ValueError listing ``known``, of many those most like ``value``, when ``value`` is not one of them."""
    names = [*map(str, known)]
    if value not in list(known):  # a list has no hash, and is no key
        hint = did_you_mean(str(value), names) if len(names) > SHOWN else ''
        raise ValueError(f'{owner}: unknown {name} {value!r}; {hint or "known: " + ", ".join(names)}')


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The question after at most three known names that are most like a name; '' where none is."""
    close = difflib.get_close_matches(name, known)
    return f'did you mean {" or ".join(close)}?' if close else ''
