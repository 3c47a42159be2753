"""Credit: which steps and samples the rewards speak of, and how far a rollout that was made elsewhere counts."""

from __future__ import annotations

import ctypes
from ctypes import byref
from dataclasses import dataclass
from typing import Any, Generic, Optional, TypedDict, overload

import numpy as np
from numpy.typing import ArrayLike

from . import _arrays
from ._arrays import A, Doubles, Numbers
from ._frameworks import not_compiled
from ._generated import (
    GAIN,
    AdvantageKeywords,
    AdvantageOptions,
    Gain,
    ImportanceLevel,
    ImportanceMode,
    ImportanceOptions,
)
from ._library import lib
from ._options import Unpack, documented, fill
from ._scalars import choice
from ._steps import plan_of
from .chunks import ChunkPlan
from .errors import InvalidArgument, check
from .objective import advantage_options, rewards_of

# ----------------------------------------------------------------------------------------------------------------------
# Advantages of steps and of trees


@overload
def step_gains(rewards: Numbers, kind: Gain = "step") -> Doubles: ...


@overload
def step_gains(rewards: A, kind: Gain = "step") -> A: ...


@not_compiled
def step_gains(rewards: Any, kind: Gain = "step") -> Any:
    """What each step has gained: (B, S) float64, for `step_advantages`.

    rewards  (B, S + 1): rewards[:, k] of the samples that are completed without noise after k steps; rewards[:, 0] of no
             noise at all
    kind     "step": R_{k+1} - R_k (DenseGRPO, arXiv 2601.20218; Stepwise-Flow-GRPO, arXiv 2603.28718);
             "turning_point": the same, but R_S - R_k where the step before went against the whole R_S - R_0 and this one
             goes its way, and at step 0 where that goes its way (TP-GRPO, arXiv 2602.06422)
    """
    values = _arrays.matrix(rewards, "rewards")
    batch, steps = values.shape[0], values.shape[1] - 1
    if steps < 1:
        raise InvalidArgument(f"rewards has shape {values.shape}; it must be (B, S + 1) with one step or more")
    out = np.empty((batch, steps))
    check(lib.cgrpo_step_gains(values, batch, steps, choice(kind, GAIN, "kind"), out))
    return _arrays.given_back(out, rewards)


@overload
def step_advantages(
    rewards: Numbers, group_size: Optional[int] = None, **options: Unpack[AdvantageKeywords]
) -> Doubles: ...


@overload
def step_advantages(rewards: A, group_size: Optional[int] = None, **options: Unpack[AdvantageKeywords]) -> A: ...


@documented(AdvantageOptions)
@not_compiled
def step_advantages(rewards: Any, group_size: Optional[int] = None, **options: Unpack[AdvantageKeywords]) -> Any:
    """Advantages (B, S) of a reward or a gain for each step, rewards (B, S), for `chunk_loss`: each step's are normalised
    by themselves. The options are those of `advantages`, but for weights and present; with mixing="gdpo" each step's
    advantages are normalised over the batch, too.

    A teacher's KL of each step with its sign turned is such a reward (Flow-OPD, arXiv 2605.08063):
    -divergences(sampler, velocities, teacher_velocities).
    """
    values = _arrays.matrix(rewards, "rewards")
    struct = advantage_options(len(values), 1, group_size, options, "step_advantages")
    out = np.empty(values.shape)
    check(lib.cgrpo_step_advantages(values, *values.shape, struct, out))
    return _arrays.given_back(out, rewards)


@overload
def tree_advantages(
    rewards: Numbers,
    nodes: ArrayLike,
    group_size: Optional[int] = None,
    *,
    log_probs: Optional[ArrayLike] = None,
    **options: Unpack[AdvantageKeywords],
) -> Doubles: ...


@overload
def tree_advantages(
    rewards: A,
    nodes: ArrayLike,
    group_size: Optional[int] = None,
    *,
    log_probs: Optional[ArrayLike] = None,
    **options: Unpack[AdvantageKeywords],
) -> A: ...


@documented(AdvantageOptions)
@not_compiled
def tree_advantages(
    rewards: Any,
    nodes: ArrayLike,
    group_size: Optional[int] = None,
    *,
    log_probs: Optional[ArrayLike] = None,
    **options: Unpack[AdvantageKeywords],
) -> Any:
    """Advantages (B, S), for `chunk_loss`, of samples that share the first part of their way, as `Trajectory.fork` makes
    them (BranchGRPO, arXiv 2509.06040; the branches of TempFlow-GRPO).

    The value of a node is the mean reward of its samples, or is fused from its children. The nodes of one step and group
    are normalised against each other, by the options of `advantages`. A step's advantage is that of the node that it
    leads to.

    rewards    (B,), of the samples, which are the leaves
    nodes      (B, S) integers: the node that a sample is at after each step. Equal ones of a step are one node, whose
               samples have been at one node before, and are of one group
    log_probs  (B, S) of the steps: a node's value is the mean of its children's, weighted by the exp of the log_probs of
               the steps that lead to them (BranchGRPO's use_prob_weighted); None = the mean of its leaves
    """
    values = _arrays.vector(rewards, "rewards")
    ids = _arrays.plain(nodes, "nodes")
    if ids.ndim != 2 or len(ids) != len(values):
        raise InvalidArgument(f"nodes has shape {ids.shape}; it must be ({len(values)}, S), one node for each step")
    flat = _arrays.int64s(ids.reshape(-1), "nodes")
    logs = None if log_probs is None else _arrays.doubles(log_probs, "log_probs", ids.shape)
    struct = advantage_options(len(values), 1, group_size, options, "tree_advantages")
    out = np.empty(ids.shape)
    check(lib.cgrpo_tree_advantages(values, flat, logs, *ids.shape, struct, out))
    return _arrays.given_back(out, rewards)


# ----------------------------------------------------------------------------------------------------------------------
# Groups


@dataclass(frozen=True, eq=False)
class ZeroStdGroups(Generic[A]):
    """The result of `zero_std_groups`.

    mask      (B,) bool: whether a sample's group says something
    groups    how many groups there are
    zero_std  how many of them say nothing
    """

    mask: A
    groups: int
    zero_std: int

    @property
    def ratio(self) -> float:
        """zero_std / groups: what the field's logs call zero_std_ratio."""
        return self.zero_std / self.groups


@not_compiled
def zero_std_groups(rewards: Any, group_size: Optional[int] = None, *, groups: Any = None) -> ZeroStdGroups[Any]:
    """Groups whose rewards (B,) are all equal, so that no advantage comes of them, as a group of one.

    DAPO (arXiv 2503.14476) samples others in their place:

        while len(batch) < wanted:
            more = rollout(prompts())
            batch.extend(more[zero_std_groups(more.rewards, 12).mask])
    """
    values = _of_samples(rewards)
    struct = advantage_options(len(values), 1, group_size, {"groups": groups}, "zero_std_groups")
    mask, found, equal = np.empty(len(values), np.uint8), ctypes.c_int64(), ctypes.c_int64()
    check(lib.cgrpo_zero_std_groups(values, len(values), struct, mask, byref(found), byref(equal)))
    return ZeroStdGroups(_arrays.given_back(mask.astype(np.bool_), rewards), found.value, equal.value)


def _of_samples(rewards: Any) -> Doubles:
    values = rewards_of(rewards)
    if values.ndim != 1:
        raise InvalidArgument(f"rewards has shape {values.shape}; it must be (B,): give one of several rewards, or their sum")
    return values


@overload
def win_rates(rewards: Numbers, group_size: Optional[int] = None, *, groups: Any = None) -> Doubles: ...


@overload
def win_rates(rewards: A, group_size: Optional[int] = None, *, groups: Any = None) -> A: ...


@not_compiled
def win_rates(rewards: Any, group_size: Optional[int] = None, *, groups: Any = None) -> Any:
    """The share of the others of its group that each of rewards (B,) beats, ties counting one half: (B,) in [0, 1], a
    reward that no outlier moves (Pref-GRPO, arXiv 2508.20751). Where a judge compares pairs, a sample's is the mean of
    its comparisons. A group of one gives 0."""
    values = _of_samples(rewards)
    struct = advantage_options(len(values), 1, group_size, {"groups": groups}, "win_rates")
    out = np.empty(len(values))
    check(lib.cgrpo_win_rates(values, len(values), struct, out))
    return _arrays.given_back(out, rewards)


# ----------------------------------------------------------------------------------------------------------------------
# Rollouts made elsewhere


class _Importance(TypedDict, total=False):
    level: ImportanceLevel
    mode: ImportanceMode
    low: float
    high: float
    geometric: bool
    mask: Optional[ArrayLike]


@overload
def importance_weights(
    log_probs: Numbers, behaviour_log_probs: ArrayLike, plan: ChunkPlan, **options: Unpack[_Importance]
) -> Doubles: ...


@overload
def importance_weights(
    log_probs: A, behaviour_log_probs: ArrayLike, plan: ChunkPlan, **options: Unpack[_Importance]
) -> A: ...


@not_compiled
def importance_weights(
    log_probs: Any,
    behaviour_log_probs: ArrayLike,
    plan: ChunkPlan,
    *,
    level: ImportanceLevel = "step",
    mode: ImportanceMode = "truncate",
    low: float = 0.0,
    high: float = 2.0,
    geometric: bool = False,
    mask: Optional[ArrayLike] = None,
) -> Any:
    """Weights (B, K) for `chunk_loss`, of a rollout that another engine or precision has made: exp of the sum of
    log_probs - behaviour_log_probs over a step, a chunk or a sample, within bounds.

    log_probs            (B, S), of the trainer's policy before its first update: the old ones of the loss
    behaviour_log_probs  (B, S), of the engine that sampled
    level      "step": a chunk's weight is the mean of those of its present steps (TRL's and verl's token level, with
               chunks of one step); "chunk"; "sample" (TRL's and verl's sequence level)
    mode       of a weight outside [low, high]: "truncate": it is the bound (TRL, verl); "mask": it is 0 (TRL);
               "reject": it is 0, and those within are 1 (verl's rejection sampling by k1). "reject_k2", "reject_k3": 0
               where the divergence is above high, else 1: the sum over the steps of the weight of d^2 / 2, or of
               exp(d) - 1 - d, with d a step's log ratio (verl's token_k2, seq_sum_k2, ...)
    low, high  0 <= low <= high; high may be float("inf"). verl's high is 2, TRL's 3. A divergence has no low
    geometric  the geometric mean of the step ratios instead of their product, the mean divergence instead of the sum
               (verl's seq_mean)
    mask       (B, S), zero = absent: not read; a chunk without a step has weight 1
    """
    plan = plan_of(plan)
    new = _arrays.matrix(log_probs, "log_probs")
    behaviour = _arrays.doubles(behaviour_log_probs, "behaviour_log_probs", new.shape)
    given: dict[str, Any] = dict(level=level, mode=mode, low=low, high=high, geometric=geometric)
    if mask is not None:
        given["mask"] = _arrays.flags(mask, "mask", new.shape)
    struct, out = fill(ImportanceOptions, given, "importance_weights"), np.empty((len(new), len(plan)))
    check(lib.cgrpo_importance_weights(new, behaviour, *new.shape, plan.sizes, len(plan), struct, out))
    return _arrays.given_back(out, log_probs)
