"""The library's noise: Philox4x32-10, a function of (seed, sample id, step, element) alone.

It is the same for any batch split, thread count or machine, so it can be made again instead of stored.
"""

from __future__ import annotations

import ctypes
import functools
from typing import Any, Callable, Optional, Sequence, TypeVar, cast

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from . import _arrays, _part
from ._arrays import AnyArray, Borrowed
from ._frameworks import not_compiled
from ._generated import INITIAL_NOISE, Noise
from ._library import lib, new
from ._part import Part
from ._scalars import int32, integer, seed_number, sizes
from .errors import InvalidArgument, WrongType, check


F = TypeVar("F", bound=Callable[..., Any])


def _without_device(function: F) -> F:
    """Says how to get an array of a device to those who expect a keyword for it."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        if "device" in options:
            where = options["device"]
            hint = f"give like=torch.empty(0, device={str(where)!r}) instead"
            raise WrongType(f"{function.__name__}() has no device; {hint}")
        return function(*arguments, **options)

    return cast(F, call)


@_without_device
@not_compiled
def normal(
    shape: Sequence[int],
    seed: int,
    step: int,
    sample_ids: Optional[ArrayLike] = None,
    *,
    dtype: Optional[DTypeLike] = None,
    like: Any = None,
    threads: int = 1,
    part: Optional[Part] = None,
) -> AnyArray:
    """Standard normals (B, ...): what a sampler with this seed adds at `step`.

    shape       (B, ...), each >= 1
    seed        0 ... 2^64 - 1
    step        0 ... 2^31 - 1, or -1 for the initial noise
    sample_ids  (B,) integers; None = 0 ... B - 1
    dtype       float32 (the default), float64, float16 or bfloat16; drawn in float32 and then stored in it; or
    like        an array: the result has its framework, device and element type
    threads     0 = one per core; the result is the same for any number
    part        which elements of their samples these are
    """
    size = sizes(shape)
    out = _part.take(part, _arrays.new_like(like, size, dtype))
    if out.on_device:
        seed, sample_ids = out.family.draw(seed, sample_ids, size[0])
    ids = _arrays.sample_ids(sample_ids, size[0])
    numbers = integer(step, "step"), int32(threads, "threads")
    check(lib.cgrpo_normal(seed_number(seed), ids, *numbers, out.tensor()))
    return out.result()


@_without_device
@not_compiled
def initial_noise(
    shape: Sequence[int],
    seed: int,
    *,
    group_size: Optional[int] = None,
    sample_ids: Optional[ArrayLike] = None,
    dtype: Optional[DTypeLike] = None,
    like: Any = None,
    threads: int = 1,
    part: Optional[Part] = None,
) -> AnyArray:
    """Latents at sigma = 1, (B, ...): where a rollout starts.

    group_size  samples per prompt that share one initial noise (GCPO, DanceGRPO): that of the first sample of the
                group. Samples of a group are neighbours; it must divide B. None = one noise per sample.

    The others are those of `normal`.
    """
    ids: Any = sample_ids
    if group_size is not None:
        batch = sizes(shape)[0]
        size = integer(group_size, "group_size", 1)
        if batch % size:
            raise InvalidArgument(f"group_size is {size}, which does not divide the batch of {batch}")
        own = _arrays.sample_ids(sample_ids, batch)
        ids = (np.arange(batch, dtype=np.uint64) if own is None else own)[::size].repeat(size)
    return normal(shape, seed, INITIAL_NOISE, ids, dtype=dtype, like=like, threads=threads, part=part)


def source(
    batch: int,
    noise: Optional[Borrowed],
    seed: Optional[int],
    sample_ids: Optional[ArrayLike],
    beside: Optional[Borrowed] = None,
) -> Any:
    """Where steps take their noise from, for an argument of type `const cgrpo_noise *`: the caller's array, the
    library's by seed, or none. beside: the arrays of the call, whose device may hold seed and ids."""
    if noise is not None and seed is not None:
        raise InvalidArgument("noise and seed exclude each other; give one of them")
    if seed is None and sample_ids is not None:
        raise InvalidArgument("sample_ids belong to a seed; give that too")
    if noise is None and seed is None:
        return None
    struct = new(Noise)
    if noise is not None:
        struct.given = ctypes.pointer(noise.tensor(min(2, len(noise.shape))))
        struct.borrowed = noise  # which lives as long
    else:
        if beside is not None and beside.on_device:
            seed, sample_ids = beside.family.draw(seed, sample_ids, batch)
        struct.seed = seed_number(seed)
        ids = _arrays.sample_ids(sample_ids, batch)
        if ids is not None:
            _arrays.point(struct, "sample_ids", ids)
    return struct
