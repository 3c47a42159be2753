"""What a forward pass keeps for its backward pass: the residuals x' - m, for hosts with an autograd of their own."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike

from . import _arrays, _part
from ._arrays import A, AnyArray
from ._frameworks import not_compiled
from ._library import lib
from ._step_extras import extras_of, pair, scales_of, trajectories
from ._steps import kept
from .errors import check
from .sampler import Sampler


@not_compiled
def log_prob_residual(
    sampler: Sampler,
    step: ArrayLike,
    latents: Any,
    velocity: A,
    next_latents: AnyArray,
    *,
    unconditional: Any = None,
    guidance: ArrayLike = 1.0,
    previous_image: Any = None,
) -> tuple[Any, A]:
    """`Sampler.log_prob`, and from the same pass the residual x' - m, like the velocity: the next latents less the mean
    of the step. A forward pass keeps it, and nothing else, for `residual_vjp`.

    Latents and velocity are both float32 or both float64, the type that is computed in: 16 bits would round the residual.
    The rest as in `Sampler.log_prob`.

    Raises WrongType for latents or velocities of 16 bits: there, keep latents, velocity and next_latents for
    `Sampler.log_prob_vjp`.
    """
    x, v = pair(latents, velocity, kept(sampler).part)
    end = _arrays.borrow_like(next_latents, x, "next_latents", "latents")
    number, extras = extras_of(x, step, unconditional, guidance, previous_image)
    log_prob, residual = x.numbers(x.shape[:1]), v.new()
    inputs = sampler._handle, number, x.tensor(), v.tensor(), extras, end.tensor(), residual.tensor()
    _part.numbers(x, 1, lib.cgrpo_log_prob_residual, inputs, log_prob)
    return x.give(log_prob), residual.result()


def residual_vjp(
    sampler: Sampler,
    step: ArrayLike,
    residual: A,
    grad_log_prob: ArrayLike,
    *,
    guided: bool = False,
    guidance: ArrayLike = 1.0,
) -> Any:
    """`Sampler.log_prob_vjp` of the call that gave `residual`, to the bit, from it alone: grad_log_prob (B,) times d
    log_prob / d velocity, like the residual.

    step, guidance  of that call
    guided          whether it had an unconditional velocity: then a pair, the gradients of the velocity and of that
    """
    return vjp(sampler, step, residual, grad_log_prob, guided=guided, guidance=guidance)


@not_compiled
def vjp(
    sampler: Sampler,
    step: Any,
    residual: Any,
    grad_log_prob: Any,
    *,
    guided: bool,
    guidance: Any,
    in_place: bool = False,
) -> Any:
    """in_place: the gradient of the velocity is written into the residual, which lies as the library reads it."""
    r = _part.take(kept(sampler).part, _arrays.borrow(residual, "residual"))
    upstream = _arrays.upstream(grad_log_prob, "grad_log_prob", r.shape[:1], r)
    number, extras = scales_of(r, step, guidance)
    grad, other = None if in_place else r.new(), r.new() if guided else None
    at = r.tensor()
    out = at if grad is None else grad.tensor(), None if other is None else other.tensor()
    check(lib.cgrpo_residual_vjp(sampler._handle, number, at, extras, upstream, *out))
    given = residual if grad is None else grad.result()
    return given if other is None else (given, other.result())


@not_compiled
def log_probs_residuals(
    sampler: Sampler, latents: Any, velocities: A, first_step: ArrayLike = 0
) -> tuple[Any, A]:
    """`Sampler.log_probs` (B, n), and from the same pass the residuals x' - m of the steps, like the velocities (B, n,
    ...), for `residuals_vjp`. As `log_prob_residual` of each step."""
    x, v, first = trajectories(kept(sampler), latents, velocities, first_step)
    log_probs, residuals = v.numbers(v.shape[:2]), v.new()
    inputs = sampler._handle, *first, x.tensor(2), v.tensor(2), residuals.tensor(2)
    _part.numbers(x, v.shape[1], lib.cgrpo_trajectory_residuals, inputs, log_probs)
    return x.give(log_probs), residuals.result()


def residuals_vjp(sampler: Sampler, residuals: A, grad_log_probs: ArrayLike, first_step: ArrayLike = 0) -> A:
    """`Sampler.log_probs_vjp` of the call that gave `residuals` (B, n, ...), to the bit, from them alone: grad_log_probs
    (B, n) to gradients like the residuals."""
    gradients: A = trajectory_vjp(sampler, residuals, grad_log_probs, first_step)
    return gradients


@not_compiled
def trajectory_vjp(
    sampler: Sampler, residuals: Any, grad_log_probs: Any, first_step: Any, in_place: bool = False
) -> Any:
    r = _arrays.borrow(residuals, "residuals", 2)
    r = _part.take(kept(sampler).part, r, 2)
    first = _arrays.steps(first_step, "first_step", r.shape[0])
    upstream = _arrays.upstream(grad_log_probs, "grad_log_probs", r.shape[:2], r)
    grad, at = None if in_place else r.new(), r.tensor(2)
    out = at if grad is None else grad.tensor(2)
    check(lib.cgrpo_trajectory_residuals_vjp(sampler._handle, *first, at, upstream, out))
    return residuals if grad is None else grad.result()
