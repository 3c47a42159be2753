"""The short way for small calls: contiguous arrays of numpy, or tensors of PyTorch on the CPU, of one shape and type,
and nothing beside them. Whatever else comes, or is wrong, gets None here and goes the long way through `_arrays`, which
gives the same numbers and says what is wrong.

The library's descriptors for a shape are made once and used again. A call has its own while it runs: threads share
samplers.
"""

from __future__ import annotations

import math
import sys
from ctypes import CFUNCTYPE, byref, c_int32, c_int64, c_void_p, pointer
from typing import Any, Optional

import numpy as np

from . import _abi
from ._arrays import TYPES
from ._handle import Handle
from .errors import check

# Nothing is declared, so that arguments made before the call (byref, from_param) are taken as they are: to convert each in
# the call takes as long as the library does.
_log_prob = CFUNCTYPE(c_int32)(("cgrpo_log_prob", _abi.lib))
_log_prob_vjp = CFUNCTYPE(c_int32)(("cgrpo_log_prob_vjp", _abi.lib))
_step = CFUNCTYPE(c_int32)(("cgrpo_step", _abi.lib))

_address: Any = c_void_p.from_param
_steps: dict[Any, Any] = {k: c_int64.from_param(k) for k in range(1024)}
"""Step numbers as arguments; more steps go the long way."""
_array, _empty = np.ndarray, np.empty
_pointer: Any = c_void_p.from_address


def _data_offset() -> int:
    """Where an array of numpy has the address of its elements, 0 if that is not known, which leaves only the long way: a
    field of numpy's own C interface, first after the object's header, read in a third of the time that a buffer takes."""
    if sys.implementation.name != "cpython":
        return 0
    array = np.zeros(3)
    return object.__basicsize__ if _pointer(id(array) + object.__basicsize__).value == array.ctypes.data else 0


_DATA = _data_offset()


class _Call:
    """Descriptors of four arrays of one shape and type, and the noise of a step."""

    def __init__(self, shape: tuple[int, ...], number: int) -> None:
        self.sizes = (c_int64 * len(shape))(*shape)
        self.tensors = [_abi.Tensor(shape=self.sizes, ndim=len(shape), type=number) for _ in range(4)]
        self.pointers = [byref(tensor) for tensor in self.tensors]
        self.noise = _abi.new(_abi.Noise)
        self.noise_pointer, self.given = byref(self.noise), pointer(self.tensors[2])


class _Arrays:
    """Arrays of numpy of one shape and type, and descriptors that are free."""

    array_type: Any = _array
    of_numpy: Any = None
    """Makes a vector of numpy's one of this kind, where it is another. To allocate takes numpy half the time."""

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

    def addresses(self, x: Any, v: Any, w: Any) -> Optional[tuple[Any, Any, Any]]:
        """Where x, which is known to be of this kind, and v and w lie; None if one is another kind of array, or not
        plain. w may be v. One method for all three, for a call of Python's own takes as long as most of what it asks."""
        shape, dtype = self.shape, self.dtype
        if (
            type(v) is _array
            and v.shape == shape
            and v.dtype == dtype
            and v.flags.carray
            and x.flags.carray
            and (w is v or (type(w) is _array and w.shape == shape and w.dtype == dtype and w.flags.carray))
        ):
            return _pointer(id(x) + _DATA).value, _pointer(id(v) + _DATA).value, _pointer(id(w) + _DATA).value
        return None

    def address(self, array: Any) -> Any:
        """The same of one array that may be of another kind."""
        if type(array) is _array and array.shape == self.shape and array.dtype == self.dtype and array.flags.carray:
            return _pointer(id(array) + _DATA).value
        return None

    def like(self, array: Any) -> tuple[Any, Any]:
        """A fresh one, and where it lies."""
        fresh = _empty(self.shape, self.dtype)
        return fresh, _pointer(id(fresh) + _DATA).value


class _Tensors(_Arrays):
    """The same of tensors."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, number: int) -> None:
        super().__init__(shape, dtype, number)
        torch = sys.modules["torch"]
        self.array_type, self.empty_like, self.of_numpy = torch.Tensor, torch.empty_like, torch.from_numpy
        self.itemsize = dtype.itemsize
        self.bytes = dtype.itemsize * math.prod(shape)

    def addresses(self, x: Any, v: Any, w: Any) -> Optional[tuple[Any, Any, Any]]:
        tensor, shape, dtype = self.array_type, self.shape, self.dtype
        if (
            type(v) is tensor
            and v.dtype is dtype
            and v.shape == shape
            and (w is v or (type(w) is tensor and w.dtype is dtype and w.shape == shape))
        ):
            at_x, at_v = self.place(x), self.place(v)
            at_w = at_v if w is v else self.place(w)
            if at_x and at_v and at_w:
                return at_x, at_v, at_w
        return None

    def address(self, array: Any) -> Any:
        if type(array) is self.array_type and array.shape == self.shape and array.dtype is self.dtype:
            # A vector may have one element; see `_new_kind`.
            return None if array.is_neg() else self.place(array) or None
        return None

    def place(self, array: Any) -> Any:
        """Where a tensor of this kind lies; 0 if it is not plain, or its storage was given back."""
        if (
            array.is_contiguous()
            and array.is_cpu
            and not array.requires_grad
            and array.untyped_storage().nbytes() >= array.storage_offset() * self.itemsize + self.bytes
        ):
            return array.data_ptr()
        return 0

    def like(self, array: Any) -> tuple[Any, Any]:
        fresh = self.empty_like(array)
        return fresh, fresh.data_ptr()


_kinds: dict[Any, Optional[_Arrays]] = {}
_torch: Any = None
"""What `_kind` asks of PyTorch, once somebody has imported it."""


def _met_torch() -> Any:
    global _torch
    torch = sys.modules.get("torch")
    if torch is not None:
        is_compiling = getattr(torch.compiler, "is_dynamo_compiling", torch.compiler.is_compiling)  # the faster, if there
        _torch = is_compiling, torch.Tensor, torch.is_inference_mode_enabled
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
    # Of PyTorch's, a single element may be contiguous and yet stand for its negative.
    kind: Optional[_Arrays] = None
    if _DATA and number and math.prod(shape) >= 2 and (not numpy or (dtype.kind == "f" and dtype.isnative)):
        kind = (_Arrays if numpy else _Tensors)(shape, dtype, number)
        double = np.dtype(np.float64) if numpy else sys.modules["torch"].float64
        kind.vectors = type(kind)(shape[:1], double, _abi.F64)
    return _kinds.setdefault((shape, dtype), kind)


def log_prob(handle: Handle, k: Any, x: Any, v: Any, next_x: Any) -> Any:
    try:
        kind = _kind(x)
        number = _steps.get(k) if type(k) is int else None
        if kind is None or number is None:
            return None
        found = kind.addresses(x, v, next_x)
    except RuntimeError:  # of tensors that have no memory
        return None
    if found is None:
        return None
    values = _empty(kind.batch)
    call = kind.take()
    a, b, c, _ = call.tensors
    a.data, b.data, c.data = found
    p, q, r, _ = call.pointers
    status = _log_prob(handle._as_parameter_, number, p, q, r, _address(_pointer(id(values) + _DATA).value))
    kind.free.append(call)
    if status:
        check(status)
    return values if kind.of_numpy is None else kind.of_numpy(values)


def log_prob_vjp(handle: Handle, k: Any, x: Any, v: Any, next_x: Any, grad_log_prob: Any) -> Any:
    try:
        kind = _kind(x)
        number = _steps.get(k) if type(k) is int else None
        if kind is None or number is None:
            return None
        found = kind.addresses(x, v, next_x)
        at_upstream = kind.vectors.address(grad_log_prob)
    except RuntimeError:
        return None
    if found is None or at_upstream is None:
        return None
    grad, at_grad = kind.like(x)
    call = kind.take()
    a, b, c, d = call.tensors
    a.data, b.data, c.data = found
    d.data = at_grad
    p, q, r, s = call.pointers
    status = _log_prob_vjp(handle._as_parameter_, number, p, q, r, _address(at_upstream), s, None)
    kind.free.append(call)
    if status:
        check(status)
    return grad


def step(handle: Handle, k: Any, x: Any, v: Any, noise: Any, seed: Any) -> Optional[tuple[Any, Any]]:
    try:
        kind = _kind(x)
        number = _steps.get(k) if type(k) is int else None
        if kind is None or number is None or (noise is None) == (seed is None):
            return None
        if noise is None and not (type(seed) is int and 0 <= seed < 2**64):
            return None
        found = kind.addresses(x, v, v if noise is None else noise)
    except RuntimeError:
        return None
    if found is None:
        return None
    next_x, at_next = kind.like(x)
    values = _empty(kind.batch)
    call = kind.take()
    a, b, c, d = call.tensors
    a.data, b.data, c.data = found
    d.data = at_next
    if noise is None:
        call.noise.given, call.noise.seed = None, seed
    else:
        call.noise.given = call.given
    p, q, _, s = call.pointers
    at_values = _address(_pointer(id(values) + _DATA).value)
    status = _step(handle._as_parameter_, number, p, q, call.noise_pointer, s, at_values, None)
    kind.free.append(call)
    if status:
        check(status)
    return next_x, values if kind.of_numpy is None else kind.of_numpy(values)
