"""The gradient of the chunk loss, one step at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Callable, Optional

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import _arrays, _frameworks, _self_check, _status
from .. import objective as _objective
from .._arrays import Doubles
from .._generated import ChunkLossKeywords, ChunkLossOptions
from .._options import Unpack, documented
from .._scalars import bare, flag, function
from .._steps import first_of, kept, loss_count, needed_here, plan_of, readable, selected_steps
from ..chunks import ChunkPlan
from ..errors import InvalidArgument, NonFinite, WrongType
from ..sampler import Sampler
from ._drawn import Drawn
from ._loss import ChunkLoss
from ._parallel import nothing, refuse_unequal, refuse_wrong
from ._step_call import Guidance, Step
from ._tensors import beside, constant, floating
from .autograd import eager

VelocityFunction = Callable[[Tensor, Any, Any], Any]
Penalty = Callable[[Tensor, Tensor, Any, Any], Tensor]
RatioBias = Callable[[Tensor, Any], Tensor]


@documented(ChunkLossOptions, clip=None)
@eager
def streamed_backward(
    velocity: VelocityFunction,
    sampler: Sampler,
    latents: Tensor,
    old_log_probs: Tensor,
    advantages: Any,
    plan: ChunkPlan,
    *,
    first_step: Step = 0,
    guidance: Guidance = 1.0,
    scale: float = 1.0,
    scaler: Any = None,
    no_sync: Optional[Callable[[], Any]] = None,
    every_step: Any = False,
    on_policy: bool = False,
    preserve_rng_state: bool = True,
    penalty: Optional[Penalty] = None,
    penalty_steps: Any = None,
    ratio_bias: Optional[RatioBias] = None,
    check: bool = True,
    **options: Unpack[ChunkLossKeywords],
) -> ChunkLoss:
    """The gradient of `chunk_policy_loss`, added to the parameters' `.grad`, holding the activations of one step.

    The first pass takes the log-probabilities without a graph, and the chunk loss of them the gradient of each. The
    second runs each step again whose gradient is not zero, now with a graph, and goes backward through it at once.

    velocity    velocity(latents, sigma, step): the model, with its graph; it gets latents[:, j] (B, ...) of step
                first_step + j.
                With classifier-free guidance in the step it returns the pair (conditional, unconditional)
    latents     (B, S + 1, ...), or more steps; old_log_probs (B, S), advantages as in `chunk_loss`, plan over S steps
    first_step  that latents[:, 0] takes; or (B,): latents[i, 0] takes step first_step[i], so that one batch mixes
                windows. Then `velocity`, `penalty` and `ratio_bias` get sigma (B,) float32 and step (B,) int64, tensors
                on the device of the latents
    guidance    of a pair that `velocity` returns; one number, or (B,)
    scale       factor of the gradient: 1 / (number of micro-batches) where they are accumulated
    scaler      a torch.amp.GradScaler, whose scale is a factor too
    no_sync     of a model that several processes train, as in no_sync=cgt.no_sync(model): all steps but the last run
                inside it. The last one runs on every process, with a zero gradient where nothing is left to learn
    every_step  True: both passes run all S steps, needed or not. Or the steps that both run, (S,) bool, such as those that
                some process needs. For sharded parameters or gradients, whose processes must run the same steps
    on_policy   True: these are the weights that sampled, as in the only update of a rollout, or its first one. All ratios are
                1 then, and the first pass is left out, about a quarter of the work: `new_log_probs` are the old ones. A sampler's
                first loss still runs it, where check is True. Without ratio_bias, which is 0 then
    preserve_rng_state  both passes of a step draw the same dropout
    penalty     penalty(velocity, latents, sigma, step): a 0-dim tensor that is added to the loss, once for each step that is
                run: that some sample needs, or all of them with every_step=True, so that its weight does not depend on
                the selection. Of the pair that `velocity` returns it gets the first
    penalty_steps  where the penalty is added instead: columns of latents, from 0 on, needed by the loss or not, such as
                range(plan.steps + 1). Those beyond the plan have no log-probability: the last step, which takes no
                noise and drifts with the weights that it shares. One that the loss does not need costs one forward and
                one backward pass. On several processes: the same columns on all
    ratio_bias  ratio_bias(velocity, step): (B,), the `ratio_bias` of a step, differentiable in velocity (GRPO-Guard)
    check       a sampler's first loss should have ratios of 1: where it has not, a RatioWarning names the cause that
                can be found, for which the model is run some times more. False for off-policy training
    options     the others of `chunkgrpo.chunk_loss`: clip, selection, kl, ...

    Only the steps of chunks that some sample has selected, and has by `mask`, are run; the others have their old
    log-probability in `new_log_probs`. The loss that is returned has no graph, and is not multiplied by `scale`.
    Second-order steps are refused.

    With several processes a `normaliser` of all makes the gradient that of one process (docs/distributed.md); one that
    has selected nothing then has a loss of 0. Refused are a model of DistributedDataParallel or DeepSpeed without no_sync,
    sharded parameters or gradients without every_step, static graphs, and without a normaliser other counts on each process.

    An error of the first pass leaves the gradients as they were. One of the second pass, such as an out-of-memory
    error, leaves those of the steps before it in `.grad`: zero them before the batch is tried again.

    The Gaussian divergence of a step without noise is infinite: with the last of penalty_steps take kind="velocity", there
    or throughout.

    KL to a frozen reference, with weight beta:

        def penalty(v, latents, sigma, step):
            with torch.no_grad(), model.disable_adapter():
                reference = velocity(latents, sigma, step)
            return beta / plan.steps * cgt.divergence(sampler, step, v, reference).mean()

        for i, batch in enumerate(batches):                          # gradient accumulation, mixed precision, DDP
            last = i + 1 == len(batches)
            with torch.autocast("cuda", torch.float16), contextlib.nullcontext() if last else cgt.no_sync(model):
                cgt.streamed_backward(
                    lambda latents, sigma, step: model(latents, timesteps[step], batch.prompt),
                    sampler, batch.latents, batch.log_probs, batch.advantages, plan, selection=batch.chosen, kl=0.01,
                    scale=1 / len(batches), scaler=scaler, no_sync=cgt.no_sync(model))
        scaler.unscale_(optimiser)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimiser), scaler.update(), optimiser.zero_grad()
    """
    if torch.is_inference_mode_enabled():
        raise InvalidArgument("streamed_backward cannot run under torch.inference_mode")
    plan, velocity = plan_of(plan), function(velocity, "velocity")
    check, preserve_rng_state = flag(check, "check"), flag(preserve_rng_state, "preserve_rng_state")
    on_policy = flag(on_policy, "on_policy")
    if on_policy and ratio_bias is not None:
        raise InvalidArgument("ratio_bias is given with on_policy=True, under which it is 0: leave one of them out")
    policy = _Policy(velocity, kept(sampler), constant(latents, "latents"), first_step, guidance, penalty, ratio_bias)
    old = policy.checked(constant(old_log_probs, "old_log_probs"), plan)
    forced = _forced(every_step, plan)
    wrappers = refuse_wrong(velocity, no_sync, bool(forced.any()))
    if wrappers and options.get("normaliser") is None:
        count = loss_count(plan, selected_steps(plan, len(old), options), options.get("average", "chunk"))
        refuse_unequal(wrappers, count, policy.latents.device)
    steps = needed_here(plan, len(old), options)
    columns = np.flatnonzero(forced | steps.any(0)).tolist() or [plan.steps - 1]
    penalised = policy.penalised(penalty_steps, columns)
    policy.take(max([plan.steps, *penalised]))
    if on_policy and not (check and _self_check.is_first(sampler)):
        new, biases = policy.unmoved(old), None
    else:
        new, biases = policy.judge(columns, old)
    # On a device this is what the host waits for.
    seen: Any = _arrays.fetched(new=new, old_log_probs=old, ratio_bias=biases, advantages=advantages)
    judged, known = (readable(_arrays.doubles(rows, "old_log_probs"), steps) for rows in seen[:2])
    if check:
        # Processes with sharded parameters must run the same steps.
        again: Any = {"first_step": policy.first_step, "velocity": None if forced.any() else velocity}
        _self_check.warn(sampler, policy.latents, known, judged, steps, guidance=guidance, **again)
    if on_policy:
        new, judged = policy.unmoved(old), known
    out = _loss(judged, known, seen[3], plan, steps, ratio_bias=seen[2], **options)

    factor = torch.full((), float(scale), dtype=torch.float64, device=new.device)
    factor = factor if scaler is None else scaler.scale(factor)
    # (S, B), so that a step's numbers lie side by side, as the library takes them.
    slopes = [np.ascontiguousarray(rows.T) for rows in (out.grad_log_probs, out.grad_ratio_bias) if rows is not None]
    own_grads, *own_biases = (_arrays.given_back(rows, new) for rows in slopes)
    pulls = [(rows * factor).unbind(0) for rows in (own_grads, *own_biases)]
    moving: Any = np.concatenate(slopes, 1).any(1)
    active = sorted({j for j in columns if moving[j] or forced[j]}.union(penalised)) or columns[-1:]
    loss = torch.full((), out.loss, dtype=torch.float64, device=new.device)
    with torch.enable_grad():
        for j in active:
            of_loss = [rows[j] for rows in pulls] if j in columns else None
            with contextlib.nullcontext() if no_sync is None or j == active[-1] else no_sync():
                added = policy.backward(j, of_loss, factor if j in penalised else None, preserve_rng_state)
            loss = loss if added is None else loss + added.detach()
    return ChunkLoss(loss, _arrays.given_back(out.ratios, new), out.stats, new, own_grads.T)


def _listed(columns: Any) -> Any:
    """A range or the like as a list; arrays as they are."""
    return columns if hasattr(columns, "dtype") or not isinstance(columns, Iterable) else list(columns)


def _given_a_copy(x: Tensor, name: str, callback: Callable[[Tensor], Any]) -> Any:
    """What a callback makes of latents. It gets a copy, which lives as long as its graph: that can save it even where the
    latents are of inference mode, and what the callback writes to is not the caller's."""
    lent = x.clone()
    version = lent._version
    value = callback(lent)
    if lent._version != version:
        raise InvalidArgument(f"{name} has written to its latents; it must leave them as they are")
    return value


def _forced(every_step: Any, plan: ChunkPlan) -> NDArray[np.bool_]:
    """(S,): the steps that are run, needed or not."""
    if isinstance(every_step, (bool, np.bool_)):
        return np.full(plan.steps, every_step)
    array = _arrays.plain(every_step, "every_step")
    if array.dtype != np.bool_:
        raise WrongType(f"every_step has element type {array.dtype}; it must be True, False or bool {(plan.steps,)}")
    if array.shape != (plan.steps,):
        raise InvalidArgument(f"every_step has shape {array.shape}; it must be True, False or {(plan.steps,)}")
    return array


def _loss(
    new: Doubles, old: Doubles, advantages: Any, plan: ChunkPlan, steps: NDArray[np.bool_], **options: Any
) -> _objective.ChunkLoss[Doubles]:
    """The chunk loss, and 0 of no steps."""
    if steps.any():
        return _objective.chunk_loss(new, old, advantages, plan, **options)
    return nothing(len(new), plan, options["ratio_bias"] is not None)


@dataclass
class _Policy:
    """The policy that is trained, at the latents that were sampled. Column j of latents is step first_step + j."""

    velocity: VelocityFunction
    sampler: Sampler
    latents: Tensor
    first_step: Any
    guidance: Any
    penalty: Optional[Penalty]
    ratio_bias: Optional[RatioBias]

    def __post_init__(self) -> None:
        self.drawn = Drawn(self.latents)

    def take(self, columns: int) -> None:
        """Looks once at the latents of the first columns and at those after the last, for the library's calls of both passes."""
        self.frames = self.latents[:, : columns + 1].unbind(1)
        self.lent: list[Any] = _arrays.borrowed(self.frames, "latents")

    def checked(self, old: Tensor, plan: ChunkPlan) -> Tensor:
        """The old log-probabilities, all shapes being right."""
        latents, steps = self.latents, self.sampler.schedule.steps
        if latents.ndim < 2 or latents.shape[1] <= plan.steps:
            raise InvalidArgument(
                f"latents has shape {tuple(latents.shape)}; for a plan over {plan.steps} steps it must be (B, n, ...) "
                f"with n > {plan.steps}{_arrays.STEPS_FIRST if len(latents) > plan.steps else ''}"
            )
        if old.shape != (len(latents), plan.steps):
            raise InvalidArgument(
                f"old_log_probs has shape {tuple(old.shape)}; it must be {(len(latents), plan.steps)}"
            )
        self.first_step = first_of(self.first_step, len(latents))
        last = _arrays.last_of(self.first_step)
        if last + plan.steps > steps:
            raise InvalidArgument(f"{plan.steps} steps from first_step {last} on end beyond the schedule's {steps}")
        _arrays.fitting_frames(steps, latents.shape[1], last, latents.shape)
        return old

    def penalised(self, chosen: Any, columns: list[int]) -> list[int]:
        """The columns that have the penalty: those of `penalty_steps`, or where it is not given all that are run."""
        if chosen is None:
            return columns if self.penalty is not None else []
        if self.penalty is None:
            raise InvalidArgument("penalty_steps is given without a penalty: give both, or neither")
        last = min(self.latents.shape[1], self.sampler.schedule.steps - _arrays.last_of(self.first_step)) - 1
        found = _arrays.integers(_listed(chosen), "penalty_steps", np.int64, 0, last).tolist()
        twice = next((j for j in found if found.count(j) > 1), None)
        if twice is not None:
            raise InvalidArgument(f"penalty_steps has {twice} twice; its penalty is added once")
        return sorted(found)

    def run(self, j: int) -> tuple[Tensor, Optional[Tensor], Tensor]:
        """The velocity, the unconditional one and the latents of a column."""
        (sigma, step), x = self.place(j), self.frames[j]
        v, u = _velocities(_given_a_copy(x, "the velocity", lambda lent: self.velocity(lent, sigma, step)))
        for tensor in (v,) if u is None else (v, u):
            if floating(tensor, "the velocity returned").shape != x.shape:
                raise InvalidArgument(
                    f"the velocity returned has shape {tuple(tensor.shape)}; the latents have {tuple(x.shape)}"
                )
        if torch.is_grad_enabled() and not v.requires_grad:
            raise InvalidArgument(f"the velocity returned for step {step} has no graph to go back through")
        return v, u, x

    def place(self, j: int) -> tuple[Any, Any]:
        """(sigma, step) of a column, as the model gets them."""
        step = self.first_step + j
        sigma = self.sampler.schedule.sigmas[step]
        if isinstance(step, int):
            return float(sigma), step
        give = _frameworks.of(self.latents, "latents").give
        return give(sigma.astype(np.float32)), give(step)

    def call(self, x: Tensor, v: Tensor, u: Optional[Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """The velocity and the extras of a call."""
        v, u = beside(x, v, u)
        return v, {} if u is None else {"unconditional": u, "guidance": self.guidance}

    def at(self, j: int, velocity: Tensor) -> tuple[Any, Tensor, Any]:
        """The arrays of a column's call."""
        return self.lent[j], velocity, self.lent[j + 1]

    def added(self, v: Tensor, x: Tensor, j: int) -> Tensor:
        """The penalty of a column."""
        penalty: Any = self.penalty
        sigma, step = self.place(j)
        returned = _given_a_copy(x, "the penalty", lambda lent: penalty(v, lent, sigma, step))
        value = _returned(returned, "the penalty returned", ())
        if value.is_cuda:  # looked at where the host waits
            _status.note(value.detach().isfinite(), step if isinstance(step, int) else None)
        elif not value.isfinite():
            raise NonFinite(f"the penalty returned for step {step} is {value.item()}")
        return value

    def bias(self, v: Tensor, j: int) -> Tensor:
        """The ratio bias of a column. The loss names what is not finite."""
        ratio_bias: Any = self.ratio_bias
        return _returned(ratio_bias(v, self.place(j)[1]), "the ratio_bias returned", (len(v),))

    def unmoved(self, old: Tensor) -> Tensor:
        """The log-probabilities (B, S) of the policy that sampled."""
        return old.to(self.latents.device, torch.float64, copy=True)

    @torch.no_grad()
    def judge(self, columns: list[int], old: Tensor) -> tuple[Tensor, Optional[Tensor]]:
        """The first pass: log-probabilities (B, S), the old ones where a step is not needed, and ratio biases."""
        known = old.to(self.latents.device, torch.float64)
        values, biases = list(known.unbind(1)), list(torch.zeros_like(known).unbind(1)) if self.ratio_bias else []
        for j in columns:
            with self.drawn.first(j):
                v, u, x = self.run(j)
            given, extras = self.call(x, v, u)
            values[j] = self.sampler.log_prob(self.first_step + j, *self.at(j, given), **extras)
            if biases:
                biases[j] = self.bias(v, j).double()
            del v, u, given, extras
        # autocast remembers the weights that it has cast, here without their graph.
        torch.clear_autocast_cache()
        return torch.stack(values, 1), torch.stack(biases, 1) if biases else None

    def backward(
        self, j: int, of_loss: Optional[list[Tensor]], factor: Optional[Tensor], same_random: bool
    ) -> Optional[Tensor]:
        """The pass of a column with a graph, and its penalty. of_loss: the gradients of its log-probabilities and, where
        there is a ratio_bias, of that; None where it has none; factor: of the penalty, None where it is not added."""
        with self.drawn.again(j) if same_random else contextlib.nullcontext():
            v, u, x = self.run(j)
        tensors = (v,) if u is None else (v, u)
        if of_loss is None:  # engines wait for the gradients of all that ran
            pulls = tuple(torch.zeros_like(tensor) for tensor in tensors)
        else:
            pulls = self.pulls(j, x, v, u, of_loss[0])
        # The unconditional one may be of a frozen model.
        pairs = [pair for pair in zip(tensors, pulls) if pair[0].requires_grad]
        if self.ratio_bias is not None and of_loss is not None:
            pairs.append((self.bias(v, j), of_loss[1]))
        added: Optional[Tensor] = None
        if factor is not None:
            added = self.added(v, x, j)
            pairs.append((added, factor))
        outputs = [output for output, _ in pairs]
        torch.autograd.backward(outputs, [gradient.to(output.dtype) for output, gradient in pairs])
        return added

    def pulls(self, j: int, x: Tensor, v: Tensor, u: Optional[Tensor], grad: Tensor) -> tuple[Tensor, ...]:
        """The gradients of a column's velocities, given those of its log-probabilities."""
        given, extras = self.call(x, v, u)
        vjp: Any = self.sampler.log_prob_vjp(self.first_step + j, *self.at(j, given), grad, **extras)
        return (vjp,) if u is None else vjp


def _velocities(value: Any) -> tuple[Any, Any]:
    """(velocity, None), or the pair (conditional, unconditional); what else models return is named."""
    if isinstance(value, Tensor):
        return value, None
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], Tensor):
        return value
    bare(value, "the velocity returned", "the pair (conditional, unconditional)")
    raise WrongType(f"the velocity returned a {type(value).__name__}; it must return a torch.Tensor")


def _returned(value: Any, name: str, shape: tuple[int, ...]) -> Tensor:
    """What a callback returned, checked before anything is added to the gradients."""
    kind = "0-dim torch.Tensor" if not shape else f"torch.Tensor of shape {shape}"
    if not isinstance(value, Tensor):
        raise WrongType(f"{name} must be a {kind}, not {type(value).__name__}")
    if value.shape != shape:
        hint = "" if shape else ": take its mean"
        raise InvalidArgument(f"{name} has shape {tuple(value.shape)}; it must be {shape or '0-dim'}{hint}")
    if value.is_meta:
        raise WrongType(f"{name} is on the meta device and has no elements")
    if torch.is_grad_enabled() and not value.requires_grad:
        raise InvalidArgument(f"{name} has no graph to go back through: make it of the velocity, outside of no_grad")
    return floating(value, name)
