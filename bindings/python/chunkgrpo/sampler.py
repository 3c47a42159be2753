"""Samplers: one affine Gaussian step x' = a x + b v + s e, its log-probability and the gradient of that."""

from __future__ import annotations

import ctypes
from ctypes import byref
from typing import Any, Optional

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _abi, _arrays
from ._arrays import Array
from ._handle import Handle
from .errors import InvalidArgument, check
from .noise import Source
from .schedule import Schedule
from .trajectory import Trajectory, VelocityFunction


class Sampler:
    """An immutable sampler over one schedule; threads may share it.

    schedule   a Schedule
    dynamics   "flow_sde" (Flow-GRPO, GCPO), "dance_sde" (DanceGRPO), "cps" (FlowCPS) or "ode"
    eta        noise scale, >= 0; for "cps" at most 1
    log_prob   "gaussian": -|x' - m|^2 / (2 D s^2) - ln s - ln(2 pi)/2; "squared_error": -mean (x' - m)^2, which is
               what Flow-GRPO and Flow-Factory use with CPS. Both are means over the D elements of a sample
    last_step  "as_others" (Flow-GRPO), or "ode": the last step takes no noise (GCPO, DanceGRPO)
    threads    0 = one a core; the results are the same for any number

    Latents, velocities and noise are arrays (B, ...) of float32, float64, float16 or bfloat16, of one type a call.
    They are not copied where the sizes after the batch are contiguous. Log-probabilities are float64.

    Raises InvalidArgument for options out of bounds.
    """

    def __init__(
        self,
        schedule: Schedule,
        dynamics: str = "flow_sde",
        eta: float = 0.7,
        *,
        log_prob: str = "gaussian",
        last_step: str = "as_others",
        threads: int = 1,
    ) -> None:
        self._handle = Handle(_abi.lib.cgrpo_sampler_destroy)
        if not isinstance(schedule, Schedule):
            schedule = Schedule(schedule)
        options = _abi.new(_abi.SamplerOptions)
        options.dynamics = _arrays.choice(dynamics, _abi.DYNAMICS, "dynamics")
        options.eta = _arrays.real(eta, "eta")
        options.log_prob_form = _arrays.choice(log_prob, _abi.LOG_PROB_FORM, "log_prob")
        options.last_step = _arrays.choice(last_step, _abi.LAST_STEP, "last_step")
        options.threads = _arrays.thread_count(threads)
        sigmas = schedule.sigmas
        check(_abi.lib.cgrpo_sampler_create(sigmas, len(sigmas), byref(options), self._handle.slot()))
        self.schedule = schedule
        self.dynamics = dynamics
        self.eta = float(options.eta)

    def __repr__(self) -> str:
        return f"Sampler({self.dynamics!r}, eta={self.eta}, steps={self.schedule.steps})"

    def coefficients(self, k: int) -> tuple[float, float, float]:
        """(a, b, s) of step k = 0 ... T - 1."""
        numbers = [ctypes.c_double() for _ in range(3)]
        check(_abi.lib.cgrpo_sampler_coefficients(self._handle, _step(k), *map(byref, numbers)))
        a, b, s = (number.value for number in numbers)
        return a, b, s

    # ------------------------------------------------------------------------------------------------------------------
    # One step

    def step(
        self,
        k: int,
        x: Array,
        v: Array,
        *,
        noise: Optional[Array] = None,
        seed: Optional[int] = None,
        sample_ids: Optional[ArrayLike] = None,
    ) -> tuple[Array, NDArray[np.float64]]:
        """Step k from latents x with velocity v, both (B, ...): (x', log-probabilities (B,)).

        noise       like x: the e that is added; or
        seed        0 ... 2^64 - 1: the library's noise for this step. One of the two, unless the step has s = 0
        sample_ids  (B,) integers, with a seed; None = 0 ... B - 1

        The log-probability is taken from x' as it is stored, and is 0 for a deterministic step.
        """
        x = _arrays.latents(x, "x")
        v = _arrays.latents_like(v, x, "v", "x")
        given = None if noise is None else _arrays.latents_like(noise, x, "noise", "x")
        source = Source(len(x), given, seed, sample_ids)
        next_x, log_prob = np.empty(x.shape, x.dtype), np.empty(len(x))
        check(
            _abi.lib.cgrpo_step(
                self._handle, _step(k), _borrow(x), _borrow(v), source.pointer(), _borrow(next_x), log_prob, None
            )
        )
        return next_x, log_prob

    def log_prob(self, k: int, x: Array, v: Array, next_x: Array) -> NDArray[np.float64]:
        """Log-probability (B,) of step k going from x to next_x under velocity v; all (B, ...).

        Raises InvalidArgument where s = 0: a deterministic step has no density.
        """
        x = _arrays.latents(x, "x")
        v, next_x = _arrays.latents_like(v, x, "v", "x"), _arrays.latents_like(next_x, x, "next_x", "x")
        log_prob = np.empty(len(x))
        check(_abi.lib.cgrpo_log_prob(self._handle, _step(k), _borrow(x), _borrow(v), _borrow(next_x), log_prob))
        return log_prob

    def log_prob_vjp(self, k: int, x: Array, v: Array, next_x: Array, grad_log_prob: ArrayLike) -> Array:
        """Vector-Jacobian product of `log_prob`: grad_log_prob (B,) times d log_prob / dv, like v."""
        x = _arrays.latents(x, "x")
        v, next_x = _arrays.latents_like(v, x, "v", "x"), _arrays.latents_like(next_x, x, "next_x", "x")
        grad = _arrays.doubles(grad_log_prob, "grad_log_prob", (len(x),))
        grad_v = np.empty(v.shape, v.dtype)
        check(
            _abi.lib.cgrpo_log_prob_vjp(
                self._handle, _step(k), _borrow(x), _borrow(v), _borrow(next_x), grad, _borrow(grad_v), None
            )
        )
        return grad_v

    # ------------------------------------------------------------------------------------------------------------------
    # Whole trajectories

    def begin(
        self,
        x_init: Array,
        *,
        seed: Optional[int] = None,
        sample_ids: Optional[ArrayLike] = None,
        noise: Optional[Array] = None,
        position: int = 0,
    ) -> Trajectory:
        """A trajectory to be taken step by step or chunk by chunk with `Trajectory.advance`.

        x_init      latents (B, ...) that step `position` takes; copied
        seed        the library's noise, with `sample_ids` (B,); or
        noise       (B, T, ...), like x_init: the e of every step. Neither is needed where no step has noise
        position    0 ... T: later than 0 to go on with a rollout that began elsewhere
        """
        return Trajectory(self, x_init, seed=seed, sample_ids=sample_ids, noise=noise, position=position)

    def rollout(
        self,
        velocity: VelocityFunction,
        x_init: Array,
        *,
        seed: Optional[int] = None,
        sample_ids: Optional[ArrayLike] = None,
        noise: Optional[Array] = None,
    ) -> Trajectory:
        """All T steps from x_init. `velocity(x, sigma, step)` is the model; see `Trajectory.advance`."""
        trajectory = self.begin(x_init, seed=seed, sample_ids=sample_ids, noise=noise)
        trajectory.advance(velocity)
        return trajectory

    def log_probs(self, latents: Array, velocities: Array, first_step: int = 0) -> NDArray[np.float64]:
        """Log-probabilities (B, n) of the steps first_step ... first_step + n - 1.

        latents     (B, n + 1, ...), or more steps, of which the first n + 1 count: `Trajectory.latents` will do
        velocities  (B, n, ...): the policy to be judged, at these latents
        """
        latents, velocities = _trajectories(latents, velocities)
        log_probs = np.empty(velocities.shape[:2])
        check(
            _abi.lib.cgrpo_trajectory_log_probs(
                self._handle, _step(first_step, "first_step"), _borrow(latents, 2), _borrow(velocities, 2), log_probs
            )
        )
        return log_probs

    def log_probs_vjp(self, latents: Array, velocities: Array, grad_log_probs: ArrayLike, first_step: int = 0) -> Array:
        """Vector-Jacobian product of `log_probs`: grad_log_probs (B, n) to gradients like velocities (B, n, ...).

        Steps whose gradient is zero (chunk not selected, or clipped) cost nothing but the zeros.
        """
        latents, velocities = _trajectories(latents, velocities)
        grad = _arrays.doubles(grad_log_probs, "grad_log_probs", velocities.shape[:2])
        grad_v = np.empty(velocities.shape, velocities.dtype)
        check(
            _abi.lib.cgrpo_trajectory_log_probs_vjp(
                self._handle,
                _step(first_step, "first_step"),
                _borrow(latents, 2),
                _borrow(velocities, 2),
                grad,
                _borrow(grad_v, 2),
            )
        )
        return grad_v


def _trajectories(latents: Any, velocities: Any) -> tuple[Array, Array]:
    x, v = _arrays.latents(latents, "latents", 2), _arrays.latents(velocities, "velocities", 2)
    if v.shape[:1] + v.shape[2:] != x.shape[:1] + x.shape[2:] or v.shape[1] >= x.shape[1]:
        raise InvalidArgument(
            f"velocities has shape {v.shape}; for latents {x.shape} it must be (B, n, ...) with n < {x.shape[1]}"
        )
    return x, v


def _step(value: Any, name: str = "k") -> int:
    return _arrays.integer(value, name)


def _borrow(array: Array, leading: int = 1) -> Any:
    return byref(_arrays.tensor(array, leading))
