"""What the functions of this package share: their arguments and results, and gradients as closed forms of the library."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any, Callable, Optional

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from .. import _steps, _storage
from .._generated import ChunkStats
from ..chunks import ChunkPlan
from ..errors import InvalidArgument
from ..objective import ChunkLoss
from ..sampler import Sampler
from ._host import Struct, call

for _result in (ChunkLoss, ChunkStats):  # so that they can leave a jit
    jax.tree_util.register_dataclass(_result, [field.name for field in dataclasses.fields(_result)], [])


# ----------------------------------------------------------------------------------------------------------------------
# Arguments and results


def latents_of(value: Any, name: str, leading: int = 1) -> jax.Array:
    array = jnp.asarray(value)
    _storage.named(array.dtype.name, name)
    if array.ndim < leading:
        expected = "(B, ...)" if leading == 1 else "(B, steps, ...)"
        raise InvalidArgument(f"{name} has shape {array.shape}; it must be {expected}")
    return array


def as_latents(x: jax.Array, value: Any, name: str) -> Optional[jax.Array]:
    """In the type of x: JAX takes the gradient back to that of `value`."""
    return None if value is None else latents_of(value, name).astype(x.dtype)


def as_velocities(x: jax.Array, leading: int = 1, **velocities: Any) -> dict[str, Any]:
    """In their own type where all are bfloat16 beside float32 latents x, else in that of x: JAX takes the gradients back
    to those of the values. One that is too large for float16 is infinite, as JAX's own; the library would refuse it."""
    given = {name: None if value is None else latents_of(value, name, leading) for name, value in velocities.items()}
    kinds = {array.dtype.name for array in given.values() if array is not None}
    if x.dtype.name == "float32" and kinds == {"bfloat16"}:
        return given
    return {name: None if array is None else array.astype(x.dtype) for name, array in given.items()}


def split(**arguments: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The values that may be traced, and the constants."""
    traced = {name: value for name, value in arguments.items() if isinstance(value, jax.Array)}
    return traced, {name: value for name, value in arguments.items() if name not in traced}


def floats(*shape: int) -> Any:
    return Struct(shape, jnp.result_type(float))  # float64 with x64, else float32


def loss_results(shape: tuple[int, ...], plan: ChunkPlan, biased: bool) -> Any:
    stats: Any = {field.name: floats() for field in dataclasses.fields(ChunkStats)}
    stats["selected"] = Struct((), jnp.result_type(int))
    ratios = floats(*shape[:1], len(plan))
    fields: Any = (floats(), floats(*shape), ratios, ChunkStats(**stats), floats(*shape) if biased else None)
    return ChunkLoss(*fields)


def data_but_loss(out: ChunkLoss[Any]) -> ChunkLoss[Any]:
    return dataclasses.replace(jax.lax.stop_gradient(out), loss=out.loss)


# ----------------------------------------------------------------------------------------------------------------------
# Gradients


def dense(cotangent: Any) -> Any:
    zero = isinstance(cotangent, SymbolicZero)
    return jnp.zeros(cotangent.shape, cotangent.dtype) if zero else cotangent


def scaled(cotangent: Any, **slopes: Any) -> dict[str, Any]:
    return {name: dense(cotangent) * slope for name, slope in slopes.items() if slope is not None}


def log_prob_gradient(sampler: Sampler, fixed: dict[str, Any], traced: dict[str, Any]) -> dict[str, Any]:
    """Of the velocity and, where there is one, of the unconditional one; zero where s = 0: `step` has l = 0 there."""
    names = [name for name in ("velocity", "unconditional") if name in traced]

    def function(**given: Any) -> Any:
        return _steps.noisy_vjp(sampler, **{**fixed, **given})

    results = tuple(Struct(traced[name].shape, traced[name].dtype) for name in names)
    return dict(zip(names, call(function, results, traced)))


def velocities_gradient(vjp: Callable[..., Any], traced: dict[str, Any]) -> dict[str, Any]:
    v = traced["velocities"]
    return {"velocities": call(vjp, Struct(v.shape, v.dtype), traced)}


def of_velocities(
    value: Callable[..., Any], vjp: Callable[..., Any], upstream: str, traced: dict[str, Any]
) -> jax.Array:
    """value(**traced) (B, n), whose gradient in velocities is vjp(**traced, upstream=...)."""

    def gradient(traced: dict[str, Any], _: Any, cotangent: Any) -> dict[str, Any]:
        return velocities_gradient(vjp, {**traced, upstream: dense(cotangent)})

    shape = traced["velocities"].shape[:2]
    out: jax.Array = differentiable(value, gradient, ("velocities",), traced, floats(*shape))
    return out


def differentiable(
    value: Callable[..., Any],
    gradient: Callable[[dict[str, Any], Any, Any], dict[str, Any]],
    wanted: tuple[str, ...],
    traced: dict[str, Any],
    results: Any,
) -> Any:
    """value(**traced) on the host. gradient(traced, outputs, cotangents) gives the cotangents of `wanted`."""

    function: Any = jax.custom_vjp(partial(call, value, results))

    def forward(inputs: dict[str, Any]) -> Any:
        data = [name for name, item in inputs.items() if item.perturbed and name not in wanted]
        if data:
            raise InvalidArgument(
                f"{data[0]} is data: there is no derivative in it, only in {' and '.join(wanted)}. "
                "Give jax.lax.stop_gradient of it"
            )
        traced = {name: item.value for name, item in inputs.items()}
        outputs = function(traced)
        return outputs, (traced, outputs)

    def backward(residuals: tuple[Any, Any], cotangents: Any) -> Any:
        grads = gradient(*residuals, cotangents)
        return ({name: grads.get(name) for name in residuals[0]},)  # None is zero

    function.defvjp(forward, backward, symbolic_zeros=True)
    return function(traced)
