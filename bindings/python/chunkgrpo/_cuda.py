"""The frameworks whose arrays may lie in the memory of a CUDA device: PyTorch and CuPy."""

from __future__ import annotations

import functools
import sys
from typing import Any, Optional

import numpy as np

from ._borrowed import Borrowed
from ._frameworks import CuPy, Torch
from ._layouts import Placed
from ._on_device import Device, OnDevice
from ._queues import capture_of
from ._staging import Staging
from ._storage import Storage, named
from ._torch_types import types_of_torch
from .errors import InvalidArgument, OutOfMemory, WrongType


@functools.lru_cache(maxsize=64)
def has_kernels(index: int) -> bool:
    """Whether the library's kernels run on a device: those before Turing get copies to the CPU. So do AMD's, which PyTorch
    calls CUDA devices too."""
    torch: Any = sys.modules["torch"]
    return torch.version.hip is None and bool(torch.cuda.get_device_capability(index) >= (7, 5))


@functools.lru_cache(maxsize=64)
def _named(device: Any) -> Any:
    return sys.modules["torch"], str(device), types_of_torch(), *types_of_torch()[:2]


class TorchCuda(Device, Torch):
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

    def lent(self, value: Any, leading: int) -> Optional[OnDevice]:
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
        lent = self.lent(value, 1)
        if lent is not None and lent.shape == like.shape and lent.storage is like.storage:
            return lent
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


class CuPyCuda(Device, CuPy):
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
