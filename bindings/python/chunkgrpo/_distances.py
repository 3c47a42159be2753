"""Noised latents of the forward process, distances of velocities from u = e - x0, and their gradient."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Optional, TypedDict, overload

import numpy as np
from numpy.typing import ArrayLike

from . import _arrays, _part
from ._arrays import A, AnyArray, Borrowed, Doubles, Numbers
from ._frameworks import not_compiled
from ._generated import ForwardExtras, TimeKeywords, TimeOptions
from ._library import lib, new
from ._options import Unpack, documented, fill
from ._part import Part
from ._scalars import int32, integer, real, seed_number
from .errors import InvalidArgument, WrongType, check
from .noise import source


@dataclass(frozen=True, eq=False)
class Distances(Generic[A]):
    """Numbers (B,) of velocities at noised latents, or (B, N) of N draws; float64. None are those that were not taken.
    Means are over the elements of a sample. In a loss's `grads`: its gradient in the number of the name.

    distance              mean |v - u|^2, with u = noise - image
    absolute              mean |v - u|
    old_distance          mean |v_old - u|^2
    old_absolute          mean |v_old - u|
    reference_distance    mean |v_ref - u|^2
    positive_distance     mean |v+ - u|^2, with v+ = (1 - beta) v_old + beta v (NFT)
    positive_absolute     mean |v+ - u|
    negative_distance     mean |v- - u|^2, with v- = (1 + beta) v_old - beta v
    negative_absolute     mean |v- - u|
    old_divergence        mean |v - v_old|^2
    reference_divergence  mean |v - v_ref|^2: the velocity KL
    beta                  of v+ and v-; None without them
    """

    distance: Optional[A] = None
    absolute: Optional[A] = None
    old_distance: Optional[A] = None
    old_absolute: Optional[A] = None
    reference_distance: Optional[A] = None
    positive_distance: Optional[A] = None
    positive_absolute: Optional[A] = None
    negative_distance: Optional[A] = None
    negative_absolute: Optional[A] = None
    old_divergence: Optional[A] = None
    reference_divergence: Optional[A] = None
    beta: Optional[float] = None

    @classmethod
    def stack(cls, draws: Sequence[Distances[A]]) -> Distances[A]:
        """(B, N) from those (B,) of N draws."""
        if isinstance(draws, Distances):
            raise WrongType("draws is one Distances; give a list of them, one for each draw")
        draws = list(draws)
        for j, draw in enumerate(draws):
            if not isinstance(draw, Distances):
                raise WrongType(f"draws[{j}] must be a Distances, not {type(draw).__name__}")
        if not draws:
            raise InvalidArgument("draws is empty; there must be the distances of one draw at least")
        fields = {name: [getattr(draw, name) for draw in draws] for name in NUMBERS}
        for name, values in fields.items():
            if any((value is None) is not (values[0] is None) for value in values):
                raise InvalidArgument(f"draws: some have {name} and some have not; take all with the same velocities")
        if any(draw.beta != draws[0].beta for draw in draws):
            raise InvalidArgument(f"draws: beta is {[draw.beta for draw in draws]}; it must be one number for all")
        stacked = {name: None if values[0] is None else _stack(values) for name, values in fields.items()}
        return cls(**stacked, beta=draws[0].beta)

    def draw(self, j: int) -> Distances[A]:
        """(B,): those of draw j, of (B, N)."""
        fields = {name: getattr(self, name) for name in NUMBERS}
        for name, value in fields.items():
            if value is not None and value.ndim != 2:
                raise InvalidArgument(f"{name} has shape {tuple(value.shape)}; there are draws in (B, N) alone")
            if value is not None:
                j = integer(j, "j", -value.shape[1], value.shape[1] - 1)
        taken = {name: None if value is None else value[:, j] for name, value in fields.items()}
        return type(self)(**taken, beta=self.beta)


NUMBERS = tuple(name for name in Distances.__dataclass_fields__ if name != "beta")
GRADIENTS = "distance", "positive_distance", "negative_distance", "old_divergence", "reference_divergence"
"""Those that the velocity has a gradient of."""


def _stack(values: Sequence[Any]) -> Any:
    first = values[0]
    if type(first).__module__.partition(".")[0] == "torch":
        import torch

        return torch.stack(list(values), 1)
    return _arrays.given_back(np.stack([_arrays.vector(value, "distances") for value in values], 1), first)


@not_compiled
def noised(
    clean: A,
    times: ArrayLike,
    *,
    noise: Optional[AnyArray] = None,
    seed: Optional[int] = None,
    sample_ids: Optional[ArrayLike] = None,
    draw: int = 0,
    threads: int = 1,
    part: Optional[Part] = None,
) -> A:
    """x_t = (1 - t) x0 + t e, like clean.

    clean       (B, ...): x0
    times       (B,), or one number for all: t, in (0, 1]
    noise       like clean: e; or
    seed        0 ... 2^64 - 1, with sample_ids (B,), None = 0 ... B - 1: the library's
    draw        0 ... 2^29 - 1: a number for each draw of noise in a training run with this seed
    threads     0 = one per core; the result is the same for any number
    part        which elements of its samples clean is; beyond a sample's length x_t is clean
    """
    x = _part.take(part, _arrays.borrow(clean, "clean"))
    t = times if _arrays.per_sample(times) else np.full(x.shape[0], real(times, "times"))
    t = _arrays.upstream(t, "times", x.shape[:1], x)
    out, at = x.new(), _drawn(x, noise, seed, sample_ids, draw, threads)
    check(lib.cgrpo_forward_noised(x.tensor(), t, *at, out.tensor()))
    result: A = out.result()
    return result


class _Others(TypedDict, total=False):
    noise: Optional[AnyArray]
    seed: Optional[int]
    sample_ids: Optional[ArrayLike]
    draw: int
    old_velocity: Optional[AnyArray]
    reference_velocity: Optional[AnyArray]
    beta: Optional[float]
    threads: int
    part: Optional[Part]


@overload
def distances(clean: AnyArray, velocity: Numbers, **others: Unpack[_Others]) -> Distances[Doubles]: ...


@overload
def distances(clean: AnyArray, velocity: A, **others: Unpack[_Others]) -> Distances[A]: ...


@not_compiled
def distances(
    clean: AnyArray,
    velocity: Any,
    *,
    noise: Optional[AnyArray] = None,
    seed: Optional[int] = None,
    sample_ids: Optional[ArrayLike] = None,
    draw: int = 0,
    old_velocity: Optional[AnyArray] = None,
    reference_velocity: Optional[AnyArray] = None,
    beta: Optional[float] = None,
    threads: int = 1,
    part: Optional[Part] = None,
) -> Distances[Any]:
    """Distances (B,) of a velocity from u = e - x0, in one pass, and of others at the same x_t.

    clean               (B, ...), and noise, or seed, sample_ids, and draw: as they were in `noised`
    velocity            like clean: v at x_t, with any guidance applied; it and the others may all be bfloat16 or float16
                        beside float32 (the sums are those of float32)
    old_velocity        like clean: of the policy that sampled
    reference_velocity  like clean: of a frozen one
    beta                > 0, of NFT's v+ and v-; needs old_velocity
    part                which elements of their samples all of these are
    """
    x = _part.take(part, _arrays.borrow(clean, "clean"))
    v = _arrays.borrow_like(velocity, x, "velocity", "clean")
    struct, names = _extras(v, old_velocity, reference_velocity, beta), names_of(old_velocity, reference_velocity, beta)
    values = {name: x.numbers(x.shape[:1]) for name in names}
    inputs = x.tensor(), v.tensor(), *_drawn(x, noise, seed, sample_ids, draw, threads), struct

    def call(*arguments: Any) -> Any:
        for name in names[1:] if arguments[-3] is not None else ():  # the distance: where it is known, all are
            _arrays.point(struct, name, values[name])
        return lib.cgrpo_forward_distance(*arguments)

    sums = 2 if old_velocity is None and reference_velocity is None else 11
    _part.numbers(x, sums, call, inputs, values["distance"], None, None)
    numbers: dict[str, Any] = {name: v.give(value) for name, value in values.items()}
    return Distances(**numbers, beta=None if beta is None else float(beta))


@not_compiled
def distances_vjp(
    clean: AnyArray,
    velocity: A,
    grads: Distances[Any],
    *,
    noise: Optional[AnyArray] = None,
    seed: Optional[int] = None,
    sample_ids: Optional[ArrayLike] = None,
    draw: int = 0,
    old_velocity: Optional[AnyArray] = None,
    reference_velocity: Optional[AnyArray] = None,
    beta: Optional[float] = None,
    threads: int = 1,
    part: Optional[Part] = None,
) -> A:
    """Vector-Jacobian product of `distances`: grads (B,) to the gradient, like velocity. The old velocity and the
    reference are constants, and so are the absolute distances, which weigh others.

    grads  a loss's `grads`, of several draws `out.grads.draw(j)`; or `Distances(distance=...)` and the others of
           positive_distance, negative_distance, old_divergence, reference_divergence
    """
    x = _part.take(part, _arrays.borrow(clean, "clean"))
    v = _arrays.borrow_like(velocity, x, "velocity", "clean")
    if not isinstance(grads, Distances):
        raise WrongType(f"grads must be a Distances, such as a loss's grads, not {type(grads).__name__}")
    given = {name: getattr(grads, name) for name in NUMBERS if getattr(grads, name) is not None}
    for name in given:
        if name not in GRADIENTS:
            raise InvalidArgument(f"grads has {name}, which is a constant; it may have {', '.join(GRADIENTS)}")
    if not given:
        raise InvalidArgument(f"grads has no number; it must have one of {', '.join(GRADIENTS)}")
    struct = _extras(v, old_velocity, reference_velocity, beta)
    upstream = {name: _arrays.upstream(value, f"grads.{name}", x.shape[:1], x) for name, value in given.items()}
    for name, value in upstream.items():
        if name != "distance":
            _arrays.point(struct, f"grad_{name}", value)
    out, at = v.new(), _drawn(x, noise, seed, sample_ids, draw, threads)
    plain = upstream.get("distance")
    check(lib.cgrpo_forward_distance(x.tensor(), v.tensor(), *at, struct, None, plain, out.tensor()))
    result: A = out.result()
    return result


@documented(TimeOptions)
def times(
    batch: int,
    count: int,
    *,
    seed: int,
    sample_ids: Optional[ArrayLike] = None,
    draw: int = 0,
    **options: Unpack[TimeKeywords],
) -> Doubles:
    """Times (B, N) in (0, 1]: a function of (seed, sample id, draw).

    batch, count  B samples, N times each
    sample_ids    (B,); None = 0 ... B - 1. Samples with one id have the same times (DGPO, DPO)
    draw          0 ... 2^29 - 1; random numbers that no noise has
    distribution  "uniform"; "logit_normal": sigmoid(mean + std z) (SD3); "discrete": of `values`
    stratified    the N times of a sample are one of each N-th of the distribution, in random order; False: drawn apart
    shift         > 0: t becomes shift t / (1 + (shift - 1) t)
    low, high     0 <= low < high <= 1: then low + (high - low) t
    least         in [0, 1): no time is below it
    values        of the discrete distribution, in (0, 1]: a schedule's `sigmas[:-1]`
    """
    rows, columns = integer(batch, "batch", 1), integer(count, "count", 1)
    struct = fill(TimeOptions, options, "times")
    struct.seed = seed_number(seed)
    ids = _arrays.sample_ids(sample_ids, rows)
    if ids is not None:
        _arrays.point(struct, "sample_ids", ids)
    out = _arrays.empty((rows, columns))
    check(lib.cgrpo_times(rows, columns, integer(draw, "draw"), struct, out))
    return out


def _drawn(x: Borrowed, noise: Any, seed: Optional[int], sample_ids: Any, draw: Any, threads: Any) -> tuple[Any, ...]:
    """Noise, draw and threads, as the library takes them."""
    if noise is None and seed is None:
        raise InvalidArgument("there is no noise; give seed, or noise like clean")
    given = None if noise is None else _arrays.borrow_like(noise, x, "noise", "clean")
    origin = source(x.shape[0], given, seed, sample_ids, x)
    return origin, integer(draw, "draw"), int32(threads, "threads")


def names_of(old: Any, reference: Any, beta: Any) -> list[str]:
    """The numbers of `distances` with or without an old velocity, a reference and a beta, by their names."""
    names = ["distance", "absolute"]
    names += [] if old is None else ["old_distance", "old_absolute", "old_divergence"]
    names += [] if reference is None else ["reference_distance", "reference_divergence"]
    sides = () if beta is None else ("positive", "negative")
    return names + [f"{side}_{kind}" for side in sides for kind in ("distance", "absolute")]


def _extras(v: Borrowed, old: Any, reference: Any, beta: Any) -> Any:
    """Other velocities, for the library."""
    struct = new(ForwardExtras)
    for name, velocity in (("old_velocity", old), ("reference_velocity", reference)):
        if velocity is not None:
            _lend(struct, name, _arrays.borrow_like(velocity, v, name, "velocity"))
    if beta is not None:
        if old is None:
            raise InvalidArgument(f"beta is {beta}, but there is no old_velocity for NFT's v+ and v-; give that too")
        struct.nft_beta = real(beta, "beta")
        if not struct.nft_beta > 0:
            raise InvalidArgument(f"beta is {beta}; it must be > 0, or None")
    return struct


def _lend(struct: Any, name: str, array: Borrowed) -> None:
    setattr(struct, name, ctypes.pointer(array.tensor()))
    setattr(struct, f"_{name}", array)  # which lives as long
