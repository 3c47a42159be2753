"""Arrays in the memory of a CUDA device: kernels read and write them where they lie, on the framework's current stream.
Nothing here waits for the device."""

from __future__ import annotations

import ctypes
import functools
import math
import sys
from typing import Any, Optional

import numpy as np

from ._borrowed import Borrowed
from ._frameworks import CuPy, Torch
from ._generated import DEVICE, Tensor
from ._layouts import Placed, described, layout
from ._queues import Queue, capture_of, queue_of
from ._staging import Staging
from ._storage import FLOAT64, Storage, named
from ._torch_types import types_of_torch
from .errors import InvalidArgument, OutOfMemory, WrongType


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
        rows = self.family.fresh(shape[::-1], FLOAT64)
        columns: Borrowed = self.family.lend(rows.array.T, "rows")
        return columns

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

    def ready(self) -> Borrowed:
        return self

    def tensor(self, leading: int = 1) -> Tensor:
        if self.layout is None:
            self.layout = layout(self.shape, self.strides, self._storage.dtype, leading)
        view: Tensor = described(self.layout)
        view.data, view.device = self.pointer, DEVICE["cuda"]
        view.cuda = self.family.queue(self.shape, leading)
        return view


class _Device:
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


@functools.lru_cache(maxsize=64)
def has_kernels(index: int) -> bool:
    """Whether the library's kernels run on a device: those before Turing get copies to the CPU."""
    return bool(sys.modules["torch"].cuda.get_device_capability(index) >= (7, 5))


@functools.lru_cache(maxsize=64)
def _named(device: Any) -> Any:
    return sys.modules["torch"], str(device), types_of_torch(), *types_of_torch()[:2]


class TorchCuda(_Device, Torch):
    """Tensors of a CUDA device."""

    framework = "torch"

    def __init__(self, device: Any) -> None:
        self.torch, self.device, self._known, self._types, self._bits = _named(device)
        self._device, self.index = device, device.index
        self._copies: Any = None

    @property
    def _staging(self) -> Any:
        if self._copies is None:
            self._copies = Staging(self.torch, self._device)
        return self._copies

    def lent(self, value: Any, leading: int) -> Optional[Borrowed]:
        if type(value) not in self._known.plain or value.device != self._device:
            return None
        placed = self._known.place(value, leading)
        return None if placed is None else self._at(value, placed)

    def stream(self) -> int:
        stream: int = self.torch._C._cuda_getCurrentRawStream(self.index)
        return stream

    def wait(self) -> None:
        self.torch.cuda.current_stream(self._device).synchronize()

    def capture(self) -> int:
        return capture_of(self.stream()) if self.torch.cuda.is_current_stream_capturing() else 0

    def pointer(self, native: Any) -> int:
        pointer: int = native.data_ptr()
        return pointer

    def owns(self, value: Any) -> bool:
        return isinstance(value, self.torch.Tensor) and value.device == self._device

    def described(self, value: Any, name: str) -> OnDevice:
        storage = self._known.storages.get(value.dtype) or self.storage(value, name)
        size = storage.dtype.itemsize
        strides = tuple([step * size for step in value.stride()])
        try:
            return OnDevice(value, self, value.data_ptr(), strides, storage)
        except RuntimeError as error:
            raise self._unreadable(value, name, error) from None

    def checked(self, value: Any, name: str) -> Any:
        value = self._constant(value, name)
        if value.layout is not self.torch.strided or value.is_quantized:
            raise self._unreadable(value, name, TypeError())
        if value.is_neg() or value.is_conj():
            value = value.resolve_conj().resolve_neg()
        return value

    def contiguous(self, value: Any) -> Any:
        return value.contiguous()

    def as_doubles(self, value: Any, name: str) -> Any:
        if not isinstance(value, self.torch.Tensor):
            from . import _arrays

            return Torch.give(self, _arrays.doubles(value, name))
        if not value.is_floating_point() and (value.is_complex() or value.is_quantized):
            raise WrongType(f"{name} has element type {value.dtype}; it must hold real numbers")
        value = self._constant(value, name)
        return value.to(self._device, self.torch.float64, non_blocking=True).contiguous()

    def _at(self, value: Any, placed: Placed) -> OnDevice:
        borrowed = OnDevice(value, self, value.data_ptr(), (), placed.storage)
        borrowed.placed, borrowed.layout = placed, placed.layout
        return borrowed

    def like(self, other: Any) -> OnDevice:
        native = self._empty_like(other.array, other.shape)
        return self._at(native, other.placed) if other.placed.is_dense else self.described(native, "result")

    def fresh(self, shape: tuple[int, ...], storage: Storage) -> OnDevice:
        try:
            native = self._outside_inference(
                self.torch.empty, shape, dtype=self._types[storage.dtype], device=self._device
            )
        except RuntimeError as error:
            raise OutOfMemory(f"no memory for a tensor of shape {shape} on {self.device}: {error}") from None
        return self.described(native, "result")

    def zeros(self, count: int) -> Any:
        return self._outside_inference(self.torch.zeros, count, dtype=self.torch.int64, device=self._device)

    def fill(self, native: Any, number: float) -> None:
        native.fill_(number)

    def repeat(self, native: Any, count: int, axis: int) -> Any:
        return native.repeat_interleave(count, axis)

    def velocity(self, value: Any, like: OnDevice) -> OnDevice:
        """What a model returned, as a kernel takes it."""
        value = self.torch.as_tensor(value).detach()
        if value.is_complex():
            raise WrongType(f"the velocity returned has element type {value.dtype}; it must hold real numbers")
        if tuple(value.shape) != like.shape:
            raise InvalidArgument(f"the velocity returned has shape {tuple(value.shape)}; it must be {like.shape}")
        kind = self._types[like.storage.dtype]
        if kind is self.torch.float32 and value.dtype in (self.torch.bfloat16, self.torch.float16):
            kind = value.dtype  # which kernels take beside float32
        value = value.to(self._device, kind, non_blocking=True)
        return self.borrow(value, "the velocity returned", 1)


class CuPyCuda(_Device, CuPy):
    """Arrays of CuPy."""

    framework = "cupy"

    def __init__(self, value: Any) -> None:
        super().__init__(value)
        self.index = value.device.id

    def stream(self) -> int:
        with self._device:
            stream: int = self.cupy.cuda.get_current_stream().ptr
        return stream

    def wait(self) -> None:
        with self._device:
            self.cupy.cuda.get_current_stream().synchronize()

    def capture(self) -> int:
        with self._device:
            stream = self.cupy.cuda.get_current_stream()
            return capture_of(stream.ptr) if stream.is_capturing() else 0

    def pointer(self, native: Any) -> int:
        pointer: int = native.data.ptr
        return pointer

    def owns(self, value: Any) -> bool:
        return isinstance(value, self.cupy.ndarray) and value.device == self._device

    def described(self, value: Any, name: str) -> OnDevice:
        return OnDevice(value, self, value.data.ptr, tuple(value.strides), named(value.dtype.name, name))

    def checked(self, value: Any, name: str) -> Any:
        return value

    def contiguous(self, value: Any) -> Any:
        with self._device:
            return self.cupy.ascontiguousarray(value)

    def as_doubles(self, value: Any, name: str) -> Any:
        if not isinstance(value, self.cupy.ndarray):
            from . import _arrays

            value = _arrays.doubles(value, name)
        with self._device:
            return self.cupy.ascontiguousarray(self.cupy.asarray(value), dtype=np.float64)  # which takes its own alone

    def fresh(self, shape: tuple[int, ...], storage: Storage) -> OnDevice:
        with self._device:
            return self.described(self.cupy.empty(shape, storage.shown(np.empty(0, storage.dtype)).dtype), "result")

    def zeros(self, count: int) -> Any:
        with self._device:
            return self.cupy.zeros(count, np.int64)

    def fill(self, native: Any, number: float) -> None:
        native.fill(number)

    def repeat(self, native: Any, count: int, axis: int) -> Any:
        with self._device:
            return self.cupy.repeat(native, count, axis)

    def velocity(self, value: Any, like: OnDevice) -> OnDevice:
        with self._device:
            value = self.cupy.asarray(value)
            if value.dtype.kind not in "fiub" and value.dtype.name != "bfloat16":
                raise WrongType(f"the velocity returned has element type {value.dtype}; it must hold real numbers")
            if value.shape != like.shape:
                raise InvalidArgument(f"the velocity returned has shape {value.shape}; it must be {like.shape}")
            value = value.astype(like.array.dtype, copy=False)
        return self.borrow(value, "the velocity returned", 1)
