"""Reading an array that some framework exports by DLPack, where it lies."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, c_int32, c_int64, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p, py_object
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ._storage import BFLOAT16
from .errors import InvalidArgument, WrongType

# dlpack.h: what a capsule points at, which its name tells, whatever version was asked for.

_CPU, _PINNED = 1, 3
_BFLOAT = 4
_KINDS = {0: "i", 1: "u", 2: "f", 6: "?"}


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


class _Versioned(ctypes.Structure):
    _fields_ = [
        ("major", c_uint32),
        ("minor", c_uint32),
        ("context", c_void_p),
        ("deleter", c_void_p),
        ("flags", c_uint64),
        ("tensor", _Tensor),
    ]


_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, py_object, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_pointer = ctypes.PYFUNCTYPE(c_void_p, py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))


def read(value: Any, name: str) -> NDArray[Any]:
    """A read-only numpy view of the memory, which keeps it alive."""
    try:
        capsule = value.__dlpack__(max_version=(1, 0))
    except TypeError:
        capsule = value.__dlpack__()
    if _is_valid(capsule, b"dltensor_versioned"):
        managed = _Versioned.from_address(_pointer(capsule, b"dltensor_versioned"))
        if managed.major != 1:
            raise WrongType(f"{name} comes by DLPack {managed.major}; only version 1 and those before it are known")
        tensor = managed.tensor
    else:
        tensor = _Tensor.from_address(_pointer(capsule, b"dltensor"))
    if tensor.device_type not in (_CPU, _PINNED):
        raise WrongType(f"{name} lies on DLPack device type {tensor.device_type}; only memory of the CPU can be read")
    bfloat = tensor.code == _BFLOAT and tensor.bits == 16
    if tensor.lanes != 1 or tensor.bits % 8 or not (bfloat or tensor.code in _KINDS):
        raise WrongType(f"{name} has an element type (DLPack {tensor.code}, {tensor.bits} bits) that numpy has not")
    kind = "" if bfloat else _KINDS[tensor.code]
    try:
        dtype = BFLOAT16.dtype if bfloat else np.dtype(kind if kind == "?" else f"{kind}{tensor.bits // 8}")
    except TypeError:
        raise WrongType(f"{name} has elements of {tensor.bits} bits, which numpy has not") from None
    shape = [tensor.shape[i] for i in range(tensor.ndim)]
    array: NDArray[Any]
    if 0 in shape:
        array = np.empty(shape, dtype)
    elif not tensor.data:
        raise InvalidArgument(f"{name} is exported by DLPack without memory")
    else:
        strides = None
        low = high = 0
        if tensor.strides:
            strides = [tensor.strides[i] for i in range(tensor.ndim)]
            ends = [(size - 1) * stride for size, stride in zip(shape, strides)]
            low, high = sum(end for end in ends if end < 0), sum(end for end in ends if end > 0)
        else:
            high = int(np.prod(shape)) - 1
        first = tensor.data + tensor.byte_offset + low * dtype.itemsize
        memory = (ctypes.c_char * ((high - low + 1) * dtype.itemsize)).from_address(first)
        memory.capsule = capsule  # type: ignore[attr-defined]  # whose own destructor releases the memory
        steps = None if strides is None else [stride * dtype.itemsize for stride in strides]
        array = np.ndarray(shape, dtype, cast(Any, memory), -low * dtype.itemsize, steps)
    array.flags.writeable = False
    return array
