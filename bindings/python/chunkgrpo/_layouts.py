"""The library's descriptor of arrays: shape, strides and element type, without an address."""

from __future__ import annotations

import ctypes
import functools
import math
from typing import Any, NamedTuple, Optional

import numpy as np

from ._generated import DEVICE, Tensor
from ._storage import CARRIED, Storage


@functools.lru_cache(maxsize=1024)
def layout(shape: tuple[int, ...], steps: tuple[int, ...], dtype: np.dtype[Any], leading: int) -> Any:
    """Of arrays with strides `steps` in bytes; None if the library cannot read them: it takes any strides for the
    `leading` dimensions (batch, step), and contiguous elements in the others."""
    if dtype not in CARRIED or len(shape) < leading:
        return None
    strides, contiguous = [0] * len(shape), 1
    for i in reversed(range(len(shape))):
        # numpy's stride of a single element means nothing.
        step = contiguous * dtype.itemsize if shape[i] == 1 else steps[i]
        if step % dtype.itemsize or (i >= leading and step != contiguous * dtype.itemsize):
            return None
        strides[i] = step // dtype.itemsize
        contiguous *= shape[i]
    numbers = ctypes.c_int64 * max(len(shape), 1)
    memory = numbers(*shape), numbers(*strides)
    described = Tensor(None, *map(ctypes.addressof, memory), len(shape), CARRIED[dtype].number, DEVICE["cpu"])
    described.memory = memory
    return described


described = Tensor.from_buffer_copy
"""A copy of a descriptor, to be given an address."""


@functools.lru_cache(maxsize=1024)
def lent(shape: tuple[int, ...], steps: tuple[int, ...], dtype: np.dtype[Any], leading: int) -> Any:
    """`layout` of a caller's array: None where it must be looked at closely, to be copied or refused."""
    return layout(shape, steps, dtype, leading) if len(shape) > leading and 0 not in shape else None


class Placed(NamedTuple):
    """How a tensor of PyTorch's lies, all but where."""

    layout: Any
    """The library's descriptor."""
    shape: tuple[int, ...]
    storage: Storage
    extent: int
    """Bytes from its first element to the end of its last one."""
    is_dense: bool


@functools.lru_cache(maxsize=1024)
def placed(shape: tuple[int, ...], strides: tuple[int, ...], storage: Storage, leading: int) -> Optional[Placed]:
    """Of strides in elements; None as `lent`."""
    size = storage.dtype.itemsize
    described = lent(tuple(shape), tuple([step * size for step in strides]), storage.dtype, leading)
    if described is None:
        return None
    extent = 1 + sum((count - 1) * step for count, step in zip(shape, strides))
    dense = tuple([math.prod(shape[i + 1 :]) for i in range(len(shape))])
    return Placed(described, tuple(shape), storage, extent * size, tuple(strides) == dense)
