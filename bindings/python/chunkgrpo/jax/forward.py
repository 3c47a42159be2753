"""Distances and losses of the forward process in JAX, under `jit`, `grad` and `vmap`: as `chunkgrpo.forward`.

    from chunkgrpo.jax import forward

    def objective(params, x0, t, adv):
        x_t = forward.noised(x0, t, seed=7)
        others = dict(old_velocity=model(old, x_t, t), reference_velocity=model(frozen, x_t, t), beta=1.0)
        d = forward.distances(x0, model(params, x_t, t), seed=7, **others)
        return forward.nft_loss(d, adv, times=t, kl=1e-4).loss

    gradient = jax.jit(jax.grad(objective))

`distances` is differentiable in the velocity, the losses in the distances; all else is data, and x_t too. Seeds, draws
and options are constants of the compiled program, or traced as in `chunkgrpo.jax`, which says more on types and errors.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Callable, Optional

import jax
import jax.numpy as jnp

from .. import _distances, _forward_losses
from .._distances import GRADIENTS, NUMBERS, Distances, names_of, times
from .._forward_losses import ForwardLoss, pairs
from .._generated import ChunkStats, ForwardStats
from .._methods import METHODS, Method
from .._part import Part
from ..errors import WrongType
from ._host import Struct, call
from ._transforms import as_latents, as_velocities, dense, differentiable, floats, latents_of, split

__all__ = [
    "Distances",
    "ForwardLoss",
    "METHODS",
    "Method",
    "awm_loss",
    "crd_loss",
    "dgpo_loss",
    "distances",
    "dpo_loss",
    "nft_loss",
    "noised",
    "pairs",
    "times",
]

jax.tree_util.register_dataclass(Distances, list(NUMBERS), ["beta"])
jax.tree_util.register_dataclass(ForwardStats, [field.name for field in dataclasses.fields(ForwardStats)], [])
jax.tree_util.register_dataclass(ForwardLoss, ["loss", "grads", "stats", "ratios"], [])


def noised(
    clean: Any,
    times: Any,
    *,
    noise: Any = None,
    seed: Any = None,
    sample_ids: Any = None,
    draw: Any = 0,
    part: Optional[Part] = None,
) -> jax.Array:
    """`chunkgrpo.forward.noised`: x_t of clean (B, ...) and times (B,). Data: there is no derivative through it."""
    x = latents_of(clean, "clean")
    given = {"noise": as_latents(x, noise, "noise"), "seed": seed, "sample_ids": sample_ids, "draw": draw}
    traced, fixed = split(clean=x, times=times, **given)
    out: jax.Array = call(partial(_distances.noised, part=part, **fixed), Struct(x.shape, x.dtype), traced)
    return out


def distances(
    clean: Any,
    velocity: Any,
    *,
    noise: Any = None,
    seed: Any = None,
    sample_ids: Any = None,
    draw: Any = 0,
    old_velocity: Any = None,
    reference_velocity: Any = None,
    beta: Optional[float] = None,
    part: Optional[Part] = None,
) -> Distances[jax.Array]:
    """`chunkgrpo.forward.distances` (B,) of a velocity like clean, differentiable in it. beta and part are constants."""
    x = latents_of(clean, "clean")
    arrays = as_velocities(x, velocity=velocity, old_velocity=old_velocity, reference_velocity=reference_velocity)
    given = {"noise": as_latents(x, noise, "noise"), "seed": seed, "sample_ids": sample_ids, "draw": draw}
    traced, fixed = split(clean=x, **arrays, **given, beta=beta)
    fixed["part"] = part
    names = names_of(old_velocity, reference_velocity, beta)

    def vjp(**given: Any) -> Any:
        slopes: Any = {name: given.pop(f"grad_{name}") for name in GRADIENTS if name in names}
        return _distances.distances_vjp(grads=Distances(**slopes), **fixed, **given)

    def gradient(given: dict[str, Any], _: Any, cotangents: Any) -> dict[str, Any]:
        slopes = {f"grad_{name}": dense(getattr(cotangents, name)) for name in GRADIENTS if name in names}
        v = given["velocity"]
        return {"velocity": call(vjp, Struct(v.shape, v.dtype), {**given, **slopes})}

    results: Any = {name: floats(x.shape[0]) for name in names}
    shapes = Distances(**results, beta=None if beta is None else float(beta))
    out: Distances[jax.Array] = differentiable(
        partial(_distances.distances, **fixed), gradient, ("velocity",), traced, shapes
    )
    return out


def nft_loss(distances: Distances[Any], advantages: Any, *, times: Any = None, **options: Any) -> ForwardLoss[Any]:
    """`chunkgrpo.forward.nft_loss`, with its options; `.loss` is differentiable in the distances."""
    needed = ["positive_distance", "negative_distance"]
    return _loss(_forward_losses.nft_loss, distances, needed, advantages=advantages, times=times, **options)


def awm_loss(
    distances: Distances[Any], advantages: Any, plan: Any = None, *, times: Any = None, **options: Any
) -> ForwardLoss[Any]:
    """`chunkgrpo.forward.awm_loss`, with its options; `.loss` is differentiable in the distances."""
    return _loss(
        *(_forward_losses.awm_loss, distances, ["distance"]), advantages=advantages, plan=plan, times=times, **options
    )


def dgpo_loss(distances: Distances[Any], advantages: Any, **options: Any) -> ForwardLoss[Any]:
    """`chunkgrpo.forward.dgpo_loss`, with its options; `.loss` is differentiable in the distances."""
    return _loss(_forward_losses.dgpo_loss, distances, ["distance"], advantages=advantages, **options)


def crd_loss(distances: Distances[Any], advantages: Any, **options: Any) -> ForwardLoss[Any]:
    """`chunkgrpo.forward.crd_loss`, with its options; `.loss` is differentiable in the distances."""
    return _loss(_forward_losses.crd_loss, distances, ["distance"], advantages=advantages, **options)


def dpo_loss(distances: Distances[Any], pairs: Any, *, beta: float = 100.0) -> ForwardLoss[Any]:
    """`chunkgrpo.forward.dpo_loss`; `.loss` is differentiable in the distances."""
    return _loss(_forward_losses.dpo_loss, distances, ["distance"], pairs=pairs, beta=beta)


def _loss(function: Callable[..., Any], distances: Any, gradients: list[str], **arguments: Any) -> ForwardLoss[Any]:
    if not isinstance(distances, Distances):
        raise WrongType(f"distances must be a Distances, not {type(distances).__name__}; `distances` makes one")
    numbers = {name: getattr(distances, name) for name in NUMBERS if getattr(distances, name) is not None}
    traced, fixed = split(**arguments)
    chunked = function is _forward_losses.awm_loss
    if fixed.get("reference_kl" if chunked else "kl"):
        gradients = [*gradients, "reference_divergence"]

    def value(**given: Any) -> ForwardLoss[Any]:
        own: Any = {name: given.pop(name) for name in numbers}
        out: ForwardLoss[Any] = function(Distances(**own, beta=distances.beta), **fixed, **given)
        return out

    def gradient(_: Any, out: Any, cotangents: Any) -> dict[str, Any]:
        return {name: dense(cotangents.loss) * getattr(out.grads, name) for name in gradients}

    missing = [name for name in gradients if name not in numbers]
    if missing:
        return value(**numbers)  # which says what is missing
    shape = jnp.shape(numbers[gradients[0]])
    grads: Any = {name: floats(*shape) for name in gradients}
    kind = ChunkStats if chunked else ForwardStats
    stats: Any = {field.name: floats() for field in dataclasses.fields(kind)}
    plan = fixed.get("plan")
    chunks = shape[1:] if plan is None else (len(plan),)
    if chunked:
        stats["selected"] = Struct((), jnp.result_type(int))
    ratios: Any = floats(shape[0], *(chunks or (1,))) if chunked else None
    loss: Any = floats()
    results = ForwardLoss(loss, Distances(**grads), kind(**stats), ratios)
    constants = {name: jax.lax.stop_gradient(number) for name, number in numbers.items() if name not in gradients}
    out = differentiable(value, gradient, tuple(gradients), {**numbers, **constants, **traced}, results)
    constant: Any = jax.lax.stop_gradient(out)
    return dataclasses.replace(constant, loss=out.loss)
