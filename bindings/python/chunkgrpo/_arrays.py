"""Arrays and the library's tensors, and the checks that ctypes would not make."""

from __future__ import annotations

import ctypes
import math
import operator
from collections.abc import Iterable
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from . import _abi, _frameworks
from ._frameworks import NUMPY, Family
from .errors import InvalidArgument, WrongType

Array = NDArray[Any]

AnyArray = Any
"""An array of numpy, PyTorch, JAX, MLX, CuPy or another framework that exports DLPack."""

# By name, so that ml_dtypes' bfloat16 is known without importing it.
TYPES = {"float32": _abi.F32, "float64": _abi.F64, "float16": _abi.F16, "bfloat16": _abi.BF16}

# ----------------------------------------------------------------------------------------------------------------------
# Scalars


def integer(value: Any, name: str, low: int = -(2**63), high: int = 2**63 - 1) -> int:
    """An int within [low, high]. The library knows the narrower bounds; these are those of its C type."""
    try:
        number = operator.index(value)
    except TypeError:
        raise WrongType(f"{name} must be an integer, not {type(value).__name__}") from None
    if not low <= number <= high:
        if -(2**63) <= number < 2**63 and high == 2**63 - 1:
            raise InvalidArgument(f"{name} is {number}; it must be at least {low}")
        raise InvalidArgument(f"{name} is {number}; it must be in {low} ... {high}")
    return number


def seed_number(value: Any, name: str = "seed") -> int:
    return integer(value, name, 0, 2**64 - 1)


def thread_count(value: Any, name: str = "threads") -> int:
    return integer(value, name, -(2**31), 2**31 - 1)


def real(value: Any, name: str) -> float:
    if isinstance(value, (str, bytes)):
        raise WrongType(f"{name} must be a real number, not {type(value).__name__}")
    try:
        return float(value)
    except TypeError:
        raise WrongType(f"{name} must be a real number, not {type(value).__name__}") from None
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(f"{name} is no number that fits a double: {error}") from None


def function(value: Any, name: str) -> Any:
    if not callable(value):
        raise WrongType(f"{name} must be callable, not {type(value).__name__}")
    return value


def choice(value: Any, names: dict[str, int], name: str) -> int:
    if not isinstance(value, str) or value not in names:
        raise InvalidArgument(f"{name} is {value!r}; it must be one of {', '.join(map(repr, names))}")
    return names[value]


# ----------------------------------------------------------------------------------------------------------------------
# Small arrays: always contiguous, converted where need be


def plain(value: Any, name: str) -> Array:
    """Any array as one of numpy, for those that are small: bfloat16 becomes float32."""
    family = _frameworks.of(value, name)
    array, type_name = family.read(value, name)
    family.ready()
    return _floats(array, type_name)


def _is_bfloat16(dtype: np.dtype[Any]) -> bool:
    return dtype.name == "bfloat16" and dtype.itemsize == 2


def _converted(value: Any, name: str, dtype: Any, shape: Optional[tuple[int, ...]]) -> Array:
    """Real numbers of any type as a contiguous array. Never a view that could be written to: callers only read it."""
    array = plain(value, name)
    if array.dtype.kind not in "fiub" and not _is_bfloat16(array.dtype):
        raise WrongType(f"{name} has element type {array.dtype}; it must hold real numbers")
    if shape is not None and array.shape != shape:
        raise InvalidArgument(f"{name} has shape {array.shape}; it must be {shape}")
    return np.ascontiguousarray(array, dtype).reshape(array.shape)


def given_back(array: Array, like: Any) -> Any:
    """A fresh array in the framework and on the device of an argument."""
    return _frameworks.of(like, "like").give(array)


def doubles(value: Any, name: str, shape: Optional[tuple[int, ...]] = None) -> Array:
    return _converted(value, name, np.float64, shape)


def _matrix(value: Any, name: str, dtype: Any) -> Array:
    array = _converted(value, name, dtype, None)
    if array.ndim != 2:
        raise InvalidArgument(f"{name} has shape {array.shape}; it must have two dimensions")
    return array


def double_matrix(value: Any, name: str) -> Array:
    return _matrix(value, name, np.float64)


def float_matrix(value: Any, name: str) -> Array:
    return _matrix(value, name, np.float32)


def _integers(value: Any, name: str, dtype: Any, low: int, high: int) -> Array:
    # Of a list, numpy would make floats where it mixes small and very large integers.
    foreign = _frameworks.of(value, name) is not NUMPY
    array = plain(value, name) if foreign or isinstance(value, np.ndarray) else np.asarray(value, object)
    if array.dtype.kind not in "iuO":
        raise WrongType(f"{name} has element type {array.dtype}; it must hold integers")
    if array.ndim != 1:
        raise InvalidArgument(f"{name} has shape {array.shape}; it must have one dimension")
    if array.dtype.kind == "O":
        return np.array([integer(item, f"{name}[{i}]", low, high) for i, item in enumerate(array)], dtype)
    if array.size:
        integer(array.min(), name, low, high)
        integer(array.max(), name, low, high)
    return np.array(array, dtype)


def int64s(value: Any, name: str) -> Array:
    return _integers(value, name, np.int64, -(2**63), 2**63 - 1)


def sample_ids(value: Any, batch: int) -> Optional[Array]:
    """(B,) uint64, or None for 0 ... B - 1."""
    if value is None:
        return None
    ids = _integers(value, "sample_ids", np.uint64, 0, 2**64 - 1)
    if ids.size != batch:
        raise InvalidArgument(f"sample_ids has {ids.size} numbers; the batch has {batch} samples")
    return ids


def point(struct: ctypes.Structure, field: str, array: Optional[Array]) -> None:
    """Points a struct's field at an array, and keeps the array alive as long as the struct."""
    setattr(struct, field, None if array is None else array.ctypes.data)
    setattr(struct, "_array_of_" + field, array)


# ----------------------------------------------------------------------------------------------------------------------
# Latents, velocities, noise: borrowed as they lie


def tensor_type(type_name: str, name: str) -> int:
    number = TYPES.get(type_name)
    if number is None:
        raise WrongType(f"{name} has element type {type_name}; it must be float32, float64, float16 or bfloat16")
    return number


def as_dtype(value: Any) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = np.dtype(value)
    except TypeError:
        raise WrongType(f"dtype is {value!r}, which is no numpy dtype") from None
    tensor_type(dtype.name if dtype.isnative else str(dtype), "dtype")
    return dtype


def _strides(array: Array, leading: int) -> Optional[list[int]]:
    """Strides in elements if the library can read this layout: whatever for the `leading` dimensions (batch, step),
    contiguous for the others."""
    strides, contiguous = [0] * array.ndim, 1
    for i in reversed(range(array.ndim)):
        size, stride = array.shape[i], array.strides[i]
        if size == 1:  # numpy's stride of a single element means nothing
            stride = contiguous * array.itemsize
        if stride % array.itemsize or (i >= leading and stride != contiguous * array.itemsize):
            return None
        strides[i] = stride // array.itemsize
        contiguous *= size
    return strides


class Borrowed:
    """An array that the library reads or writes where it lies.

    array   the elements as numpy sees them; bfloat16 may be stored as integers
    type_name, type  of the elements, as numpy and as the library name it
    family  the framework that it came from, or that it is made for
    """

    __slots__ = ("array", "type_name", "type", "family", "native")

    def __init__(self, array: Array, type_name: str, type: int, family: Family, native: Any = None) -> None:
        self.array, self.type_name, self.type, self.family, self.native = array, type_name, type, family, native

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    def new(self, shape: Optional[tuple[int, ...]] = None) -> Borrowed:
        """Fresh memory of the same family and type."""
        array, native = self.family.empty(self.shape if shape is None else shape, self.array.dtype, self.type_name)
        return Borrowed(array, self.type_name, self.type, self.family, native)

    def new_doubles(self, shape: tuple[int, ...]) -> Borrowed:
        """Fresh float64 memory of the same family, for log-probabilities."""
        array, native = self.family.empty(shape, np.dtype(np.float64), "float64")
        return Borrowed(array, "float64", _abi.F64, self.family, native)

    def result(self) -> Any:
        """The user's array, of memory that `new` gave and the library has written."""
        return self.family.result(self.array, self.type_name, self.native)

    def at(self, index: Any) -> Borrowed:
        native = None if self.native is None else self.native[index]
        return Borrowed(self.array[index], self.type_name, self.type, self.family, native)

    def fill_nan(self) -> None:
        self.array.fill(_BFLOAT16_NAN if self.array.dtype.kind in "iu" else np.nan)

    def ready(self) -> Borrowed:
        """Waits until `array` holds the elements, where they had to be copied from a device."""
        self.family.ready()
        return self

    def tensor(self, leading: int = 1) -> _abi.Tensor:
        self.ready()
        return tensor(self.array, leading, self.type)

    def pointer(self, leading: int = 1) -> Any:
        """For an argument of type `const cgrpo_tensor *`."""
        return ctypes.byref(self.tensor(leading))


def new_like(like: Any, shape: tuple[int, ...], dtype: Any) -> Borrowed:
    """Fresh memory of the family and type of an array, or for numpy of a dtype (None = float32)."""
    if like is None:
        kind = as_dtype(np.float32 if dtype is None else dtype)
        return Borrowed(empty(shape, kind), kind.name, tensor_type(kind.name, "dtype"), NUMPY)
    if dtype is not None:
        raise InvalidArgument("like and dtype exclude each other; give one of them")
    family = _frameworks.of(like, "like")
    kind, type_name = family.kind(like, "like")
    number = tensor_type(type_name, "like")
    array, native = family.empty(shape, kind, type_name)
    return Borrowed(array, type_name, number, family, native)


def borrow(value: Any, name: str, leading: int = 1) -> Borrowed:
    """`value` itself where the library can read its layout, else a contiguous copy.

    leading: how many dimensions before those of a sample: 1 = batch, 2 = batch and step.
    """
    family = _frameworks.of(value, name)
    array, type_name = family.read(value, name)
    number = tensor_type(type_name, name)
    if array.ndim < leading:
        expected = "(B, ...)" if leading == 1 else "(B, steps, ...)"
        raise InvalidArgument(f"{name} has shape {array.shape}; it must be {expected}")
    if array.size == 0:
        raise InvalidArgument(f"{name} has shape {array.shape}; each size must be at least 1")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not array.flags.aligned or _strides(array, leading) is None:
        family.ready()
        array = np.array(array, order="C")
    return Borrowed(array, type_name, number, family)


def borrow_like(value: Any, like: Borrowed, name: str, like_name: str, leading: int = 1) -> Borrowed:
    """`borrow` of exactly the shape and device of another. The library compares only B and D."""
    other = borrow(value, name, leading)
    if other.shape != like.shape:
        raise InvalidArgument(f"{name} has shape {other.shape}; it must be {like.shape}, like {like_name}")
    same_device(other, like, name, like_name)
    return other


def same_device(other: Borrowed, like: Borrowed, name: str, like_name: str) -> None:
    if other.family.device != like.family.device:
        raise WrongType(f"{name} is on {other.family.device}; it must be on {like.family.device}, like {like_name}")


def borrow_trajectories(latents: Any, velocities: Any) -> tuple[Borrowed, Borrowed]:
    """Latents (B, n + 1, ...), or more steps, and velocities (B, n, ...)."""
    x, v = borrow(latents, "latents", 2), borrow(velocities, "velocities", 2)
    if v.shape[:1] + v.shape[2:] != x.shape[:1] + x.shape[2:] or v.shape[1] >= x.shape[1]:
        raise InvalidArgument(
            f"velocities has shape {v.shape}; for latents {x.shape} it must be (B, n, ...) with n < {x.shape[1]}"
        )
    same_device(v, x, "velocities", "latents")
    return x, v


def sizes(shape: Any, name: str = "shape") -> tuple[int, ...]:
    """A shape (B, ...) from an int or a sequence of ints."""
    items = tuple(shape) if isinstance(shape, Iterable) else (shape,)
    if not items:
        raise InvalidArgument(f"{name} is (); it must be (B, ...)")
    return tuple(integer(size, f"{name}[{i}]", 1) for i, size in enumerate(items))


def empty(shape: tuple[int, ...], dtype: Any = np.float64) -> Array:
    """A fresh numpy array; its contents are to be written."""
    return NUMPY.empty(shape, np.dtype(dtype), "")[0]


def tensor(array: Array, leading: int = 1, type: Optional[int] = None) -> _abi.Tensor:
    """The library's view of an array whose layout it can read. It keeps the array alive."""
    numbers = ctypes.c_int64 * max(array.ndim, 1)
    strides = _strides(array, leading)
    assert strides is not None
    borrowed = _abi.Tensor(
        data=array.ctypes.data,
        shape=numbers(*array.shape),
        strides=numbers(*strides),
        ndim=array.ndim,
        type=tensor_type(array.dtype.name, "array") if type is None else type,
        device=_abi.CPU,
    )
    borrowed.array = array
    return borrowed


def view(borrowed: _abi.Tensor, dtype: np.dtype[Any]) -> Array:
    """A numpy view of a tensor of the library's, valid as long as the tensor: the length of a callback."""
    shape = [borrowed.shape[i] for i in range(borrowed.ndim)]
    strides = [borrowed.strides[i] * dtype.itemsize for i in range(borrowed.ndim)] if borrowed.strides else None
    span = math.prod(shape) if strides is None else 1 + sum((n - 1) * borrowed.strides[i] for i, n in enumerate(shape))
    memory = (ctypes.c_char * (span * dtype.itemsize)).from_address(borrowed.data)
    return np.ndarray(shape, dtype, memory, strides=strides)


def assign(target: Array, value: Any, name: str, type_name: str = "") -> None:
    """Copies what a callback returned into the library's buffer. type_name: the target's, if numpy does not know it."""
    type_name = type_name or target.dtype.name
    family = _frameworks.of(value, name)
    array, given = family.read(value, name, type_name)
    family.ready()
    if array.dtype.kind not in "fiub" and not _is_bfloat16(array.dtype):
        raise WrongType(f"{name} has element type {array.dtype}; it must hold real numbers")
    if array.shape != target.shape:
        raise InvalidArgument(f"{name} has shape {array.shape}; it must be {target.shape}")
    if type_name == given == "bfloat16":  # however each of them stores it
        np.copyto(target.view(np.uint16), array.view(np.uint16))
    elif type_name == "bfloat16" and not _is_bfloat16(target.dtype):
        np.copyto(target.view(np.uint16), _rounded_to_bfloat16(array))
    else:
        np.copyto(target, _floats(array, given), casting="unsafe")


_BFLOAT16_NAN = 0x7FC0


def _floats(array: Array, type_name: str) -> Array:
    """bfloat16 that is stored as integers, as float32; other arrays as they are."""
    if type_name != "bfloat16" or _is_bfloat16(array.dtype):
        return array
    return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def _rounded_to_bfloat16(array: Array) -> Array:
    """To nearest, ties to even, as uint16."""
    values = array.astype(np.float32)
    bits = values.view(np.uint32)
    return np.where(np.isnan(values), _BFLOAT16_NAN, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
