"""A rollout whose latents lie on a device: one call of the library for each step, none of which waits."""

from __future__ import annotations

import ctypes
from typing import Any, Callable

from ._generated import StepExtras
from ._library import lib, new
from ._scalars import bare
from .errors import check
from .noise import source


def advance(trajectory: Any, velocity: Callable[..., Any], end: int) -> None:
    """Takes the steps of a trajectory up to `end`."""
    for step in range(trajectory._position, end):
        _step(trajectory, velocity, step)


def _step(trajectory: Any, velocity: Callable[..., Any], step: int) -> None:
    sampler, frames = trajectory.sampler, trajectory._frames
    family, schedule = frames.family, sampler.schedule
    x, out = frames.at(step), frames.at(step + 1)
    value = family.run(velocity, x.array, float(schedule.sigmas[step]), step)
    bare(value, "the velocity returned")
    family.again()
    v = family.velocity(value, x)
    seed, ids, _ = trajectory._given
    given = None if trajectory._noise is None else trajectory._noise.at((slice(None), step))
    noise = source(x.shape[0], given, seed, ids, x)
    extras, image = _image(sampler, trajectory._previous, step)
    rows: Any = (None, None)
    if step < schedule.steps - 1:  # the last one is not trained
        rows = [numbers.at((slice(None), step)) for numbers in (trajectory._log_probs, trajectory._relative_l1)]
    check(lib.cgrpo_step(sampler._handle, step, x.tensor(), v.tensor(), extras, noise, out.tensor(), *rows))
    if image is not None:
        check(lib.cgrpo_predicted_image(sampler._handle, step, x.tensor(), v.tensor(), None, image.tensor()))


def _image(sampler: Any, previous: Any, step: int) -> tuple[Any, Any]:
    """The extras of a step of second order, and where its own image goes."""
    if previous is None:
        return None, None
    extras = new(StepExtras)
    if sampler.coefficients(step).c:
        extras.previous_image = ctypes.pointer(previous.tensor())
    return extras, previous
