"""Read arrays from a pickle that may come from anyone, without executing what it asks for."""

import pickle
from pathlib import Path

import numpy as np


def load_arrays(path: Path) -> dict[str, object]:
    """Load a pickled dict of plain Python values and numpy arrays of numbers; refuse everything else.

    Keys become strings, byte strings of Python 2 bytes. The pickle gets not even numpy's functions: with flags of its
    own for a dtype, numpy would take raw bytes for addresses. A ValueError names a file that is damaged or refused.
    """
    try:
        with open(path, 'rb') as file:
            content = _ArrayUnpickler(file, encoding='bytes').load()
        if not isinstance(content, dict):
            raise _RefusedError(f'it holds a {type(content).__name__} and not a dict')
        return {
            key.decode() if isinstance(key, bytes) else key: value.values if isinstance(value, _Array) else value
            for key, value in content.items()
        }
    except _RefusedError as error:
        raise ValueError(f'{path}: refused, {error}; data files hold arrays and plain values only') from error
    except Exception as error:  # a damaged pickle can fail in any way: EOFError, KeyError, MemoryError, ...
        raise ValueError(f'{path}: truncated or damaged ({type(error).__name__}: {error}); get it again') from error


class _RefusedError(pickle.UnpicklingError):
    """The pickle asks for something that data don't need."""


class _ArrayUnpickler(pickle.Unpickler):
    """Gives stand-ins for the names that arrays pickle to; new ones each time, as a pickle may change them."""

    def find_class(self, module: str, name: str) -> object:
        match module.replace('numpy._core', 'numpy.core'), name:  # numpy 2 and 1
            case ('numpy', 'ndarray') | ('numpy.core.multiarray', '_reconstruct'):
                return lambda *kind_and_shape: _Array()
            case 'numpy.core.numeric', '_frombuffer':
                return lambda data, dtype, shape, order: _Array().fill(data, dtype, shape, order)
            case 'numpy', 'dtype':
                return lambda code, *flags: _DType(code)
            case '_codecs', 'encode':
                # how protocol 2 writes bytes; another codec would be looked up, and imported, by name
                return lambda text, code: text.encode('latin-1') if code == 'latin1' else _refuse(f'the codec {code!r}')
        return _refuse(f'{module}.{name}')


class _DType:
    """Stands in for numpy.dtype: a kind of number and its byte order."""

    def __init__(self, code: str | bytes):
        if not isinstance(code, str | bytes) or np.dtype(_text(code)).kind not in 'biuf':
            _refuse(f'an array of type {code!r}')
        self.numpy = np.dtype(_text(code))

    def __setstate__(self, state: tuple):
        self.numpy = self.numpy.newbyteorder(_text(state[1]))


class _Array:
    """Stands in for numpy.ndarray: holds the array that numbers were checked into."""

    values: np.ndarray | None = None

    def __setstate__(self, state: tuple):
        _, shape, dtype, fortran, data = state
        self.fill(data, dtype, shape, 'F' if fortran else 'C')

    def fill(self, data: bytes, dtype: _DType, shape: tuple[int, ...], order: str) -> '_Array':
        if not isinstance(data, bytes | bytearray) or not isinstance(dtype, _DType):
            _refuse('an array of something else than numbers')
        # the reshape fails unless the bytes are exactly the shape's
        self.values = np.frombuffer(data, dtype=dtype.numpy).reshape(shape, order=order)
        return self


def _refuse(what: str) -> None:
    raise _RefusedError(f'it asks for {what}')


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
