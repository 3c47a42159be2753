"""The arrays of numpy, PyTorch, JAX, MLX, CuPy and whatever else exports DLPack: how they are read, and how results of
the same kind are made on the same device. None of the frameworks is imported here: an array that comes in has done it.
"""

from __future__ import annotations

import functools
import sys
from functools import partial
from typing import Any, Callable, Optional, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from . import _dlpack, _status, _storage
from ._borrowed import Borrowed, OfTorch
from ._family import Family, Numpy
from ._staging import staging
from ._storage import CARRIED, FLOAT64, NAMED, Storage
from ._torch_types import types_of_torch
from .errors import InvalidArgument, OutOfMemory, WrongType

Function = TypeVar("Function", bound=Callable[..., Any])


def not_compiled(function: Function) -> Function:
    """Keeps torch.compile out, which would trace numpy's part of a call and lose the library's: it breaks the graph."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        torch = sys.modules.get("torch")
        if torch is not None and torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return cast(Function, call)


_DATA = ("rewards", "scores", "old_log_probs", "reference_log_probs", "advantages", "weights", "mask")


class Torch(Family):
    """Tensors of one device."""

    def __init__(self, device: Any) -> None:
        self.torch: Any = sys.modules["torch"]
        self.device = str(device)
        self._device = device
        self._staging: Any = staging(self.torch, device)
        self._known = types_of_torch()
        self._types, self._bits = self._known.types, self._known.bits

    def lent(self, value: Any, leading: int) -> Optional[Borrowed]:
        if self.device != "cpu" or type(value) not in self._known.plain or not value.is_cpu:
            return None
        placed = self._known.place(value, leading)
        pointer = 0 if placed is None else value.data_ptr()
        return OfTorch(value, self, placed, pointer) if placed is not None and pointer else None

    def like(self, other: OfTorch) -> Borrowed:
        """Fresh memory of the shape and type of a tensor."""
        native = self._empty_like(other.native, other.shape)
        if other.placed.is_dense:
            return OfTorch(native, self, other.placed, native.data_ptr(), other.part)
        return Borrowed(self.carried(native), self, native, None, other.part)

    def _empty_like(self, tensor: Any, shape: tuple[int, ...]) -> Any:
        try:
            dense = self.torch.contiguous_format
            return self._outside_inference(self.torch.empty_like, tensor, memory_format=dense)
        except RuntimeError as error:
            raise OutOfMemory(f"no memory for a tensor of shape {shape} on {self.device}: {error}") from None

    def read(self, value: Any, name: str, target: Optional[Storage] = None) -> NDArray[Any]:
        try:
            value = self._constant(value, name, target)
            if target is not None and not value.is_complex():
                value = value.to(getattr(self.torch, target.name))
            return self.carried(value if self._staging is None else self._staging.down(value))
        except (RuntimeError, TypeError) as error:
            if value.is_neg() or value.is_conj():  # which numpy cannot read, and says so
                return self.read(value.resolve_conj().resolve_neg(), name, target)
            raise self._unreadable(value, name, error) from None

    def _constant(self, value: Any, name: str, target: Optional[Storage] = None) -> Any:
        """The tensor without its graph, refused where one wants a gradient of it or its memory is gone."""
        if value.requires_grad:
            if target is None and self.torch.is_grad_enabled():
                hint = ", or see what chunkgrpo.torch has" if name not in _DATA else ""
                raise InvalidArgument(f"{name} requires grad, which is not passed on here; detach() it{hint}")
            value = value.detach()
        if self.torch._is_functional_tensor(value):
            raise self._unreadable(value, name, TypeError("it stands for another one in a transform"))
        try:
            extent = value.numel()
            if extent and not value.is_contiguous():
                extent = 1 + sum((size - 1) * stride for size, stride in zip(value.shape, value.stride()))
            if extent and value.untyped_storage().nbytes() < (value.storage_offset() + extent) * value.element_size():
                raise InvalidArgument(f"{name} has lost its memory: its storage was freed or made smaller")
        except (RuntimeError, TypeError) as error:
            raise self._unreadable(value, name, error) from None
        return value

    def _unreadable(self, value: Any, name: str, error: Exception) -> WrongType:
        if value.layout is not self.torch.strided:
            return WrongType(f"{name} is a tensor of layout {value.layout}; it must be dense")
        if value.is_meta:
            return WrongType(f"{name} is on the meta device and has no elements")
        if value.is_quantized:
            return WrongType(f"{name} is quantised ({value.dtype}); dequantize() it")
        # functorch's, fake and distributed tensors have no memory to read
        return WrongType(f"{name} is a {type(value).__name__} that cannot be read: {error}")

    def storage(self, value: Any, name: str) -> Storage:
        return _storage.named(str(value.dtype).rpartition(".")[2], name)

    def carried(self, tensor: Any) -> NDArray[Any]:
        integers, dtype = self._bits.get(tensor.dtype, (None, None))
        array: NDArray[Any] = tensor.numpy() if integers is None else tensor.view(integers).numpy().view(dtype)
        return array

    def ready(self) -> None:
        if self._staging is not None:
            self._staging.wait()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], Any]:
        make = partial(self.torch.empty, device="cpu") if self._staging is None else self._staging.empty
        try:
            native = self._outside_inference(make, shape, dtype=self._types[dtype])
        except RuntimeError as error:
            raise OutOfMemory(f"no memory for a tensor of shape {shape}: {error}") from None
        return self.carried(native), native

    def result(self, array: NDArray[Any], native: Any) -> Any:
        return native if self._staging is None else self._outside_inference(self._staging.up, native)

    def give(self, array: NDArray[Any]) -> Any:
        tensor = self._outside_inference(self.torch.from_numpy, array)
        return tensor if self._staging is None else self._outside_inference(self._staging.send, tensor)

    def _outside_inference(self, make: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """A tensor that autograd may save: made as if there were no inference mode."""
        if not self.torch.is_inference_mode_enabled():
            return make(*arguments, **options)
        with self.torch.inference_mode(False):
            return make(*arguments, **options)

    def run(self, velocity: Callable[..., Any], latents: Any, *arguments: Any) -> Any:
        version = None if latents.is_inference() else latents._version
        with self.torch.no_grad():
            value = velocity(latents, *arguments)
        if version is not None and latents._version != version:
            raise InvalidArgument("the velocity has written to its latents; it must leave them as they are")
        return value


class _Jax(Family):
    """JAX arrays are immutable, and on the CPU may share memory with numpy's: never written to, and results are copies.
    Without jax_enable_x64 there is no float64: log-probabilities become float32."""

    def __init__(self, value: Any) -> None:
        devices = list(value.devices())
        self._device = devices[0] if len(devices) == 1 else None
        self.device = "cpu" if self._device is None or self._device.platform == "cpu" else str(self._device)

    def read(self, value: Any, name: str, target: Optional[Storage] = None) -> NDArray[Any]:
        return _storage.carried(np.asarray(value))

    def result(self, array: NDArray[Any], native: Any) -> Any:
        return sys.modules["jax"].numpy.array(_storage.shown(array), copy=True, device=self._device)


class _MLX(Family):
    """MLX has float64 on the CPU alone: where another device is the default, log-probabilities are float32."""

    def __init__(self) -> None:
        self._mlx: Any = sys.modules["mlx.core"]

    def read(self, value: Any, name: str, target: Optional[Storage] = None) -> NDArray[Any]:
        mlx = self._mlx
        if target is not None and value.dtype != mlx.complex64:
            value = value.astype(getattr(mlx, target.name))
        for storage in NAMED.values():
            if storage.bits and value.dtype == getattr(mlx, storage.name):
                return np.asarray(value.view(getattr(mlx, storage.bits))).view(storage.dtype)
        return np.asarray(value)

    def result(self, array: NDArray[Any], native: Any) -> Any:
        mlx, storage = self._mlx, CARRIED.get(array.dtype)
        if storage is not None and storage.bits:
            return mlx.array(array.view(storage.bits)).view(getattr(mlx, storage.name))
        double = storage is FLOAT64 and mlx.default_device() == mlx.Device(mlx.cpu)
        return mlx.array(array, dtype=mlx.float64) if double else mlx.array(array)


class _Exported(Family):
    """Other arrays that export DLPack. Results are of its array-API namespace, if it has one, or numpy's."""

    def __init__(self, value: Any) -> None:
        namespace = getattr(value, "__array_namespace__", None)
        self._namespace = None if namespace is None else namespace()

    def read(self, value: Any, name: str, target: Optional[Storage] = None) -> NDArray[Any]:
        array = _dlpack.read(value, name)
        _storage.shown(array, name)  # so that what a result would need is missed before the work
        return array

    def result(self, array: NDArray[Any], native: Any) -> Any:
        shown = _storage.shown(array)
        return shown if self._namespace is None else self._namespace.asarray(shown, copy=True)


class CuPy(Family):
    def __init__(self, value: Any) -> None:
        self.cupy: Any = sys.modules["cupy"]
        self._device = value.device
        self.device = f"cuda:{value.device.id}"

    def storage(self, value: Any, name: str) -> Storage:
        return _storage.named(value.dtype.name, name)

    def read(self, value: Any, name: str, target: Optional[Storage] = None) -> NDArray[Any]:
        array = _storage.carried(value.get())  # on the current stream, which it waits for
        word = _status.of("cupy", value.device.id)
        if word is not None:
            _status.check(int(word.get()[0]), "cupy", value.device.id)
        return array

    def result(self, array: NDArray[Any], native: Any) -> Any:
        with self._device:
            return self.cupy.asarray(_storage.shown(array))


class Copied(Family):
    """Arrays of a device that were copied to the CPU, for functions that have no kernel there."""

    def __init__(self, family: Family) -> None:
        self._family, self.device = family, family.device

    def read(self, value: Any, name: str, target: Optional[Storage] = None) -> NDArray[Any]:
        return self._family.read(value, name, target)

    def ready(self) -> None:
        self._family.ready()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], Any]:
        return self._family.empty(shape, dtype)

    def result(self, array: NDArray[Any], native: Any) -> Any:
        return self._family.result(array, native)

    def give(self, array: NDArray[Any]) -> Any:
        return self._family.give(array)


NUMPY = Numpy()

_OF_NUMPY = (np.ndarray, np.generic, list, tuple, int, float)

_torch_on_cpu: list[Torch] = []
"""One at most, once there is a tensor. It waits for nothing: calls can share it."""


def _make_torch_on_cpu(value: Any) -> list[Torch]:
    _torch_on_cpu.append(Torch(value.device))
    return _torch_on_cpu


kernels = ["torch", "cupy", "dlpack"]
"""The frameworks whose arrays on CUDA devices kernels take in place. Those of the others are copied to the CPU."""


def _torch_on(value: Any) -> Family:
    if not value.is_cuda or "torch" not in kernels:
        return Torch(value.device)
    from . import _cuda

    return _cuda.TorchCuda(value.device) if _cuda.has_kernels(value.device.index) else Torch(value.device)


def _cupy(value: Any) -> Family:
    if "cupy" not in kernels or getattr(getattr(sys.modules["cupy"].cuda, "runtime", None), "is_hip", False):  # AMD's
        return CuPy(value)
    from . import _cuda

    return _cuda.CuPyCuda(value)


def _bridged(value: Any, copied: Callable[[Any], Family]) -> Family:
    """Of arrays that PyTorch can borrow on a device, else of those that are copied to the CPU."""
    if "torch" not in sys.modules or "dlpack" not in kernels:
        return copied(value)
    from . import _bridged as bridged

    if not bridged.on_cuda(value):
        return copied(value)
    namespace = getattr(value, "__array_namespace__", None)
    back = bridged.jax_of if copied is _Jax else None if namespace is None else namespace().from_dlpack
    return copied(value) if back is None else bridged.Bridged(value, back, copied(value))


def of(value: Any, name: str) -> Family:
    """The family of an array; numpy's for lists and numbers."""
    if isinstance(value, _OF_NUMPY):
        return NUMPY
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return (_torch_on_cpu or _make_torch_on_cpu(value))[0] if value.is_cpu else _torch_on(value)
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(value, jax.Array):
        if isinstance(value, jax.core.Tracer):
            raise WrongType(f"{name} is a tracer of JAX; inside jit, grad and vmap use chunkgrpo.jax")
        if value.is_deleted():
            raise InvalidArgument(f"{name} has lost its memory: the array was deleted or donated")
        return _bridged(value, _Jax)
    package = type(value).__module__.partition(".")[0]
    if package in ("mlx", "cupy"):
        return _MLX() if package == "mlx" else _cupy(value)
    return _bridged(value, _Exported) if hasattr(value, "__dlpack__") else NUMPY
