"""JAX: steps, log-probabilities and the chunk loss under `jit`, `grad` and `vmap`.

    import chunkgrpo as cg, chunkgrpo.jax as cgj

    def objective(params, latents, old_log_probs, adv):      # latents (B, T + 1, ...), the others (B, S) and (B,)
        velocities = jnp.stack([model(params, latents[:, k], sigmas[k]) for k in range(plan.steps)], axis=1)
        return cgj.chunk_policy_loss(sampler, latents, velocities, old_log_probs, adv, plan).loss

    gradient = jax.jit(jax.grad(objective))

The library runs on the host, in `jax.pure_callback`; latents on another device travel there and back. Any argument may
be a traced array, `step`, `seed` and options too; what is no JAX array is a constant of the compiled program. Under
`vmap` one callback serves all lanes.

Gradients are the closed forms of the library: in the velocities, the new log-probabilities and ratio_bias. All else is
data; where a derivative in it is asked for, an InvalidArgument asks for `jax.lax.stop_gradient`.

Types. Latents (B, ...) are float32, bfloat16, float16, or float64 with x64 enabled. A velocity or next_latents of
another type is converted to that of the latents, and its gradient back. Log-probabilities are computed in float64,
which JAX stores in float32 unless x64 is enabled: that moves a ratio by about 1e-7. The ratio of the policy that
sampled is 1 all the same.

Errors. Wrong shapes, types and options are refused while tracing, by the classes of `chunkgrpo.errors`. Wrong numbers
(a NaN, a traced step out of range) are refused by the same classes outside of `jit`; inside, JAX raises its
JaxRuntimeError, which ends with the class and the sentence of ours.

JAX's own callbacks need a second thread: on a single core, or with many Python threads that run programs with
callbacks, JAX may wait for ever (jax-ml/jax issue 24255).
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Callable, Optional

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero

from . import _arrays, _divergences, _self_check, _steps, _storage, objective
from ._jax_host import call as _call
from ._jax_host import on_trial
from ._generated import ChunkLossKeywords, ChunkLossOptions, ChunkStats, Divergence
from ._options import Unpack, documented
from .chunks import ChunkPlan
from .errors import InvalidArgument
from .objective import ChunkLoss
from .sampler import Sampler

Struct: Any = jax.ShapeDtypeStruct

__all__ = ["chunk_loss", "chunk_policy_loss", "divergence", "divergences", "log_prob", "log_probs", "step"]

for _result in (ChunkLoss, ChunkStats):  # so that they can leave a jit
    jax.tree_util.register_dataclass(_result, [field.name for field in dataclasses.fields(_result)], [])


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
    x = _latents(latents, "latents")
    traced, fixed = _split(
        step=step,
        latents=x,
        velocity=_as(x, velocity, "velocity"),
        next_latents=_as(x, next_latents, "next_latents"),
        unconditional=_as(x, unconditional, "unconditional"),
        guidance=guidance,
        previous_image=_as(x, previous_image, "previous_image"),
    )

    def gradient(traced: dict[str, Any], _: Any, cotangent: Any) -> dict[str, Any]:
        return _log_prob_gradient(sampler, fixed, {**traced, "grad_log_prob": _dense(cotangent)})

    value = partial(sampler.log_prob, **fixed)
    out: jax.Array = _differentiable(value, gradient, ("velocity", "unconditional"), traced, _floats(x.shape[0]))
    return out


def log_probs(sampler: Sampler, latents: Any, velocities: Any, first_step: Any = 0) -> jax.Array:
    """`Sampler.log_probs`: log-probabilities (B, n) of the steps first_step ... first_step + n - 1, from latents
    (B, n + 1, ...) or more steps and velocities (B, n, ...). Differentiable in velocities. first_step is one number, or
    (B,)."""
    latents = _latents(latents, "latents", 2)
    velocities = _latents(velocities, "velocities", 2).astype(latents.dtype)
    traced, fixed = _split(latents=latents, velocities=velocities, first_step=first_step)

    value, vjp = partial(sampler.log_probs, **fixed), partial(sampler.log_probs_vjp, **fixed)
    return _of_velocities(value, vjp, "grad_log_probs", traced)


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
    x = _latents(latents, "latents")
    if key is not None:
        if noise is not None or seed is not None:
            raise InvalidArgument("key, noise and seed exclude each other; give one of them")
        noise = jax.random.normal(key, x.shape, jnp.promote_types(x.dtype, jnp.float32))
    traced, fixed = _split(
        step=step,
        latents=x,
        velocity=_as(x, velocity, "velocity"),
        unconditional=_as(x, unconditional, "unconditional"),
        guidance=guidance,
        previous_image=_as(x, previous_image, "previous_image"),
    )
    traced_noise, fixed_noise = _split(noise=_as(x, noise, "noise"), seed=seed, sample_ids=sample_ids)

    def gradient(given: dict[str, Any], outputs: Any, cotangents: Any) -> dict[str, Any]:
        needed = {name: given[name] for name in traced}
        needed.update(next_latents=outputs[0], grad_log_prob=_dense(cotangents[1]))
        return _log_prob_gradient(sampler, fixed, needed)

    value, inputs = partial(sampler.step, **fixed, **fixed_noise), {**traced, **traced_noise}
    results = Struct(x.shape, x.dtype), _floats(x.shape[0])
    next_latents, log_prob = _differentiable(value, gradient, ("velocity", "unconditional"), inputs, results)
    return jax.lax.stop_gradient(next_latents), log_prob


def divergence(
    sampler: Sampler, step: Any, velocity: Any, other: Any, *, kind: Divergence = "gaussian"
) -> jax.Array:
    """`chunkgrpo.divergence` (B,) of one step under `velocity` from that under `other`, both (B, ...). Differentiable
    in velocity. step is one number, or (B,)."""
    velocity = _latents(velocity, "velocity")
    traced, fixed = _split(step=step, velocity=velocity, other=_as(velocity, other, "other"))
    value = partial(_divergences.divergence, sampler, kind=kind, **fixed)
    vjp = partial(_divergences.divergence_vjp, sampler, kind=kind, **fixed)

    def gradient(traced: dict[str, Any], _: Any, cotangent: Any) -> dict[str, Any]:
        v = traced["velocity"]
        return {"velocity": _call(vjp, Struct(v.shape, v.dtype), {**traced, "grad": _dense(cotangent)})}

    out: jax.Array = _differentiable(value, gradient, ("velocity",), traced, _floats(velocity.shape[0]))
    return out


def divergences(
    sampler: Sampler, velocities: Any, other: Any, *, kind: Divergence = "gaussian", first_step: Any = 0
) -> jax.Array:
    """`chunkgrpo.divergences` (B, n) of the steps first_step ... first_step + n - 1 under `velocities` from those under
    `other`, both (B, n, ...). Differentiable in velocities: for a KL to a reference, or GRPO-Guard's ratio_bias."""
    velocities = _latents(velocities, "velocities", 2)
    traced, fixed = _split(velocities=velocities, other=_as(velocities, other, "other"), first_step=first_step)
    value = partial(_divergences.divergences, sampler, kind=kind, **fixed)
    vjp = partial(_divergences.divergences_vjp, sampler, kind=kind, **fixed)
    return _of_velocities(value, vjp, "grad", traced)


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
    traced, fixed = _split(
        new_log_probs=new_log_probs,
        old_log_probs=old_log_probs,
        advantages=advantages,
        ratio_bias=ratio_bias,
        **options,
    )

    def gradient(_: Any, out: Any, cotangents: Any) -> dict[str, Any]:
        return _scaled(cotangents.loss, new_log_probs=out.grad_log_probs, ratio_bias=out.grad_ratio_bias)

    results = _loss_results(jnp.shape(new_log_probs), plan, ratio_bias is not None)
    value = partial(objective.chunk_loss, plan=plan, **fixed)
    return _data_but_loss(_differentiable(value, gradient, ("new_log_probs", "ratio_bias"), traced, results))


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
    plan = _steps.plan_of(plan)
    latents = _latents(latents, "latents", 2)
    velocities = _latents(velocities, "velocities", 2).astype(latents.dtype)
    traced, fixed = _split(latents=latents, velocities=velocities, first_step=first_step)
    traced_loss, fixed_loss = _split(
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
        scaled = _scaled(cotangents.loss, grad_log_probs=out.grad_log_probs, ratio_bias=out.grad_ratio_bias)
        needed = {name: given[name] for name in traced}
        needed["grad_log_probs"] = scaled.pop("grad_log_probs")
        return {**_velocities_gradient(vjp, needed), **scaled}

    results = _loss_results(velocities.shape[:2], plan, ratio_bias is not None)
    out = _differentiable(value, gradient, ("velocities", "ratio_bias"), {**traced, **traced_loss}, results)
    return _data_but_loss(out)


def _of_run(run: slice, latents: Any, velocities: Any, first_step: Any) -> dict[str, Any]:
    """The arguments of `log_probs` for a run of columns."""
    first = np.asarray(first_step) + run.start
    return {"latents": latents[:, _steps.frames(run)], "velocities": velocities[:, run], "first_step": first}


# ----------------------------------------------------------------------------------------------------------------------
# Arguments and results


def _latents(value: Any, name: str, leading: int = 1) -> jax.Array:
    array = jnp.asarray(value)
    _storage.named(array.dtype.name, name)
    if array.ndim < leading:
        expected = "(B, ...)" if leading == 1 else "(B, steps, ...)"
        raise InvalidArgument(f"{name} has shape {array.shape}; it must be {expected}")
    return array


def _as(x: jax.Array, value: Any, name: str) -> Optional[jax.Array]:
    """In the type of x: JAX takes the gradient back to that of `value`."""
    return None if value is None else _latents(value, name).astype(x.dtype)


def _split(**arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values that may be traced, and the constants."""
    traced = {name: value for name, value in arguments.items() if isinstance(value, jax.Array)}
    return traced, {name: value for name, value in arguments.items() if name not in traced}


def _floats(*shape: int) -> Any:
    return Struct(shape, jnp.result_type(float))  # float64 with x64, else float32


def _loss_results(shape: tuple[int, ...], plan: ChunkPlan, biased: bool) -> Any:
    stats: Any = {field.name: _floats() for field in dataclasses.fields(ChunkStats)}
    stats["selected"] = Struct((), jnp.result_type(int))
    ratios = _floats(*shape[:1], len(plan))
    fields: Any = (_floats(), _floats(*shape), ratios, ChunkStats(**stats), _floats(*shape) if biased else None)
    return ChunkLoss(*fields)


def _data_but_loss(out: ChunkLoss[Any]) -> ChunkLoss[Any]:
    return dataclasses.replace(jax.lax.stop_gradient(out), loss=out.loss)


# ----------------------------------------------------------------------------------------------------------------------
# Gradients


def _dense(cotangent: Any) -> Any:
    zero = isinstance(cotangent, SymbolicZero)
    return jnp.zeros(cotangent.shape, cotangent.dtype) if zero else cotangent


def _scaled(cotangent: Any, **slopes: Any) -> dict[str, Any]:
    return {name: _dense(cotangent) * slope for name, slope in slopes.items() if slope is not None}


def _log_prob_gradient(sampler: Sampler, fixed: dict[str, Any], traced: dict[str, Any]) -> dict[str, Any]:
    """Of the velocity and, where there is one, of the unconditional one; zero where s = 0: `step` has l = 0 there."""
    names = [name for name in ("velocity", "unconditional") if name in traced]

    def function(**given: Any) -> Any:
        return _steps.noisy_vjp(sampler, **{**fixed, **given})

    results = tuple(Struct(traced[name].shape, traced[name].dtype) for name in names)
    return dict(zip(names, _call(function, results, traced)))


def _velocities_gradient(vjp: Callable[..., Any], traced: dict[str, Any]) -> dict[str, Any]:
    v = traced["velocities"]
    return {"velocities": _call(vjp, Struct(v.shape, v.dtype), traced)}


def _of_velocities(
    value: Callable[..., Any], vjp: Callable[..., Any], upstream: str, traced: dict[str, Any]
) -> jax.Array:
    """value(**traced) (B, n), whose gradient in velocities is vjp(**traced, upstream=...)."""

    def gradient(traced: dict[str, Any], _: Any, cotangent: Any) -> dict[str, Any]:
        return _velocities_gradient(vjp, {**traced, upstream: _dense(cotangent)})

    shape = traced["velocities"].shape[:2]
    out: jax.Array = _differentiable(value, gradient, ("velocities",), traced, _floats(*shape))
    return out


def _differentiable(
    value: Callable[..., Any],
    gradient: Callable[[dict[str, Any], Any, Any], dict[str, Any]],
    wanted: tuple[str, ...],
    traced: dict[str, Any],
    results: Any,
) -> Any:
    """value(**traced) on the host. gradient(traced, outputs, cotangents) gives the cotangents of `wanted`."""

    call: Any = jax.custom_vjp(partial(_call, value, results))

    def forward(inputs: dict[str, Any]) -> Any:
        data = [name for name, item in inputs.items() if item.perturbed and name not in wanted]
        if data:
            raise InvalidArgument(
                f"{data[0]} is data: there is no derivative in it, only in {' and '.join(wanted)}. "
                "Give jax.lax.stop_gradient of it"
            )
        traced = {name: item.value for name, item in inputs.items()}
        outputs = call(traced)
        return outputs, (traced, outputs)

    def backward(residuals: tuple[Any, Any], cotangents: Any) -> Any:
        grads = gradient(*residuals, cotangents)
        return ({name: grads.get(name) for name in residuals[0]},)  # None is zero

    call.defvjp(forward, backward, symbolic_zeros=True)
    return call(traced)
