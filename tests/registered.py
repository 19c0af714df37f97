"""What the registries hold, for tests of every member: who registers a class has it tested."""

from pab.registry import OPTIMIZERS


def members(registry) -> dict[str, type]:
    """Name -> class, of pab's own classes in a registry."""
    registry.import_from_location()
    return {name: cls for name, cls in sorted(registry.module_dict.items()) if cls.__module__.startswith('pab.')}


SIGN_OPTIMIZERS = {name: cls for name, cls in members(OPTIMIZERS).items() if hasattr(cls, 'last_flips')}
