"""The objective: rewards to advantages, log-probabilities to the chunk loss and its gradient."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from ctypes import byref
from dataclasses import dataclass
from typing import Any, Generic, Optional, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _arrays
from ._arrays import A, Doubles, Numbers
from ._frameworks import not_compiled
from ._generated import (
    ADVANTAGE_LEVEL,
    AdvantageKeywords,
    AdvantageOptions,
    ChunkLossKeywords,
    ChunkLossOptions,
    ChunkStats,
    ChunkStatsStruct,
)
from ._groups import group_ids
from ._handle import Handle
from ._library import lib, new
from ._options import Unpack, documented, fill, record
from ._scalars import integer, pair
from ._steps import plan_of
from .chunks import ChunkPlan, chunk_weights, selection_mask
from .errors import InvalidArgument, WrongType, check


def brief(loss: Any, ratios: Any, stats: ChunkStats) -> str:
    """A chunk loss in a line, without its arrays."""
    samples, chunks = ratios.shape
    return f"ChunkLoss(loss={float(loss):.6g}, {samples} samples of {chunks} chunks, {stats})"


@dataclass(frozen=True, eq=False, repr=False)
class ChunkLoss(Generic[A]):
    """The result of `chunk_loss`.

    loss             the number to make small, with its KL term; its size says little about progress
    grad_log_probs   (B, S): d loss / d new_log_probs; `Sampler.log_probs_vjp` takes it on to the velocities
    ratios           (B, K) importance ratios of all chunks, selected or not; never clipped; 1 for a chunk without a step
    stats            `ChunkStats` of the selected chunks; `metrics` makes a flat dict of it
    grad_ratio_bias  (B, S) with a `ratio_bias`, else None: d loss / d ratio_bias; `divergences_vjp` takes it on to the
                     velocities
    """

    loss: float
    grad_log_probs: A
    ratios: A
    stats: ChunkStats
    grad_ratio_bias: Optional[A] = None

    def __repr__(self) -> str:
        return brief(self.loss, self.ratios, self.stats)


@overload
def advantages(
    rewards: Numbers, group_size: Optional[int] = None, **options: Unpack[AdvantageKeywords]
) -> Doubles: ...


@overload
def advantages(rewards: A, group_size: Optional[int] = None, **options: Unpack[AdvantageKeywords]) -> A: ...


@documented(AdvantageOptions)
@not_compiled
def advantages(rewards: Any, group_size: Optional[int] = None, **options: Unpack[AdvantageKeywords]) -> Any:
    """(r - mean of its group) / (unbiased standard deviation of its group + epsilon), clamped: (B,) float64.

    rewards     (B,) real numbers, finite; or (B, R) for several rewards per sample
    group_size  samples per prompt; they are neighbours, and it must divide B. It or `groups` must be given, unless
                baseline and scale are those of the batch; len(rewards) makes one group of all
    clamp       > 0; float("inf") for none; the last thing done
    epsilon     >= 0; added to the standard deviation

    A group of one, or whose rewards are all equal, gives zeros. The defaults are those of GCPO, DanceGRPO and MixGRPO;
    the rest is for other recipes:

    groups      (B,) the prompt of each sample, of any hashable kind, in any order, instead of group_size
    baseline    "group"; "leave_one_out" (RLOO); "batch" (the mean of all samples)
    scale       "group"; "batch" (Flow-GRPO's global_std); "none" (Dr. GRPO)
    deviation   "unbiased"; "population" (Flow-GRPO, Flow-Factory)
    floor       >= 0; the standard deviation is at least this (Flow-Factory: 1e-6 with epsilon 0)
    trim        in [0, 1): share of a group's lowest rewards that mean and deviation leave out (MixGRPO)
    subtract_median  of each group's advantages (GCPO's half-half)
    weights     (R,) of several rewards; None = 1 each
    present     like rewards, bool: which of them apply; None = all. One that is absent is not read, and is left out of
                its sample's sum and of its group's mean and deviation. Each sample needs one
    mixing      of several rewards: "sum": the weighted sum is normalised; "normalised_sum": each is normalised, then
                summed (MixGRPO); "gdpo": and the sum is normalised over the batch (GDPO), also of one reward
    """
    values = rewards_of(rewards)
    if values.ndim not in (1, 2):
        raise InvalidArgument(f"rewards has shape {values.shape}; it must be (B,) or (B, R)")
    given: dict[str, Any] = {**options}
    if given.get("present") is not None:
        given["present"] = _arrays.flags(given["present"], "present", values.shape)
    kinds = values.shape[1] if values.ndim == 2 else 1
    struct = advantage_options(len(values), kinds, group_size, given, "advantages")
    out = np.empty(len(values))
    check(lib.cgrpo_advantages(values, len(values), struct, out), reward_weights="weights")
    return _arrays.given_back(out, rewards)


def advantage_options(count: int, kinds: int, group_size: Optional[int], options: Mapping[str, Any], of: str) -> Any:
    """Of so many samples and rewards per sample, for the function `of`."""
    given = {"group_size": group_size, **options}
    if given.get("groups") is not None:
        if group_size is not None:
            raise InvalidArgument("groups and group_size exclude each other")
        given["groups"] = group_ids(given["groups"], count)
    elif group_size is None and not _of_the_batch(options):
        raise InvalidArgument(
            "group_size: give the number of samples per prompt, or groups=; "
            f"{count} makes one group of all rewards"
        )
    struct = fill(AdvantageOptions, given, of, shapes={"weights": (kinds,)}, positive=["group_size"])
    struct.reward_count = kinds
    return struct


def rewards_of(rewards: Any) -> Doubles:
    """As numbers; what is absent or masked is named."""
    if np.ma.is_masked(rewards):
        raise WrongType(
            "rewards has masked elements, and the mask would be lost; give the rewards that are there, or of several per "
            "sample rewards.filled(0) with present=~rewards.mask"
        )
    try:
        return _arrays.doubles(rewards, "rewards")
    except WrongType:  # of objects, which numpy has found among them
        for i, row in enumerate(rewards if isinstance(rewards, (list, tuple, np.ndarray)) else ()):
            row = row if isinstance(row, (list, tuple, np.ndarray)) else (row,)
            if any(item is None for item in row):
                raise WrongType(f"rewards: that of sample {i} is None; a reward must be a real number, or absent by present=") from None
        raise


def _of_the_batch(options: Mapping[str, Any]) -> bool:
    """Whether no group is asked for."""
    scale, median = options.get("scale"), options.get("subtract_median")
    return options.get("baseline") == "batch" and scale in ("batch", "none") and not median and not options.get("trim")


@overload
def best_of_n(scores: Numbers, keep: int) -> NDArray[np.bool_]: ...


@overload
def best_of_n(scores: A, keep: int) -> A: ...


@not_compiled
def best_of_n(scores: Any, keep: int) -> Any:
    """Which `keep` of n scores to train on: the (keep + 1) // 2 highest and the keep // 2 lowest, as a bool array (n,)
    (DanceGRPO's best-of-n, over the whole batch)."""
    values = _arrays.vector(scores, "scores")
    chosen = np.empty(len(values), np.uint8)
    check(lib.cgrpo_best_of_n(values, len(values), integer(keep, "keep"), chosen))
    return _arrays.given_back(chosen.astype(np.bool_), scores)


class RewardHistory:
    """Advantages against each prompt's own recent rewards (kvablack/ddpo-pytorch, arXiv 2305.13301): (r - mean) /
    (std + 1e-6) with the population's standard deviation over the latest `capacity` rewards of the prompt, or over the
    batch while the prompt has fewer than `min_count`.

    Copies and pickles have the same rewards: a run that is resumed with one goes on as it would have.
    """

    def __init__(self, capacity: int = 16, min_count: int = 16) -> None:
        self.capacity, self.min_count = capacity, min_count
        self._handle = Handle(lib.cgrpo_history_destroy)
        self._numbers: dict[Any, int] = {}
        numbers = integer(capacity, "capacity"), integer(min_count, "min_count")
        check(lib.cgrpo_history_create(*numbers, self._handle.slot()))

    @overload
    def update(self, prompts: Any, rewards: Numbers) -> Doubles: ...

    @overload
    def update(self, prompts: Any, rewards: A) -> A: ...

    def update(self, prompts: Any, rewards: Any) -> Any:
        """Takes the rewards (B,) of a batch in, of prompts (B,) of any hashable kind; returns their advantages (B,)."""
        values = _arrays.vector(rewards, "rewards")
        ids, out = group_ids(prompts, len(values), self._numbers, "prompts"), np.empty(len(values))
        check(lib.cgrpo_history_update(self._handle, ids, values, len(values), out))
        return _arrays.given_back(out, rewards)

    @property
    def latest(self) -> dict[Any, Doubles]:
        """The rewards (n,) that it has of each prompt, oldest first; n <= capacity."""
        count = ctypes.c_int64()
        check(lib.cgrpo_history_rewards(self._handle, None, None, 0, byref(count)))
        ids, rewards = np.empty(max(1, count.value), np.int64), np.empty(max(1, count.value))
        check(lib.cgrpo_history_rewards(self._handle, ids, rewards, count.value, byref(count)))
        ids, rewards = ids[: count.value], rewards[: count.value]
        order = np.argsort(ids, kind="stable")
        first = np.searchsorted(ids[order], np.arange(len(self._numbers) + 1)).tolist()
        of_prompt = (rewards[order[first[i] : first[i + 1]]] for i in range(len(self._numbers)))
        return {prompt: own for prompt, own in zip(self._numbers, of_prompt) if own.size}

    def __reduce__(self) -> Any:
        return _history, (type(self), self.capacity, self.min_count, self.latest)


def _history(kind: Any, capacity: int, min_count: int, latest: dict[Any, Doubles]) -> RewardHistory:
    history: RewardHistory = kind(capacity, min_count)
    for prompt, rewards in latest.items():
        history.update([prompt] * len(rewards), rewards)
    return history


@overload
def chunk_loss(
    new_log_probs: Numbers,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    plan: ChunkPlan,
    *,
    ratio_bias: Optional[ArrayLike] = None,
    **options: Unpack[ChunkLossKeywords],
) -> ChunkLoss[Doubles]: ...


@overload
def chunk_loss(
    new_log_probs: A,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    plan: ChunkPlan,
    *,
    ratio_bias: Optional[ArrayLike] = None,
    **options: Unpack[ChunkLossKeywords],
) -> ChunkLoss[A]: ...


@documented(ChunkLossOptions, clip=None)
@not_compiled
def chunk_loss(
    new_log_probs: Any,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    plan: ChunkPlan,
    *,
    ratio_bias: Optional[ArrayLike] = None,
    **options: Unpack[ChunkLossKeywords],
) -> ChunkLoss[Any]:
    """The chunk objective and its gradient, in float64. A step is one of sampling, a token, an action or a frame.

        r_t   = scale_t (l_t_new - l_t_old + bias_t)
        rho_j = exp(mean of r_t over the steps of chunk j)
        loss  = mean over the selected chunks of  w_j surrogate(rho_j, A) + kl KL_j

    By default  max(-A rho_j, -A clip(rho_j, 1 - low, 1 + high)) + kl (exp(delta) - 1 - delta),
    with delta = l_j_old - l_j_new. Chunks of one step are step-level GRPO; one chunk over everything is GSPO.

    new_log_probs  (B, S), of the policy that is trained
    old_log_probs  (B, S), of the policy that sampled
    advantages     (B,), of either sign; or (B, K), one per chunk; or (B, S), one per step: a chunk's is the mean over its
                   present steps. Those of chunks that are not selected, and of absent steps, are not read
    plan           a ChunkPlan over S steps, or its sizes
    clip           (low, high), or one number for both; low in [0, 1], high >= 0; None = 5e-5, or nothing where nothing
                   is clipped. Distances from 1: bounds, such as (0.999, 1.001), are refused, which is 0.5 <= low < 1
                   with high > 1
    selection      None = every chunk; a bool array (B, K); or for each sample the indices of its chunks, as an int
                   array (B, M) or a list of lists of any lengths. Integers (B, K) of 0 and 1 may be either: refused
    kl             >= 0, weight of the KL estimate

    surrogate      "clipped"; "unclipped": -A rho; "log_clipped": each r_t is clipped to [-low, high], on the side where
                   it has moved the advantage's way, before the mean (GMPO); "cispo": -A clip(rho) l_j_new without
                   gradient through the clip (verl; TRL's with clip=(1, epsilon_high - 1)); "divergence_mask": -A rho,
                   or 0 where the divergence is at least the threshold and rho has moved the advantage's way (Flow-DPPO);
                   "spo": -A rho + |A| (rho - 1)^2 / (2 eps), eps of clip; "sapo": -A (4 / tau) sigmoid(tau (rho - 1));
                   "vespo": -A phi(w) l_j_new without gradient through phi(w) = exp(lambda) w^k exp(-lambda w), w the
                   product of the chunk's step ratios
    ratio_cap      >= 1: the clipped surrogate with rho itself capped (TRL's delta)
    dual_clip      > 1: where A < 0 the clipped term is at most -A dual_clip (verl: 3)
    kl_estimator   of delta = l_ref - l_new: "k1": -delta; "k2": delta^2 / 2; "k3": exp(delta) - 1 - delta. Without kl it,
                   kl_level and reference_log_probs are of the statistic approximate_kl alone
    kl_level       "chunk": delta of the chunk's means; "step": the mean of each step's estimate (TRL)
    reference_log_probs  (B, S) for the KL estimate; None = old_log_probs
    average        "chunk": over all selected chunks (TRL's bnpo); "sample": over each sample's chunks, then over
                   samples (TRL's grpo); "step": over chunks, weighted by their number of steps
    normaliser     > 0: the sum is divided by this instead of its count or weight (TRL's dr_grpo: B times the longest
                   completion; dapo: the tokens of the global batch)
    mask           (B, S), zero = absent: not read; chunks without a step are skipped. So samples may differ in length
    weights        (K,) or (B, K), >= 0, of the policy terms; `gcpo_weights` and `tempflow_weights` make some
    ratio_bias     (B, S), and
    ratio_scale    (S,), >= 0: GRPO-Guard has the Gaussian `divergences` from the old policy, and s of each step
    divergence     (B, S), >= 0: for the divergence mask, the Gaussian `divergences` from the old policy
    divergence_threshold  >= 0
    kl_weights     (B,), >= 0: factors of a kl > 0 for each sample (GARDO: 1 where the reward is uncertain, else 0)
    sapo_temperature_pos, sapo_temperature_neg  > 0: tau of "sapo" where A > 0, and elsewhere
    vespo_k_pos, vespo_lambda_pos, vespo_k_neg, vespo_lambda_neg  k >= 0 and lambda > 0 of "vespo" where A >= 0, elsewhere
    """
    plan = plan_of(plan)
    seen: Any = {"new_log_probs": new_log_probs, "old_log_probs": old_log_probs, "advantages": advantages}
    new_given, old_log_probs, advantages, ratio_bias = _arrays.fetched(**seen, ratio_bias=ratio_bias)
    new_rows = _arrays.matrix(new_given, "new_log_probs")
    batch, steps = shape = new_rows.shape
    if batch == plan.steps != steps:
        raise InvalidArgument(f"new_log_probs has shape {shape}; it must be (B, {plan.steps}), so transpose it")
    old = _arrays.doubles(old_log_probs, "old_log_probs", shape)
    advantage, level = _advantages_of(advantages, plan, batch)
    struct = _chunk_loss_options({"ratio_bias": ratio_bias, **options}, plan, batch, steps)
    struct.advantage_level = ADVANTAGE_LEVEL[level]
    grad, ratios = np.empty(shape), np.empty((batch, len(plan)))
    grad_bias = None if ratio_bias is None else np.empty(shape)
    if grad_bias is not None:
        _arrays.point(struct, "grad_ratio_bias", grad_bias)
    loss, stats = ctypes.c_double(), new(ChunkStatsStruct)
    rows = new_rows, old, advantage, batch, steps, plan.sizes, len(plan)
    check(lib.cgrpo_chunk_loss(*rows, struct, byref(loss), grad, ratios, stats))
    return ChunkLoss(
        loss.value,
        _arrays.given_back(grad, new_log_probs),
        _arrays.given_back(ratios, new_log_probs),
        record(stats),
        None if grad_bias is None else _arrays.given_back(grad_bias, new_log_probs),
    )


def _advantages_of(advantages: Any, plan: ChunkPlan, batch: int) -> tuple[Doubles, str]:
    """(B,), (B, K) or (B, S) float64, and what each is of."""
    values = _arrays.doubles(advantages, "advantages")
    shapes = {(batch,): "sample", (batch, len(plan)): "chunk", (batch, plan.steps): "step"}
    if values.shape not in shapes:
        *others, last = shapes
        raise InvalidArgument(
            f"advantages has shape {values.shape}; it must be {' or '.join(map(str, others))} or {last}: "
            "one per sample, per chunk or per step"
        )
    return values, shapes[values.shape]


def _chunk_loss_options(given: dict[str, Any], plan: ChunkPlan, batch: int, steps: int) -> Any:
    if given.get("selection") is not None:
        given["selection"] = selection_mask(given["selection"], batch, len(plan))
    if given.get("mask") is not None:
        given["mask"] = _arrays.flags(given["mask"], "mask", (batch, steps))
    shapes: dict[str, Any] = {name: (batch, steps) for name in ("reference_log_probs", "ratio_bias", "divergence")}
    shapes["ratio_scale"], shapes["kl_weights"] = (steps,), (batch,)
    weights = given.pop("weights", None)
    distances(given.get("clip"))
    struct = fill(ChunkLossOptions, given, "chunk_loss", shapes=shapes, positive=["normaliser"])
    if weights is not None:
        values = chunk_weights(weights, batch, len(plan))
        _arrays.point(struct, "weights", values)
        struct.weights_per_sample = values.ndim == 2
    return struct


def distances(clip: Any) -> None:
    """Refuses a clip range that is given by its bounds."""
    if not isinstance(clip, (tuple, list)) or len(clip) != 2:
        return
    low, high = pair(clip, "clip")
    if 0.5 <= low < 1 < high:
        raise InvalidArgument(
            f"clip is {(low, high)}, which look like bounds; it has the distances from 1: "
            f"({1 - low:.3g}, {high - 1:.3g})"
        )
