"""Which steps of a trajectory a loss needs, and the log-probabilities of those alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _arrays
from .chunks import ChunkPlan, selection_mask
from .errors import InvalidArgument, WrongType
from .sampler import Sampler


def kept(sampler: Any) -> Sampler:
    """The argument, if it is a sampler."""
    if not isinstance(sampler, Sampler):
        kind = type(sampler).__name__
        raise WrongType(f"sampler must be a chunkgrpo.Sampler, not {kind}; are two arguments swapped?")
    return sampler


def plan_of(plan: Any) -> ChunkPlan:
    """A plan, or its sizes."""
    if isinstance(plan, ChunkPlan):
        return plan
    if not hasattr(plan, "__len__") and not hasattr(plan, "__iter__"):
        kind = type(plan).__name__
        raise WrongType(f"plan must be a ChunkPlan or its sizes, not {kind}; are two arguments swapped?")
    try:
        return ChunkPlan(plan)
    except WrongType as error:
        raise WrongType(f"plan must be a ChunkPlan or its sizes: {error}; are two arguments swapped?") from None


def first_of(first_step: Any, batch: int) -> Any:
    """first_step as one number, or as (B,) int64."""
    number, each = _arrays.steps(first_step, "first_step", batch)
    if (number if each is None else each.min()) < 0:
        raise InvalidArgument(f"first_step is {first_step}; it must be at least 0")
    return number if each is None else each


def noisy(sampler: Sampler, step: Any) -> NDArray[np.bool_]:
    """Which samples are at a step with noise, (B,), for steps (B,); of one step for all, (1,)."""
    return np.array([sampler.coefficients(int(k)).s > 0 for k in np.atleast_1d(np.asarray(step))])


def all_noisy(sampler: Sampler, step: Any) -> bool:
    """Whether every sample is at a step with noise."""
    return sampler.coefficients(step).s > 0 if isinstance(step, int) else bool(noisy(sampler, step).all())


def noisy_vjp(sampler: Sampler, **arguments: Any) -> tuple[Any, ...]:
    """`Sampler.log_prob_vjp` with numpy's arrays, of one velocity or of both. Samples at a deterministic step have the
    gradient 0."""
    moving, given = noisy(sampler, arguments["step"]), arguments["velocity"]
    both = arguments.get("unconditional") is not None
    if not moving.any():
        return (np.zeros_like(given),) * (2 if both else 1)
    if moving.all():
        grads = sampler.log_prob_vjp(**arguments)
        return tuple(grads) if both else (grads,)
    some = np.flatnonzero(moving)
    own = {name: np.asarray(value)[some] if _arrays.per_sample(value) else value for name, value in arguments.items()}
    grads = tuple(np.zeros_like(given) for _ in range(2 if both else 1))
    for whole, part in zip(grads, noisy_vjp(sampler, **own)):
        whole[some] = part
    return grads


def needed(plan: ChunkPlan, batch: int, options: Mapping[str, Any]) -> NDArray[np.bool_]:
    """(B, S): the steps that a sample has selected and has. Their log-probabilities make the loss; no others are read.
    """
    steps = selected_steps(plan, batch, options)
    if not steps.any():
        raise InvalidArgument("selection: no step is selected in any sample")
    return steps


def needed_here(plan: ChunkPlan, batch: int, options: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The same. A process may need none where others do: they know the count."""
    steps = selected_steps(plan, batch, options)
    if not steps.any() and options.get("normaliser") is None:
        raise InvalidArgument(
            "selection: no step is selected in any sample; where other processes have some, give the normaliser of all"
        )
    return steps


def selected_steps(plan: ChunkPlan, batch: int, options: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The same, and perhaps none."""
    steps = np.ones((batch, plan.steps), np.bool_)
    if options.get("selection") is not None:
        chosen = selection_mask(options["selection"], batch, len(plan)) != 0
        steps &= np.repeat(chosen, plan.sizes, axis=1)
    if options.get("mask") is not None:
        steps &= _arrays.flags(options["mask"], "mask", steps.shape)
    return steps


def loss_count(plan: ChunkPlan, steps: NDArray[np.bool_], average: str) -> float:
    """The number that a loss of these steps (B, S) divides by (Objective/ChunkLoss.swift, Shares)."""
    if average == "step":
        return float(steps.sum())
    if average == "sample":
        return float(steps.any(1).sum())
    return float(sum(steps[:, chunk].any(1).sum() for chunk in plan.slices))


def runs(columns: Any) -> list[slice]:
    """The columns (S,) that are true, as runs of neighbours."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(columns, np.int8), [0]])))
    return [slice(int(first), int(end)) for first, end in zip(edges[::2], edges[1::2])]


def frames(run: slice) -> slice:
    """The latents of a run of steps: one more."""
    return slice(run.start, run.stop + 1)


def readable(values: NDArray[np.float64], steps: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Log-probabilities (B, S), with 0 where they are neither needed nor finite: such as those of steps that an earlier
    host took."""
    return values if steps.all() else np.where(steps | np.isfinite(values), values, 0.0)
