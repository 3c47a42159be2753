"""Trajectories: the latents of a batch on their way from noise to image, and how far they are."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Callable, Generic, Optional, overload

import numpy as np
from numpy.typing import NDArray

from . import _arrays, _device_rollout, _part, _rows
from . import _generated as _structs
from . import sampler as _samplers  # which imports this module: for the annotation alone
from ._arrays import A, AnyArray, Borrowed, Doubles, Numbers
from ._callbacks import Guard
from ._frameworks import not_compiled
from ._library import lib, new
from ._part import Part
from ._scalars import function, int32, integer
from .errors import InvalidArgument, WrongType, check
from .noise import source

if TYPE_CHECKING:

    class _double:
        """A property whose array is float64."""

        def __init__(self, _: Callable[[Any], Any]) -> None: ...
        @overload
        def __get__(self, trajectory: Trajectory[NDArray[Any]], _: Any) -> Doubles: ...
        @overload
        def __get__(self, trajectory: Trajectory[A], _: Any) -> A: ...
        def __get__(self, trajectory: Any, _: Any) -> Any: ...

else:
    _double = property

VelocityFunction = Callable[[A, float, int], Any]
"""velocity(latents, sigma, step): the model's velocity, an array or array-like of the latents' shape. The latents are
not to be written to."""


class Trajectory(Generic[A]):
    """A rollout and its buffers; `Sampler.begin` and `Sampler.rollout` make it.

    Its arrays are of the framework of the initial latents, on the same device. Those of numpy and tensors on the CPU
    are the buffers themselves; the others are copies. Steps beyond `position`, and those that an earlier host has
    taken, are NaN.

    len(trajectory) is B. trajectory[rows] is a trajectory of some samples, a copy that goes on as they would: rows are a
    slice, integers, a mask (B,), or one integer. `concatenate` makes one of several.
    """

    def __init__(
        self,
        sampler: _samplers.Sampler,
        x_init: A,
        seed: Any,
        sample_ids: Any,
        noise: Any,
        position: int,
        previous_image: Any,
        blank: bool = True,
    ) -> None:
        """blank: False where all steps are taken before anybody looks."""
        on_host = sampler.part is not None or not _arrays.rolls_in_place(x_init)
        first = _part.take(sampler.part, _arrays.borrow(x_init, "x_init", on_host=on_host))
        if first.part is not None and not first.part.is_whole:
            raise InvalidArgument(
                "a rollout does not know the sums of other shards: take its steps with Sampler.step, which asks for them"
            )
        batch, steps = first.shape[0], sampler.schedule.steps
        self.sampler = sampler
        self._position = integer(position, "position", 0, steps)
        given = None if noise is None else _arrays.borrow(noise, "noise", 2, on_host=not first.on_device)
        if given is not None:
            given.part = first.part
        if given is not None:
            expected = (batch, steps, *first.shape[1:])
            if given.shape != expected:
                raise InvalidArgument(f"noise has shape {given.shape}; it must be {expected}, (B, T, ...)")
            _arrays.same_device(given, first, "noise", "x_init")
        if not (first.on_device and first.family.owns(sample_ids)):
            sample_ids = _arrays.sample_ids(sample_ids, batch)  # a copy: the caller may write to his own
        self._given = seed, sample_ids, noise
        origin = source(batch, given, seed, sample_ids, first)
        self._noise = given if first.on_device else origin
        self._frames = first.new((steps + 1, *first.shape))
        self._log_probs, self._relative_l1 = (first.new_doubles((batch, steps - 1)) for _ in range(2))
        if blank:
            for buffer in (self._frames, self._log_probs, self._relative_l1):
                buffer.fill_nan()
        self._frames.put(self._position, first)
        self._previous = self._first_image(first, previous_image)
        self._shown: dict[str, Any] = {}

    def _first_image(self, first: Borrowed, previous_image: Optional[AnyArray]) -> Optional[Borrowed]:
        """The image that the step before predicted, for second-order steps; None where there are none."""
        steps, coefficients = self.sampler.schedule.steps, self.sampler.coefficients
        if not any(coefficients(step).c for step in range(steps)):
            return None
        previous = first.new()
        if previous_image is not None:
            image = _arrays.borrow_like(
                previous_image, first, "previous_image", "x_init", on_host=not first.on_device
            )
            if image.storage is not first.storage:
                kinds = image.storage.name, first.storage.name
                raise WrongType(f"previous_image has element type {kinds[0]}; it must be {kinds[1]}, like x_init")
            previous.put(..., image)
            return previous
        if self._position < steps and coefficients(self._position).c:
            raise InvalidArgument(f"previous_image: step {self._position} is of second order and needs it")
        previous.fill(0)
        return previous

    def _show(self, name: str, buffer: Borrowed) -> Any:
        if name not in self._shown:
            self._shown[name] = buffer.result()
        return self._shown[name]

    @property
    def latents(self) -> A:
        """(B, T + 1, ...), of the type of the initial latents: latents[:, k] before step k, latents[:, T] the images.
        In memory one step's batch follows the other's: latents[:, k] is contiguous."""
        latents: A = self._show("latents", self._frames).swapaxes(0, 1)
        return latents

    @_double
    def log_probs(self) -> Any:
        """(B, S) float64, S = T - 1: of the trained steps under the policy that sampled; 0 where there is no noise."""
        return self._show("log_probs", self._log_probs)

    @_double
    def relative_l1(self) -> Any:
        """(B, S) float64: mean|x' - x| / (mean|x| + 1e-8)."""
        return self._show("relative_l1", self._relative_l1)

    @property
    def previous_image(self) -> Optional[A]:
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
    def current(self) -> A:
        """(B, ...): the latents that the next step takes, latents[:, position]; the images where all are taken."""
        latents: Any = self.latents
        current: A = latents[:, self._position]
        return current

    @property
    def images(self) -> A:
        """(B, ...): the last latents. Raises InvalidArgument before the last step is taken."""
        if not self.done:
            raise InvalidArgument(f"the trajectory is at step {self._position} of {self.sampler.schedule.steps}")
        latents: Any = self.latents
        images: A = latents[:, -1]
        return images

    @not_compiled
    def advance(
        self, velocity: VelocityFunction[A], *, until: Optional[int] = None, steps: Optional[int] = None
    ) -> None:
        """Takes the steps position ... until - 1, or so many steps; all that are left if neither is given.

        velocity  `velocity(latents, sigma, step)` gets the latents before a step, (B, ...), of the framework and on the
                  device of the initial ones, which it must not write to. It returns the velocity, an array or
                  array-like of the same shape, which is converted to the latents' type. With PyTorch it runs under
                  no_grad.

        An exception of `velocity` comes out of this call. After any error `position` is as before, and the same call
        can be made again.
        """
        end = self._end(until, steps)
        function(velocity, "velocity")
        if self._frames.on_device:
            _device_rollout.advance(self, velocity, end)
        else:
            self._advance(velocity, end)
        self._position = end

    def _advance(self, velocity: VelocityFunction[A], end: int) -> None:
        """On the CPU: one call for all steps."""

        def call(step: int, sigma: float, _: Any, out: Any) -> None:
            frame = self._frames.at(step)  # what the library passes, but it outlives the call
            value = frame.family.run(velocity, frame.result(), sigma, step)
            _arrays.assign(_arrays.view(out.contents, frame.array.dtype), value, "the velocity returned")

        state = new(_structs.Trajectory)
        state.frames = _arrays.tensor(self._frames.array.swapaxes(0, 1), 2, self._frames.part)
        state.latents = state.frames  # a copy, of what has to live as long
        state.position = self._position
        if self._previous is not None:
            state.previous_image = ctypes.pointer(self._previous.tensor())
        _arrays.point(state, "log_probs", self._log_probs.array)
        _arrays.point(state, "relative_l1", self._relative_l1.array)
        self._frames.ready()  # copies that the user was shown
        self._shown.clear()
        with Guard() as guard:
            callback = guard.callback(_structs.VelocityFn, call)
            status = lib.cgrpo_rollout(self.sampler._handle, state, end, self._noise, callback, None)
        guard.check(status, calls=end - self._position)

    @not_compiled
    def fork(
        self,
        step: int,
        branches: int,
        *,
        sample_ids: Optional[Iterable[int]] = None,
        seed: Optional[int] = None,
        noise: Optional[A] = None,
    ) -> Trajectory[A]:
        """A trajectory at `step` of `branches` samples in place of each, neighbours, which share what lies before and go
        on from there each with noise of its own.

        Train the steps before `step` with this trajectory, once: the noise of the fork's ids is not theirs.

        step        0 ... position; of first order, or 0
        branches    >= 1
        sample_ids  (B branches,); None = made from those of this trajectory, so that none meets another but with
                    probability n^2 / 2^65 among n
        seed        None = that of this trajectory
        noise       (B branches, T, ...), where that of this trajectory was given
        """
        step = integer(step, "step", 0, self._position)
        branches = integer(branches, "branches", 1, 2**20)
        own_seed, own_ids, own_noise = self._given
        if own_noise is not None and noise is None:
            raise InvalidArgument("noise: that of the trajectory was given, so give that of the fork too")
        if step < self.sampler.schedule.steps and self.sampler.coefficients(step).c:
            raise InvalidArgument(
                f"step {step} is of second order and needs the image that the step before it predicted: fork at one "
                "that is not"
            )
        batch = self._frames.shape[1]
        ids: Any = sample_ids
        if ids is None and noise is None:
            ids, own = np.empty(batch * branches, np.uint64), _own_ids(own_ids, batch)
            if len(np.unique(own)) < batch:
                raise InvalidArgument("samples with one id, of repeated rows or of several runs, would fork alike: give sample_ids")
            check(lib.cgrpo_forked_ids(own, batch, step, branches, ids))
        own_seed = None if noise is not None else own_seed if seed is None else seed
        first = self._frames.at(step).repeated(branches, 0)
        forked = type(self)(self.sampler, first.result(), own_seed, ids, noise, step, None)
        forked._frames.put(slice(step), self._frames.at(slice(step)).repeated(branches, 1))
        for mine, theirs in ((self._log_probs, forked._log_probs), (self._relative_l1, forked._relative_l1)):
            before = slice(None), slice(step)
            theirs.put(before, mine.at(before).repeated(branches, 0))
        return forked

    def _end(self, until: Optional[int], steps: Optional[int]) -> int:
        total = self.sampler.schedule.steps
        if until is not None and steps is not None:
            raise InvalidArgument("until and steps exclude each other; give one of them")
        if self.done:
            raise InvalidArgument(f"the trajectory has taken all its {total} steps")
        if steps is not None:
            return self._position + integer(steps, "steps", 1, total - self._position)
        if until is not None:
            return integer(until, "until", self._position + 1, total)
        return total

    def __len__(self) -> int:
        return int(self._frames.shape[1])

    def __getitem__(self, rows: Any) -> Trajectory[A]:
        chosen = _rows.rows_of(rows, len(self))
        if len(range(len(self))[chosen] if isinstance(chosen, slice) else chosen) == 0:
            raise InvalidArgument(f"rows has none of the {len(self)} samples; a trajectory has one or more")
        seed, ids, noise = self._given
        if ids is None and noise is None:
            ids = _own_ids(None, len(self))
        return self._again(lambda array: _rows.some(array, chosen), (seed, ids, noise))

    def to(self, device: Any) -> Trajectory[A]:
        """With its tensors on another device. Of PyTorch alone."""
        if not hasattr(self.latents, "is_cuda"):
            raise WrongType(f"the latents are of type {type(self.latents).__name__}: only tensors of PyTorch are moved")
        return self._again(lambda array: array.to(device) if hasattr(array, "is_cuda") else array, self._given)

    def _again(self, change: Callable[[Any], Any], given: Any) -> Trajectory[A]:
        """A trajectory of these arrays, each of them changed."""
        arrays = tuple(map(change, (self.latents, self.log_probs, self.relative_l1)))
        seed, *rows = given
        origin = seed, *(None if item is None else change(item) for item in rows)
        previous = None if self._previous is None else change(self.previous_image)
        return _again(type(self), self.sampler, arrays, origin, self._position, previous)

    @staticmethod
    def _joined(trajectories: Any) -> Trajectory[Any]:
        first = trajectories[0]
        _rows.alike(trajectories, "sampler", "position")
        given = [trajectory._given for trajectory in trajectories]
        by_noise = {noise is None for _, _, noise in given}
        if len(by_noise) > 1:
            raise InvalidArgument("some of the trajectories were given their noise, and some a seed: one has either")
        seeds = list(dict.fromkeys(seed for seed, _, _ in given))
        if len(seeds) > 1 and not first.done:
            raise InvalidArgument(f"the trajectories have seeds {seeds[0]} and {seeds[1]}, and steps to come: one has one seed")
        joined = {
            name: _rows.joined([getattr(trajectory, name) for trajectory in trajectories], name)
            for name in ("latents", "log_probs", "relative_l1")
        }
        previous = None if first._previous is None else _rows.joined([t.previous_image for t in trajectories], "previous_image")
        origin: Any
        if given[0][2] is not None:
            origin = None, None, _rows.joined([noise for _, _, noise in given], "noise")
        else:
            ids = [_own_ids(own, len(t)) for (_, own, _), t in zip(given, trajectories)]
            origin = seeds[0], np.concatenate(ids), None
        return _again(type(first), first.sampler, tuple(joined.values()), origin, first.position, previous)

    def __reduce__(self) -> Any:
        """For pickle and copy: a trajectory of the same arrays, which goes on as this one would."""
        arrays = self.latents, self.log_probs, self.relative_l1
        return _again, (type(self), self.sampler, arrays, self._given, self._position, self.previous_image)

    def __repr__(self) -> str:
        batch = self._frames.shape[1]
        return f"<Trajectory of {batch} samples at step {self._position} of {self.sampler.schedule.steps}>"


def _own_ids(ids: Any, batch: int) -> Any:
    """(B,) uint64: those that None means, too."""
    return np.arange(batch, dtype=np.uint64) if ids is None else _arrays.sample_ids(ids, batch)


def _again(
    kind: Any, sampler: Any, arrays: Any, given: Any, position: int, previous_image: Any
) -> Trajectory[Any]:
    seed, sample_ids, noise = given
    trajectory: Trajectory[Any] = kind(
        sampler, arrays[0][:, position], seed, sample_ids, noise, position, previous_image
    )
    frames = trajectory._frames.array.swapaxes(0, 1)
    for target, value in zip((frames, trajectory._log_probs.array, trajectory._relative_l1.array), arrays):
        if trajectory._frames.on_device:
            target[...] = value
        else:
            _arrays.assign(target, value, "a pickled array")
    return trajectory


@overload
def relative_l1(latents: Numbers, *, threads: int = 1, part: Optional[Part] = None) -> Doubles: ...


@overload
def relative_l1(latents: A, *, threads: int = 1, part: Optional[Part] = None) -> A: ...


@not_compiled
def relative_l1(latents: Any, *, threads: int = 1, part: Optional[Part] = None) -> Any:
    """(B, n) of latents (B, n + 1, ...): mean|x_{t+1} - x_t| / (mean|x_t| + 1e-8), how far each step moves. part: which of
    its samples' elements the latents are."""
    x = _part.take(part, _arrays.borrow(latents, "latents", 2), 2)
    out = x.numbers((x.shape[0], max(x.shape[1] - 1, 0)))
    inputs = x.tensor(2), int32(threads, "threads")
    _part.numbers(x, 2 * max(x.shape[1] - 1, 0), lib.cgrpo_relative_l1, inputs, out)
    return x.give(out)
