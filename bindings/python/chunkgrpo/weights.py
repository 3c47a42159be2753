"""Weights of chunks, for `chunk_loss`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._generated import GRADIENT_WEIGHTING, GradientWeighting
from ._library import lib
from ._scalars import choice
from ._steps import kept, plan_of
from .chunks import ChunkPlan
from .errors import check
from .sampler import Sampler


def gcpo_weights(plan: ChunkPlan) -> NDArray[np.float64]:
    """sqrt((T - m)/m) with m the middle step of each chunk, T = S + 1: (K,), for `chunk_loss`'s weights (GCPO). Refused
    for a first chunk of one step, where GCPO divides by zero."""
    plan = plan_of(plan)
    weights = np.empty(len(plan))
    check(lib.cgrpo_gcpo_weights(plan.sizes, len(plan), weights))
    return weights


def tempflow_weights(plan: ChunkPlan, sampler: Sampler) -> NDArray[np.float64]:
    """Mean of the noise s over the steps of each chunk, divided by its mean over all trained steps: (K,), for
    `chunk_loss`'s weights (TempFlow-GRPO, arXiv 2508.04324, with chunks of one step)."""
    plan, weights = plan_of(plan), np.empty(len(plan_of(plan)))
    check(lib.cgrpo_tempflow_weights(kept(sampler)._handle, plan.sizes, len(plan), weights))
    return weights


def gradient_weights(plan: ChunkPlan, sampler: Sampler, kind: GradientWeighting = "flash") -> NDArray[np.float64]:
    """Weights (K,) for `chunk_loss` that even out the gradients of the steps, whose d log_prob / d velocity is
    b e / (D s): the mean over the steps of each chunk.

    kind  "flash": s/|b|, divided by its mean (Flash-GRPO, arXiv 2605.15980); "sage": median(|b|/s) / (|b|/s), of two
          middle ones the lower (SAGE-GRPO); "precise": 1/|b| (Precise, arXiv 2605.23522, beside GRPO-Guard's ratio)

    A step without noise has no part in them, and a chunk of such steps has 0.
    """
    plan = plan_of(plan)
    weights = np.empty(len(plan))
    number = choice(kind, GRADIENT_WEIGHTING, "kind")
    check(lib.cgrpo_gradient_weights(kept(sampler)._handle, number, plan.sizes, len(plan), weights))
    return weights
