"""Trajectories: the latents of a batch on their way from noise to image, and how far they are."""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any, Callable, Optional

import numpy as np
from numpy.typing import ArrayLike

from . import _abi, _arrays
from ._arrays import AnyArray, Borrowed
from ._callbacks import Guard
from ._frameworks import not_compiled
from .errors import InvalidArgument, WrongType, check
from .noise import Source

if TYPE_CHECKING:
    from .sampler import Sampler

VelocityFunction = Callable[[Any, float, int], Any]
"""velocity(x, sigma, step): the model's velocity, an array or array-like of x's shape. x is not to be written to."""


class Trajectory:
    """A rollout and its buffers; `Sampler.begin` and `Sampler.rollout` make it.

    latents      (B, T + 1, ...), of the type of the initial latents: latents[:, k] before step k, latents[:, T] the
                 images. In memory one step's batch follows the other's, so that latents[:, k] is contiguous.
    log_probs    (B, S) float64, S = T - 1: of the trained steps under the policy that sampled
    relative_l1  (B, S) float64: mean|x' - x| / (mean|x| + 1e-8)

    previous_image  (B, ...) or None: what the step before `position` predicted, where there are second-order steps

    They are arrays of the framework of the initial latents, on the same device. Those of numpy and tensors on the CPU
    are the buffers themselves; the others are copies. What lies beyond `position`, and what an earlier host has taken,
    is NaN.
    """

    def __init__(
        self,
        sampler: Sampler,
        x_init: AnyArray,
        *,
        seed: Optional[int] = None,
        sample_ids: Optional[ArrayLike] = None,
        noise: Optional[AnyArray] = None,
        position: int = 0,
        previous_image: Optional[AnyArray] = None,
    ) -> None:
        first = _arrays.borrow(x_init, "x_init")
        batch, steps = first.shape[0], sampler.schedule.steps
        self.sampler = sampler
        self._position = _arrays.integer(position, "position", 0, steps)
        given = None if noise is None else _arrays.borrow(noise, "noise", 2)
        if given is not None:
            expected = (batch, steps, *first.shape[1:])
            if given.shape != expected:
                raise InvalidArgument(f"noise has shape {given.shape}; it must be {expected}, (B, T, ...)")
            _arrays.same_device(given, first, "noise", "x_init")
        self._noise = Source(batch, given, seed, sample_ids)
        self._frames = first.new((steps + 1, *first.shape))
        self._frames.fill_nan()
        self._frames.array[self._position] = first.ready().array
        self._previous: Optional[Borrowed] = None
        if any(sampler.history_coefficient(k) for k in range(steps)):
            self._previous = first.new()
            self._previous.array.fill(0)
            if previous_image is not None:
                image = _arrays.borrow_like(previous_image, first, "previous_image", "x_init")
                if image.type != first.type:
                    raise WrongType(
                        f"previous_image has element type {image.type_name}; it must be {first.type_name}, like x_init"
                    )
                self._previous.array[:] = image.ready().array
            elif not self._position == steps and sampler.history_coefficient(self._position):
                raise InvalidArgument(f"previous_image: step {self._position} is of second order and needs it")
        self._log_probs, self._relative_l1 = (first.new_doubles((batch, steps - 1)) for _ in range(2))
        self._log_probs.array.fill(np.nan)
        self._relative_l1.array.fill(np.nan)
        self._shown: dict[str, Any] = {}

    def _show(self, name: str, buffer: Borrowed) -> Any:
        if name not in self._shown:
            self._shown[name] = buffer.result()
        return self._shown[name]

    @property
    def latents(self) -> AnyArray:
        """(B, T + 1, ...): latents[:, k] before step k, latents[:, T] the images."""
        return self._show("latents", self._frames).swapaxes(0, 1)

    @property
    def log_probs(self) -> AnyArray:
        """(B, S) float64, S = T - 1: of the trained steps under the policy that sampled; 0 where there is no noise."""
        return self._show("log_probs", self._log_probs)

    @property
    def relative_l1(self) -> AnyArray:
        """(B, S) float64: mean|x' - x| / (mean|x| + 1e-8)."""
        return self._show("relative_l1", self._relative_l1)

    @property
    def previous_image(self) -> Optional[AnyArray]:
        """(B, ...) or None: what the step before `position` predicted, where the sampler has second-order steps."""
        return None if self._previous is None else self._show("previous_image", self._previous)

    @property
    def position(self) -> int:
        """The step that latents[:, position] take next, 0 ... T."""
        return self._position

    @property
    def done(self) -> bool:
        """Whether all T steps are taken."""
        return self._position == self.sampler.schedule.steps

    @property
    def images(self) -> AnyArray:
        """(B, ...): the last latents. Raises InvalidArgument before the last step is taken."""
        if not self.done:
            raise InvalidArgument(f"the trajectory is at step {self._position} of {self.sampler.schedule.steps}")
        return self.latents[:, -1]

    @not_compiled
    def advance(self, velocity: VelocityFunction, *, until: Optional[int] = None, steps: Optional[int] = None) -> None:
        """Takes the steps position ... until - 1, or so many steps; all that are left if neither is given.

        velocity  `velocity(x, sigma, step)` gets the latents before a step, (B, ...), of the framework and on the
                  device of the initial ones, which it must not write to. It returns the velocity, an array or
                  array-like of the same shape, which is converted to the latents' type. With PyTorch it runs under
                  no_grad.

        What `velocity` raises comes out of this call. After any error `position` is as before, and the same call can
        be made again.
        """
        end = self._end(until, steps)
        _arrays.function(velocity, "velocity")

        def call(step: int, sigma: float, _: Any, out: Any) -> None:
            frame = self._frames.at(step)  # what the library passes, but it outlives the call
            value = frame.family.run(velocity, frame.result(), sigma, step)
            target = _arrays.view(out.contents, frame.array.dtype)
            _arrays.assign(target, value, "the velocity returned", frame.type_name)

        state = _abi.new(_abi.Trajectory)
        state.latents = _arrays.tensor(self._frames.array.swapaxes(0, 1), 2, self._frames.type)
        state.position = self._position
        image = None if self._previous is None else self._previous.tensor()
        if image is not None:
            state.previous_image = ctypes.pointer(image)
        _arrays.point(state, "log_probs", self._log_probs.array)
        _arrays.point(state, "relative_l1", self._relative_l1.array)
        self._frames.ready()  # copies that the user was shown
        self._shown.clear()
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
        batch = self._frames.shape[1]
        return f"<Trajectory of {batch} samples at step {self._position} of {self.sampler.schedule.steps}>"


@not_compiled
def relative_l1(latents: AnyArray, *, threads: int = 1) -> AnyArray:
    """(B, n) of latents (B, n + 1, ...): mean|x_{t+1} - x_t| / (mean|x_t| + 1e-8), how far each step moves."""
    x = _arrays.borrow(latents, "latents", 2)
    out = x.new_doubles((x.shape[0], max(x.shape[1] - 1, 0)))
    check(_abi.lib.cgrpo_relative_l1(x.pointer(2), _arrays.thread_count(threads), out.array))
    return out.result()
