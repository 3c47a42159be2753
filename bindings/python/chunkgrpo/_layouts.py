"""The library's descriptor of arrays: shape, strides and element type, without an address."""

from __future__ import annotations

import ctypes
import functools
from typing import Any

import numpy as np

from ._generated import DEVICE, Tensor
from ._storage import CARRIED


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
