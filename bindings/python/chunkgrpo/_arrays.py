"""numpy arrays and the library's tensors, and the checks that ctypes would not make."""

from __future__ import annotations

import ctypes
import math
import operator
from collections.abc import Iterable
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from . import _abi
from .errors import InvalidArgument, OutOfMemory, WrongType

Array = NDArray[Any]

# By name, so that ml_dtypes' bfloat16 is known without importing it.
_TYPES = {"float32": _abi.F32, "float64": _abi.F64, "float16": _abi.F16, "bfloat16": _abi.BF16}

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


def _read(value: Any, name: str) -> Array:
    try:
        return np.asarray(value)
    except (TypeError, ValueError) as error:
        raise InvalidArgument(f"{name} cannot be read as an array: {error}") from None


def _is_bfloat16(dtype: np.dtype[Any]) -> bool:
    return dtype.name == "bfloat16" and dtype.itemsize == 2


def _converted(value: Any, name: str, dtype: Any, shape: Optional[tuple[int, ...]]) -> Array:
    """Real numbers of any type as a contiguous array. Never a view that could be written to: callers only read it."""
    array = _read(value, name)
    if array.dtype.kind not in "fiub" and not _is_bfloat16(array.dtype):
        raise WrongType(f"{name} has element type {array.dtype}; it must hold real numbers")
    if shape is not None and array.shape != shape:
        raise InvalidArgument(f"{name} has shape {array.shape}; it must be {shape}")
    return np.ascontiguousarray(array, dtype).reshape(array.shape)


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
    array = value if isinstance(value, np.ndarray) else np.asarray(value, object)
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


def tensor_type(dtype: Any, name: str) -> int:
    number = _TYPES.get(dtype.name)
    if number is None or not dtype.isnative:
        raise WrongType(f"{name} has element type {dtype}; it must be float32, float64, float16 or bfloat16")
    return number


def as_dtype(value: Any) -> np.dtype[Any]:
    try:
        dtype: np.dtype[Any] = np.dtype(value)
    except TypeError:
        raise WrongType(f"dtype is {value!r}, which is no numpy dtype") from None
    tensor_type(dtype, "dtype")
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


def latents(value: Any, name: str, leading: int = 1) -> Array:
    """An array that the library can borrow: `value` itself where its layout allows, else a contiguous copy.

    leading: how many dimensions before those of a sample: 1 = batch, 2 = batch and step.
    """
    array = _read(value, name)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    tensor_type(array.dtype, name)
    if array.ndim < leading:
        expected = "(B, ...)" if leading == 1 else "(B, steps, ...)"
        raise InvalidArgument(f"{name} has shape {array.shape}; it must be {expected}")
    if array.size == 0:
        raise InvalidArgument(f"{name} has shape {array.shape}; each size must be at least 1")
    if not array.flags.aligned or _strides(array, leading) is None:
        array = np.array(array, order="C")
    return array


def latents_like(value: Any, like: Array, name: str, like_name: str) -> Array:
    """`latents` of exactly the shape of others. The library compares only B and D."""
    array = latents(value, name)
    if array.shape != like.shape:
        raise InvalidArgument(f"{name} has shape {array.shape}; it must be {like.shape}, like {like_name}")
    return array


def sizes(shape: Any, name: str = "shape") -> tuple[int, ...]:
    """A shape (B, ...) from an int or a sequence of ints."""
    items = tuple(shape) if isinstance(shape, Iterable) else (shape,)
    if not items:
        raise InvalidArgument(f"{name} is (); it must be (B, ...)")
    return tuple(integer(size, f"{name}[{i}]", 1) for i, size in enumerate(items))


def empty(shape: tuple[int, ...], dtype: Any = np.float64) -> Array:
    """A fresh array; its contents are to be written."""
    try:
        return np.empty(shape, dtype)
    except MemoryError as error:
        raise OutOfMemory(f"no memory for an array of shape {shape}: {error}") from None
    except ValueError as error:
        raise InvalidArgument(f"no array can have shape {shape}: {error}") from None


def tensor(array: Array, leading: int = 1) -> _abi.Tensor:
    """The library's view of an array that `latents` or `empty` gave. It keeps the array alive."""
    numbers = ctypes.c_int64 * max(array.ndim, 1)
    strides = _strides(array, leading)
    assert strides is not None
    borrowed = _abi.Tensor(
        data=array.ctypes.data,
        shape=numbers(*array.shape),
        strides=numbers(*strides),
        ndim=array.ndim,
        type=tensor_type(array.dtype, "array"),
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


def assign(target: Array, value: Any, name: str) -> None:
    """Copies what a callback returned into the library's buffer."""
    array = _read(value, name)
    if array.dtype.kind not in "fiub" and not _is_bfloat16(array.dtype):
        raise WrongType(f"{name} has element type {array.dtype}; it must hold real numbers")
    if array.shape != target.shape:
        raise InvalidArgument(f"{name} has shape {array.shape}; it must be {target.shape}")
    np.copyto(target, array, casting="unsafe")
