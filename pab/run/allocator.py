"""The memory that the C library gives to a run on the CPU."""

import ctypes
import os

SETTINGS_OF_THE_USER = ('MALLOC_MMAP_THRESHOLD_', 'MALLOC_TRIM_THRESHOLD_', 'GLIBC_TUNABLES')
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of malloc.h


def keep_freed_memory() -> bool:
    """Let the process keep the memory that it frees, for its own next use; tell whether that was done.

    By default glibc returns large blocks to the system. A training step asks again for the same activations, and the
    system has to clear every page of them, which on a CPU is a good tenth of a step. The price is that up to 2 GiB
    which are free stay with the process. Nothing is changed with another C library, nor where a user set glibc's own
    variables (``SETTINGS_OF_THE_USER``).
    """
    if any(name in os.environ for name in SETTINGS_OF_THE_USER):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another system, or another C library
        return False
    # blocks of up to 1 GiB; an old glibc accepts 32 MiB only
    kept = mallopt(MMAP_THRESHOLD, 1 << 30) or mallopt(MMAP_THRESHOLD, 1 << 25)
    return bool(kept and mallopt(TRIM_THRESHOLD, 2**31 - 1))
