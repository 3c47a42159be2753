"""The arrays of numpy, PyTorch, JAX, MLX, CuPy and whatever else exports DLPack: how they are read, and how results of
the same kind are made on the same device. None of the frameworks is imported here: an array that comes in has done it.
"""

from __future__ import annotations

import functools
import sys
from typing import Any, Callable, Optional, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from . import _dlpack
from .errors import InvalidArgument, OutOfMemory, WrongType

Storage = tuple[NDArray[Any], str]
"""Elements as numpy sees them, and the name of their type: bfloat16 may be stored as uint16 or int16."""


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


class Family:
    """numpy, and the interface of the others."""

    device: str = "cpu"

    def read(self, value: Any, name: str, target: str = "") -> Storage:
        """Where the array lies if the CPU can read it there, else a copy that is complete after `ready`.

        target: of what a callback returned, the element type that it is wanted in: the framework may convert it.
        """
        try:
            array = np.asarray(value)
        except (TypeError, ValueError, RuntimeError) as error:  # the last of PyTorch's, in a list
            raise InvalidArgument(f"{name} cannot be read as an array: {error}") from None
        return array, array.dtype.name

    def kind(self, value: Any, name: str) -> tuple[np.dtype[Any], str]:
        """For `empty`: the element type of an array, whatever else it is."""
        array, type_name = self.read(value, name)
        return array.dtype, type_name

    def ready(self) -> None:
        """Waits for the copies that `read` and `result` have queued."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any], type_name: str) -> tuple[NDArray[Any], Any]:
        """Fresh memory for a result, and what `result` needs to know of it."""
        try:
            return np.empty(shape, dtype), None
        except MemoryError as error:
            raise OutOfMemory(f"no memory for an array of shape {shape}: {error}") from None
        except ValueError as error:
            raise InvalidArgument(f"no array can have shape {shape}: {error}") from None

    def result(self, array: NDArray[Any], type_name: str, native: Any) -> Any:
        """The user's array, of `array` that `empty` made: that memory itself (numpy, tensors of the CPU), or a copy."""
        return array

    def give(self, array: NDArray[Any]) -> Any:
        """The user's array of a fresh one of numpy."""
        return self.result(array, array.dtype.name, None)

    def run(self, velocity: Callable[..., Any], x: Any, *arguments: Any) -> Any:
        """Calls the model on a trajectory's own latents."""
        if isinstance(x, np.ndarray):
            x.flags.writeable = False
        return velocity(x, *arguments)


class Staging:
    """Copies between a device of PyTorch's and pinned memory of the CPU, asynchronous on the device's current stream.
    What the library computes with lies there: this is the place for a native path on the device."""

    def __init__(self, torch: Any, device: Any) -> None:
        self.torch, self.device, self._cuda = torch, device, device.type == "cuda"
        self._events: list[Any] = []

    def empty(self, shape: Any, dtype: Any) -> Any:
        return self.torch.empty(shape, dtype=dtype, pin_memory=self._cuda)

    def down(self, tensor: Any) -> Any:
        """A tensor of the CPU that has the elements after `wait`."""
        host = self.empty(tensor.shape, tensor.dtype)
        host.copy_(tensor, non_blocking=self._cuda)
        self._record()
        return host

    def up(self, host: Any) -> Any:
        """The same elements on the device. `host` must not change before `wait`."""
        tensor = host.to(self.device, non_blocking=self._cuda)
        self._record()
        return tensor

    def _record(self) -> None:
        if self._cuda:
            self._events.append(self.torch.cuda.Event())
            self._events[-1].record(self.torch.cuda.current_stream(self.device))

    def wait(self) -> None:
        """Until the copies are made; what the device does after them goes on."""
        while self._events:
            self._events.pop().synchronize()


def staging(torch: Any, device: Any) -> Optional[Staging]:
    """How to reach a device, None where the library can read its memory."""
    return None if device.type == "cpu" else Staging(torch, device)


class Torch(Family):
    """Tensors of one device."""

    def __init__(self, device: Any) -> None:
        self.torch: Any = sys.modules["torch"]
        self.device = str(device)
        self._device = device
        self._staging = staging(self.torch, device)

    def read(self, value: Any, name: str, target: str = "") -> Storage:
        torch = self.torch
        if value.layout is not torch.strided:
            raise WrongType(f"{name} is a tensor of layout {value.layout}; it must be dense")
        if value.device.type == "meta":
            raise WrongType(f"{name} is on the meta device and has no elements")
        if value.is_quantized:
            raise WrongType(f"{name} is quantised ({value.dtype}); dequantize() it")
        if value.requires_grad and torch.is_grad_enabled() and not target:
            raise InvalidArgument(
                f"{name} requires grad, which this function does not pass on: use chunkgrpo.torch, or detach() it"
            )
        try:
            value = value.detach().resolve_conj().resolve_neg()
            ends = ((size - 1) * stride for size, stride in zip(value.shape, value.stride()))
            needed = (value.storage_offset() + 1 + sum(ends)) * value.element_size()
            if value.numel() and value.untyped_storage().nbytes() < needed:
                raise InvalidArgument(f"{name} has lost its memory: its storage was freed or made smaller")
            if target and not value.is_complex():
                value = value.to(getattr(torch, target))
            if self._staging is None:
                return self.storage(value)
        except (RuntimeError, TypeError) as error:  # functorch's, fake and distributed tensors have no memory to read
            raise WrongType(f"{name} is a {type(value).__name__} that cannot be read: {error}") from None
        return self.storage(self._staging.down(value))

    def kind(self, value: Any, name: str) -> tuple[np.dtype[Any], str]:
        return np.dtype(np.void), str(value.dtype).rpartition(".")[2]  # `empty` has its own names

    def storage(self, value: Any) -> Storage:
        type_name = str(value.dtype).rpartition(".")[2]
        return (value.view(self.torch.int16) if type_name == "bfloat16" else value).numpy(), type_name

    def ready(self) -> None:
        if self._staging is not None:
            self._staging.wait()

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any], type_name: str) -> tuple[NDArray[Any], Any]:
        make = self.torch.empty if self._staging is None else self._staging.empty
        try:
            with self.torch.inference_mode(False):  # for results that autograd may save
                native = make(shape, dtype=getattr(self.torch, type_name))
        except RuntimeError as error:
            raise OutOfMemory(f"no memory for a tensor of shape {shape}: {error}") from None
        return self.storage(native)[0], native

    def result(self, array: NDArray[Any], type_name: str, native: Any) -> Any:
        if self._staging is None:
            return native
        with self.torch.inference_mode(False):
            return self._staging.up(native)

    def give(self, array: NDArray[Any]) -> Any:
        return self.torch.from_numpy(array).to(self._device)

    def run(self, velocity: Callable[..., Any], x: Any, *arguments: Any) -> Any:
        version = None if x.is_inference() else x._version
        with self.torch.no_grad():
            value = velocity(x, *arguments)
        if version is not None and x._version != version:
            raise InvalidArgument("the velocity has written to its argument x; it must leave it as it is")
        return value


class _Jax(Family):
    """JAX arrays are immutable, and on the CPU may share memory with numpy's: never written to, and results are copies.
    Without jax_enable_x64 there is no float64: log-probabilities become float32."""

    def __init__(self, value: Any) -> None:
        devices = list(value.devices())
        self._device = devices[0] if len(devices) == 1 else None
        self.device = "cpu" if self._device is None or self._device.platform == "cpu" else str(self._device)

    def read(self, value: Any, name: str, target: str = "") -> Storage:
        array = np.asarray(value)
        return array, array.dtype.name

    def result(self, array: NDArray[Any], type_name: str, native: Any) -> Any:
        return sys.modules["jax"].numpy.array(array, copy=True, device=self._device)


class _MLX(Family):
    """MLX has float64 on the CPU alone: where another device is the default, log-probabilities are float32."""

    def __init__(self) -> None:
        self._mlx: Any = sys.modules["mlx.core"]

    def read(self, value: Any, name: str, target: str = "") -> Storage:
        if target and value.dtype != self._mlx.complex64:
            value = value.astype(getattr(self._mlx, target))
        if value.dtype == self._mlx.bfloat16:
            return np.asarray(value.view(self._mlx.uint16)), "bfloat16"
        array = np.asarray(value)
        return array, array.dtype.name

    def result(self, array: NDArray[Any], type_name: str, native: Any) -> Any:
        mlx = self._mlx
        if type_name == "bfloat16":
            return mlx.array(array.view(np.uint16)).view(mlx.bfloat16)
        double = type_name == "float64" and mlx.default_device() == mlx.Device(mlx.cpu)
        return mlx.array(array, dtype=mlx.float64) if double else mlx.array(array)


class _Exported(Family):
    """What else exports DLPack. Results are of its array-API namespace, if it has one, or numpy's."""

    def __init__(self, value: Any) -> None:
        namespace = getattr(value, "__array_namespace__", None)
        self._namespace = None if namespace is None else namespace()

    def read(self, value: Any, name: str, target: str = "") -> Storage:
        array, is_bfloat16 = _dlpack.read(value, name)
        if not is_bfloat16:
            return array, array.dtype.name
        try:
            import ml_dtypes  # type: ignore[import-not-found, unused-ignore]
        except ImportError:
            raise WrongType(f"{name} has element type bfloat16; for it, numpy needs the package ml_dtypes") from None
        return array.view(ml_dtypes.bfloat16), "bfloat16"

    def result(self, array: NDArray[Any], type_name: str, native: Any) -> Any:
        return array if self._namespace is None else self._namespace.asarray(array, copy=True)


class _CuPy(Family):
    def __init__(self, value: Any) -> None:
        self._device = value.device
        self.device = f"cuda:{value.device.id}"

    def read(self, value: Any, name: str, target: str = "") -> Storage:
        array = value.get()  # on the current stream, which it waits for
        return array, array.dtype.name

    def result(self, array: NDArray[Any], type_name: str, native: Any) -> Any:
        with self._device:
            return sys.modules["cupy"].asarray(array)


NUMPY = Family()


def of(value: Any, name: str) -> Family:
    """The family of an array; numpy's for lists and numbers."""
    if isinstance(value, (np.ndarray, np.generic, list, tuple, int, float)):
        return NUMPY
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return Torch(value.device)
    jax = sys.modules.get("jax")
    if jax is not None and isinstance(value, jax.Array):
        if isinstance(value, jax.core.Tracer):
            raise WrongType(f"{name} is a tracer of JAX; inside jit, grad and vmap use chunkgrpo.jax")
        if value.is_deleted():
            raise InvalidArgument(f"{name} has lost its memory: the array was deleted or donated")
        return _Jax(value)
    package = type(value).__module__.partition(".")[0]
    if package in ("mlx", "cupy"):
        return _MLX() if package == "mlx" else _CuPy(value)
    return _Exported(value) if hasattr(value, "__dlpack__") else NUMPY
