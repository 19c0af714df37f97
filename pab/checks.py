"""Checks of arguments that many classes share."""


def check_ints(owner: str, low: int = 1, **values: int) -> None:
    """ValueError naming the class ``owner`` and the argument unless every value is an int >= ``low``."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f'{owner}: {name} must be an int >= {low}, got {value!r}')


def known_choice(owner: str, name: str, value, known) -> None:
    """ValueError listing ``known`` when ``value`` is not one of them."""
    if value not in list(known):  # a list has no hash, and is no key
        raise ValueError(f'{owner}: unknown {name} {value!r}; known: {", ".join(map(str, known))}')
