"""Arrays as the library takes them: small ones converted, latents and their like borrowed where they lie."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any, Optional, TypeVar, Union

import numpy as np
from numpy.typing import NDArray

from . import _frameworks, _storage
from ._borrowed import Borrowed as Borrowed
from ._borrowed import fresh
from ._family import Family
from ._frameworks import NUMPY
from ._generated import Tensor
from ._layouts import layout as _layout
from ._library import address
from ._scalars import bare, integer
from ._storage import CARRIED, FLOAT32, FLOAT64, Storage
from .errors import InvalidArgument, NonFinite, WrongType

Array = NDArray[Any]

AnyArray = Any
"""An array of numpy, PyTorch, JAX, MLX, CuPy or another framework that exports DLPack."""

A = TypeVar("A")
"""The same: an array type that a function returns as it was given."""

N = TypeVar("N", bound=NDArray[Any])
Doubles = NDArray[np.float64]
Numbers = Union[NDArray[Any], Sequence[Any]]
"""Arrays of numpy and lists: results are Doubles. The types of other frameworks do not say what the elements are."""


# ----------------------------------------------------------------------------------------------------------------------
# Small arrays: always contiguous, converted where need be


def plain(value: Any, name: str) -> Array:
    """Any array as one of numpy, for those that are small: bfloat16 becomes float32."""
    family = _frameworks.of(value, name)
    array = family.read(value, name)
    family.ready()
    return _storage.floats(array)


def _real(array: Array, name: str) -> Array:
    if array.dtype.kind == "O":
        for index in np.ndindex(array.shape):
            if array[index] is None:
                where = "".join(f"[{i}]" for i in index)
                raise WrongType(f"{name}{where} is None; {name} must hold real numbers")
    if array.dtype.kind not in "fiub":
        raise WrongType(f"{name} has element type {array.dtype}; it must hold real numbers")
    return array


def _converted(value: Any, name: str, dtype: Any, shape: Optional[tuple[int, ...]]) -> Array:
    """Real numbers of any type as a contiguous array. Never a view that could be written to: callers only read it."""
    array = _real(plain(value, name), name)
    if shape is not None and array.shape != shape:
        hint = ", so transpose it" if array.shape == shape[::-1] else ""
        raise InvalidArgument(f"{name} has shape {array.shape}; it must be {shape}{hint}")
    if array.dtype is dtype and array.flags.c_contiguous:
        return array
    return np.ascontiguousarray(array, dtype).reshape(array.shape)


def fetched(**named: Any) -> list[Any]:
    """Arguments as they are, but tensors of a CUDA device as numpy's arrays: copied together, with one wait for all."""
    first: dict[Any, Any] = {}
    found = []
    for name, value in named.items():
        family = _frameworks.of(value, name)
        if family.on_device:
            family = first.setdefault((type(family), family.device), family)
            value = family.read(value, name)
        found.append(value)
    for family in first.values():
        family.ready()
    return found


def given_back(array: Array, like: Any) -> Any:
    """A fresh array in the framework and on the device of an argument."""
    return _frameworks.of(like, "like").give(array)


def doubles(value: Any, name: str, shape: Optional[tuple[int, ...]] = None) -> Array:
    return _converted(value, name, FLOAT64.dtype, shape)


def flags(value: Any, name: str, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Whether each number is not zero. A NaN does not say."""
    array = doubles(value, name, shape)
    if np.isnan(array).any():
        where = "".join(f"[{i}]" for i in np.argwhere(np.isnan(array))[0])
        raise NonFinite(f"{name}{where} is nan; it must be zero, or another number")
    given: NDArray[np.bool_] = array != 0
    return given


def vector(value: Any, name: str) -> Array:
    """(n,) float64."""
    array = doubles(value, name)
    if array.ndim != 1:
        raise InvalidArgument(f"{name} has shape {array.shape}; it must have one dimension")
    return array


def matrix(value: Any, name: str, dtype: Any = FLOAT64.dtype) -> Array:
    array = _converted(value, name, dtype, None)
    if array.ndim != 2:
        raise InvalidArgument(f"{name} has shape {array.shape}; it must have two dimensions")
    return array


def integers(value: Any, name: str, dtype: Any, low: int, high: int) -> Array:
    # Of a list, numpy would make floats where it mixes small and very large integers.
    foreign = _frameworks.of(value, name) is not NUMPY
    array = plain(value, name) if foreign or isinstance(value, np.ndarray) else np.asarray(value, object)
    if array.dtype.kind not in "iuO":
        raise WrongType(f"{name} has element type {array.dtype}; it must hold integers")
    if array.ndim != 1:
        raise InvalidArgument(f"{name} has shape {array.shape}; it must have one dimension")
    if array.dtype.kind == "O":
        return np.array([integer(item, f"{name}[{i}]", low, high) for i, item in enumerate(array)], dtype)
    if array.size:
        integer(array.min(), name, low, high)
        integer(array.max(), name, low, high)
    return np.array(array, dtype)


def int64s(value: Any, name: str) -> Array:
    return integers(value, name, np.int64, -(2**63), 2**63 - 1)


def uint64s(value: Any, name: str) -> Array:
    return integers(value, name, np.uint64, 0, 2**64 - 1)


def per_sample(value: Any) -> bool:
    """Whether an argument is an array or list of one number per sample, not one number."""
    return isinstance(value, (list, tuple)) or getattr(value, "ndim", 0) > 0


def steps(value: Any, name: str, batch: int) -> tuple[int, Optional[Array]]:
    """A step of the library's calls: (the number, None); of one per sample (0, (B,) int64)."""
    if not per_sample(value):
        return integer(value, name), None
    each = int64s(value, name)
    if each.size != batch:
        raise InvalidArgument(f"{name} has {each.size} numbers; the batch has {batch} samples")
    return 0, each


def sample_ids(value: Any, batch: int) -> Optional[Array]:
    """(B,) uint64, or None for 0 ... B - 1."""
    if value is None:
        return None
    ids = uint64s(value, "sample_ids")
    if ids.size != batch:
        raise InvalidArgument(f"sample_ids has {ids.size} numbers; the batch has {batch} samples")
    return ids


def point(struct: ctypes.Structure, field: str, array: Any) -> None:
    """Points a struct's field at an array, and keeps the array alive as long as the struct."""
    setattr(struct, field, address(array) if isinstance(array, np.ndarray) else array.pointer)
    setattr(struct, "_array_of_" + field, array)


def empty(shape: tuple[int, ...], dtype: Any = np.float64) -> Array:
    """A fresh numpy array; its contents are to be written."""
    return NUMPY.empty(shape, np.dtype(dtype))[0]


# ----------------------------------------------------------------------------------------------------------------------
# Latents, velocities, noise: borrowed as they lie


def tensor(array: Array, leading: int = 1, part: Any = None) -> Tensor:
    """The library's view of a carried array whose layout it can read. It keeps the array alive."""
    borrowed = Borrowed(array, NUMPY, part=part)
    view = borrowed.tensor(leading)
    view.borrowed = borrowed
    return view


def new_like(like: Any, shape: tuple[int, ...], dtype: Any) -> Borrowed:
    """Fresh memory of the family and type of an array, or for numpy of a dtype (None = float32)."""
    if like is None:
        storage = FLOAT32 if dtype is None else _storage_of_dtype(dtype)
        return fresh(NUMPY, shape, storage)
    if dtype is not None:
        raise InvalidArgument("like and dtype exclude each other; give one of them")
    family = _frameworks.of(like, "like")
    return fresh(family, shape, family.storage(like, "like"))


def _storage_of_dtype(value: Any) -> Storage:
    try:
        dtype = np.dtype(value)
    except TypeError:
        foreign = type(value).__module__.partition(".")[0] == "torch"
        hint = f"; for a tensor give like=torch.empty(0, dtype={value!r}, device=...) instead" if foreign else ""
        raise WrongType(f"dtype is {value!r}, which is no numpy dtype{hint}") from None
    return _storage.named(dtype.name if dtype.isnative else str(dtype), "dtype")


def borrow(value: Any, name: str, leading: int = 1, *, on_host: bool = False) -> Borrowed:
    """`value` itself where the library can read its layout, else a contiguous copy.

    leading: how many dimensions before those of a sample: 1 = batch, 2 = batch and step.
    on_host: of a device, a copy on the CPU: for what has no kernel there.
    """
    if isinstance(value, Borrowed):
        return value.again()
    family = _frameworks.of(value, name)
    lent = None if on_host and family.on_device else family.lent(value, leading)
    if lent is not None:
        return lent
    if family.on_device and not on_host:
        return _on_device(family, value, name, leading)
    if family.on_device:
        family = getattr(family, "copied", None) or _frameworks.Copied(family)
    array = family.read(value, name)
    layout = _layout(array.shape, array.strides, array.dtype, leading) if array.flags.aligned else None
    if layout is None or not array.size or array.ndim <= leading:
        array = _readable(array, family, name, leading)
        layout = _layout(array.shape, array.strides, array.dtype, leading)
    return Borrowed(array, family, None, layout)


def borrowed(values: Sequence[Any], name: str) -> list[Any]:
    """Arrays of one family, each for several calls of `borrow`: looked at once, and as they are where a call makes a copy."""
    family = _frameworks.of(values[0], name)
    return [family.lent(value, 1) or value for value in values]


def rolls_in_place(value: Any) -> bool:
    """Whether a rollout from these latents is made where they lie."""
    rolls: bool = getattr(_frameworks.of(value, "x_init"), "rollouts", True)
    return rolls


def _on_device(family: Any, value: Any, name: str, leading: int) -> Borrowed:
    borrowed: Borrowed = family.borrow(value, name, leading)
    if len(borrowed.shape) <= leading:
        raise InvalidArgument(f"{name} has shape {borrowed.shape}; it must be {_expected(len(borrowed.shape), leading)}")
    if 0 in borrowed.shape:
        raise InvalidArgument(f"{name} has shape {borrowed.shape}; each size must be at least 1")
    return borrowed


def _readable(array: Array, family: Family, name: str, leading: int) -> Array:
    """A copy of an array whose layout the library cannot read."""
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    _storage.of(array, name)
    if array.ndim <= leading:
        raise InvalidArgument(f"{name} has shape {array.shape}; it must be {_expected(array.ndim, leading)}")
    if array.size == 0:
        raise InvalidArgument(f"{name} has shape {array.shape}; each size must be at least 1")
    family.ready()
    return np.array(array, order="C")


def _expected(dimensions: int, leading: int) -> str:
    """The shape that an array of too few dimensions must have. One dimension less is ambiguous."""
    if leading == 1:
        ways = "reshape(-1, 1) makes it samples of one element, reshape(1, -1) one sample"
        return "(B, ...) with dimensions beside the batch" + (f": {ways}" if dimensions else "")
    ways = "[..., None] makes the samples ones of one element, [None] adds a batch of one"
    return "(B, steps, ...) with dimensions beside these" + (f": {ways}" if dimensions == 2 else "")


def borrow_like(
    value: Any, like: Borrowed, name: str, like_name: str, leading: int = 1, *, on_host: bool = False
) -> Borrowed:
    """`borrow` of exactly the shape and device of another. The library compares only B and D."""
    lent = None if on_host else like.family.lent(value, leading)
    other = borrow(value, name, leading, on_host=on_host) if lent is None else lent
    if other.shape != like.shape:
        raise InvalidArgument(f"{name} has shape {other.shape}; it must be {like.shape}, like {like_name}")
    if other.family is not like.family:
        same_device(other, like, name, like_name)
    other.part = like.part
    return other


def same_device(other: Borrowed, like: Borrowed, name: str, like_name: str) -> None:
    if other.family.device != like.family.device:
        raise WrongType(f"{name} is on {other.family.device}; it must be on {like.family.device}, like {like_name}")
    if like.on_device:
        if type(other.family) is not type(like.family):
            names = [f"chunkgrpo knows it as an array of {b.family.framework}" for b in (other, like)]
            raise WrongType(
                f"{name}: {names[0]}, and {like_name} of another framework, whose streams do not wait for each other; "
                "convert one of them by DLPack"
            )
        other.family = like.family  # whose stream and noise are those of the call


def upstream(value: Any, name: str, shape: tuple[int, ...], beside: Borrowed) -> Any:
    """Numbers in float64, for a call on other arrays: in the memory of their device."""
    lent = beside.family.lent(value, 0)  # 0: contiguous throughout
    if lent is not None and lent.storage is FLOAT64 and lent.shape == shape:
        return lent.as_numbers()
    return beside.family.doubles(value, name, shape) if beside.on_device else doubles(value, name, shape)


def borrow_trajectories(
    latents: Any, velocities: Any, schedule: int, first_step: Any
) -> tuple[Borrowed, Borrowed, tuple[int, Optional[Array]]]:
    """Latents (B, n + 1, ...), or more steps, velocities (B, n, ...) and `steps`, from first_step of the schedule on."""
    x, v = borrow(latents, "latents", 2), borrow(velocities, "velocities", 2)
    if v.shape[:1] + v.shape[2:] != x.shape[:1] + x.shape[2:] or v.shape[1] >= x.shape[1]:
        both = v.shape[1:] == x.shape[1:] and v.shape[0] < x.shape[0]
        one = x.shape[1] == v.shape[0] and x.shape[0] > v.shape[1] and x.shape[2:] == v.shape[2:]
        raise InvalidArgument(
            f"velocities has shape {v.shape}; for latents {x.shape} it must be (B, n, ...) with n < {x.shape[1]}"
            f"{STEPS_FIRST if both or one else ''}"
        )
    same_device(v, x, "velocities", "latents")
    first = steps(first_step, "first_step", v.shape[0])
    fitting_frames(schedule, x.shape[1], first[0] if first[1] is None else first[1], x.shape)
    return x, v, first


STEPS_FIRST = ". The batch comes first: stack steps along dimension 1, or swap the first two"


def last_of(first_step: Any) -> int:
    """Of the steps that samples begin with, the last one."""
    return first_step if isinstance(first_step, int) else int(np.max(first_step))


def fitting_frames(steps: int, frames: int, first_step: Any, shape: Any) -> None:
    """Refuses latents with more frames than there are from first_step on: their first is not that of first_step."""
    first_step = last_of(first_step)
    left = steps + 1 - first_step
    if 0 <= first_step <= steps and frames > left:
        raise InvalidArgument(
            f"latents has shape {tuple(shape)}, which is {frames} frames; from first_step {first_step} on there are "
            f"{left}. latents[:, 0] must be what step {first_step} takes"
        )


# ----------------------------------------------------------------------------------------------------------------------
# Callbacks


def view(borrowed: Tensor, dtype: np.dtype[Any]) -> Array:
    """A numpy view of a tensor of the library's, valid as long as the tensor: the length of a callback."""
    numbers = ctypes.c_int64 * borrowed.ndim
    shape = list(numbers.from_address(borrowed.shape))
    steps = list(numbers.from_address(borrowed.strides)) if borrowed.strides else None
    span = math.prod(shape) if steps is None else 1 + sum((n - 1) * step for n, step in zip(shape, steps))
    memory = (ctypes.c_char * (span * dtype.itemsize)).from_address(borrowed.data)
    strides = None if steps is None else [step * dtype.itemsize for step in steps]
    return np.ndarray(shape, dtype, memory, strides=strides)


def assign(target: Array, value: Any, name: str) -> None:
    """Copies what a callback returned into the library's buffer."""
    bare(value, name)
    family, storage = _frameworks.of(value, name), CARRIED[target.dtype]
    array = family.read(value, name, storage)
    family.ready()
    if array.dtype != target.dtype:
        _real(_storage.floats(array), name)
    if array.shape != target.shape:
        raise InvalidArgument(f"{name} has shape {array.shape}; it must be {target.shape}")
    if array.dtype == target.dtype:
        np.copyto(target, array)
    else:
        storage.copy(target, _storage.floats(array))
