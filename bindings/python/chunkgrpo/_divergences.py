"""How far a policy's steps are from another's: KL to a reference, the bias of GRPO-Guard, the mask of Flow-DPPO.
A name in the singular is of one step, as `log_prob` is; one in the plural is of several, as `log_probs`."""

from __future__ import annotations

from typing import Any, Optional, overload

from numpy.typing import ArrayLike

from . import _arrays, _part
from ._arrays import A, AnyArray, Borrowed, Doubles, Numbers
from ._borrowed import row, transposed
from ._frameworks import not_compiled
from ._generated import DIVERGENCE, Divergence
from ._library import lib
from ._scalars import choice
from ._step_extras import trajectories
from ._steps import kept
from .errors import InvalidArgument, check
from .noise import source
from .sampler import Sampler


@overload
def divergence(
    sampler: Sampler, step: ArrayLike, velocity: Numbers, other: AnyArray, *, kind: Divergence = "gaussian"
) -> Doubles: ...


@overload
def divergence(sampler: Sampler, step: ArrayLike, velocity: A, other: AnyArray, *, kind: Divergence = "gaussian") -> A: ...


@not_compiled
def divergence(
    sampler: Sampler, step: ArrayLike, velocity: Any, other: AnyArray, *, kind: Divergence = "gaussian"
) -> Any:
    """Divergence (B,) of one step under `velocity` from that under `other`, both (B, ...); of each sample's own for
    steps (B,). The rest as in `divergences`."""
    return _of_one(sampler, step, velocity, other, None, kind)


@not_compiled
def divergence_vjp(
    sampler: Sampler,
    step: ArrayLike,
    velocity: A,
    other: AnyArray,
    grad: ArrayLike,
    *,
    kind: Divergence = "gaussian",
) -> A:
    """Vector-Jacobian product of `divergence`: grad (B,) to gradients like velocity. `other` has none."""
    result: A = _of_one(sampler, step, velocity, other, grad, kind)
    return result


@overload
def divergences(
    sampler: Sampler, velocities: Numbers, other: AnyArray, *, kind: Divergence = "gaussian", first_step: ArrayLike = 0
) -> Doubles: ...


@overload
def divergences(
    sampler: Sampler, velocities: A, other: AnyArray, *, kind: Divergence = "gaussian", first_step: ArrayLike = 0
) -> A: ...


@not_compiled
def divergences(
    sampler: Sampler, velocities: Any, other: AnyArray, *, kind: Divergence = "gaussian", first_step: ArrayLike = 0
) -> Any:
    """Divergence (B, n) of the steps first_step ... first_step + n - 1 under `velocities` from those under `other`,
    both (B, n, ...): of a frozen reference, or of the old policy. Means over the elements of a sample; m is the mean of
    a step:

    kind  "gaussian": mean (m - m')^2 / (2 s^2), the exact KL divergence; "gaussian_per_time": without the step size in
          the variance, as Flow-GRPO (SD3, FLUX, Qwen-Image) and verl-omni have it; "mean": mean (m - m')^2, and
          "velocity": mean (v - v')^2 (Flow-Factory, x-based and v-based)

    The Gaussian kinds are refused where s = 0. Velocities have any guidance applied. A velocity (B, ...) of one step is
    for `divergence`. first_step may be (B,), as in `Sampler.log_probs`.
    """
    return _from_velocities(sampler, velocities, other, None, kind, first_step)


@not_compiled
def divergences_vjp(
    sampler: Sampler,
    velocities: A,
    other: AnyArray,
    grad: ArrayLike,
    *,
    kind: Divergence = "gaussian",
    first_step: ArrayLike = 0,
) -> A:
    """Vector-Jacobian product of `divergences`: grad (B, n) to gradients like velocities. `other` has none."""
    return _from_velocities(sampler, velocities, other, grad, kind, first_step)


@overload
def divergences_from_sampled(
    sampler: Sampler,
    latents: AnyArray,
    velocities: Numbers,
    *,
    seed: Optional[int] = None,
    sample_ids: Optional[ArrayLike] = None,
    noise: Optional[AnyArray] = None,
    kind: Divergence = "gaussian",
    first_step: ArrayLike = 0,
) -> Doubles: ...


@overload
def divergences_from_sampled(
    sampler: Sampler,
    latents: AnyArray,
    velocities: A,
    *,
    seed: Optional[int] = None,
    sample_ids: Optional[ArrayLike] = None,
    noise: Optional[AnyArray] = None,
    kind: Divergence = "gaussian",
    first_step: ArrayLike = 0,
) -> A: ...


@not_compiled
def divergences_from_sampled(
    sampler: Sampler,
    latents: AnyArray,
    velocities: Any,
    *,
    seed: Optional[int] = None,
    sample_ids: Optional[ArrayLike] = None,
    noise: Optional[AnyArray] = None,
    kind: Divergence = "gaussian",
    first_step: ArrayLike = 0,
) -> Any:
    """Divergence (B, n) from the steps that were sampled, whose mean was x' - s e: from latents (B, n + 1, ...) as in
    `Sampler.log_probs`, and the seed and sample_ids (or the noise (B, n, ...) of these steps) of the rollout. Neither
    the old velocity nor the old mean has to be stored.

    The rounding of latents to float16 or bfloat16 counts as distance. Refused for second-order steps.
    """
    return _from_sampled(sampler, latents, velocities, None, seed, sample_ids, noise, kind, first_step)


@not_compiled
def divergences_from_sampled_vjp(
    sampler: Sampler,
    latents: AnyArray,
    velocities: A,
    grad: ArrayLike,
    *,
    seed: Optional[int] = None,
    sample_ids: Optional[ArrayLike] = None,
    noise: Optional[AnyArray] = None,
    kind: Divergence = "gaussian",
    first_step: ArrayLike = 0,
) -> A:
    """Vector-Jacobian product of `divergences_from_sampled`: grad (B, n) to gradients like velocities."""
    return _from_sampled(sampler, latents, velocities, grad, seed, sample_ids, noise, kind, first_step)


def _of_one(
    sampler: Sampler, step: ArrayLike, velocity: Any, other: Any, grad: Optional[ArrayLike], kind: Divergence
) -> Any:
    kept(sampler)
    v = _part.take(sampler.part, _arrays.borrow(velocity, "velocity"))
    w = _arrays.borrow_like(other, v, "other", "velocity")
    steps = _arrays.steps(step, "step", v.shape[0])
    at = sampler._handle, *steps, choice(kind, DIVERGENCE, "kind"), v.tensor(), w.tensor()
    if grad is None:
        values = v.numbers(v.shape[:1])
        _part.numbers(v, 1, lib.cgrpo_divergence_from_velocity, at, values, None, None)
        return v.give(values)
    out, upstream = v.new(), _arrays.upstream(grad, "grad", v.shape[:1], v)
    check(lib.cgrpo_divergence_from_velocity(*at, None, upstream, out.tensor()))
    return out.result()


def _from_velocities(
    sampler: Sampler, velocities: A, other: Any, grad: Optional[ArrayLike], kind: Divergence, first_step: ArrayLike
) -> A:
    kept(sampler)
    v = _part.take(sampler.part, _arrays.borrow(velocities, "velocities", 2), 2)
    w = _arrays.borrow_like(other, v, "other", "velocities", 2)
    number = choice(kind, DIVERGENCE, "kind")

    def call(t: int, steps: Any, value: Any, upstream: Any, out: Any) -> Any:
        at = _at(v, t), _at(w, t), value, upstream, out
        return lib.cgrpo_divergence_from_velocity(sampler._handle, *steps, number, *at)

    result: A = _each(sampler, v, grad, first_step, call)
    return result


def _from_sampled(
    sampler: Sampler,
    latents: Any,
    velocities: A,
    grad: Optional[ArrayLike],
    seed: Optional[int],
    sample_ids: Optional[ArrayLike],
    noise: Optional[AnyArray],
    kind: Divergence,
    first_step: ArrayLike,
) -> A:
    x, v, _ = trajectories(kept(sampler), latents, velocities, first_step)
    given = None if noise is None else _arrays.borrow_like(noise, v, "noise", "velocities", 2)
    number = choice(kind, DIVERGENCE, "kind")

    def call(t: int, steps: Any, value: Any, upstream: Any, out: Any) -> Any:
        origin = source(v.shape[0], None if given is None else given.at((slice(None), t)), seed, sample_ids, v)
        at = _at(x, t), _at(v, t), origin, _at(x, t + 1), value, upstream, out
        return lib.cgrpo_divergence_from_sampled(sampler._handle, *steps, number, *at)

    result: A = _each(sampler, v, grad, first_step, call)
    return result


def _each(sampler: Sampler, v: Borrowed, grad: Optional[ArrayLike], first_step: ArrayLike, call: Any) -> Any:
    """One step after the other: values (B, n), or gradients like v."""
    batch, count = v.shape[:2]
    number, each = _arrays.steps(first_step, "first_step", batch)
    first, steps = number if each is None else int(each.max()), sampler.schedule.steps
    if 0 <= first <= steps < first + count:
        raise InvalidArgument(
            f"velocities has shape {v.shape}, which is {count} steps from step {first} on; the schedule has {steps}. "
            "The second axis is that of the steps: for velocities (B, ...) of one step there is "
            "divergence(sampler, step, velocity, other)"
        )
    at = [(number + t, None) if each is None else (0, each + t) for t in range(count)]
    if grad is None:
        columns = v.numbers((count, batch))
        for t in range(count):
            _part.numbers(v, 1, call, (t, at[t]), row(columns, t), None, None)
        return v.give(transposed(columns))
    upstream = transposed(_arrays.upstream(grad, "grad", (batch, count), v))
    out = v.new()
    for t in range(count):
        check(call(t, at[t], None, row(upstream, t), _at(out, t)))
    return out.result()


def _at(trajectory: Borrowed, t: int) -> Any:
    at = trajectory.ready().at((slice(None), t))
    tensor = at.tensor()
    tensor.borrowed = at
    return tensor
