"""Chunk-GRPO inside PyTorch's autograd: `import chunkgrpo.torch as cgt`.

    traj = sampler.rollout(velocity, x_init, seed=7)                 # tensors in, tensors out; runs under no_grad
    adv = cg.advantages(reward(traj.images), group_size=12)

    v = torch.stack([model(traj.latents[:, k], sigmas[k], k) for k in range(plan.steps)], 1)
    out = cgt.chunk_policy_loss(sampler, traj.latents, v, traj.log_probs, adv, plan)
    out.loss.backward()

keeps the activations of every step. `streamed_backward` gives the same gradient and keeps those of one step.

Gradients are closed forms of the library's (no graph is built for them), and can be taken once: a second derivative is
refused. Tensors are on any device; what is not on the CPU is staged through pinned memory on its current stream.
Log-probabilities and losses are float64, whatever autocast says. Inside torch.compile these functions break the graph.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Callable, Optional, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import get_device_states, set_device_states

from . import _arrays
from . import divergences as _divergences
from . import objective as _objective
from .chunks import ChunkPlan, selection_mask
from .errors import InvalidArgument, WrongType
from .objective import ChunkStats
from .sampler import Sampler

__all__ = [
    "ChunkLoss",
    "chunk_loss",
    "chunk_policy_loss",
    "divergence",
    "log_prob",
    "log_probs",
    "step",
    "streamed_backward",
]

VelocityFunction = Callable[[Tensor, float, int], Any]

Function = TypeVar("Function", bound=Callable[..., Any])


def _not_compiled(function: Function) -> Function:
    return cast(Function, torch.compiler.disable(function))  # type: ignore[no-untyped-call]


@dataclass(frozen=True)
class ChunkLoss:
    """What `chunk_loss`, `chunk_policy_loss` and `streamed_backward` return."""

    loss: Tensor
    """0-dim, float64."""
    ratios: Tensor
    """(B, K) of all chunks, selected or not; never clipped."""
    stats: ChunkStats
    new_log_probs: Tensor
    """(B, S), detached."""
    grad_log_probs: Tensor
    """(B, S): d loss / d new_log_probs."""


# ----------------------------------------------------------------------------------------------------------------------
# Steps


@_not_compiled
def log_prob(
    sampler: Sampler,
    k: int,
    x: Tensor,
    v: Tensor,
    next_x: Tensor,
    *,
    unconditional: Optional[Tensor] = None,
    guidance: float = 1.0,
    previous_image: Optional[Tensor] = None,
) -> Tensor:
    """Log-probability (B,) float64 of step k going from x to next_x under velocity v, differentiable in v and
    `unconditional`. As `Sampler.log_prob`, but v and next_x may have other floating types than x (a bfloat16 velocity
    beside float32 latents, as autocast gives): they are computed in the type of x, and the gradient has theirs."""
    x, next_x = _constant(x, "x"), _constant(next_x, "next_x")
    previous_image = None if previous_image is None else _constant(previous_image, "previous_image")
    _velocity(v, "v")
    result: Tensor = _LogProb.apply(  # type: ignore[no-untyped-call]
        v, unconditional, (sampler, k, guidance), x, next_x.to(x.dtype), previous_image
    )
    return result


@_not_compiled
def step(
    sampler: Sampler,
    k: int,
    x: Tensor,
    v: Tensor,
    *,
    noise: Optional[Tensor] = None,
    generator: Optional[torch.Generator] = None,
    seed: Optional[int] = None,
    sample_ids: Any = None,
    unconditional: Optional[Tensor] = None,
    guidance: float = 1.0,
    previous_image: Optional[Tensor] = None,
) -> tuple[Tensor, Tensor]:
    """Step k from latents x with velocity v: (x', log-probabilities (B,)). As `Sampler.step`; x' is a constant, the
    log-probability is differentiable in v and `unconditional`.

    noise      like x: the e that is added; or
    seed       with sample_ids: the library's noise; or
    generator  PyTorch's: torch.randn of the type of x, on the generator's device; None = PyTorch's own generator
    """
    x = _constant(x, "x")
    previous_image = None if previous_image is None else _constant(previous_image, "previous_image")
    _velocity(v, "v")
    if sum(source is not None for source in (noise, generator, seed)) > 1:
        raise InvalidArgument("noise, generator and seed exclude each other; give one of them")
    if noise is not None:
        noise = _constant(noise, "noise").to(x.dtype)
    elif seed is None and sampler.coefficients(k)[2] > 0:
        if sample_ids is not None:
            raise InvalidArgument("sample_ids belong to a seed; give that too")
        device = x.device if generator is None else generator.device
        noise = torch.randn(x.shape, generator=generator, device=device, dtype=x.dtype).to(x.device)
    with torch.no_grad():
        next_x, value = sampler.step(
            k,
            x,
            v.to(x.dtype),
            noise=noise,
            seed=seed,
            sample_ids=sample_ids,
            unconditional=None if unconditional is None else unconditional.to(x.dtype),
            guidance=guidance,
            previous_image=previous_image,
        )
    if sampler.coefficients(k)[2] > 0 and torch.is_grad_enabled():
        value = _LogProb.apply(  # type: ignore[no-untyped-call]
            v, unconditional, (sampler, k, guidance), x, next_x, previous_image, value
        )
    return next_x, value


class _LogProb(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        v: Tensor,
        u: Optional[Tensor],
        call: tuple[Sampler, int, float],
        x: Tensor,
        next_x: Tensor,
        previous_image: Optional[Tensor],
        known: Optional[Tensor] = None,
    ) -> Tensor:
        _save(ctx, v, u, x, next_x, previous_image)
        ctx.call = call
        if known is not None:
            return known.view_as(known)
        sampler, k, guidance = call
        value: Tensor = sampler.log_prob(
            *(k, x, v.detach().to(x.dtype), next_x),
            unconditional=None if u is None else u.to(x.dtype),
            guidance=guidance,
            previous_image=previous_image,
        )
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        v, u, x, next_x, previous_image = _saved(ctx)
        sampler, k, guidance = ctx.call
        with torch.no_grad():
            grads = sampler.log_prob_vjp(
                *(k, x, v.detach().to(x.dtype), next_x, grad.contiguous()),  # a sum's gradient is one number, expanded
                unconditional=None if u is None else u.to(x.dtype),
                guidance=guidance,
                previous_image=previous_image,
            )
        sources = grad, v, u
        if u is None:
            return (_first_order(grads.to(v.dtype), *sources), *[None] * 6)
        return (*(_first_order(g.to(t.dtype), *sources) for g, t in zip(grads, (v, u))), *[None] * 5)


@_not_compiled
def log_probs(sampler: Sampler, latents: Tensor, velocities: Tensor, first_step: int = 0) -> Tensor:
    """Log-probabilities (B, n) float64 of the steps first_step ... first_step + n - 1, differentiable in velocities.

    latents     (B, n + 1, ...), or more steps, of which the first n + 1 count: `Trajectory.latents` will do
    velocities  (B, n, ...), at these latents; of any floating type: the gradient has the same
    """
    latents = _constant(latents, "latents")
    _velocity(velocities, "velocities")
    result: Tensor = _LogProbs.apply(velocities, sampler, latents, first_step)  # type: ignore[no-untyped-call]
    return result


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, velocities: Tensor, sampler: Sampler, latents: Tensor, first_step: int) -> Tensor:
        _save(ctx, velocities, latents)
        ctx.call = sampler, first_step
        value: Tensor = sampler.log_probs(latents, velocities.to(latents.dtype), first_step)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        velocities, latents = _saved(ctx)
        sampler, first_step = ctx.call
        with torch.no_grad():
            grads = sampler.log_probs_vjp(latents, velocities.to(latents.dtype), grad, first_step)
        return _first_order(grads.to(velocities.dtype), grad, velocities), None, None, None


@_not_compiled
def divergence(
    sampler: Sampler, velocities: Tensor, other: Tensor, *, kind: str = "gaussian", first_step: int = 0
) -> Tensor:
    """Divergence (B, n) float64 of steps under `velocities` from those under `other`, both (B, n, ...), differentiable
    in velocities: for a KL to a frozen reference, or the bias of GRPO-Guard. As `chunkgrpo.divergence`, of which it has
    the kinds; `other` may have another floating type."""
    _velocity(velocities, "velocities")
    reference = _constant(_velocity(other, "other"), "other").to(velocities.dtype)
    result: Tensor = _Divergence.apply(  # type: ignore[no-untyped-call]
        velocities, reference, sampler, kind, first_step
    )
    return result


class _Divergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, velocities: Tensor, other: Tensor, sampler: Sampler, kind: str, first_step: int) -> Tensor:
        _save(ctx, velocities, other)
        ctx.call = sampler, kind, first_step
        value: Tensor = _divergences.divergence(sampler, velocities, other, kind=kind, first_step=first_step)
        return value

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        velocities, other = _saved(ctx)
        sampler, kind, first_step = ctx.call
        with torch.no_grad():
            grads = _divergences.divergence_vjp(sampler, velocities, other, grad, kind=kind, first_step=first_step)
        return _first_order(grads, grad, velocities), None, None, None, None


# ----------------------------------------------------------------------------------------------------------------------
# Objective


@_not_compiled
def chunk_loss(
    new_log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Any,
    plan: ChunkPlan,
    *,
    ratio_bias: Optional[Tensor] = None,
    **options: Any,
) -> ChunkLoss:
    """The chunk objective; `.loss` is differentiable in new_log_probs and ratio_bias, both (B, S).

    options  those of `chunkgrpo.chunk_loss`: clip, selection, kl, surrogate, ...; all of them are constants
    """
    _tensor(new_log_probs, "new_log_probs")
    if ratio_bias is not None:
        _tensor(ratio_bias, "ratio_bias")
        options["ratio_bias"] = ratio_bias.detach()
    out = _objective.chunk_loss(new_log_probs.detach(), old_log_probs, advantages, plan, **options)
    value = torch.tensor(out.loss, dtype=torch.float64, device=new_log_probs.device)
    loss = _Known.apply(  # type: ignore[no-untyped-call]
        value, new_log_probs, out.grad_log_probs, ratio_bias, out.grad_ratio_bias
    )
    return ChunkLoss(loss, out.ratios, out.stats, new_log_probs.detach(), out.grad_log_probs)


class _Known(torch.autograd.Function):
    """A number whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, a: Tensor, grad_a: Tensor, b: Optional[Tensor], grad_b: Any) -> Tensor:
        _save(ctx, a, grad_a, b, grad_b)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        a, grad_a, b, grad_b = _saved(ctx)

        def along(variable: Optional[Tensor], known: Tensor) -> Optional[Tensor]:
            if variable is None:
                return None
            with torch.no_grad():
                value = (grad * known).to(variable.dtype)
            return _first_order(value, grad, a, b)

        return None, along(a, grad_a), None, along(b, grad_b), None


@_not_compiled
def chunk_policy_loss(
    sampler: Sampler,
    latents: Tensor,
    velocities: Tensor,
    old_log_probs: Tensor,
    advantages: Any,
    plan: ChunkPlan,
    *,
    first_step: int = 0,
    **options: Any,
) -> ChunkLoss:
    """`chunk_loss` of `log_probs`: the loss of the velocities (B, S, ...) at latents (B, S + 1, ...), differentiable in
    velocities. options: those of `chunkgrpo.chunk_loss`."""
    return chunk_loss(log_probs(sampler, latents, velocities, first_step), old_log_probs, advantages, plan, **options)


@_not_compiled
def streamed_backward(
    velocity: VelocityFunction,
    sampler: Sampler,
    latents: Tensor,
    old_log_probs: Tensor,
    advantages: Any,
    plan: ChunkPlan,
    *,
    first_step: int = 0,
    guidance: float = 1.0,
    scale: float = 1.0,
    scaler: Any = None,
    no_sync: Optional[Callable[[], Any]] = None,
    every_step: bool = False,
    preserve_rng_state: bool = True,
    penalty: Optional[Callable[[Tensor, Tensor, float, int], Tensor]] = None,
    ratio_bias: Optional[Callable[[Tensor, int], Tensor]] = None,
    **options: Any,
) -> ChunkLoss:
    """The gradient of `chunk_policy_loss`, added to the parameters' `.grad`, holding the activations of one step.

    The first pass takes the log-probabilities without a graph, and the chunk loss of them the gradient of each. The
    second runs each step again whose gradient is not zero, now with a graph, and goes backward through it at once.

    velocity    velocity(x, sigma, step): the model, with its graph; x (B, ...) is latents[:, j] of step first_step + j.
                With classifier-free guidance in the step it returns the pair (conditional, unconditional)
    latents     (B, S + 1, ...), or more steps; old_log_probs (B, S), advantages (B,), plan over S steps
    guidance    of a pair that `velocity` returns
    scale       factor of the gradient: 1 / (number of micro-batches) where they are accumulated
    scaler      a torch.amp.GradScaler, whose scale is a factor too
    no_sync     of DistributedDataParallel or FSDP, as in no_sync=model.no_sync: all steps but the last run inside it.
                The last one runs on every rank, with a zero gradient where nothing is left to learn
    every_step  both passes run all S steps, needed or not: for FSDP, whose ranks must run the same number of them
    preserve_rng_state  both passes of a step draw the same dropout
    penalty     penalty(v, x, sigma, step): a 0-dim tensor that is added to the loss, once for each step that is needed;
                such as 0.04 / plan.steps * divergence(...).mean()
    ratio_bias  ratio_bias(v, step): (B,), the `ratio_bias` of a step, differentiable in v (GRPO-Guard)
    options     the others of `chunkgrpo.chunk_loss`: clip, selection, kl, ...

    Only the steps of chunks that some sample has selected are run; the others have their old log-probability in
    `new_log_probs`. The loss that is returned has no graph, and is not multiplied by `scale`. Second-order steps are
    refused.

        for i, batch in enumerate(batches):                          # gradient accumulation, mixed precision, DDP
            last = i + 1 == len(batches)
            with torch.autocast("cuda", torch.float16), contextlib.nullcontext() if last else model.no_sync():
                cgt.streamed_backward(
                    lambda x, sigma, k: model(x, timesteps[k], batch.prompt),
                    sampler, batch.latents, batch.log_probs, batch.advantages, plan, selection=batch.chosen, kl=0.01,
                    scale=1 / len(batches), scaler=scaler, no_sync=model.no_sync)
        scaler.unscale_(optimiser)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimiser), scaler.update(), optimiser.zero_grad()
    """
    if torch.is_inference_mode_enabled():
        raise InvalidArgument("streamed_backward cannot run under torch.inference_mode")
    plan = plan if isinstance(plan, ChunkPlan) else ChunkPlan(plan)
    latents, old = _constant(latents, "latents"), _constant(old_log_probs, "old_log_probs")
    batch = latents.shape[0]
    if latents.ndim < 2 or latents.shape[1] <= plan.steps:
        raise InvalidArgument(
            f"latents has shape {tuple(latents.shape)}; for a plan over {plan.steps} steps it must be (B, n, ...) with "
            f"n > {plan.steps}"
        )
    if old.shape != (batch, plan.steps):
        raise InvalidArgument(f"old_log_probs has shape {tuple(old.shape)}; it must be {(batch, plan.steps)}")
    steps = sampler.schedule.steps
    first_step = _arrays.integer(first_step, "first_step", 0)
    if first_step + plan.steps > steps:
        raise InvalidArgument(f"{plan.steps} steps from first_step {first_step} on end beyond the schedule's {steps}")
    needed = list(range(plan.steps)) if every_step else _needed_steps(plan, batch, options)
    sigmas = sampler.schedule.sigmas
    new = old.to(latents.device, torch.float64, copy=True)
    biases = None if ratio_bias is None else torch.zeros_like(new)
    random: dict[int, Any] = {}

    def run(j: int) -> tuple[Tensor, Optional[Tensor], Tensor]:
        """(v, unconditional, x) of column j."""
        x = latents[:, j]
        x = x.clone() if x.is_inference() else x  # which no graph could save
        value = velocity(x, float(sigmas[first_step + j]), first_step + j)
        v, u = value if isinstance(value, tuple) else (value, None)
        for tensor in (v,) if u is None else (v, u):
            if _velocity(tensor, "the velocity returned").shape != x.shape:
                raise InvalidArgument(f"the velocity returned has shape {tuple(tensor.shape)}; x has {tuple(x.shape)}")
        if torch.is_grad_enabled() and not v.requires_grad:
            raise InvalidArgument(f"the velocity returned for step {first_step + j} has no graph to go back through")
        return v, u, x

    def extras(u: Optional[Tensor]) -> dict[str, Any]:
        return {} if u is None else {"unconditional": u.detach().to(latents.dtype), "guidance": guidance}

    with torch.no_grad():
        for j in needed:
            random[j] = get_device_states(latents), torch.get_rng_state()
            v, u, x = run(j)
            new[:, j] = sampler.log_prob(first_step + j, x, v.to(x.dtype), latents[:, j + 1], **extras(u))
            if ratio_bias is not None and biases is not None:
                biases[:, j] = ratio_bias(v, first_step + j)
            del v, u
    # autocast remembers the weights that it has cast, here without their graph.
    torch.clear_autocast_cache()

    out = _objective.chunk_loss(new, old, advantages, plan, ratio_bias=biases, **options)
    factor = torch.tensor(float(scale), dtype=torch.float64, device=latents.device)
    factor = factor if scaler is None else scaler.scale(factor)
    grads, loss = out.grad_log_probs * factor, torch.tensor(out.loss, dtype=torch.float64, device=latents.device)
    grad_biases = torch.zeros_like(new) if out.grad_ratio_bias is None else out.grad_ratio_bias
    moving = (grads.ne(0) | grad_biases.ne(0)).any(0).tolist()
    active = [j for j in needed if moving[j] or every_step or penalty is not None] or needed[-1:]

    for j in active:
        sync = contextlib.nullcontext() if no_sync is None or j == active[-1] else no_sync()
        with sync, torch.enable_grad():
            with _random_state(latents, *random[j]) if preserve_rng_state else contextlib.nullcontext():
                v, u, x = run(j)
            with torch.no_grad():
                grad = sampler.log_prob_vjp(
                    first_step + j, x, v.detach().to(x.dtype), latents[:, j + 1], grads[:, j], **extras(u)
                )
            pairs = [(v, grad)] if u is None else [(v, grad[0]), (u, grad[1])]
            outputs = [output for output, _ in pairs if output.requires_grad]  # u may be of a frozen model
            upstream = [gradient.to(output.dtype) for output, gradient in pairs if output.requires_grad]
            if ratio_bias is not None:
                outputs.append(ratio_bias(v, first_step + j))
                upstream.append((grad_biases[:, j] * factor).to(outputs[-1].dtype))
            if penalty is not None:
                outputs.append(penalty(v, x, float(sigmas[first_step + j]), first_step + j))
                upstream.append(factor.to(outputs[-1].dtype))
                loss = loss + outputs[-1].detach()
            torch.autograd.backward(outputs, upstream)
            del v, u, outputs, upstream, grad, pairs
    return ChunkLoss(loss, out.ratios, out.stats, new, out.grad_log_probs)


def _needed_steps(plan: ChunkPlan, batch: int, options: dict[str, Any]) -> list[int]:
    """The steps that some sample has selected and has."""
    needed = np.ones((batch, plan.steps), bool)
    if options.get("selection") is not None:
        chosen = selection_mask(options["selection"], batch, len(plan)) != 0
        needed &= np.repeat(chosen, plan.sizes, axis=1)
    if options.get("mask") is not None:
        needed &= _arrays.doubles(options["mask"], "mask", needed.shape) != 0
    if not needed.any():
        raise InvalidArgument("selection: no step is selected in any sample")
    return [int(j) for j in np.flatnonzero(needed.any(0))]


@contextlib.contextmanager
def _random_state(x: Tensor, devices: tuple[Any, Any], cpu: Tensor) -> Iterator[None]:
    """The random numbers of an earlier time, as in torch.utils.checkpoint."""
    kind = {} if x.device.type == "cpu" else {"device_type": x.device.type}
    with torch.random.fork_rng(devices[0], **kind):
        torch.set_rng_state(cpu)
        set_device_states(*devices, **kind)
        yield


# ----------------------------------------------------------------------------------------------------------------------


def _tensor(value: Any, name: str) -> Tensor:
    if not isinstance(value, Tensor):
        raise WrongType(f"{name} must be a torch.Tensor, not {type(value).__name__}")
    return value


def _velocity(value: Any, name: str) -> Tensor:
    tensor = _tensor(value, name)
    if not tensor.dtype.is_floating_point:
        raise WrongType(f"{name} has element type {tensor.dtype}; it must be a floating type")
    return tensor


def _constant(value: Any, name: str) -> Tensor:
    tensor = _tensor(value, name)
    if tensor.requires_grad and torch.is_grad_enabled():
        raise InvalidArgument(f"{name} requires grad, but there is a gradient for velocities alone; detach() it")
    return tensor.detach()


class _FirstOrder(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *sources: Optional[Tensor]) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise InvalidArgument("the gradients of chunkgrpo.torch have no derivative of their own: take them once")


def _first_order(gradient: Tensor, *sources: Optional[Tensor]) -> Tensor:
    """A gradient that says so when it is differentiated again, rather than to pass for a constant."""
    if not torch.is_grad_enabled():
        return gradient
    result: Tensor = _FirstOrder.apply(gradient, *sources)  # type: ignore[no-untyped-call]
    return result


def _save(ctx: Any, *tensors: Optional[Tensor]) -> None:
    """save_for_backward, which refuses tensors made under inference_mode, such as a rollout's."""
    ctx.inference = [tensor if tensor is not None and tensor.is_inference() else None for tensor in tensors]
    ctx.save_for_backward(*[None if tensor is None or tensor.is_inference() else tensor for tensor in tensors])


def _saved(ctx: Any) -> list[Any]:
    return [tensor if kept is None else kept for tensor, kept in zip(ctx.saved_tensors, ctx.inference)]
