"""How the C library hands out memory to a run on the CPU."""

import ctypes
import os

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h
_LARGEST_INT = 2**31 - 1
_FIRST_CHOICES = (1 << 30, 1 << 25)  # bytes; a glibc that refuses the first accepts the second
SETTINGS_OF_THE_USER = ('MALLOC_MMAP_THRESHOLD_', 'MALLOC_TRIM_THRESHOLD_', 'GLIBC_TUNABLES')


def keep_freed_memory() -> bool:
    """Let the process keep the memory that it frees, for its own next use; tell whether that was done.

    By default glibc returns large blocks to the system at once. A training step frees and asks again for the same
    activations, and the system has to clear every page of them each time, which on a CPU is a good tenth of a step. The
    price is that up to 2 GiB which are free stay with the process. An old glibc keeps blocks of up to 32 MiB only.

    Nothing is changed with another C library, nor where a user set glibc's own variables (``SETTINGS_OF_THE_USER``).
    """
    if any(name in os.environ for name in SETTINGS_OF_THE_USER):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another system, or another C library
        return False
    return any(mallopt(_MMAP_THRESHOLD, size) for size in _FIRST_CHOICES) and bool(
        mallopt(_TRIM_THRESHOLD, _LARGEST_INT)
    )
