"""The steps, log-probabilities, divergences and chunk losses."""

from __future__ import annotations

from functools import partial
from typing import Any, Optional

import jax
import jax.numpy as jnp
import numpy as np

from .. import _arrays, _divergences, _self_check, _steps, objective
from .._generated import ChunkLossKeywords, ChunkLossOptions, Divergence
from .._options import Unpack, documented
from .._scalars import flag
from ..chunks import ChunkPlan
from ..errors import InvalidArgument
from ..objective import ChunkLoss
from ..sampler import Sampler
from ._host import Struct, call, on_trial
from ._transforms import (
    as_latents,
    as_velocities,
    data_but_loss,
    dense,
    differentiable,
    floats,
    latents_of,
    log_prob_gradient,
    loss_results,
    of_velocities,
    scaled,
    split,
    velocities_gradient,
)


def log_prob(
    sampler: Sampler,
    step: Any,
    latents: Any,
    velocity: Any,
    next_latents: Any,
    *,
    unconditional: Any = None,
    guidance: Any = 1.0,
    previous_image: Any = None,
) -> jax.Array:
    """`Sampler.log_prob`: log-probability (B,) of a step from latents to next_latents under a velocity, all (B, ...).
    Differentiable in velocity and unconditional. step and guidance are one number, or (B,)."""
    x = latents_of(latents, "latents")
    traced, fixed = split(
        step=step,
        latents=x,
        **as_velocities(x, velocity=velocity, unconditional=unconditional),
        next_latents=as_latents(x, next_latents, "next_latents"),
        guidance=guidance,
        previous_image=as_latents(x, previous_image, "previous_image"),
    )

    def gradient(traced: dict[str, Any], _: Any, cotangent: Any) -> dict[str, Any]:
        return log_prob_gradient(sampler, fixed, {**traced, "grad_log_prob": dense(cotangent)})

    value = partial(sampler.log_prob, **fixed)
    out: jax.Array = differentiable(value, gradient, ("velocity", "unconditional"), traced, floats(x.shape[0]))
    return out


def log_probs(sampler: Sampler, latents: Any, velocities: Any, first_step: Any = 0) -> jax.Array:
    """`Sampler.log_probs`: log-probabilities (B, n) of the steps first_step ... first_step + n - 1, from latents
    (B, n + 1, ...) or more steps and velocities (B, n, ...). Differentiable in velocities. first_step is one number, or
    (B,)."""
    latents = latents_of(latents, "latents", 2)
    velocities = as_velocities(latents, 2, velocities=velocities)["velocities"]
    traced, fixed = split(latents=latents, velocities=velocities, first_step=first_step)

    value, vjp = partial(sampler.log_probs, **fixed), partial(sampler.log_probs_vjp, **fixed)
    return of_velocities(value, vjp, "grad_log_probs", traced)


def step(
    sampler: Sampler,
    step: Any,
    latents: Any,
    velocity: Any,
    *,
    noise: Any = None,
    key: Optional[jax.Array] = None,
    seed: Any = None,
    sample_ids: Any = None,
    unconditional: Any = None,
    guidance: Any = 1.0,
    previous_image: Any = None,
) -> tuple[jax.Array, jax.Array]:
    """`Sampler.step`: one step from latents with a velocity, both (B, ...): (the next latents, log-probabilities (B,)).
    The log-probability is differentiable in velocity and unconditional; the next latents are data. step and guidance are
    one number, or (B,).

    noise  like the latents: the e that is added; or
    key    a JAX random key: e is drawn by `jax.random.normal`, in float32 where the latents are of 16 bits; or
    seed   0 ... 2^64 - 1, with sample_ids (B,) or None = 0 ... B - 1: the library's noise. Traced, it is at most
           2^32 - 1 without x64. Lanes of a `vmap` with equal seed and ids have equal noise.

    One of the three, unless the step has s = 0.
    """
    x = latents_of(latents, "latents")
    if key is not None:
        if noise is not None or seed is not None:
            raise InvalidArgument("key, noise and seed exclude each other; give one of them")
        noise = jax.random.normal(key, x.shape, jnp.promote_types(x.dtype, jnp.float32))
    traced, fixed = split(
        step=step,
        latents=x,
        **as_velocities(x, velocity=velocity, unconditional=unconditional),
        guidance=guidance,
        previous_image=as_latents(x, previous_image, "previous_image"),
    )
    traced_noise, fixed_noise = split(noise=as_latents(x, noise, "noise"), seed=seed, sample_ids=sample_ids)

    def gradient(given: dict[str, Any], outputs: Any, cotangents: Any) -> dict[str, Any]:
        needed = {name: given[name] for name in traced}
        needed.update(next_latents=outputs[0], grad_log_prob=dense(cotangents[1]))
        return log_prob_gradient(sampler, fixed, needed)

    value, inputs = partial(sampler.step, **fixed, **fixed_noise), {**traced, **traced_noise}
    results = Struct(x.shape, x.dtype), floats(x.shape[0])
    next_latents, log_prob = differentiable(value, gradient, ("velocity", "unconditional"), inputs, results)
    return jax.lax.stop_gradient(next_latents), log_prob


def divergence(
    sampler: Sampler, step: Any, velocity: Any, other: Any, *, kind: Divergence = "gaussian"
) -> jax.Array:
    """`chunkgrpo.divergence` (B,) of one step under `velocity` from that under `other`, both (B, ...). Differentiable
    in velocity. step is one number, or (B,)."""
    velocity = latents_of(velocity, "velocity")
    traced, fixed = split(step=step, velocity=velocity, other=as_latents(velocity, other, "other"))
    value = partial(_divergences.divergence, sampler, kind=kind, **fixed)
    vjp = partial(_divergences.divergence_vjp, sampler, kind=kind, **fixed)

    def gradient(traced: dict[str, Any], _: Any, cotangent: Any) -> dict[str, Any]:
        v = traced["velocity"]
        return {"velocity": call(vjp, Struct(v.shape, v.dtype), {**traced, "grad": dense(cotangent)})}

    out: jax.Array = differentiable(value, gradient, ("velocity",), traced, floats(velocity.shape[0]))
    return out


def divergences(
    sampler: Sampler, velocities: Any, other: Any, *, kind: Divergence = "gaussian", first_step: Any = 0
) -> jax.Array:
    """`chunkgrpo.divergences` (B, n) of the steps first_step ... first_step + n - 1 under `velocities` from those under
    `other`, both (B, n, ...). Differentiable in velocities: for a KL to a reference, or GRPO-Guard's ratio_bias."""
    velocities = latents_of(velocities, "velocities", 2)
    traced, fixed = split(velocities=velocities, other=as_latents(velocities, other, "other"), first_step=first_step)
    value = partial(_divergences.divergences, sampler, kind=kind, **fixed)
    vjp = partial(_divergences.divergences_vjp, sampler, kind=kind, **fixed)
    return of_velocities(value, vjp, "grad", traced)


@documented(ChunkLossOptions, clip=None)
def chunk_loss(
    new_log_probs: Any,
    old_log_probs: Any,
    advantages: Any,
    plan: ChunkPlan,
    *,
    ratio_bias: Any = None,
    **options: Unpack[ChunkLossKeywords],
) -> ChunkLoss[jax.Array]:
    """`chunkgrpo.chunk_loss` of log-probabilities (B, S) and advantages, with its options. The result is a pytree:
    its `.loss` () is differentiable in new_log_probs and ratio_bias; the rest is data."""
    plan = _steps.plan_of(plan)
    traced, fixed = split(
        new_log_probs=new_log_probs,
        old_log_probs=old_log_probs,
        advantages=advantages,
        ratio_bias=ratio_bias,
        **options,
    )

    def gradient(_: Any, out: Any, cotangents: Any) -> dict[str, Any]:
        return scaled(cotangents.loss, new_log_probs=out.grad_log_probs, ratio_bias=out.grad_ratio_bias)

    results = loss_results(jnp.shape(new_log_probs), plan, ratio_bias is not None)
    value = partial(objective.chunk_loss, plan=plan, **fixed)
    return data_but_loss(differentiable(value, gradient, ("new_log_probs", "ratio_bias"), traced, results))


@documented(ChunkLossOptions, clip=None)
def chunk_policy_loss(
    sampler: Sampler,
    latents: Any,
    velocities: Any,
    old_log_probs: Any,
    advantages: Any,
    plan: ChunkPlan,
    *,
    first_step: Any = 0,
    ratio_bias: Any = None,
    check: bool = True,
    **options: Unpack[ChunkLossKeywords],
) -> ChunkLoss[jax.Array]:
    """`chunk_loss` of `log_probs` in one callback: differentiable in velocities (B, S, ...) and ratio_bias.

    latents (B, S + 1, ...) or more steps; old_log_probs (B, S), the advantages and the options are those of
    `chunk_loss`. Only the steps that selection and mask leave to some sample are computed. All is float64 on the way,
    but that the new log-probabilities are rounded to the type of the old ones: so the ratio of the policy that sampled
    is exactly 1.

    check  a sampler's first loss should have ratios of 1: where it has not, a RatioWarning names the cause that can be
           found. False for off-policy training
    """
    plan, check = _steps.plan_of(plan), flag(check, "check")
    latents = latents_of(latents, "latents", 2)
    velocities = as_velocities(latents, 2, velocities=velocities)["velocities"]
    traced, fixed = split(latents=latents, velocities=velocities, first_step=first_step)
    traced_loss, fixed_loss = split(
        old_log_probs=old_log_probs, advantages=advantages, ratio_bias=ratio_bias, **options
    )

    def value(**given: Any) -> Any:
        of_steps = {**fixed, **{name: given.pop(name) for name in traced}}
        arguments = {**fixed_loss, **given}
        old = np.asarray(arguments["old_log_probs"])
        steps = _steps.needed(plan, of_steps["velocities"].shape[0], arguments)
        arguments["old_log_probs"] = known = _steps.readable(old, steps)
        new = known.astype(np.promote_types(old.dtype, np.float32))
        for run in _steps.runs(steps.any(0)):
            new[:, run] = sampler.log_probs(**_of_run(run, **of_steps))
        if check and not on_trial():
            first, x, v = (of_steps[name] for name in ("first_step", "latents", "velocities"))
            _self_check.warn(sampler, x, known, new, steps, first_step=first if _arrays.per_sample(first) else int(first), velocities=v)
        return objective.chunk_loss(new, plan=plan, **arguments)

    def vjp(*, grad_log_probs: Any, **given: Any) -> Any:
        """Of the steps that have a gradient: the others may be without noise."""
        of_steps = {**fixed, **given}
        grads = np.zeros_like(of_steps["velocities"])
        first, count = np.asarray(of_steps["first_step"]), grads.shape[1]
        noisy = np.array([_steps.noisy(sampler, first + j).all() for j in range(count)])
        for run in _steps.runs((np.asarray(grad_log_probs) != 0).any(0) & noisy):
            at = _of_run(run, **of_steps)
            grads[:, run] = sampler.log_probs_vjp(**at, grad_log_probs=np.asarray(grad_log_probs)[:, run])
        return grads

    def gradient(given: dict[str, Any], out: Any, cotangents: Any) -> dict[str, Any]:
        slopes = scaled(cotangents.loss, grad_log_probs=out.grad_log_probs, ratio_bias=out.grad_ratio_bias)
        needed = {name: given[name] for name in traced}
        needed["grad_log_probs"] = slopes.pop("grad_log_probs")
        return {**velocities_gradient(vjp, needed), **slopes}

    results = loss_results(velocities.shape[:2], plan, ratio_bias is not None)
    out = differentiable(value, gradient, ("velocities", "ratio_bias"), {**traced, **traced_loss}, results)
    return data_but_loss(out)


def _of_run(run: slice, latents: Any, velocities: Any, first_step: Any) -> dict[str, Any]:
    """The arguments of `log_probs` for a run of columns."""
    first = np.asarray(first_step) + run.start
    return {"latents": latents[:, _steps.frames(run)], "velocities": velocities[:, run], "first_step": first}
