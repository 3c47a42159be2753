"""Samplers: one affine Gaussian step x' = a x + b v + s e, its log-probability and the gradient of that."""

from __future__ import annotations

import ctypes
from ctypes import byref
from typing import Any, Optional

import numpy as np
from numpy.typing import ArrayLike

from . import _abi, _arrays, _quick
from ._arrays import AnyArray, Borrowed
from ._frameworks import not_compiled
from ._handle import Handle
from .errors import check
from .noise import Source
from .schedule import Schedule
from .trajectory import Trajectory, VelocityFunction

class Sampler:
    """An immutable sampler over one schedule; threads may share it.

    schedule   a Schedule
    dynamics   "flow_sde" (Flow-GRPO, GCPO), "dance_sde" (DanceGRPO), "cps" (FlowCPS), "ode"; "dpm_sde", "dpm_ode"
               (DPM-Solver++) and "wan_sde" (Flow-GRPO's Wan script), which have no eta
    eta        noise scale, >= 0; for "cps" at most 1
    log_prob   "gaussian": -|x' - m|^2 / (2 D s^2) - ln s - ln(2 pi)/2; "squared_error": -mean (x' - m)^2, which is
               what Flow-GRPO and Flow-Factory use with CPS. Both are means over the D elements of a sample
    last_step  "as_others" (Flow-GRPO), or "ode": the last step takes no noise (GCPO, DanceGRPO)
    threads    0 = one a core; the results are the same for any number
    etas       (T,) instead of eta
    window     the steps that take `dynamics`, in rising order (see SDEWindow); None = all
    outside    what the other steps take: "ode" or "dpm_ode"
    after      what those after the window's last step take; None = outside. MixGRPO-Flash: "dpm_ode"
    dpm_order  1 or 2, of DPM-Solver++; the first and the last step are of order 1

    Latents, velocities and noise are arrays (B, ...) of float32, float64, float16 or bfloat16, of one type a call, of
    numpy, PyTorch, JAX, MLX, CuPy or another framework that exports DLPack. Those on the CPU are not copied where the
    sizes after the batch are contiguous. Results are of the framework and on the device of the latents;
    log-probabilities are float64 (float32 in JAX without x64). No gradient passes through these functions, and tensors
    that require one are refused: see chunkgrpo.torch and chunkgrpo.jax.

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
        etas: Optional[ArrayLike] = None,
        window: Optional[ArrayLike] = None,
        outside: str = "ode",
        after: Optional[str] = None,
        dpm_order: int = 2,
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
        options.outside = _arrays.choice(outside, _abi.DYNAMICS, "outside")
        options.after = 0 if after is None else _arrays.choice(after, _abi.DYNAMICS, "after")
        options.dpm_order = _arrays.integer(dpm_order, "dpm_order", -(2**31), 2**31 - 1)
        if etas is not None:
            _arrays.point(options, "etas", _arrays.doubles(etas, "etas", (schedule.steps,)))
        if window is not None:
            steps = _arrays.int64s(window, "window")
            _arrays.point(options, "window", steps if steps.size else np.zeros(1, np.int64))
            options.window_count = steps.size
        sigmas = schedule.sigmas
        check(_abi.lib.cgrpo_sampler_create(sigmas, len(sigmas), byref(options), self._handle.slot()))
        self.schedule = schedule
        self.dynamics = dynamics
        self.eta = float(options.eta)

    def __repr__(self) -> str:
        return f"Sampler({self.dynamics!r}, eta={self.eta}, steps={self.schedule.steps})"

    def coefficients(self, k: int) -> tuple[float, float, float]:
        """(a, b, s) of step k = 0 ... T - 1."""
        a, b, s, _ = self._coefficients(k)
        return a, b, s

    def history_coefficient(self, k: int) -> float:
        """c of step k: 0 but for second-order steps, which add c times the image that the step before predicted."""
        return self._coefficients(k)[3]

    def _coefficients(self, k: int) -> tuple[float, ...]:
        numbers = [ctypes.c_double() for _ in range(4)]
        check(_abi.lib.cgrpo_sampler_coefficients(self._handle, _step(k), *map(byref, numbers)))
        return tuple(number.value for number in numbers)

    @property
    def stochastic_steps(self) -> list[int]:
        """The steps with noise among the S trained ones: those that have a log-probability."""
        return [k for k in range(self.schedule.steps - 1) if self._coefficients(k)[2] > 0]

    # ------------------------------------------------------------------------------------------------------------------
    # One step

    def step(
        self,
        k: int,
        x: AnyArray,
        v: AnyArray,
        *,
        noise: Optional[AnyArray] = None,
        seed: Optional[int] = None,
        sample_ids: Optional[ArrayLike] = None,
        unconditional: Optional[AnyArray] = None,
        guidance: float = 1.0,
        previous_image: Optional[AnyArray] = None,
    ) -> tuple[AnyArray, AnyArray]:
        """Step k from latents x with velocity v, both (B, ...): (x', log-probabilities (B,)).

        noise       like x: the e that is added; or
        seed        0 ... 2^64 - 1: the library's noise for this step. One of the two, unless the step has s = 0
        sample_ids  (B,) integers, with a seed; None = 0 ... B - 1
        unconditional, guidance  classifier-free guidance in the step: the velocity is u + guidance (v - u), u like v
        previous_image  like x: `predicted_image` of the step before, for second-order steps

        The log-probability is taken from x' as it is stored, and is 0 for a deterministic step.
        """
        plain = unconditional is None and previous_image is None and type(guidance) is float and guidance == 1
        if plain and sample_ids is None:
            quick = _quick.step(self._handle, k, x, v, noise, seed)
            if quick is not None:
                return quick
        return self._step(k, x, v, noise, seed, sample_ids, unconditional, guidance, previous_image)

    @not_compiled
    def _step(
        self, k: int, x: Any, v: Any, noise: Any, seed: Any, sample_ids: Any, u: Any, guidance: Any, image: Any
    ) -> tuple[AnyArray, AnyArray]:
        start = _arrays.borrow(x, "x")
        velocity = _arrays.borrow_like(v, start, "v", "x")
        given = None if noise is None else _arrays.borrow_like(noise, start, "noise", "x")
        batch = start.shape[0]
        source = Source(batch, given, seed, sample_ids)
        next_x, log_prob = start.new(), start.new_doubles((batch,))
        check(
            _abi.lib.cgrpo_step_with_extras(
                *(self._handle, _step(k), start.pointer(), velocity.pointer()),
                byref(_extras(start, u, guidance, image)),
                *(source.pointer(), next_x.pointer(), log_prob.array, None),
            )
        )
        return next_x.result(), log_prob.result()

    @not_compiled
    def predicted_image(
        self, k: int, x: AnyArray, v: AnyArray, *, unconditional: Optional[AnyArray] = None, guidance: float = 1.0
    ) -> AnyArray:
        """x - sigma_k v, like x: the image that step k predicts from latents x with velocity v."""
        start = _arrays.borrow(x, "x")
        velocity = _arrays.borrow_like(v, start, "v", "x")
        image = start.new()
        extras = _extras(start, unconditional, guidance, None)
        check(
            _abi.lib.cgrpo_predicted_image(
                *(self._handle, _step(k), start.pointer(), velocity.pointer(), byref(extras), image.pointer())
            )
        )
        return image.result()

    def log_prob(
        self,
        k: int,
        x: AnyArray,
        v: AnyArray,
        next_x: AnyArray,
        *,
        unconditional: Optional[AnyArray] = None,
        guidance: float = 1.0,
        previous_image: Optional[AnyArray] = None,
    ) -> AnyArray:
        """Log-probability (B,) of step k going from x to next_x under velocity v; all (B, ...). The rest as in `step`.

        Raises InvalidArgument where s = 0: a deterministic step has no density.
        """
        if unconditional is None and previous_image is None and type(guidance) is float and guidance == 1:
            quick = _quick.log_prob(self._handle, k, x, v, next_x)
            if quick is not None:
                return quick
        return self._log_prob(k, x, v, next_x, unconditional, guidance, previous_image)

    @not_compiled
    def _log_prob(self, k: int, x: Any, v: Any, next_x: Any, u: Any, guidance: Any, image: Any) -> Any:
        start, velocity, end = _transition(x, v, next_x)
        log_prob = start.new_doubles((start.shape[0],))
        check(
            _abi.lib.cgrpo_log_prob_with_extras(
                *(self._handle, _step(k), start.pointer(), velocity.pointer()),
                byref(_extras(start, u, guidance, image)),
                *(end.pointer(), log_prob.array),
            )
        )
        return log_prob.result()

    def log_prob_vjp(
        self,
        k: int,
        x: AnyArray,
        v: AnyArray,
        next_x: AnyArray,
        grad_log_prob: ArrayLike,
        *,
        unconditional: Optional[AnyArray] = None,
        guidance: float = 1.0,
        previous_image: Optional[AnyArray] = None,
    ) -> Any:
        """Vector-Jacobian product of `log_prob`: grad_log_prob (B,) times d log_prob / dv, like v. With
        `unconditional`, a pair: the gradients of v and of the unconditional velocity."""
        if unconditional is None and previous_image is None and type(guidance) is float and guidance == 1:
            quick = _quick.log_prob_vjp(self._handle, k, x, v, next_x, grad_log_prob)
            if quick is not None:
                return quick
        return self._log_prob_vjp(k, x, v, next_x, grad_log_prob, unconditional, guidance, previous_image)

    @not_compiled
    def _log_prob_vjp(
        self, k: int, x: Any, v: Any, next_x: Any, upstream: Any, u: Any, guidance: Any, image: Any
    ) -> Any:
        start, velocity, end = _transition(x, v, next_x)
        grad = _arrays.doubles(upstream, "grad_log_prob", start.shape[:1])
        grad_v, grad_u = velocity.new(), None if u is None else velocity.new()
        check(
            _abi.lib.cgrpo_log_prob_vjp_with_extras(
                *(self._handle, _step(k), start.pointer(), velocity.pointer()),
                byref(_extras(start, u, guidance, image)),
                *(end.pointer(), grad, grad_v.pointer(), None if grad_u is None else grad_u.pointer(), None),
            )
        )
        return grad_v.result() if grad_u is None else (grad_v.result(), grad_u.result())

    # ------------------------------------------------------------------------------------------------------------------
    # Whole trajectories

    @not_compiled
    def begin(
        self,
        x_init: AnyArray,
        *,
        seed: Optional[int] = None,
        sample_ids: Optional[ArrayLike] = None,
        noise: Optional[AnyArray] = None,
        position: int = 0,
        previous_image: Optional[AnyArray] = None,
    ) -> Trajectory:
        """A trajectory to be taken step by step or chunk by chunk with `Trajectory.advance`.

        x_init      latents (B, ...) that step `position` takes; copied
        seed        the library's noise, with `sample_ids` (B,); or
        noise       (B, T, ...), like x_init: the e of every step. Neither is needed where no step has noise
        position    0 ... T: later than 0 to go on with a rollout that began elsewhere
        previous_image  like x_init: `Trajectory.previous_image` of that rollout; only second-order steps need it
        """
        return Trajectory(
            self,
            x_init,
            seed=seed,
            sample_ids=sample_ids,
            noise=noise,
            position=position,
            previous_image=previous_image,
        )

    def rollout(
        self,
        velocity: VelocityFunction,
        x_init: AnyArray,
        *,
        seed: Optional[int] = None,
        sample_ids: Optional[ArrayLike] = None,
        noise: Optional[AnyArray] = None,
    ) -> Trajectory:
        """All T steps from x_init. `velocity(x, sigma, step)` is the model; see `Trajectory.advance`."""
        trajectory = self.begin(x_init, seed=seed, sample_ids=sample_ids, noise=noise)
        trajectory.advance(velocity)
        return trajectory

    @not_compiled
    def log_probs(self, latents: AnyArray, velocities: AnyArray, first_step: int = 0) -> AnyArray:
        """Log-probabilities (B, n) of the steps first_step ... first_step + n - 1.

        latents     (B, n + 1, ...), or more steps, of which the first n + 1 count: `Trajectory.latents` will do
        velocities  (B, n, ...): the policy to be judged, at these latents
        """
        x, v = _arrays.borrow_trajectories(latents, velocities)
        log_probs = x.new_doubles(v.shape[:2])
        check(
            _abi.lib.cgrpo_trajectory_log_probs(
                self._handle, _step(first_step, "first_step"), x.pointer(2), v.pointer(2), log_probs.array
            )
        )
        return log_probs.result()

    @not_compiled
    def log_probs_vjp(
        self, latents: AnyArray, velocities: AnyArray, grad_log_probs: ArrayLike, first_step: int = 0
    ) -> AnyArray:
        """Vector-Jacobian product of `log_probs`: grad_log_probs (B, n) to gradients like velocities (B, n, ...).

        Steps whose gradient is zero (chunk not selected, or clipped) cost nothing but the zeros.
        """
        x, v = _arrays.borrow_trajectories(latents, velocities)
        grad = _arrays.doubles(grad_log_probs, "grad_log_probs", v.shape[:2])
        grad_v = v.new()
        check(
            _abi.lib.cgrpo_trajectory_log_probs_vjp(
                *(self._handle, _step(first_step, "first_step"), x.pointer(2), v.pointer(2), grad, grad_v.pointer(2))
            )
        )
        return grad_v.result()


def _transition(x: Any, v: Any, next_x: Any) -> tuple[Borrowed, Borrowed, Borrowed]:
    start = _arrays.borrow(x, "x")
    return start, _arrays.borrow_like(v, start, "v", "x"), _arrays.borrow_like(next_x, start, "next_x", "x")


def _extras(x: Borrowed, unconditional: Any, guidance: Any, previous_image: Any) -> Any:
    extras = _abi.new(_abi.StepExtras)
    extras.guidance = _arrays.real(guidance, "guidance")
    for field, value in (("unconditional", unconditional), ("previous_image", previous_image)):
        if value is not None:
            tensor = _arrays.borrow_like(value, x, field, "x").tensor()
            setattr(extras, field, ctypes.pointer(tensor))
            setattr(extras, "_tensor_of_" + field, tensor)  # alive as long as the struct
    return extras


def _step(value: Any, name: str = "k") -> int:
    return _arrays.integer(value, name)
