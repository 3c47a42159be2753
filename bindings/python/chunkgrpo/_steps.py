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
    try:
        return ChunkPlan(plan)
    except WrongType as error:
        raise WrongType(f"plan must be a ChunkPlan or its sizes: {error}; are two arguments swapped?") from None


def needed(plan: ChunkPlan, batch: int, options: Mapping[str, Any]) -> NDArray[np.bool_]:
    """(B, S): the steps that a sample has selected and has. Their log-probabilities make the loss; no others are read.
    """
    steps = np.ones((batch, plan.steps), np.bool_)
    if options.get("selection") is not None:
        chosen = selection_mask(options["selection"], batch, len(plan)) != 0
        steps &= np.repeat(chosen, plan.sizes, axis=1)
    if options.get("mask") is not None:
        steps &= _arrays.flags(options["mask"], "mask", steps.shape)
    if not steps.any():
        raise InvalidArgument("selection: no step is selected in any sample")
    return steps


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
    return np.where(steps | np.isfinite(values), values, 0.0)
