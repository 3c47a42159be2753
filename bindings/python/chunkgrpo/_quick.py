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

    def __init__(self, shape: tuple[int, ...], dtype: Any, number: int) -> None:
        self.shape, self.dtype, self.number = shape, dtype, number
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
        if type(array) is np.ndarray and array.shape == self.shape and array.dtype == self.dtype and array.flags.carray:
            return addressof(_memory(array))
        return 0

    def fresh(self) -> tuple[Any, int]:
        array = np.empty(self.shape, self.dtype)
        return array, addressof(_memory(array))


class _Tensors(_Arrays):
    """The same of tensors."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, number: int) -> None:
        super().__init__(shape, dtype, number)
        torch = sys.modules["torch"]
        self.tensor, self.empty = torch.Tensor, torch.empty
        self.bytes = dtype.itemsize * math.prod(shape)

    def address(self, array: Any) -> int:
        if (
            type(array) is self.tensor
            and array.dtype is self.dtype
            and array.shape == self.shape
            and array.is_contiguous()
            and array.is_cpu
            and not array.requires_grad
            and array.untyped_storage().nbytes() >= array.storage_offset() * self.dtype.itemsize + self.bytes
        ):
            address: int = array.data_ptr()
            return address
        return 0

    def fresh(self) -> tuple[Any, int]:
        tensor = self.empty(self.shape, dtype=self.dtype)
        return tensor, tensor.data_ptr()


_kinds: dict[Any, Optional[_Arrays]] = {}


def _kind(x: Any) -> Optional[_Arrays]:
    """What x is, if the short way may take it."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.compiler.is_compiling():
        return None
    if type(x) is np.ndarray or (
        torch is not None and type(x) is torch.Tensor and not torch.is_inference_mode_enabled()
    ):
        key = x.shape, x.dtype
        try:
            return _kinds[key]
        except KeyError:
            return _kinds.setdefault(key, _new_kind(tuple(x.shape), x.dtype, torch))
    return None


def _new_kind(shape: tuple[int, ...], dtype: Any, torch: Any) -> Optional[_Arrays]:
    if len(_kinds) >= 256:  # a program has few
        _kinds.clear()
    numpy = isinstance(dtype, np.dtype)
    number = TYPES.get(dtype.name if numpy else str(dtype).rpartition(".")[2])
    # Of numpy's, those whose memory ctypes reads. Of PyTorch's, a single element may be contiguous and yet stand for
    # its negative.
    if number is None or math.prod(shape) < 2 or (numpy and not (dtype.kind == "f" and dtype.isnative)):
        return None
    kind: _Arrays = (_Arrays if numpy else _Tensors)(shape, dtype, number)
    kind.vectors = (
        _Arrays(shape[:1], np.dtype(np.float64), _abi.F64) if numpy else _Tensors(shape[:1], torch.float64, _abi.F64)
    )
    return kind


def log_prob(handle: Handle, k: Any, x: Any, v: Any, next_x: Any) -> Any:
    try:
        kind = _kind(x)
        if kind is None or type(k) is not int or not 0 <= k < 2**31:
            return None
        at_x, at_v, at_next = kind.address(x), kind.address(v), kind.address(next_x)
    except RuntimeError:  # of tensors that have no memory
        return None
    if not (at_x and at_v and at_next):
        return None
    values, at_values = kind.vectors.fresh()
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
        at_x, at_v, at_next = kind.address(x), kind.address(v), kind.address(next_x)
        at_upstream = kind.vectors.address(grad_log_prob)
    except RuntimeError:
        return None
    if not (at_x and at_v and at_next and at_upstream):
        return None
    grad, at_grad = kind.fresh()
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
        at_x, at_v = kind.address(x), kind.address(v)
        at_noise = kind.address(noise) if seed is None else type(seed) is int and 0 <= seed < 2**64
    except RuntimeError:
        return None
    if not (at_x and at_v and at_noise):
        return None
    next_x, at_next = kind.fresh()
    values, at_values = kind.vectors.fresh()
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
