"""An array that the library reads or writes where it lies."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
from numpy.typing import NDArray

from ._generated import Tensor
from ._layouts import Placed, described, layout
from ._library import address
from ._storage import CARRIED, FLOAT64, Storage

if TYPE_CHECKING:
    from ._family import Family


class Borrowed:
    """One in memory of the CPU; _on_device.py has those in memory of a device.

    array    the elements as numpy carries them (_storage.py); on a device, the framework's own array
    family   the framework that it came from, or that it is made for
    native   of memory that `new` gave: the framework's own array
    shape    of the array
    layout   the library's descriptor, where it is known
    part     which part of its samples it is (_part.Taken), where it is not all
    """

    __slots__ = ("array", "family", "native", "layout", "part", "shape")

    family: Any
    on_device = False

    def __init__(self, array: Any, family: Family, native: Any = None, layout: Any = None, part: Any = None) -> None:
        self.array, self.family, self.native, self.layout, self.part = array, family, native, layout, part
        self.shape: tuple[int, ...] = array.shape

    @property
    def storage(self) -> Storage:
        return CARRIED[self.array.dtype]

    def new(self, shape: Optional[tuple[int, ...]] = None) -> Borrowed:
        """Fresh memory of the same family and type."""
        return fresh(self.family, self.shape if shape is None else shape, self.storage, self.part)

    def new_doubles(self, shape: tuple[int, ...]) -> Borrowed:
        """Fresh float64 memory of the same family, of rows for a trajectory."""
        return fresh(self.family, shape, FLOAT64)

    def numbers(self, shape: tuple[int, ...]) -> Any:
        """Fresh float64 numbers that the library writes beside this array, for `give`: on a device, in its memory."""
        return np.empty(shape)

    def give(self, values: Any) -> Any:
        """What `numbers` gave, such as log-probabilities, as the user's array of the same family."""
        return self.family.give(values)

    def as_numbers(self) -> Any:
        """Of contiguous float64 elements, for an argument of type `const double *`."""
        return self if self.on_device else self.array

    def result(self) -> Any:
        """The user's array, of memory that `new` gave and the library has written."""
        return self.family.result(self.array, self.native)

    def at(self, index: Any) -> Borrowed:
        native = None if self.native is None else self.native[index]
        return Borrowed(self.array[index], self.family, native, None, self.part)

    def fill(self, number: float) -> None:
        self.array.fill(number)

    def fill_nan(self) -> None:
        self.storage.fill_nan(self.array)

    def put(self, index: Any, other: Borrowed) -> None:
        """Copies another's elements."""
        self.array[index] = other.ready().array

    def repeated(self, count: int, axis: int) -> Borrowed:
        """A copy that has each entry along an axis `count` times."""
        shape = tuple(size * count if i == axis else size for i, size in enumerate(self.shape))
        copy = self.new(shape)
        copy.array[...] = np.repeat(self.ready().array, count, axis=axis)
        return copy

    def again(self) -> Borrowed:
        """For another call."""
        return self

    def ready(self) -> Borrowed:
        """Waits until `array` holds the elements, where they had to be copied from a device."""
        self.family.ready()
        return self

    def tensor(self, leading: int = 1) -> Tensor:
        """For an argument of type `const cgrpo_tensor *`, valid as long as this is."""
        self.family.ready()
        array: NDArray[Any] = self.array
        if self.layout is None:
            self.layout = layout(array.shape, array.strides, array.dtype, leading)
        view: Tensor = described(self.layout)
        view.data = address(array)
        if self.part is not None:
            view.part = ctypes.addressof(self.part.struct)
        return view


class OfTorch(Borrowed):
    """A tensor of PyTorch's in memory of the CPU. numpy's view of it is made where somebody asks for it.

    native   the tensor, the caller's or one that `new` gave
    placed   how it lies
    pointer  of its first element
    """

    __slots__ = ("placed", "pointer")

    def __init__(self, native: Any, family: Family, placed: Placed, pointer: int, part: Any = None) -> None:
        self.native, self.family, self.placed, self.pointer, self.part = native, family, placed, pointer, part
        self.layout, self.shape = placed.layout, placed.shape

    @property
    def array(self) -> Any:
        return self.family.carried(self.native.detach())

    @property
    def storage(self) -> Storage:
        return self.placed.storage

    @property
    def _as_parameter_(self) -> Any:
        """For an argument of type `double *`."""
        return ctypes.c_void_p(self.pointer)

    def as_numbers(self) -> Any:
        return self

    def transposed(self) -> Any:
        return np.ascontiguousarray(self.array.T)

    def new(self, shape: Optional[tuple[int, ...]] = None) -> Borrowed:
        if shape is not None and shape != self.shape:
            return fresh(self.family, shape, self.storage, self.part)
        own: Borrowed = self.family.like(self)
        return own

    def result(self) -> Any:
        return self.native

    def tensor(self, leading: int = 1) -> Tensor:
        view: Tensor = described(self.layout)
        view.data = self.pointer
        if self.part is not None:
            view.part = ctypes.addressof(self.part.struct)
        return view


def fresh(family: Family, shape: tuple[int, ...], storage: Storage, part: Any = None) -> Borrowed:
    """Memory that the library writes."""
    if family.on_device:
        on_device: Any = family
        borrowed: Borrowed = on_device.fresh(shape, storage)
        return borrowed
    array, native = family.empty(shape, storage.dtype)
    return Borrowed(array, family, native, None, part)


def row(numbers: Any, index: int) -> Any:
    """A row of what `Borrowed.numbers` gave."""
    return numbers[index] if isinstance(numbers, np.ndarray) else numbers.at(index)


def transposed(numbers: Any) -> Any:
    """A matrix of numbers with rows and columns swapped, contiguous."""
    return np.ascontiguousarray(numbers.T) if isinstance(numbers, np.ndarray) else numbers.transposed()
