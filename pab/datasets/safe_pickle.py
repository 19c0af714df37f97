"""Read arrays from a pickle that may come from anyone, without executing what it asks for."""

import pickle
from pathlib import Path

import numpy as np


def load_arrays(path: Path) -> object:
    """Load a pickle made of plain Python values and numpy arrays; refuse everything else.

    Python strings of Python 2 become bytes. Object arrays and every global other than the few that arrays need are
    refused before anything is called.

    Raises:
        ValueError: the file is truncated or damaged, or asks for something that is not an array; it names the file.
    """
    try:
        with open(path, 'rb') as file:
            return _ArrayUnpickler(file, encoding='bytes').load()
    except _Refused as error:
        raise ValueError(f'{path}: refused, {error}; data files hold arrays and plain values only') from error
    except Exception as error:  # a damaged pickle can fail in any way: EOFError, KeyError, MemoryError, ...
        raise ValueError(f'{path}: truncated or damaged ({type(error).__name__}: {error}); get it again') from error


class _Refused(pickle.UnpicklingError):
    """The pickle asks for something that is not on the list."""


class _ArrayUnpickler(pickle.Unpickler):
    """Knows the globals that numpy arrays pickle to, and no other.

    Each file gets functions of its own, so that a pickle which sets attributes on them changes nothing that lasts.
    """

    def __init__(self, file, encoding: str):
        super().__init__(file, encoding=encoding)
        self._known = {('numpy', 'ndarray'): np.ndarray, ('numpy', 'dtype'): np.dtype}
        self._known['_codecs', 'encode'] = lambda text, encoding='latin1': _latin1(text, encoding)
        for core in ('numpy.core', 'numpy._core'):  # numpy 1 and 2
            self._known[f'{core}.multiarray', '_reconstruct'] = lambda kind, shape, code: _empty(kind)
            self._known[f'{core}.numeric', '_frombuffer'] = lambda *args: _from_buffer(*args)

    def find_class(self, module: str, name: str) -> object:
        try:
            return self._known[module, name]
        except KeyError:
            raise _Refused(f'it asks for {module}.{name}') from None


def _empty(kind: type) -> np.ndarray:
    # what numpy writes before every array: an empty one, whose state follows
    if kind is not np.ndarray:
        raise _Refused(f'it asks for an array of {kind!r}')
    return np.ndarray((0,), dtype=np.uint8)


def _from_buffer(buffer: bytes, dtype: np.dtype, shape: tuple[int, ...], order: str) -> np.ndarray:
    return np.frombuffer(buffer, dtype=dtype).reshape(shape, order=order)


def _latin1(text: str, encoding: str) -> bytes:
    # how protocol 2 writes bytes; another codec would be looked up, and imported, by name
    if encoding not in ('latin1', 'latin-1'):
        raise _Refused(f'it asks for the codec {encoding!r}')
    return text.encode('latin-1')
