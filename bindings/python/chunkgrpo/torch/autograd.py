"""The closed-form gradients in PyTorch's autograd graph: steps, divergences, the chunk loss. _nodes.py has those of
log-probabilities."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Callable, Optional, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from .. import _arrays, _divergences, _self_check
from .. import objective as _objective
from .._generated import ChunkLossKeywords, ChunkLossOptions, Divergence
from .._options import Unpack, documented
from .._scalars import flag
from .._steps import first_of, kept, needed_here, noisy, plan_of, runs
from ..chunks import ChunkPlan
from ..errors import InvalidArgument
from ..sampler import Sampler
from ._kept import derived, graph_of
from ._loss import ChunkLoss
from ._nodes import LogProb, LogProbs, apply, first_order
from ._parallel import nothing
from ._step_call import Guidance, Step, StepCall
from ._tensors import beside, checked, constant, floating, save, saved

Function = TypeVar("Function", bound=Callable[..., Any])


def eager(function: Function) -> Function:
    """Keeps torch.compile out of a call: it breaks the graph, and runs the call as it is written."""
    return cast(Function, torch.compiler.disable(function))  # type: ignore[no-untyped-call]


# ----------------------------------------------------------------------------------------------------------------------
# Steps


@eager
def log_prob(
    sampler: Sampler,
    step: Step,
    latents: Tensor,
    velocity: Tensor,
    next_latents: Tensor,
    *,
    unconditional: Optional[Tensor] = None,
    guidance: Guidance = 1.0,
    previous_image: Optional[Tensor] = None,
) -> Tensor:
    """Log-probability (B,) float64 of a step from latents to next_latents under a velocity, differentiable in velocity
    and `unconditional`. As `Sampler.log_prob`, so that step and guidance may be (B,); but velocity and next_latents may have other floating types than the
    latents (a bfloat16 velocity beside float32 latents, as autocast gives, is read where it lies): results are those of
    the latents' type, and the gradient has the velocity's.

    Where the velocity has the latents' type, float32 or float64, the graph keeps the residual next_latents - mean, and none of
    the tensors given; else it keeps these, because a residual would be the larger array."""
    latents, next_latents = constant(latents, "latents"), constant(next_latents, "next_latents")
    previous_image = None if previous_image is None else constant(previous_image, "previous_image")
    floating(velocity, "velocity")
    next_latents = next_latents.to(latents.dtype)
    if not derived(velocity, unconditional):
        v, u = beside(latents, velocity, unconditional)
        return StepCall(kept(sampler), step, guidance).log_prob(latents, v, next_latents, u, previous_image)
    call = StepCall.of(kept(sampler), step, guidance, latents)
    graph = graph_of(velocity, unconditional)
    return apply(LogProb, velocity, unconditional, call, graph, latents, next_latents, previous_image)


@eager
def step(
    sampler: Sampler,
    step: Step,
    latents: Tensor,
    velocity: Tensor,
    *,
    noise: Optional[Tensor] = None,
    generator: Optional[torch.Generator] = None,
    seed: Optional[int] = None,
    sample_ids: Any = None,
    unconditional: Optional[Tensor] = None,
    guidance: Guidance = 1.0,
    previous_image: Optional[Tensor] = None,
) -> tuple[Tensor, Tensor]:
    """One step from latents with a velocity: (the next latents, log-probabilities (B,)). As `Sampler.step`, so that step
    and guidance may be (B,); the next latents are a constant, the log-probability is differentiable in velocity and
    `unconditional`.

    noise      like the latents: the e that is added; or
    seed       with sample_ids: the library's noise; or
    generator  PyTorch's: torch.randn of the latents' type, on the generator's device; None = PyTorch's own generator
    """
    latents = constant(latents, "latents")
    previous_image = None if previous_image is None else constant(previous_image, "previous_image")
    floating(velocity, "velocity")
    if sum(source is not None for source in (noise, generator, seed)) > 1:
        raise InvalidArgument("noise, generator and seed exclude each other; give one of them")
    call = StepCall.of(kept(sampler), step, guidance, latents)
    stochastic = bool(noisy(sampler, call.step).any())
    if noise is not None:
        noise = constant(noise, "noise").to(latents.dtype)
    elif seed is None and stochastic:
        if sample_ids is not None:
            raise InvalidArgument("sample_ids belong to a seed; give that too")
        device = latents.device if generator is None else generator.device
        noise = torch.randn(latents.shape, generator=generator, device=device, dtype=latents.dtype).to(latents.device)
    with torch.no_grad():
        v, u = beside(latents, velocity, unconditional)
        guided = call.extras(u, previous_image)
        next_latents, value = sampler.step(
            call.step, latents, v, noise=noise, seed=seed, sample_ids=sample_ids, **guided
        )
    if stochastic and torch.is_grad_enabled():
        value = apply(LogProb, velocity, unconditional, call, None, latents, next_latents, previous_image, value)
    return next_latents, value


@eager
def log_probs(sampler: Sampler, latents: Tensor, velocities: Tensor, first_step: Step = 0) -> Tensor:
    """Log-probabilities (B, n) float64 of the steps first_step ... first_step + n - 1, differentiable in velocities.

    latents     (B, n + 1, ...), or more steps, of which the first n + 1 count: `Trajectory.latents` will do
    velocities  (B, n, ...), at these latents; of any floating type: the gradient has the same
    first_step  one number, or (B,): the step that latents[i, 0] takes

    The graph keeps what that of `log_prob` does.
    """
    latents = constant(latents, "latents")
    floating(velocities, "velocities")
    first_step = first_of(first_step, len(latents))
    count = velocities.shape[1] if velocities.ndim > 1 else 0
    columns = [slice(0, count)]
    return apply(LogProbs, velocities, kept(sampler), latents, first_step, columns, graph_of(velocities))


@eager
def divergence(
    sampler: Sampler, step: Step, velocity: Tensor, other: Tensor, *, kind: Divergence = "gaussian"
) -> Tensor:
    """Divergence (B,) float64 of one step under `velocity` from that under `other`, both (B, ...), differentiable in
    velocity: for the penalty of `streamed_backward`. As `chunkgrpo.divergence`; `other` may have another floating type,
    and step may be (B,).
    """
    floating(velocity, "velocity")
    reference = constant(floating(other, "other"), "other").to(velocity.dtype)
    number, each = _arrays.steps(step, "step", len(velocity))
    return apply(_Divergence, velocity, reference, sampler, kind, number if each is None else each, True)


@eager
def divergences(
    sampler: Sampler, velocities: Tensor, other: Tensor, *, kind: Divergence = "gaussian", first_step: Step = 0
) -> Tensor:
    """Divergence (B, n) float64 of steps under `velocities` from those under `other`, both (B, n, ...), differentiable
    in velocities: for a KL to a frozen reference, or the bias of GRPO-Guard. As `chunkgrpo.divergences`, of which it
    has the kinds; `other` may have another floating type."""
    floating(velocities, "velocities")
    reference = constant(floating(other, "other"), "other").to(velocities.dtype)
    number, each = _arrays.steps(first_step, "first_step", len(velocities))
    return apply(_Divergence, velocities, reference, sampler, kind, number if each is None else each, False)


class _Divergence(torch.autograd.Function):
    """Of one step, which is `step`, or of several from it on."""

    @staticmethod
    def forward(
        ctx: Any, velocities: Tensor, other: Tensor, sampler: Sampler, kind: Divergence, step: Any, single: bool
    ) -> Tensor:
        save(ctx, velocities, other)
        ctx.call = sampler, kind, step, single
        if single:
            return _divergences.divergence(sampler, step, velocities, other, kind=kind)
        return _divergences.divergences(sampler, velocities, other, kind=kind, first_step=step)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        velocities, other = saved(ctx)
        sampler, kind, step, single = ctx.call
        with torch.no_grad():
            if single:
                grads = _divergences.divergence_vjp(sampler, step, velocities, other, grad.contiguous(), kind=kind)
            else:
                grads = _divergences.divergences_vjp(sampler, velocities, other, grad, kind=kind, first_step=step)
        return first_order(grads, grad, velocities), *[None] * 5


# ----------------------------------------------------------------------------------------------------------------------
# Objective


@documented(ChunkLossOptions, clip=None)
@eager
def chunk_loss(
    new_log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Any,
    plan: ChunkPlan,
    *,
    ratio_bias: Optional[Tensor] = None,
    **options: Unpack[ChunkLossKeywords],
) -> ChunkLoss:
    """The chunk objective; `.loss` is differentiable in new_log_probs and ratio_bias, both (B, S).

    options  those of `chunkgrpo.chunk_loss`: clip, selection, kl, surrogate, ...; all of them are constants
    """
    checked(new_log_probs, "new_log_probs")
    bias = None if ratio_bias is None else checked(ratio_bias, "ratio_bias").detach()
    out = _objective.chunk_loss(new_log_probs.detach(), old_log_probs, advantages, plan, ratio_bias=bias, **options)
    value = torch.full((), out.loss, dtype=torch.float64, device=new_log_probs.device)
    loss = apply(_Known, value, new_log_probs, out.grad_log_probs, ratio_bias, out.grad_ratio_bias)
    return ChunkLoss(loss, out.ratios, out.stats, new_log_probs.detach(), out.grad_log_probs)


class _Known(torch.autograd.Function):
    """A number whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, a: Tensor, grad_a: Tensor, b: Optional[Tensor], grad_b: Any) -> Tensor:
        save(ctx, a, grad_a, b, grad_b)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        a, grad_a, b, grad_b = saved(ctx)

        def along(variable: Optional[Tensor], known: Tensor) -> Optional[Tensor]:
            if variable is None:
                return None
            with torch.no_grad():
                value = (grad * known).to(variable.dtype)
            return first_order(value, grad, a, b)

        return None, along(a, grad_a), None, along(b, grad_b), None


@documented(ChunkLossOptions, clip=None)
@eager
def chunk_policy_loss(
    sampler: Sampler,
    latents: Tensor,
    velocities: Tensor,
    old_log_probs: Tensor,
    advantages: Any,
    plan: ChunkPlan,
    *,
    first_step: Step = 0,
    ratio_bias: Optional[Tensor] = None,
    check: bool = True,
    **options: Unpack[ChunkLossKeywords],
) -> ChunkLoss:
    """`chunk_loss` of `log_probs`: the loss of the velocities (B, S, ...) at latents (B, S + 1, ...), differentiable in
    velocities. options: those of `chunkgrpo.chunk_loss`.

    Only the steps that selection and mask leave to some sample are computed: the others may be deterministic, or have
    been taken elsewhere. They have their old log-probability in `new_log_probs`. One of several processes may have selected
    nothing, where it has the `normaliser` of all: its loss is 0, with a graph.

    first_step  that latents[:, 0] takes; or (B,): latents[i, 0] takes step first_step[i], so that one batch mixes
                windows
    check       a sampler's first loss should have ratios of 1: where it has not, a RatioWarning names the cause that can
                be found. False for off-policy training
    """
    kept(sampler)
    plan, x = plan_of(plan), constant(latents, "latents")
    old, v = constant(old_log_probs, "old_log_probs"), floating(velocities, "velocities")
    for name, given in (("latents", x), ("velocities", v)):
        if given.ndim < 2:
            raise InvalidArgument(f"{name} has shape {tuple(given.shape)}; it must be (B, steps, ...)")
    if old.shape != v.shape[:2] or v.shape[1] != plan.steps:
        raise InvalidArgument(
            f"old_log_probs has shape {tuple(old.shape)} and velocities {tuple(v.shape)}; for a plan over {plan.steps} "
            f"steps they must be {(len(x), plan.steps)} and {(len(x), plan.steps, *x.shape[2:])}"
        )
    first_step = first_of(first_step, len(x))
    _arrays.fitting_frames(sampler.schedule.steps, x.shape[1], first_step, x.shape)
    steps = needed_here(plan, len(x), options)
    if not steps.any():  # with a graph, so that its backward pass takes part
        none = nothing(len(x), plan)
        ratios, grads = (_arrays.given_back(rows, old) for rows in (none.ratios, none.grad_log_probs))
        return ChunkLoss(v.flatten()[:0].sum().double(), ratios, none.stats, old, grads)
    columns = runs(steps.any(0))
    new = apply(LogProbs, v, sampler, x, first_step, columns, graph_of(v))
    absent = _arrays.given_back(np.logical_not(steps.any(0)), new)
    known = _readable(old, _arrays.given_back(steps, new))
    new = torch.where(absent, known, new)
    out = chunk_loss(new, known, advantages, plan, ratio_bias=ratio_bias, **options)
    shown = torch.where(absent, old.to(new), new.detach())
    if flag(check, "check"):
        _self_check.warn(sampler, x, known, new.detach(), steps, first_step=first_step, velocities=v.detach())
    return replace(out, new_log_probs=shown)


def _readable(old: Tensor, steps: Tensor) -> Tensor:
    """`readable`, on the device of the steps (B, S)."""
    values = old.to(steps.device, torch.float64)
    return torch.where(steps | values.isfinite(), values, 0.0)
