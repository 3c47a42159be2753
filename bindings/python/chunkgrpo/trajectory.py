"""Trajectories: the latents of a batch on their way from noise to image, and how far they are."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Callable, Optional

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _abi, _arrays
from ._arrays import Array
from ._callbacks import Guard
from .errors import InvalidArgument, check
from .noise import Source

if TYPE_CHECKING:
    from .sampler import Sampler

VelocityFunction = Callable[[Array, float, int], ArrayLike]
"""velocity(x, sigma, step): the model's velocity, array-like of x's shape. x is read-only."""


class Trajectory:
    """A rollout and its buffers; `Sampler.begin` and `Sampler.rollout` make it.

    latents      (B, T + 1, ...), of the type of the initial latents: latents[:, k] before step k, latents[:, T] the
                 images. In memory one step's batch follows the other's, so that latents[:, k] is contiguous.
    log_probs    (B, S) float64, S = T - 1: of the trained steps under the policy that sampled
    relative_l1  (B, S) float64: mean|x' - x| / (mean|x| + 1e-8)

    previous_image  (B, ...) or None: what the step before `position` predicted, where the sampler has second-order steps

    What lies beyond `position`, and what an earlier host has taken, is NaN.
    """

    def __init__(
        self,
        sampler: Sampler,
        x_init: Array,
        *,
        seed: Optional[int] = None,
        sample_ids: Optional[ArrayLike] = None,
        noise: Optional[Array] = None,
        position: int = 0,
        previous_image: Optional[Array] = None,
    ) -> None:
        first = _arrays.latents(x_init, "x_init")
        batch, steps = len(first), sampler.schedule.steps
        self.sampler = sampler
        self._position = _arrays.integer(position, "position", 0, steps)
        given = None if noise is None else _arrays.latents(noise, "noise", 2)
        if given is not None and given.shape != (batch, steps, *first.shape[1:]):
            expected = (batch, steps, *first.shape[1:])
            raise InvalidArgument(f"noise has shape {given.shape}; it must be {expected}, (B, T, ...)")
        self._noise = Source(batch, given, seed, sample_ids)
        self._frames = _arrays.empty((steps + 1, *first.shape), first.dtype)
        self._frames.fill(np.nan)
        self._frames[self._position] = first
        self.previous_image: Optional[Array] = None
        if any(sampler.history_coefficient(k) for k in range(steps)):
            self.previous_image = np.zeros(first.shape, first.dtype)
            if previous_image is not None:
                self.previous_image[:] = _arrays.latents_like(previous_image, first, "previous_image", "x_init")
            elif not self._position == steps and sampler.history_coefficient(self._position):
                raise InvalidArgument(f"previous_image: step {self._position} is of second order and needs it")
        self.latents: Array = np.moveaxis(self._frames, 0, 1)
        self.log_probs: NDArray[np.float64] = np.full((batch, steps - 1), np.nan)
        self.relative_l1: NDArray[np.float64] = np.full((batch, steps - 1), np.nan)

    @property
    def position(self) -> int:
        """The step that latents[:, position] take next, 0 ... T."""
        return self._position

    @property
    def done(self) -> bool:
        return self._position == self.sampler.schedule.steps

    @property
    def images(self) -> Array:
        """(B, ...): the last latents. Raises InvalidArgument before the last step is taken."""
        if not self.done:
            raise InvalidArgument(f"the trajectory is at step {self._position} of {self.sampler.schedule.steps}")
        return self.latents[:, -1]

    def advance(self, velocity: VelocityFunction, *, until: Optional[int] = None, steps: Optional[int] = None) -> None:
        """Takes the steps position ... until - 1, or so many steps; all that are left if neither is given.

        velocity  `velocity(x, sigma, step)` gets the latents before a step, (B, ...) and read-only, and returns the
                  velocity, array-like of the same shape; it is converted to the latents' type.

        What `velocity` raises comes out of this call. After any error `position` is as before, and the same call can
        be made again.
        """
        end = self._end(until, steps)
        _arrays.function(velocity, "velocity")

        def call(step: int, sigma: float, _: Any, out: Any) -> None:
            x = self._frames[step]  # what the library passes, but it outlives the call
            x.flags.writeable = False
            _arrays.assign(_arrays.view(out.contents, x.dtype), velocity(x, sigma, step), "the velocity returned")

        state = _abi.new(_abi.Trajectory)
        state.latents = _arrays.tensor(self.latents, 2)
        state.position = self._position
        image = None if self.previous_image is None else _arrays.tensor(self.previous_image)
        if image is not None:
            state.previous_image = ctypes.pointer(image)
        _arrays.point(state, "log_probs", self.log_probs)
        _arrays.point(state, "relative_l1", self.relative_l1)
        with Guard() as guard:
            status = _abi.lib.cgrpo_rollout(
                self.sampler._handle,
                ctypes.byref(state),
                end,
                self._noise.pointer(),
                guard.callback(_abi.VelocityFn, call),
                None,
            )
        guard.check(status, calls=end - self._position)
        self._position = end

    def _end(self, until: Optional[int], steps: Optional[int]) -> int:
        total = self.sampler.schedule.steps
        if until is not None and steps is not None:
            raise InvalidArgument("until and steps exclude each other; give one of them")
        if self.done:
            raise InvalidArgument(f"the trajectory has taken all its {total} steps")
        if steps is not None:
            return self._position + _arrays.integer(steps, "steps", 1, total - self._position)
        if until is not None:
            return _arrays.integer(until, "until", self._position + 1, total)
        return total

    def __repr__(self) -> str:
        return f"<Trajectory of {len(self.latents)} samples at step {self._position} of {self.sampler.schedule.steps}>"


def relative_l1(latents: Array, *, threads: int = 1) -> NDArray[np.float64]:
    """(B, n) of latents (B, n + 1, ...): mean|x_{t+1} - x_t| / (mean|x_t| + 1e-8), how far each step moves."""
    latents = _arrays.latents(latents, "latents", 2)
    out = np.empty((len(latents), max(latents.shape[1] - 1, 0)))
    borrowed = _arrays.tensor(latents, 2)
    check(_abi.lib.cgrpo_relative_l1(ctypes.byref(borrowed), _arrays.thread_count(threads), out))
    return out
