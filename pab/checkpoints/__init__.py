"""Files that hold a run: written whole or not at all, plain data, and loaded only where they belong."""

from .loading import NOT_FOR_RESUME, UnusableCheckpoint, check_fits, check_resumable, find_newest, load_safely
from .plain import history_from_plain, to_plain
from .storage import ATOMIC, AtomicBackend, check_writable, write_atomically

__all__ = [
    'ATOMIC',
    'NOT_FOR_RESUME',
    'AtomicBackend',
    'UnusableCheckpoint',
    'check_fits',
    'check_resumable',
    'check_writable',
    'find_newest',
    'history_from_plain',
    'load_safely',
    'to_plain',
    'write_atomically',
]
