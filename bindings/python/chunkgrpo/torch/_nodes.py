"""The nodes of autograd for log-probabilities, and what all nodes share."""

from __future__ import annotations

from typing import Any, Optional, cast

import torch
from torch import Tensor

from .. import _residuals
from .._steps import frames, runs
from ..errors import InvalidArgument
from ..sampler import Sampler
from ._kept import keep, keeps, take
from ._step_call import StepCall
from ._tensors import beside, no_graph, save, saved


def apply(node: Any, *arguments: Any) -> Tensor:
    result: Tensor = node.apply(*arguments)  # which has no types
    return result


class LogProb(torch.autograd.Function):
    """graph: of the velocities, where the forward pass may keep the residual instead of them."""

    @staticmethod
    def forward(
        ctx: Any,
        velocity: Tensor,
        unconditional: Optional[Tensor],
        call: StepCall,
        graph: Any,
        latents: Tensor,
        next_latents: Tensor,
        previous_image: Optional[Tensor],
        known: Optional[Tensor] = None,
    ) -> Tensor:
        ctx.call, ctx.graph = call, None
        if known is not None:
            save(ctx, velocity, unconditional, latents, next_latents, previous_image)
            return known.view_as(known)
        v, u = beside(latents, velocity, unconditional)
        if graph is None or not keeps(latents, v):
            save(ctx, velocity, unconditional, latents, next_latents, previous_image)
            return call.log_prob(latents, v, next_latents, u, previous_image)
        extras = call.extras(u, previous_image)
        value, residual = _residuals.log_prob_residual(call.sampler, call.step, latents, v, next_latents, **extras)
        keep(ctx, residual)
        ctx.graph = graph
        return cast(Tensor, value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        upstream = grad.contiguous()  # a sum's gradient is one number, expanded
        with no_graph():
            if ctx.graph is not None:
                models = ctx.graph
                (residual,), last = take(ctx)
                grads = ctx.call.residual_vjp(residual, upstream, models[1] is not None, last)
            else:
                velocity, unconditional, latents, next_latents, previous_image = saved(ctx)
                models = velocity, unconditional
                v, u = beside(latents, velocity, unconditional)
                grads = ctx.call.vjp(latents, v, next_latents, upstream, u, previous_image)
        given = [first_order(g.to(t.dtype), grad, *models) for g, t in zip(grads, models)]
        return (*given, *[None] * (8 - len(given)))


class LogProbs(torch.autograd.Function):
    """Of runs of columns; the others have 0 and no gradient. graph: as in `LogProb`."""

    @staticmethod
    def forward(
        ctx: Any, velocities: Tensor, sampler: Sampler, latents: Tensor, first_step: Any, columns: list[slice], graph: Any
    ) -> Tensor:
        ctx.call, ctx.graph, ctx.shape = (sampler, first_step, columns), None, velocities.shape
        whole = columns == [slice(0, velocities.shape[1])]
        values, residuals = [], []
        for run in columns:
            x, v = (latents, velocities) if whole else (latents[:, frames(run)], velocities[:, run])
            at = sampler, x, beside(latents, v), first_step + run.start
            if graph is not None and keeps(x, at[2]):
                value, residual = _residuals.log_probs_residuals(*at)
                residuals.append(residual)
            else:
                value = sampler.log_probs(*at[1:])
            values.append(value)
        if residuals:
            keep(ctx, *residuals)
            ctx.graph = graph
        else:
            save(ctx, velocities, latents)
        if whole:
            return cast(Tensor, values[0])
        out = torch.zeros(velocities.shape[:2], dtype=torch.float64, device=velocities.device)
        for run, value in zip(columns, values):
            out[:, run] = value
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        if ctx.graph is not None:
            with no_graph():
                grads = _of_residuals(ctx, grad)
            return first_order(grads.to(ctx.graph[0].dtype), grad, *ctx.graph), *[None] * 5
        velocities, latents = saved(ctx)
        sampler, first_step, columns = ctx.call
        with torch.no_grad():
            # A step whose gradient is 0 is left out, but on a device, where the host would have to wait to know.
            moving = columns if grad.is_cuda else runs(grad.ne(0).any(0).cpu().numpy())
            grads = torch.zeros_like(velocities)
            for run in moving:
                v = beside(latents, velocities[:, run])
                at = latents[:, frames(run)], v, grad[:, run].contiguous(), first_step + run.start
                grads[:, run] = sampler.log_probs_vjp(*at).to(velocities.dtype)
        return first_order(grads, grad, velocities), *[None] * 5


def _of_residuals(ctx: Any, grad: Tensor) -> Tensor:
    sampler, first_step, columns = ctx.call
    residuals, last = take(ctx)
    grads = [
        _residuals.trajectory_vjp(sampler, r, grad[:, run].contiguous(), first_step + run.start, last)
        for run, r in zip(columns, residuals)
    ]
    if columns == [slice(0, ctx.shape[1])]:
        return cast(Tensor, grads[0])
    all_steps = grads[0].new_zeros(ctx.shape)
    for run, some in zip(columns, grads):
        all_steps[:, run] = some
    return cast(Tensor, all_steps)


class _FirstOrder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *sources: Optional[Tensor]) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise InvalidArgument("the gradients of chunkgrpo.torch have no derivative of their own: take them once")


def first_order(gradient: Tensor, *sources: Optional[Tensor]) -> Tensor:
    """A gradient that says so when it is differentiated again, rather than to pass for a constant."""
    return apply(_FirstOrder, gradient, *sources) if torch.is_grad_enabled() else gradient
