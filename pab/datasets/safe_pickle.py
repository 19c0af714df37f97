"""Read arrays from a pickle that may come from anyone, without executing what it asks for."""

import pickle
from pathlib import Path

import numpy as np

CODES = ('b1', 'i1', 'u1', 'i2', 'u2', 'i4', 'u4', 'i8', 'u8', 'f2', 'f4', 'f8')


def load_arrays(path: Path) -> object:
    """Load a pickle of plain Python values and of numpy arrays of numbers; refuse everything else.

    The pickle may be an array, or a dict with arrays among its values. Byte strings of Python 2 become bytes. Not even
    numpy's own functions are handed to it: a pickle can set flags of a dtype so that numpy takes raw bytes for
    addresses.

    Raises:
        ValueError: the file is truncated or damaged, or asks for something else; it names the file.
    """
    try:
        with open(path, 'rb') as file:
            content = _ArrayUnpickler(file, encoding='bytes').load()
        return (
            {key: _unwrap(value) for key, value in content.items()} if isinstance(content, dict) else _unwrap(content)
        )
    except _Refused as error:
        raise ValueError(f'{path}: refused, {error}; data files hold arrays and plain values only') from error
    except Exception as error:  # a damaged pickle can fail in any way: EOFError, KeyError, MemoryError, ...
        raise ValueError(f'{path}: truncated or damaged ({type(error).__name__}: {error}); get it again') from error


class _Refused(pickle.UnpicklingError):
    """The pickle asks for something that is not on the list."""


class _ArrayUnpickler(pickle.Unpickler):
    """Knows the names that arrays pickle to, and gives each of them a stand-in that only takes notes."""

    def __init__(self, file, encoding: str):
        super().__init__(file, encoding=encoding)
        # functions of this file's own: a pickle that sets attributes on them changes nothing that lasts
        self._known = {
            ('numpy', 'ndarray'): _Array,
            ('numpy', 'dtype'): lambda code, *flags: _DType(code),
            ('_codecs', 'encode'): lambda text, encoding: _latin1(text, encoding),
        }
        for core in ('numpy.core', 'numpy._core'):  # numpy 1 and 2
            self._known[f'{core}.multiarray', '_reconstruct'] = lambda kind, *shape_and_code: _Array()
            self._known[f'{core}.numeric', '_frombuffer'] = lambda *parts: _Array.from_buffer(*parts)

    def find_class(self, module: str, name: str) -> object:
        try:
            return self._known[module, name]
        except KeyError:
            raise _Refused(f'it asks for {module}.{name}') from None


class _DType:
    """Stands in for numpy.dtype: a code of :data:`CODES` and a byte order."""

    def __init__(self, code: str | bytes):
        self.code = code.decode() if isinstance(code, bytes) else code
        self.order = '|'
        if self.code not in CODES:
            raise _Refused(f'it asks for an array of type {self.code!r}')

    def __setstate__(self, state: tuple):
        order = state[1].decode() if isinstance(state[1], bytes) else state[1]
        if order not in ('<', '>', '|', '='):
            raise _Refused(f'it asks for the byte order {order!r}')
        self.order = order

    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class _Array:
    """Stands in for numpy.ndarray: holds the array that numbers were checked into."""

    values: np.ndarray | None = None

    def __setstate__(self, state: tuple):
        _, shape, dtype, fortran, data = state
        self._fill(data, dtype, shape, 'F' if fortran else 'C')

    @classmethod
    def from_buffer(cls, data: bytes, dtype: _DType, shape: tuple[int, ...], order: str) -> '_Array':
        array = cls()
        array._fill(data, dtype, shape, order)
        return array

    def _fill(self, data: bytes, dtype: _DType, shape: tuple[int, ...], order: str) -> None:
        if not isinstance(data, (bytes, bytearray)) or not isinstance(dtype, _DType):
            raise _Refused('it asks for an array of something else than numbers')
        # the reshape fails unless the bytes are exactly the shape's
        self.values = np.frombuffer(data, dtype=dtype.numpy()).reshape(shape, order=order)


def _unwrap(value: object) -> object:
    return value.values if isinstance(value, _Array) else value


def _latin1(text: str, encoding: str) -> bytes:
    # how protocol 2 writes bytes; another codec would be looked up, and imported, by name
    if encoding not in ('latin1', 'latin-1'):
        raise _Refused(f'it asks for the codec {encoding!r}')
    return text.encode('latin-1')
