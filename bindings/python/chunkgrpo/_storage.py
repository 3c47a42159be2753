"""The element types that latents may have, and all that differs between them.

numpy has no bfloat16. Inside this package such arrays have the dtype BFLOAT16.dtype, a field of 16 bits: the dtype
alone says what the bits are, whether they came from ml_dtypes, PyTorch, MLX or DLPack.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._generated import TYPE
from .errors import WrongType


class Storage:
    """One element type.

    name    as numpy, PyTorch and MLX have it
    number  as the library has it
    dtype   of the numpy array that carries the elements
    bits    the integers in which frameworks hand over what numpy has not; "" where numpy has the type
    """

    bits = ""

    def __init__(self, name: str, number: int, dtype: Any) -> None:
        self.name, self.number, self.dtype = name, number, np.dtype(dtype)

    def floats(self, array: NDArray[Any]) -> NDArray[Any]:
        """The elements as numbers that numpy calculates with."""
        return array

    def shown(self, array: NDArray[Any], name: str = "the result") -> NDArray[Any]:
        """The elements as a caller of numpy sees them."""
        return array

    def copy(self, target: NDArray[Any], numbers: NDArray[Any]) -> None:
        """Stores numbers of any real type, rounded."""
        with np.errstate(all="ignore"):  # too small becomes 0; too large infinity, which the library refuses
            np.copyto(target, numbers, casting="unsafe")

    def fill_nan(self, array: NDArray[Any]) -> None:
        array.fill(np.nan)


class _BFloat16(Storage):
    bits = "int16"

    def floats(self, array: NDArray[Any]) -> NDArray[Any]:
        return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)

    def shown(self, array: NDArray[Any], name: str = "the result") -> NDArray[Any]:
        try:
            import ml_dtypes  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise WrongType(f"{name} has element type bfloat16; for it, numpy needs the package ml_dtypes") from None
        return array.view(ml_dtypes.bfloat16)

    def copy(self, target: NDArray[Any], numbers: NDArray[Any]) -> None:
        """To nearest, ties to even."""
        with np.errstate(all="ignore"):
            values = numbers.astype(np.float32)
        bits = values.view(np.uint32)
        rounded = np.where(np.isnan(values), self._NAN, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)
        np.copyto(target.view(np.uint16), rounded, casting="unsafe")

    def fill_nan(self, array: NDArray[Any]) -> None:
        array.view(np.uint16).fill(self._NAN)

    _NAN = 0x7FC0


FLOAT32 = Storage("float32", TYPE["f32"], np.float32)
FLOAT64 = Storage("float64", TYPE["f64"], np.float64)
FLOAT16 = Storage("float16", TYPE["f16"], np.float16)
BFLOAT16 = _BFloat16("bfloat16", TYPE["bf16"], [("bfloat16", np.uint16)])

NAMED = {storage.name: storage for storage in (FLOAT32, FLOAT64, FLOAT16, BFLOAT16)}
CARRIED = {storage.dtype: storage for storage in NAMED.values()}


def named(type_name: str, name: str) -> Storage:
    """The storage of that name."""
    if type_name not in NAMED:
        raise WrongType(f"{name} has element type {type_name}; it must be float32, float64, float16 or bfloat16")
    return NAMED[type_name]


def of(array: NDArray[Any], name: str) -> Storage:
    """The storage of a carried array."""
    return CARRIED.get(array.dtype) or named(str(array.dtype), name)


def carried(array: NDArray[Any]) -> NDArray[Any]:
    """An array of numpy's, or of ml_dtypes' bfloat16, whose dtype is that of its storage."""
    foreign = array.dtype.kind == "V" and array.dtype.name in NAMED
    return array.view(NAMED[array.dtype.name].dtype) if foreign else array


def floats(array: NDArray[Any]) -> NDArray[Any]:
    """A carried array as numbers, whatever its element type."""
    storage = CARRIED.get(array.dtype)
    return array if storage is None else storage.floats(array)


def shown(array: NDArray[Any], name: str = "the result") -> NDArray[Any]:
    """A carried array as a caller of numpy sees it, whatever its element type."""
    storage = CARRIED.get(array.dtype)
    return array if storage is None else storage.shown(array, name)
