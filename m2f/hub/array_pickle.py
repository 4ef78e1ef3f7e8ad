"""Read pickled NumPy arrays without running anything that the file asks for.

A pickle is a program: it may call any importable function. The original's checkpoints (`.pkl`) need only arrays in
dicts, so the globals that rebuild an array are replaced by the small constructors of this file, and every other
global is refused by its name. NumPy's own constructors are not called: the state of a `numpy.dtype` in a pickle can
make NumPy take bytes of the file for pointers to objects.

Sources: Python's `pickle` documentation, "Restricting Globals"; `numpy.ndarray.__reduce__` and `__setstate__`.
"""

import math
import pickle
import reprlib
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, Literal

import numpy as np

# Kind and bytes per item of the dtypes that torch has too; "b1" is bool.
_DTYPES = ("b1", "u1", "i1", "i2", "i4", "i8", "f2", "f4", "f8")
# What unpickling a damaged file raises: the errors that Python's documentation names, and those of opcodes whose
# operands do not fit (seen with randomly changed bytes).
UNPICKLING_ERRORS = (
    pickle.UnpicklingError,
    struct.error,
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class _Constructor:
    """Callable that stands for an admitted global.

    Slots and a refusing `__setstate__`, because the BUILD opcode could otherwise set attributes on it.
    """

    __slots__ = ("_build",)

    def __init__(self, build: Callable[..., Any]):
        self._build = build

    def __call__(self, *args: Any) -> Any:
        return self._build(*args)

    def __setstate__(self, state: Any) -> None:
        raise pickle.UnpicklingError("the file tries to change a constructor")


class _Mapping(dict):
    """Stands for OrderedDict; attributes, which torch's state dicts have (`_metadata`), are not kept."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        pass


class _DType:
    """Stands for `numpy.dtype`: a name of `_DTYPES` and a byte order."""

    __slots__ = ("name", "order")

    def __init__(self, name: str, align: Any = False, copy: Any = False):
        if name not in _DTYPES:
            raise pickle.UnpicklingError(
                f"arrays of dtype {reprlib.repr(name)} are not admitted, only {', '.join(_DTYPES)}"
            )
        self.name = name
        self.order = "="

    def __setstate__(self, state: tuple) -> None:
        order, subarray, names, fields = state[1:5]
        if order not in ("<", ">", "|", "=") or any(part is not None for part in (subarray, names, fields)):
            raise pickle.UnpicklingError("structured dtypes are not admitted")
        self.order = order


class _Array:
    """Stands for `numpy.ndarray`; `array` is set once the file's state for it has been checked."""

    __slots__ = ("array",)

    def __init__(self, *args: Any):
        self.array: np.ndarray | None = None

    def __setstate__(self, state: tuple) -> None:
        shape, dtype, fortran, raw = state[-4:]
        self.array = _array_from_bytes(raw, dtype, shape, "F" if fortran else "C")


def _array_from_bytes(raw: Any, dtype: Any, shape: tuple, order: Literal["C", "F"]) -> np.ndarray:
    if not isinstance(dtype, _DType) or not isinstance(shape, tuple):
        raise pickle.UnpicklingError("an array without a dtype or a shape")
    data = raw.encode("latin1") if isinstance(raw, str) else raw  # str: pickled by Python 2
    if not isinstance(data, bytes | bytearray):
        raise pickle.UnpicklingError(f"the items of an array are a {type(raw).__name__}, not bytes")
    plain = np.dtype(dtype.order + dtype.name)
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise pickle.UnpicklingError(f"{reprlib.repr(shape)} is not the shape of an array")
    if math.prod(shape) * plain.itemsize != len(data):
        raise pickle.UnpicklingError(
            f"an array of shape {reprlib.repr(shape)} and dtype {dtype.name} with {len(data)} bytes"
        )
    # A copy in the machine's byte order: the buffer is read-only, and torch takes no other order.
    return np.frombuffer(data, dtype=plain).reshape(shape, order=order).astype(plain.newbyteorder("="))


def _finished(array: np.ndarray) -> _Array:
    holder = _Array()
    holder.array = array
    return holder


def _scalar(dtype: Any, raw: Any) -> _Array:
    return _finished(_array_from_bytes(raw, dtype, (), "C"))


def _from_buffer(raw: Any, dtype: Any, shape: tuple, order: Any) -> _Array:
    if order not in ("C", "F"):
        raise pickle.UnpicklingError(f"{reprlib.repr(order)} is no order of an array's items")
    return _finished(_array_from_bytes(raw, dtype, shape, order))


def _latin1_bytes(text: str = "", encoding: str = "latin1") -> bytes:
    # How protocols 0 to 2 write bytes. The encoding is not looked up by the file's wish: that imports a module.
    if encoding not in ("latin1", "latin-1"):
        raise pickle.UnpicklingError(f"bytes in the encoding {reprlib.repr(encoding)} are not admitted")
    return text.encode("latin1")


def _admitted() -> dict[tuple[str, str], _Constructor]:
    """Global name -> constructor in its place. NumPy 2 renamed `numpy.core` to `numpy._core`."""
    table: dict[tuple[str, str], Callable[..., Any]] = {
        ("collections", "OrderedDict"): lambda: _Mapping(),
        ("_codecs", "encode"): _latin1_bytes,
        ("builtins", "bytes"): _latin1_bytes,  # how protocols 0 to 2 write b""
        ("__builtin__", "bytes"): _latin1_bytes,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _DType,
    }
    for core in ("numpy.core", "numpy._core"):
        table[f"{core}.multiarray", "_reconstruct"] = _Array
        table[f"{core}.multiarray", "scalar"] = _scalar
        table[f"{core}.numeric", "_frombuffer"] = _from_buffer
    return {name: _Constructor(build) for name, build in table.items()}


_PythonUnpickler: Any = pickle._Unpickler  # whose steps the types of the library leave out


class _ArrayUnpickler(_PythonUnpickler):
    """The unpickler that is written in Python, of which steps can be replaced. It keeps what a file refers to in a
    dict, where the one in C makes a table as long as the largest number in the file says.

    Keys of dicts must be text, bytes or numbers, and there are no sets: the hash of tuples in tuples that share their
    parts takes time without end. Bytes are read as far as the file goes, whatever length it says.
    """

    dispatch: dict[int, Any] = dict(_PythonUnpickler.dispatch)

    def load_setitem(self):
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self):
        _check_keys(self.stack[::2])
        super().load_setitems()

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_dict(self):
        _check_keys(self.stack[::2])
        super().load_dict()

    dispatch[pickle.DICT[0]] = load_dict

    def load_set(self):
        raise pickle.UnpicklingError("sets are not admitted")

    dispatch[pickle.EMPTY_SET[0]] = dispatch[pickle.ADDITEMS[0]] = dispatch[pickle.FROZENSET[0]] = load_set

    def load_bytearray8(self):
        # Python's own takes the memory before it looks whether the file has so many bytes.
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def __init__(self, file: BinaryIO):
        # Names pickled by Python 2 are bytes; latin1 is how NumPy's documentation says to read such arrays.
        super().__init__(file, encoding="latin1", fix_imports=False)
        self._constructors = _admitted()

    def find_class(self, module: str, name: str) -> _Constructor:
        if (module, name) not in self._constructors:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, and only NumPy arrays are admitted")
        return self._constructors[module, name]


def _check_keys(keys: list):
    for key in keys:
        if not isinstance(key, str | bytes | int | float | None):
            raise pickle.UnpicklingError(f"a {type(key).__name__} is no key that is admitted")


def load_array_pickle(file: BinaryIO) -> Any:
    """Unpickle dicts, lists, tuples, str, bytes, int, float, bool, None and arrays of numbers; run no code.

    Args:
        file: opened for reading bytes.

    Returns:
        The file's object; arrays and NumPy scalars in it are `numpy.ndarray` (bool, uint8, int8 to int64, float16 to
        float64).

    Raises:
        pickle.UnpicklingError: anything else in the file (named), or a damaged file.
    """
    try:
        return _with_arrays(_ArrayUnpickler(file).load(), {})
    except UNPICKLING_ERRORS as error:
        raise pickle.UnpicklingError(f"not a pickle of arrays: {error or type(error).__name__}") from error


def _with_arrays(value: Any, done: dict[int, Any]) -> Any:
    """The value with arrays in place of what stands for them.

    Args:
        done: id of a container -> what was made of it, `_OPEN` until it is: a few bytes may say that a list is in
            another 10^9 times, or in itself.
    """
    if isinstance(value, _Array):
        if value.array is None:
            raise pickle.UnpicklingError("an array without items")
        return value.array
    if isinstance(value, str | bytes | bytearray | int | float | None):
        return value
    if not isinstance(value, dict | list | tuple):
        raise pickle.UnpicklingError(f"a {type(value).__name__.strip('_')} is no value that is admitted")
    if id(value) not in done:
        done[id(value)] = _OPEN
        if isinstance(value, dict):
            done[id(value)] = {key: _with_arrays(item, done) for key, item in value.items()}
        else:
            done[id(value)] = type(value)(_with_arrays(item, done) for item in value)
    if done[id(value)] is _OPEN:
        raise pickle.UnpicklingError(f"a {type(value).__name__} that holds itself")
    return done[id(value)]


_OPEN = object()
