"""The inputs of steps as the library takes them."""

from __future__ import annotations

import ctypes
from typing import Any, Optional, TypedDict

from numpy.typing import ArrayLike

from . import _arrays, _part
from ._arrays import AnyArray, Borrowed
from ._generated import StepExtras
from ._library import new
from ._part import Part
from ._scalars import integer, real


class Extras(TypedDict, total=False):
    unconditional: Optional[AnyArray]
    guidance: ArrayLike
    previous_image: Optional[AnyArray]


class Drawn(Extras, total=False):
    noise: Optional[AnyArray]
    seed: Optional[int]
    sample_ids: Optional[ArrayLike]


def pair(latents: Any, velocity: Any, part: Optional[Part]) -> tuple[Borrowed, Borrowed]:
    """Of one step of a sampler."""
    x = _arrays.borrow(latents, "latents")
    x = x if part is None else _part.take(part, x)
    return x, _arrays.borrow_like(velocity, x, "velocity", "latents")


def trajectories(sampler: Any, latents: Any, velocities: Any, first_step: Any) -> tuple[Borrowed, Borrowed, Any]:
    """Of several steps of a sampler, and the first one."""
    x, v, first = _arrays.borrow_trajectories(latents, velocities, sampler.schedule.steps, first_step)
    v.part = _part.take(sampler.part, x, 2).part
    return x, v, first


def extras_of(x: Borrowed, step: Any, unconditional: Any, guidance: Any, previous_image: Any) -> tuple[int, Any]:
    """For arguments of type `int64_t step` and `const cgrpo_step_extras *`."""
    alone = unconditional is None and previous_image is None
    if alone and type(step) is int and type(guidance) is float and guidance == 1:
        return integer(step, "step"), None
    number, steps = _arrays.steps(step, "step", x.shape[0])
    each = _arrays.doubles(guidance, "guidance", x.shape[:1]) if _arrays.per_sample(guidance) else None
    factor = 1.0 if each is not None else real(guidance, "guidance")
    if alone and steps is None and each is None and factor == 1:
        return number, None
    extras = _numbers(steps, each, factor)
    extras.borrowed = []  # what has to live as long
    for field, value in (("unconditional", unconditional), ("previous_image", previous_image)):
        if value is not None:
            extras.borrowed.append(_arrays.borrow_like(value, x, field, "latents"))
            setattr(extras, field, ctypes.pointer(extras.borrowed[-1].tensor()))
    return number, extras


def scales_of(residual: Borrowed, step: Any, guidance: Any) -> tuple[int, Any]:
    """The same without tensors: what a gradient is scaled by."""
    if type(step) is int and type(guidance) is float and guidance == 1:
        return integer(step, "step"), None
    number, steps = _arrays.steps(step, "step", residual.shape[0])
    each = _arrays.doubles(guidance, "guidance", residual.shape[:1]) if _arrays.per_sample(guidance) else None
    return number, _numbers(steps, each, 1.0 if each is not None else real(guidance, "guidance"))


def _numbers(steps: Any, guidances: Any, guidance: float) -> Any:
    extras = new(StepExtras)
    extras.guidance = guidance
    for field, numbers in (("steps", steps), ("guidances", guidances)):
        if numbers is not None:
            _arrays.point(extras, field, numbers)
    return extras
