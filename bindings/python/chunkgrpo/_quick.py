"""The short way for small calls: contiguous arrays of numpy, or tensors of PyTorch on the CPU, of one shape and type,
and nothing beside them. Whatever else comes, or is wrong, gets None here and goes the long way through `_arrays`, which
gives the same numbers and says what is wrong.

The library's descriptors for a shape are made once and used again. A call has its own while it runs: threads share
samplers.
"""

from __future__ import annotations

import math
import sys
from ctypes import CFUNCTYPE, addressof, c_char, c_int32, c_int64, c_void_p, pointer
from typing import Any, Optional

import numpy as np

from . import _abi
from ._arrays import TYPES
from ._handle import Handle
from .errors import check

# Declared for addresses, which ctypes passes on faster than arrays.
_log_prob = CFUNCTYPE(c_int32, c_void_p, c_int64, *[c_void_p] * 4)(("cgrpo_log_prob", _abi.lib))
_log_prob_vjp = CFUNCTYPE(c_int32, c_void_p, c_int64, *[c_void_p] * 6)(("cgrpo_log_prob_vjp", _abi.lib))
_step = CFUNCTYPE(c_int32, c_void_p, c_int64, *[c_void_p] * 6)(("cgrpo_step", _abi.lib))

_memory: Any = c_char.from_buffer
_pointer: Any = c_void_p.from_address


def _data_offset() -> int:
    """Where an array of numpy has the address of its elements, 0 if that is not known: a field of numpy's own C
    interface, first after the object's header, which is read in a third of the time that a buffer takes."""
    if sys.implementation.name != "cpython":
        return 0
    array = np.zeros(3)
    return object.__basicsize__ if _pointer(id(array) + object.__basicsize__).value == array.ctypes.data else 0


_DATA = _data_offset()


def _elements(array: Any) -> int:
    """The address of the elements of a writable array of numpy."""
    address: int = _pointer(id(array) + _DATA).value if _DATA else addressof(_memory(array))
    return address


class _Call:
    """Descriptors of four arrays of one shape and type, and the noise of a step."""

    def __init__(self, shape: tuple[int, ...], number: int) -> None:
        self.sizes = (c_int64 * len(shape))(*shape)
        self.tensors = [_abi.Tensor(shape=self.sizes, ndim=len(shape), type=number) for _ in range(4)]
        self.pointers = [addressof(tensor) for tensor in self.tensors]
        self.noise = _abi.new(_abi.Noise)
        self.noise_pointer, self.given = addressof(self.noise), pointer(self.tensors[2])


class _Arrays:
    """Arrays of numpy of one shape and type, and descriptors that are free."""

    array_type: Any = np.ndarray

    def __init__(self, shape: tuple[int, ...], dtype: Any, number: int) -> None:
        self.shape, self.dtype, self.number = shape, dtype, number
        self.batch = shape[0]
        self.free: list[_Call] = []
        self.vectors: Any = None
        """(B,) float64."""

    def take(self) -> _Call:
        try:
            return self.free.pop()
        except IndexError:
            return _Call(self.shape, self.number)

    def address(self, array: Any) -> int:
        """Where an array lies; 0 if it is another kind of array, or not plain."""
        if type(array) is np.ndarray and array.shape == self.shape and array.dtype == self.dtype:
            return self.place(array)
        return 0

    def place(self, array: Any) -> int:
        """The same of one that is known to be of this kind."""
        return _elements(array) if array.flags.carray else 0

    def like(self, array: Any) -> tuple[Any, int]:
        """A fresh one, and where it lies."""
        fresh = np.empty(self.shape, self.dtype)
        return fresh, _elements(fresh)

    def doubles(self) -> tuple[Any, int]:
        """A fresh vector (B,) of float64."""
        fresh = np.empty(self.batch)
        return fresh, _elements(fresh)


class _Tensors(_Arrays):
    """The same of tensors."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, number: int) -> None:
        super().__init__(shape, dtype, number)
        torch = sys.modules["torch"]
        self.array_type, self.empty_like, self.from_numpy = torch.Tensor, torch.empty_like, torch.from_numpy
        self.itemsize = dtype.itemsize
        self.bytes = dtype.itemsize * math.prod(shape)

    def address(self, array: Any) -> int:
        if type(array) is self.array_type and array.dtype is self.dtype and array.shape == self.shape:
            return self.place(array)
        return 0

    def place(self, array: Any) -> int:
        if (
            array.is_contiguous()
            and array.is_cpu
            and not array.requires_grad
            and array.untyped_storage().nbytes() >= array.storage_offset() * self.itemsize + self.bytes
        ):
            address: int = array.data_ptr()
            return address
        return 0

    def like(self, array: Any) -> tuple[Any, int]:
        fresh = self.empty_like(array)
        return fresh, fresh.data_ptr()

    def doubles(self) -> tuple[Any, int]:
        fresh = np.empty(self.batch)  # half the time of an empty tensor
        return self.from_numpy(fresh), _elements(fresh)


_kinds: dict[Any, Optional[_Arrays]] = {}
_torch: Any = None
"""What `_kind` asks of PyTorch, once somebody has imported it."""


def _met_torch() -> Any:
    global _torch
    torch = sys.modules.get("torch")
    if torch is not None:
        _torch = torch.compiler.is_compiling, torch.Tensor, torch.is_inference_mode_enabled
    return _torch


def _kind(x: Any) -> Optional[_Arrays]:
    """What x is, if the short way may take it."""
    torch = _torch or _met_torch()
    if torch is not None:
        is_compiling, tensor, in_inference_mode = torch
        if is_compiling() or (type(x) is tensor and in_inference_mode()):
            return None
    elif type(x) is not np.ndarray:
        return None
    try:
        kind = _kinds[x.shape, x.dtype]
    except (AttributeError, KeyError, TypeError):
        return _new_kind(x)
    return kind if kind is None or type(x) is kind.array_type else None


def _new_kind(x: Any) -> Optional[_Arrays]:
    numpy = type(x) is np.ndarray
    if not numpy and (_torch is None or type(x) is not _torch[1]):
        return None
    if len(_kinds) >= 256:  # a program has few
        _kinds.clear()
    shape, dtype = tuple(x.shape), x.dtype
    number = TYPES.get(dtype.name if numpy else str(dtype).rpartition(".")[2])
    # Of numpy's, those whose memory ctypes reads. Of PyTorch's, a single element may be contiguous and yet stand for
    # its negative.
    kind: Optional[_Arrays] = None
    if number is not None and math.prod(shape) >= 2 and (not numpy or (dtype.kind == "f" and dtype.isnative)):
        kind = (_Arrays if numpy else _Tensors)(shape, dtype, number)
        double = np.dtype(np.float64) if numpy else sys.modules["torch"].float64
        kind.vectors = type(kind)(shape[:1], double, _abi.F64)
    return _kinds.setdefault((shape, dtype), kind)


def log_prob(handle: Handle, k: Any, x: Any, v: Any, next_x: Any) -> Any:
    try:
        kind = _kind(x)
        if kind is None or type(k) is not int or not 0 <= k < 2**31:
            return None
        at_x, at_v, at_next = kind.place(x), kind.address(v), kind.address(next_x)
    except RuntimeError:  # of tensors that have no memory
        return None
    if not (at_x and at_v and at_next):
        return None
    values, at_values = kind.doubles()
    call = kind.take()
    a, b, c, _ = call.tensors
    a.data, b.data, c.data = at_x, at_v, at_next
    p, q, r, _ = call.pointers
    status = _log_prob(handle._as_parameter_, k, p, q, r, at_values)
    kind.free.append(call)
    if status:
        check(status)
    return values


def log_prob_vjp(handle: Handle, k: Any, x: Any, v: Any, next_x: Any, grad_log_prob: Any) -> Any:
    try:
        kind = _kind(x)
        if kind is None or type(k) is not int or not 0 <= k < 2**31:
            return None
        at_x, at_v, at_next = kind.place(x), kind.address(v), kind.address(next_x)
        at_upstream = kind.vectors.address(grad_log_prob)
    except RuntimeError:
        return None
    if not (at_x and at_v and at_next and at_upstream):
        return None
    grad, at_grad = kind.like(x)
    call = kind.take()
    a, b, c, d = call.tensors
    a.data, b.data, c.data, d.data = at_x, at_v, at_next, at_grad
    p, q, r, s = call.pointers
    status = _log_prob_vjp(handle._as_parameter_, k, p, q, r, at_upstream, s, None)
    kind.free.append(call)
    if status:
        check(status)
    return grad


def step(handle: Handle, k: Any, x: Any, v: Any, noise: Any, seed: Any) -> Optional[tuple[Any, Any]]:
    try:
        kind = _kind(x)
        if kind is None or type(k) is not int or not 0 <= k < 2**31 or (noise is None) == (seed is None):
            return None
        at_x, at_v = kind.place(x), kind.address(v)
        at_noise = kind.address(noise) if seed is None else type(seed) is int and 0 <= seed < 2**64
    except RuntimeError:
        return None
    if not (at_x and at_v and at_noise):
        return None
    next_x, at_next = kind.like(x)
    values, at_values = kind.doubles()
    call = kind.take()
    a, b, c, d = call.tensors
    a.data, b.data, d.data = at_x, at_v, at_next
    if seed is None:
        c.data, call.noise.given = at_noise, call.given
    else:
        call.noise.given, call.noise.seed = None, seed
    p, q, _, s = call.pointers
    status = _step(handle._as_parameter_, k, p, q, call.noise_pointer, s, at_values, None)
    kind.free.append(call)
    if status:
        check(status)
    return next_x, values
