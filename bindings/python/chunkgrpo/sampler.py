"""Samplers: one affine Gaussian step x' = a x + b v + s e, its log-probability and the gradient of that."""

from __future__ import annotations

import ctypes
from ctypes import byref
from functools import cached_property, partial
from typing import Any, NamedTuple, Optional, overload

from numpy.typing import ArrayLike

from . import _arrays, _part
from ._arrays import A, AnyArray, Doubles, N, Numbers
from ._frameworks import not_compiled
from ._generated import Dynamics, SamplerKeywords, SamplerOptions
from ._handle import Handle
from ._library import lib, new
from ._options import Unpack, changed, documented, fill, read
from ._part import Part, of_part
from ._scalars import function, integer
from ._step_extras import Drawn, Extras, extras_of, pair, trajectories
from .errors import WrongType, check
from .noise import source
from .schedule import Schedule
from .trajectory import Trajectory, VelocityFunction


class Coefficients(NamedTuple):
    """Of one step x' = a x + b v + c h + s e, with h the image that the step before predicted.

    a  of the latents x
    b  of the velocity v
    s  of the noise e, its standard deviation
    c  of h; 0 but for second-order steps
    """

    a: float
    b: float
    s: float
    c: float


class Sampler:
    """An immutable sampler over one schedule; threads may share it.

    schedule   a Schedule
    dynamics   "flow_sde" (Flow-GRPO, GCPO), "dance_sde" (DanceGRPO), "cps" (FlowCPS), "ode"; "dpm_sde", "dpm_ode"
               (DPM-Solver++) and "wan_sde" (Flow-GRPO's Wan script), which have no eta; "precise", "precise_dance",
               "sage", "flash_sde", "edm_churn" and "consistency" (no eta): docs/samplers.md has their formulas
    eta        noise scale, >= 0; for "cps" at most 1; for "edm_churn" it is gamma
    log_prob   "gaussian": -|x' - m|^2 / (2 D s^2) - ln s - ln(2 pi)/2; "squared_error": -mean (x' - m)^2, which is
               what Flow-GRPO and Flow-Factory use with CPS. Both are means over the D elements of a sample
    wan_sigma_min  in [0, 1]: what the noise scale of "wan_sde" and "flash_sde" falls to, from sigma_1
    last_step  "as_others" (Flow-GRPO's, as the defaults of dynamics and eta), or "ode": the last step takes no noise
               (GCPO, DanceGRPO)
    threads    0 = one per core; the results are the same for any number
    etas       (T,) instead of eta
    window     the steps that take `dynamics`, in rising order (see SDEWindow); None = all
    outside    what the other steps take: "ode" or "dpm_ode"
    after      what those after the window's last step take; None = outside. MixGRPO-Flash: "dpm_ode"
    dpm_order  1 or 2, of DPM-Solver++; the first and the last step are of order 1

    Samplers of one schedule and the same options are equal, as are their copies and pickles.

    Latents, velocities and noise are arrays (B, ...), with dimensions beside the batch, of float32, float64, float16 or
    bfloat16, of one type per call, of numpy, PyTorch, JAX, MLX, CuPy or another framework that exports DLPack. Those on
    the CPU are not copied where the sizes after the batch are contiguous. Results are of the framework and on the
    device of the latents; log-probabilities are float64 (float32 in JAX without x64). No gradient passes through these
    functions, and tensors that require one are refused: see chunkgrpo.torch and chunkgrpo.jax.

    Raises InvalidArgument for options out of bounds.
    """

    @documented(SamplerOptions)
    def __init__(
        self, schedule: Schedule, dynamics: Dynamics = "flow_sde", eta: float = 0.7, **options: Unpack[SamplerKeywords]
    ) -> None:
        self._handle = Handle(lib.cgrpo_sampler_destroy)
        if not isinstance(schedule, Schedule):
            schedule = Schedule(schedule)
        given = {"dynamics": dynamics, "eta": eta, **options}
        struct = fill(SamplerOptions, given, "Sampler", shapes={"etas": (schedule.steps,)})
        sigmas = schedule.sigmas
        check(lib.cgrpo_sampler_create(sigmas, len(sigmas), struct, self._handle.slot()))
        self._schedule, self._dynamics, self._eta = schedule, dynamics, float(struct.eta)
        self._part: Optional[Part] = None
        self._known: dict[int, Coefficients] = {}

    @property
    def schedule(self) -> Schedule:
        """The schedule that it was made for."""
        return self._schedule

    @property
    def dynamics(self) -> Dynamics:
        """The name of its dynamics."""
        return self._dynamics

    @property
    def eta(self) -> float:
        """Its noise scale."""
        return self._eta

    @property
    def part(self) -> Optional[Part]:
        """What `with_part` was given; None = whole samples."""
        return self._part

    def with_part(self, part: Optional[Part]) -> Sampler:
        """This sampler for latents, velocities and noise that are a shard of their samples, or of unequal length: every
        function that takes it takes such. None: for whole samples again."""
        if part is not None and not isinstance(part, Part):
            raise WrongType(f"part must be a chunkgrpo.Part, not {type(part).__name__}")
        other: Sampler = object.__new__(type(self))
        other.__dict__.update({name: value for name, value in self.__dict__.items() if name != "_key"}, _part=part)
        return other

    @property
    def options(self) -> dict[str, Any]:
        """The options that the sampler was made of: `Sampler(sampler.schedule, **sampler.options)` is its equal. Copies
        and pickles are made so."""
        return self._options(read)

    def _options(self, reader: Any) -> dict[str, Any]:
        struct = new(SamplerOptions)
        check(lib.cgrpo_sampler_info(self._handle, struct, None, None))
        options: dict[str, Any] = reader(struct, {"etas": self.schedule.steps})
        return options

    @cached_property
    def _key(self) -> Any:
        options = ((name, tuple(value) if isinstance(value, list) else value) for name, value in self.options.items())
        return self.schedule, tuple(options), self._part

    def __eq__(self, other: object) -> bool:
        """Samplers of one schedule and the same options are equal."""
        return isinstance(other, Sampler) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __reduce__(self) -> Any:
        make = partial(type(self), self.schedule, **self.options)
        return (make, ()) if self._part is None else (of_part, (make, self._part))

    def __repr__(self) -> str:
        others = self._options(changed)
        others.pop("dynamics", None)
        shown = {"eta": self.eta, "steps": self.schedule.steps, **others}
        if self._part is not None:
            shown["part"] = self._part
        return f"Sampler({self.dynamics!r}, {', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    def coefficients(self, step: int) -> Coefficients:
        """(a, b, s, c) of step 0 ... T - 1."""
        number = integer(step, "step")
        known = self._known.get(number)
        if known is None:
            values = [ctypes.c_double() for _ in range(4)]
            check(lib.cgrpo_sampler_coefficients(self._handle, number, *map(byref, values)))
            known = self._known[number] = Coefficients(*(value.value for value in values))
        return known

    @property
    def stochastic_steps(self) -> list[int]:
        """The steps with noise among the S trained ones: those that have a log-probability."""
        return [step for step in range(self.schedule.steps - 1) if self.coefficients(step).s > 0]

    # ------------------------------------------------------------------------------------------------------------------
    # One step

    @overload
    def step(self, step: ArrayLike, latents: N, velocity: AnyArray, **options: Unpack[Drawn]) -> tuple[N, Doubles]: ...

    @overload
    def step(self, step: ArrayLike, latents: A, velocity: AnyArray, **options: Unpack[Drawn]) -> tuple[A, A]: ...

    @not_compiled
    def step(
        self,
        step: ArrayLike,
        latents: Any,
        velocity: AnyArray,
        *,
        noise: Optional[AnyArray] = None,
        seed: Optional[int] = None,
        sample_ids: Optional[ArrayLike] = None,
        unconditional: Optional[AnyArray] = None,
        guidance: ArrayLike = 1.0,
        previous_image: Optional[AnyArray] = None,
    ) -> Any:
        """One step from latents with a velocity, both (B, ...): (the next latents, log-probabilities (B,)).

        velocity    of the latents' type; or of 16 bits beside float32, read where it lies, with float32's results
        step        0 ... T - 1; or (B,) of them, so that one batch mixes steps: each sample is then at its own, and has its
                    noise. The results are those of the samples one by one, to the bit
        noise       like the latents: the e that is added; or
        seed        0 ... 2^64 - 1: the library's noise for this step. One of the two, unless the step has s = 0
        sample_ids  (B,) integers, with a seed; None = 0 ... B - 1
        unconditional, guidance  classifier-free guidance in the step: the velocity is u + guidance (v - u), u like v;
                    guidance is one number, or (B,)
        previous_image  like the latents: `predicted_image` of the step before, which samples at second-order steps read

        The log-probability is taken from the next latents as they are stored, and is 0 for a deterministic step.
        """
        x, v = pair(latents, velocity, self._part)
        given = None if noise is None else _arrays.borrow_like(noise, x, "noise", "latents")
        origin = source(x.shape[0], given, seed, sample_ids, x)
        number, extras = extras_of(x, step, unconditional, guidance, previous_image)
        out, log_prob = x.new(), x.numbers(x.shape[:1])
        inputs = self._handle, number, x.tensor(), v.tensor(), extras, origin, out.tensor()
        _part.numbers(x, 3, lib.cgrpo_step, inputs, log_prob, None)
        return out.result(), x.give(log_prob)

    @not_compiled
    def predicted_image(
        self,
        step: ArrayLike,
        latents: A,
        velocity: AnyArray,
        *,
        unconditional: Optional[AnyArray] = None,
        guidance: ArrayLike = 1.0,
    ) -> A:
        """x - sigma v, like the latents: the image that a step predicts from latents x with velocity v. The rest as in
        `step`."""
        x, v = pair(latents, velocity, self._part)
        number, extras = extras_of(x, step, unconditional, guidance, None)
        image = x.new()
        check(lib.cgrpo_predicted_image(self._handle, number, x.tensor(), v.tensor(), extras, image.tensor()))
        result: A = image.result()
        return result

    @overload
    def log_prob(
        self, step: ArrayLike, latents: Numbers, velocity: AnyArray, next_latents: AnyArray, **extras: Unpack[Extras]
    ) -> Doubles: ...

    @overload
    def log_prob(
        self, step: ArrayLike, latents: A, velocity: AnyArray, next_latents: AnyArray, **extras: Unpack[Extras]
    ) -> A: ...

    @not_compiled
    def log_prob(
        self,
        step: ArrayLike,
        latents: Any,
        velocity: AnyArray,
        next_latents: AnyArray,
        *,
        unconditional: Optional[AnyArray] = None,
        guidance: ArrayLike = 1.0,
        previous_image: Optional[AnyArray] = None,
    ) -> Any:
        """Log-probability (B,) of a step from latents to next_latents under a velocity; all (B, ...). The rest as in
        `step`.

        Raises InvalidArgument where s = 0, for any sample: a deterministic step has no density.
        """
        x, v = pair(latents, velocity, self._part)
        end = _arrays.borrow_like(next_latents, x, "next_latents", "latents")
        number, extras = extras_of(x, step, unconditional, guidance, previous_image)
        log_prob = x.numbers(x.shape[:1])
        inputs = self._handle, number, x.tensor(), v.tensor(), extras, end.tensor()
        _part.numbers(x, 1, lib.cgrpo_log_prob, inputs, log_prob)
        return x.give(log_prob)

    @overload
    def log_prob_vjp(
        self,
        step: ArrayLike,
        latents: AnyArray,
        velocity: A,
        next_latents: AnyArray,
        grad_log_prob: ArrayLike,
        *,
        unconditional: None = None,
        guidance: ArrayLike = 1.0,
        previous_image: Optional[AnyArray] = None,
    ) -> A: ...

    @overload
    def log_prob_vjp(
        self,
        step: ArrayLike,
        latents: AnyArray,
        velocity: A,
        next_latents: AnyArray,
        grad_log_prob: ArrayLike,
        *,
        unconditional: AnyArray,
        guidance: ArrayLike = 1.0,
        previous_image: Optional[AnyArray] = None,
    ) -> tuple[A, A]: ...

    @not_compiled
    def log_prob_vjp(
        self,
        step: ArrayLike,
        latents: Any,
        velocity: AnyArray,
        next_latents: AnyArray,
        grad_log_prob: ArrayLike,
        *,
        unconditional: Optional[AnyArray] = None,
        guidance: ArrayLike = 1.0,
        previous_image: Optional[AnyArray] = None,
    ) -> Any:
        """Vector-Jacobian product of `log_prob`: grad_log_prob (B,) times d log_prob / d velocity, like the velocity.
        With `unconditional`, a pair: the gradients of the velocity and of the unconditional one."""
        x, v = pair(latents, velocity, self._part)
        end = _arrays.borrow_like(next_latents, x, "next_latents", "latents")
        upstream = _arrays.upstream(grad_log_prob, "grad_log_prob", x.shape[:1], x)
        number, extras = extras_of(x, step, unconditional, guidance, previous_image)
        grad, grad_u = v.new(), None if unconditional is None else v.new()
        out = grad.tensor(), None if grad_u is None else grad_u.tensor()
        at = x.tensor(), v.tensor(), extras, end.tensor()
        check(lib.cgrpo_log_prob_vjp(self._handle, number, *at, upstream, *out, None))
        return grad.result() if grad_u is None else (grad.result(), grad_u.result())

    # ------------------------------------------------------------------------------------------------------------------
    # Whole trajectories

    @not_compiled
    def begin(
        self,
        x_init: A,
        *,
        seed: Optional[int] = None,
        sample_ids: Optional[ArrayLike] = None,
        noise: Optional[AnyArray] = None,
        position: int = 0,
        previous_image: Optional[AnyArray] = None,
    ) -> Trajectory[A]:
        """A trajectory to be taken step by step or chunk by chunk with `Trajectory.advance`.

        x_init      latents (B, ...) that step `position` takes; copied
        seed        the library's noise, with `sample_ids` (B,); or
        noise       (B, T, ...), like x_init: the e of every step. Neither is needed where no step has noise
        position    0 ... T: later than 0 to go on with a rollout that began elsewhere
        previous_image  like x_init: `Trajectory.previous_image` of that rollout; only second-order steps need it
        """
        return Trajectory(self, x_init, seed, sample_ids, noise, position, previous_image)

    @not_compiled
    def rollout(
        self,
        velocity: VelocityFunction[A],
        x_init: A,
        *,
        seed: Optional[int] = None,
        sample_ids: Optional[ArrayLike] = None,
        noise: Optional[AnyArray] = None,
    ) -> Trajectory[A]:
        """All T steps from x_init. `velocity(latents, sigma, step)` is the model; see `Trajectory.advance`."""
        function(velocity, "velocity")
        trajectory: Trajectory[A] = Trajectory(self, x_init, seed, sample_ids, noise, 0, None, blank=False)
        trajectory.advance(velocity)
        return trajectory

    @overload
    def log_probs(self, latents: Numbers, velocities: AnyArray, first_step: ArrayLike = 0) -> Doubles: ...

    @overload
    def log_probs(self, latents: A, velocities: AnyArray, first_step: ArrayLike = 0) -> A: ...

    @not_compiled
    def log_probs(self, latents: Any, velocities: AnyArray, first_step: ArrayLike = 0) -> Any:
        """Log-probabilities (B, n) of the steps first_step ... first_step + n - 1.

        latents     (B, n + 1, ...), or more steps, of which the first n + 1 count: `Trajectory.latents` will do
        velocities  (B, n, ...): the policy to be judged, at these latents
        first_step  one number; or (B,), so that one batch mixes windows: latents[i, 0] is what step first_step[i] takes
        """
        x, v, first = trajectories(self, latents, velocities, first_step)
        out = v.numbers(v.shape[:2])
        inputs = self._handle, *first, x.tensor(2), v.tensor(2)
        _part.numbers(x, v.shape[1], lib.cgrpo_trajectory_log_probs, inputs, out)
        return x.give(out)

    @not_compiled
    def log_probs_vjp(self, latents: AnyArray, velocities: A, grad_log_probs: ArrayLike, first_step: ArrayLike = 0) -> A:
        """Vector-Jacobian product of `log_probs`: grad_log_probs (B, n) to gradients like velocities (B, n, ...).

        Steps whose gradient is zero (chunk not selected, or clipped) cost nothing but the zeros.
        """
        x, v, first = trajectories(self, latents, velocities, first_step)
        grad, upstream = v.new(), _arrays.upstream(grad_log_probs, "grad_log_probs", v.shape[:2], v)
        at = x.tensor(2), v.tensor(2), upstream, grad.tensor(2)
        check(lib.cgrpo_trajectory_log_probs_vjp(self._handle, *first, *at))
        result: A = grad.result()
        return result
