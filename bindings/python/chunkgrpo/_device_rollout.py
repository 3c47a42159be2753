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
    sampler, frames = trajectory.sampler, trajectory._frames
    sigmas, trained = sampler.schedule.sigmas.tolist(), sampler.schedule.steps - 1
    rows = trajectory._log_probs, trajectory._relative_l1
    noise = _noise_of(trajectory)
    x = frames.at(trajectory._position)
    for step in range(trajectory._position, end):
        out = frames.at(step + 1)
        v = _velocity(velocity, x, sigmas[step], step)
        extras, image = _image(sampler, trajectory._previous, step)
        numbers = [row.column(step) if step < trained else None for row in rows]  # the last one is not trained
        check(
            lib.cgrpo_step(sampler._handle, step, x.tensor(), v.tensor(), extras, noise(step, x), out.tensor(), *numbers)
        )
        if image is not None:
            check(lib.cgrpo_predicted_image(sampler._handle, step, x.tensor(), v.tensor(), None, image.tensor()))
        x = out


def _velocity(velocity: Callable[..., Any], x: Any, sigma: float, step: int) -> Any:
    family = x.family
    value = family.run(velocity, x.array, sigma, step)
    bare(value, "the velocity returned")
    family.again()
    return family.velocity(value, x)


def _noise_of(trajectory: Any) -> Callable[[int, Any], Any]:
    """Where a step takes its noise from: the library's is one source for all of them."""
    given, (seed, ids, _) = trajectory._noise, trajectory._given
    if given is not None:
        return lambda step, x: source(x.shape[0], given.at((slice(None), step)), seed, ids, x)
    origin = source(trajectory._frames.shape[1], None, seed, ids, trajectory._frames)
    return lambda step, x: origin


def _image(sampler: Any, previous: Any, step: int) -> tuple[Any, Any]:
    """The extras of a step of second order, and where its own image goes."""
    if previous is None:
        return None, None
    extras = new(StepExtras)
    if sampler.coefficients(step).c:
        extras.previous_image = ctypes.pointer(previous.tensor())
    return extras, previous
