"""Arrays in the memory of a CUDA device: kernels read and write them where they lie, on the framework's current stream.
Nothing here waits for the device."""

from __future__ import annotations

import ctypes
import math
from typing import Any, Optional

import numpy as np

from ._borrowed import Borrowed
from ._generated import DEVICE, Tensor
from ._layouts import Placed, described, layout
from ._queues import Queue, queue_of
from ._storage import FLOAT64, Storage
from .errors import InvalidArgument, WrongType


class OnDevice(Borrowed):
    """An array on a device.

    pointer  of its first element
    strides  in bytes
    placed   how a tensor of PyTorch's lies, where that is known
    """

    __slots__ = ("pointer", "strides", "placed", "_storage")

    on_device = True

    def __init__(self, array: Any, family: Any, pointer: int, strides: tuple[int, ...], storage: Storage) -> None:
        self.array, self.family, self.native, self.layout, self.part = array, family, None, None, None
        self.pointer, self.strides, self._storage, self.shape = pointer, strides, storage, tuple(array.shape)
        self.placed: Optional[Placed] = None

    @property
    def storage(self) -> Storage:
        return self._storage

    @property
    def _as_parameter_(self) -> Any:
        """For an argument of type `double *`."""
        return ctypes.c_void_p(self.pointer)

    def new_doubles(self, shape: tuple[int, ...]) -> Borrowed:
        """Of rows (B, S) whose columns are contiguous: each is one call's result."""
        rows: Borrowed = self.family.described(self.family.fresh(shape[::-1], FLOAT64).array.T, "rows")
        return rows

    def new(self, shape: Optional[tuple[int, ...]] = None) -> Borrowed:
        if self.placed is None or shape is not None and shape != self.shape:
            return super().new(shape)
        own: Borrowed = self.family.like(self)
        return own

    def numbers(self, shape: tuple[int, ...]) -> Any:
        return self.family.fresh(shape, FLOAT64)

    def transposed(self) -> OnDevice:
        turned: OnDevice = self.family.lend(self.family.contiguous(self.array.T), "numbers")
        return turned

    def give(self, values: Any) -> Any:
        return self.family.give(values) if isinstance(values, np.ndarray) else self.family.shown(values.array)

    def result(self) -> Any:
        return self.family.shown(self.array)

    def column(self, index: int) -> Any:
        """Of rows that `new_doubles` gave: for an argument of type `double *`."""
        return ctypes.c_void_p(self.pointer + index * self.strides[1])

    def at(self, index: Any) -> Borrowed:
        part: Borrowed = self.family.lend(self.array[index], "array")
        return part

    def fill(self, number: float) -> None:
        self.family.fill(self.array, number)

    def fill_nan(self) -> None:
        self.family.fill(self.array, math.nan)

    def put(self, index: Any, other: Borrowed) -> None:
        self.array[index] = other.array

    def repeated(self, count: int, axis: int) -> Borrowed:
        copy: Borrowed = self.family.lend(self.family.repeat(self.array, count, axis), "array")
        return copy

    def again(self) -> Borrowed:
        self.family.again()
        return self

    def ready(self) -> Borrowed:
        return self

    def tensor(self, leading: int = 1) -> Tensor:
        if self.layout is None:
            self.layout = layout(self.shape, self.strides, self._storage.dtype, leading)
        view: Tensor = described(self.layout)
        view.data, view.device = self.pointer, DEVICE["cuda"]
        view.cuda = self.family.queue(self.shape, leading)
        return view


class Device:
    """What the frameworks with arrays on a device have in common. One object serves the arrays of one call.

    framework  its name
    index      the number of the device
    """

    on_device = True
    rollouts = True
    """Whether its arrays can be written step by step, as a rollout does; else one is made on the CPU."""
    framework: str
    index: int
    device: str
    _queue: Optional[Queue] = None
    _seed: Optional[OnDevice] = None
    _sample_ids: Optional[OnDevice] = None

    def queue(self, shape: tuple[int, ...], leading: int) -> Any:
        """For the field `cuda` of a tensor of this call."""
        if self._queue is None:
            queue = queue_of(self, shape, leading)
            if self._seed is not None or self._sample_ids is not None:
                queue = queue.with_noise(self._seed, self._sample_ids)
            self._queue = queue
        return self._queue.pointer

    def again(self) -> None:
        """Before another call with the same arrays: the current stream may have changed."""
        self._queue = None

    def lend(self, value: Any, name: str, leading: int = 1) -> OnDevice:
        """An array of this framework, where it lies if the library can read its layout there."""
        borrowed = self.described(value, name)
        shape = borrowed.shape
        borrowed.layout = layout(shape, borrowed.strides, borrowed.storage.dtype, leading)
        return borrowed

    def borrow(self, value: Any, name: str, leading: int) -> OnDevice:
        """`lend` of a caller's array, checked; a contiguous copy where its layout cannot be read."""
        value = self.checked(value, name)
        borrowed = self.lend(value, name, leading)
        if borrowed.layout is None and len(borrowed.shape) > leading:
            borrowed = self.lend(self.contiguous(value), name, leading)
        return borrowed

    def doubles(self, value: Any, name: str, shape: tuple[int, ...]) -> OnDevice:
        """Numbers of any real type as contiguous float64 on this device."""
        native = self.as_doubles(value, name)
        if tuple(native.shape) != shape:
            raise InvalidArgument(f"{name} has shape {tuple(native.shape)}; it must be {shape}")
        return self.described(native, name)

    def draw(self, seed: Any, sample_ids: Any, batch: int) -> tuple[Any, Any]:
        """Keeps a seed or sample ids that lie on the device for the kernels to read; gives back those that do not."""
        if self.owns(seed):
            self._seed = self._words(seed, "seed")
            if math.prod(self._seed.shape) != 1:
                raise InvalidArgument(f"seed has shape {self._seed.shape}; it must be one number")
            seed = 0
        if self.owns(sample_ids):
            self._sample_ids = self._words(sample_ids, "sample_ids")
            if self._sample_ids.shape != (batch,):
                raise InvalidArgument(f"sample_ids has shape {self._sample_ids.shape}; it must be ({batch},)")
            sample_ids = None
        return seed, sample_ids

    def _words(self, value: Any, name: str) -> OnDevice:
        kind = str(value.dtype).rpartition(".")[2]
        if kind not in ("int64", "uint64"):
            raise WrongType(f"{name} has element type {kind}; on a device it must be int64 or uint64")
        native = self.contiguous(value)
        return OnDevice(native, self, self.pointer(native), (), FLOAT64)

    def shown(self, native: Any) -> Any:
        """The user's array of one that was made here."""
        return native

    # What a framework adds:

    def described(self, value: Any, name: str) -> OnDevice:
        raise NotImplementedError

    def checked(self, value: Any, name: str) -> Any:
        """The array, refused where it cannot be read."""
        raise NotImplementedError

    def contiguous(self, value: Any) -> Any:
        raise NotImplementedError

    def as_doubles(self, value: Any, name: str) -> Any:
        raise NotImplementedError

    def owns(self, value: Any) -> bool:
        """Whether a value is an array of this framework on this device."""
        raise NotImplementedError

    def pointer(self, native: Any) -> int:
        raise NotImplementedError

    def stream(self) -> int:
        raise NotImplementedError
