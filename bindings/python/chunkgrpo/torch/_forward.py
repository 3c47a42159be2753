"""Distances of the forward process as nodes of PyTorch's autograd graph, and the losses of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Callable, NamedTuple, Optional

import torch
from torch import Tensor

from .. import _distances, _forward_losses
from .._distances import GRADIENTS, NUMBERS, Distances, names_of
from .._part import Part
from ..errors import WrongType
from ._nodes import apply, first_order
from ._tensors import beside, constant, floating, save, saved
from .autograd import eager


@dataclass(frozen=True)
class ForwardLoss:
    """The result of a loss of the forward process.

    loss    0-dim, float64, with its KL term; differentiable in the distances
    stats   `ForwardStats`, or `ChunkStats` of AWM and FPO; `chunkgrpo.metrics` makes a flat dict of it
    ratios  (B, K) importance ratios of the chunks of AWM and FPO, never clipped; else None
    """

    loss: Tensor
    stats: Any
    ratios: Optional[Tensor] = None


# ----------------------------------------------------------------------------------------------------------------------
# Distances


class _Call(NamedTuple):
    """The arguments of `distances` that are no tensors."""

    seed: Optional[int]
    sample_ids: Any
    draw: int
    beta: Optional[float]
    threads: int
    part: Optional[Part]

    def of(self, noise: Optional[Tensor], old: Optional[Tensor], reference: Optional[Tensor]) -> dict[str, Any]:
        return {"noise": noise, "old_velocity": old, "reference_velocity": reference, **self._asdict()}


@eager
def distances(
    clean: Tensor,
    velocity: Tensor,
    *,
    noise: Optional[Tensor] = None,
    seed: Optional[int] = None,
    sample_ids: Any = None,
    draw: int = 0,
    old_velocity: Optional[Tensor] = None,
    reference_velocity: Optional[Tensor] = None,
    beta: Optional[float] = None,
    threads: int = 1,
    part: Optional[Part] = None,
) -> Distances[Tensor]:
    """Distances (B,) of a velocity from u = e - x0: as `chunkgrpo.forward.distances`, differentiable in velocity. The
    old velocity and the reference are constants. Velocities may have other floating types than clean (all in bfloat16
    beside float32 are read where they lie): results are those of the type of clean, and the gradient has the velocity's."""
    clean = constant(clean, "clean")
    floating(velocity, "velocity")
    for name, tensor in (("noise", noise), ("old_velocity", old_velocity), ("reference_velocity", reference_velocity)):
        if tensor is not None:
            floating(tensor, name)
    of_clean = None if noise is None else noise.detach().to(clean.dtype)
    others = of_clean, *beside(clean, old_velocity, reference_velocity, velocity)[:2]
    call = _Call(seed, sample_ids, draw, beta, threads, part)
    values = iter(apply(_Distances, velocity, clean, call, *others))
    names = names_of(old_velocity, reference_velocity, beta)
    taken: dict[str, Any] = {name: next(values) for name in NUMBERS if name in names}
    return Distances(**taken, beta=None if beta is None else float(beta))


class _Distances(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, velocity: Tensor, clean: Tensor, call: _Call, *others: Optional[Tensor]) -> Any:
        save(ctx, velocity, clean, *others)
        ctx.call = call
        v, *others = _alike(velocity, clean, *others)
        d = _distances.distances(clean, v, **call.of(*others))
        ctx.names = [name for name in NUMBERS if getattr(d, name) is not None]
        ctx.mark_non_differentiable(*[getattr(d, name) for name in ctx.names if name not in GRADIENTS])
        ctx.set_materialize_grads(False)
        return tuple(getattr(d, name) for name in ctx.names)

    @staticmethod
    def backward(ctx: Any, *grads: Optional[Tensor]) -> Any:
        velocity, clean, *others = saved(ctx)
        named = {name: g.contiguous() for name, g in zip(ctx.names, grads) if g is not None and name in GRADIENTS}
        none = [None] * (2 + len(others))
        if not named:
            return None, *none
        given: Any = named
        with torch.no_grad():
            v, *others = _alike(velocity, clean, *others)
            grad = _distances.distances_vjp(clean, v, Distances(**given), **ctx.call.of(*others)).to(velocity.dtype)
        return first_order(grad, *named.values(), velocity), *none


def _alike(velocity: Tensor, clean: Tensor, noise: Any, old: Any, reference: Any) -> Any:
    """The velocity, noise and the other velocities, as `_distances` takes them."""
    v, old, reference = beside(clean, velocity, old, reference)
    return v, noise, old, reference


# ----------------------------------------------------------------------------------------------------------------------
# Losses


class _Known(torch.autograd.Function):
    """A number whose gradients in some tensors are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, count: int, *tensors: Tensor) -> Tensor:
        save(ctx, *tensors)
        ctx.count = count
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        tensors = saved(ctx)
        variables, known = tensors[: ctx.count], tensors[ctx.count :]
        with torch.no_grad():
            scaled = [(grad * slope).to(variable.dtype) for variable, slope in zip(variables, known)]
        return None, None, *[first_order(value, grad, *variables) for value in scaled], *[None] * ctx.count


def _differentiable(loss: Callable[..., Any], distances: Any, *arguments: Any, **options: Any) -> ForwardLoss:
    if not isinstance(distances, Distances):
        raise WrongType(f"distances must be a Distances, not {type(distances).__name__}; `distances` makes one")
    own = {name: getattr(distances, name) for name in NUMBERS}
    constants = {name: None if value is None else value.detach() for name, value in own.items()}
    out = loss(replace(distances, **constants), *arguments, **options)
    known = {name: getattr(out.grads, name) for name in GRADIENTS if getattr(out.grads, name) is not None}
    variables = [own[name] for name in known]
    value = torch.full((), out.loss, dtype=torch.float64, device=variables[0].device)
    return ForwardLoss(apply(_Known, value, len(variables), *variables, *known.values()), out.stats, out.ratios)


@eager
def nft_loss(distances: Distances[Tensor], advantages: Any, *, times: Any = None, **options: Any) -> ForwardLoss:
    """`chunkgrpo.forward.nft_loss`, with its options; `.loss` is differentiable in the distances."""
    return _differentiable(_forward_losses.nft_loss, distances, advantages, times=times, **options)


@eager
def awm_loss(
    distances: Distances[Tensor], advantages: Any, plan: Any = None, *, times: Any = None, **options: Any
) -> ForwardLoss:
    """`chunkgrpo.forward.awm_loss`, with its options; `.loss` is differentiable in the distances."""
    return _differentiable(_forward_losses.awm_loss, distances, advantages, plan, times=times, **options)


@eager
def dgpo_loss(distances: Distances[Tensor], advantages: Any, **options: Any) -> ForwardLoss:
    """`chunkgrpo.forward.dgpo_loss`, with its options; `.loss` is differentiable in the distances."""
    return _differentiable(_forward_losses.dgpo_loss, distances, advantages, **options)


@eager
def crd_loss(distances: Distances[Tensor], advantages: Any, **options: Any) -> ForwardLoss:
    """`chunkgrpo.forward.crd_loss`, with its options; `.loss` is differentiable in the distances."""
    return _differentiable(_forward_losses.crd_loss, distances, advantages, **options)


@eager
def dpo_loss(distances: Distances[Tensor], pairs: Any, *, beta: float = 100.0) -> ForwardLoss:
    """`chunkgrpo.forward.dpo_loss`; `.loss` is differentiable in the distances."""
    return _differentiable(_forward_losses.dpo_loss, distances, pairs, beta=beta)
