"""The objective: rewards to advantages, log-probabilities to the chunk loss and its gradient."""

from __future__ import annotations

import ctypes
import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _abi, _arrays
from ._arrays import AnyArray
from ._frameworks import not_compiled
from ._handle import Handle
from .chunks import ChunkPlan, selection_mask
from .errors import InvalidArgument, check

if TYPE_CHECKING:
    from .sampler import Sampler


@dataclass(frozen=True)
class ChunkStats:
    """Over the selected chunks that have a step."""

    selected: int
    """N, how many they are."""
    ratio_mean: float
    ratio_std: float
    """Population standard deviation."""
    ratio_min: float
    ratio_max: float
    clip_fraction_low: float
    """Share with A < 0 and ratio < 1 - clip_low: their gradient is zero."""
    clip_fraction_high: float
    """Share with A > 0 and ratio > 1 + clip_high. Other surrogates: a bound took hold, below or above a ratio of 1."""
    approximate_kl: float
    """Mean of the KL estimate."""
    effective_sample_size: float
    """(sum ratio)^2 / (N sum ratio^2), in (0, 1]; 1 = on policy."""

    @classmethod
    def _of(cls, struct: Any) -> ChunkStats:
        return cls(**{field.name: getattr(struct, field.name) for field in dataclasses.fields(cls)})


@dataclass(frozen=True)
class ChunkLoss:
    """What `chunk_loss` returns."""

    loss: float
    grad_log_probs: AnyArray
    """(B, S): d loss / d new_log_probs; `Sampler.log_probs_vjp` takes it on to the velocities."""
    ratios: AnyArray
    """(B, K) of all chunks, selected or not; never clipped; 1 for a chunk without a step."""
    stats: ChunkStats
    grad_ratio_bias: Optional[AnyArray] = None
    """(B, S) with a `ratio_bias`: d loss / d ratio_bias; `divergence_vjp` takes it on to the velocities."""


@not_compiled
def advantages(
    rewards: ArrayLike,
    group_size: Optional[int] = None,
    clamp: float = 5.0,
    epsilon: float = 1e-8,
    *,
    groups: Any = None,
    baseline: str = "group",
    scale: str = "group",
    deviation: str = "unbiased",
    floor: float = 0.0,
    trim: float = 0.0,
    subtract_median: bool = False,
    weights: Optional[ArrayLike] = None,
    mixing: str = "sum",
) -> AnyArray:
    """(r - mean of its group) / (unbiased standard deviation of its group + epsilon), clamped: (B,) float64.

    rewards     (B,) real numbers, finite; or (B, R) for several rewards a sample
    group_size  samples a prompt; they are neighbours, and it must divide B. None = all are one group
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
    mixing      of several rewards: "sum": the weighted sum is normalised; "normalised_sum": each is normalised, then
                summed (MixGRPO); "gdpo": and the sum is normalised over the batch (GDPO)
    """
    values = _arrays.doubles(rewards, "rewards")
    if values.ndim not in (1, 2):
        raise InvalidArgument(f"rewards has shape {values.shape}; it must be (B,) or (B, R)")
    options = _abi.new(_abi.AdvantageOptions)
    if group_size is not None:
        options.group_size = _arrays.integer(group_size, "group_size", 1)
    if groups is not None:
        if group_size is not None:
            raise InvalidArgument("groups and group_size exclude each other")
        _arrays.point(options, "group_ids", _group_ids(groups, len(values)))
    options.clamp = _arrays.real(clamp, "clamp")
    options.epsilon = _arrays.real(epsilon, "epsilon")
    options.floor = _arrays.real(floor, "floor")
    options.trim = _arrays.real(trim, "trim")
    options.baseline = _arrays.choice(baseline, _abi.BASELINE, "baseline")
    options.scale = _arrays.choice(scale, _abi.SCALE, "scale")
    options.deviation = _arrays.choice(deviation, _abi.DEVIATION, "deviation")
    options.subtract_median = int(bool(subtract_median))
    options.mixing = _arrays.choice(mixing, _abi.MIXING, "mixing")
    options.reward_count = values.shape[1] if values.ndim == 2 else 1
    if weights is not None:
        _arrays.point(options, "reward_weights", _arrays.doubles(weights, "weights", (options.reward_count,)))
    out = np.empty(len(values))
    check(_abi.lib.cgrpo_advantages(values, len(values), ctypes.byref(options), out))
    return _arrays.given_back(out, rewards)


def _group_ids(
    groups: Any, batch: int, numbers: Optional[dict[Any, int]] = None, name: str = "groups"
) -> NDArray[np.int64]:
    """A number for each distinct group, in order of appearance."""
    names = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    if len(names) != batch:
        raise InvalidArgument(f"{name} has {len(names)} entries; there are rewards for {batch} samples")
    known: dict[Any, int] = {} if numbers is None else numbers
    return np.array([known.setdefault(group, len(known)) for group in names], np.int64)


@not_compiled
def best_of_n(scores: ArrayLike, keep: int) -> AnyArray:
    """Which `keep` of n scores to train on: the (keep + 1) // 2 highest and the keep // 2 lowest, as a bool array (n,)
    (DanceGRPO's best-of-n, over the whole batch)."""
    values = _arrays.doubles(scores, "scores")
    if values.ndim != 1:
        raise InvalidArgument(f"scores has shape {values.shape}; it must have one dimension")
    chosen = np.empty(len(values), np.uint8)
    check(_abi.lib.cgrpo_best_of_n(values, len(values), _arrays.integer(keep, "keep"), chosen))
    return _arrays.given_back(chosen.astype(np.bool_), scores)


class RewardHistory:
    """Advantages against each prompt's own recent rewards (kvablack/ddpo-pytorch, arXiv 2305.13301): (r - mean) /
    (std + 1e-6) with the population's standard deviation over the latest `capacity` rewards of the prompt, or over the
    batch while the prompt has fewer than `min_count`.
    """

    def __init__(self, capacity: int = 16, min_count: int = 16) -> None:
        self._handle = Handle(_abi.lib.cgrpo_history_destroy)
        self._numbers: dict[Any, int] = {}
        numbers = _arrays.integer(capacity, "capacity"), _arrays.integer(min_count, "min_count")
        check(_abi.lib.cgrpo_history_create(*numbers, self._handle.slot()))

    def update(self, prompts: Any, rewards: ArrayLike) -> AnyArray:
        """Takes the rewards (B,) of a batch in, of prompts (B,) of any hashable kind; returns their advantages (B,)."""
        values = _arrays.doubles(rewards, "rewards")
        if values.ndim != 1:
            raise InvalidArgument(f"rewards has shape {values.shape}; it must have one dimension")
        ids, out = _group_ids(prompts, len(values), self._numbers, "prompts"), np.empty(len(values))
        check(_abi.lib.cgrpo_history_update(self._handle, ids, values, len(values), out))
        return _arrays.given_back(out, rewards)


@not_compiled
def chunk_loss(
    new_log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    plan: ChunkPlan,
    *,
    clip: Union[float, tuple[float, float], None] = None,
    selection: Any = None,
    kl: float = 0.0,
    surrogate: str = "clipped",
    ratio_cap: float = math.inf,
    dual_clip: float = math.inf,
    kl_estimator: str = "k3",
    kl_level: str = "chunk",
    reference_log_probs: Optional[ArrayLike] = None,
    average: str = "chunk",
    normaliser: Optional[float] = None,
    mask: Optional[ArrayLike] = None,
    weights: Optional[ArrayLike] = None,
    ratio_bias: Optional[ArrayLike] = None,
    ratio_scale: Optional[ArrayLike] = None,
    divergence: Optional[ArrayLike] = None,
    divergence_threshold: float = 1e-5,
) -> ChunkLoss:
    """The chunk objective and its gradient, in float64. A step is one of sampling, a token, an action or a frame.

        r_t   = scale_t (l_t_new - l_t_old + bias_t)
        rho_j = exp(mean of r_t over the steps of chunk j)
        loss  = mean over the selected chunks of  w_j surrogate(rho_j, A) + kl KL_j

    By default  max(-A rho_j, -A clip(rho_j, 1 - low, 1 + high)) + kl (exp(delta) - 1 - delta),
    with delta = l_j_old - l_j_new. Chunks of one step are step-level GRPO; one chunk over everything is GSPO.

    new_log_probs  (B, S), of the policy that is trained
    old_log_probs  (B, S), of the policy that sampled
    advantages     (B,)
    plan           a ChunkPlan over S steps, or its sizes
    clip           (low, high), or one number for both; low in [0, 1], high >= 0; None = 5e-5, or nothing where nothing
                   is clipped
    selection      None = every chunk; a bool array (B, K); or for each sample the indices of its chunks, as an int
                   array (B, M) or a list of lists of any lengths
    kl             >= 0, weight of the KL estimate

    surrogate      "clipped"; "unclipped": -A rho; "log_clipped": each r_t is clipped to [-low, high], on the side where
                   it has moved the advantage's way, before the mean (GMPO); "cispo": -A clip(rho) l_j_new without
                   gradient through the clip (verl; TRL's with clip=(1, epsilon_high - 1)); "divergence_mask": -A rho,
                   or 0 where the divergence is at least the threshold and rho has moved the advantage's way (Flow-DPPO)
    ratio_cap      >= 1: the clipped surrogate with rho itself capped (TRL's delta)
    dual_clip      > 1: where A < 0 the clipped term is at most -A dual_clip (verl: 3)
    kl_estimator   of delta = l_ref - l_new: "k1": -delta; "k2": delta^2 / 2; "k3": exp(delta) - 1 - delta
    kl_level       "chunk": delta of the chunk's means; "step": the mean of each step's estimate (TRL)
    reference_log_probs  (B, S) for the KL estimate; None = old_log_probs
    average        "chunk": over all selected chunks (TRL's bnpo); "sample": over each sample's chunks, then over
                   samples (TRL's grpo); "step": over chunks, weighted by their number of steps
    normaliser     > 0: the sum is divided by this instead of its count or weight (TRL's dr_grpo: B times the longest
                   completion; dapo: the tokens of the global batch)
    mask           (B, S), zero = absent: not read; chunks without a step are skipped. So samples may differ in length
    weights        (K,) or (B, K), >= 0, of the policy terms; `gcpo_weights` and `tempflow_weights` make some
    ratio_bias     (B, S), and
    ratio_scale    (S,), >= 0: GRPO-Guard has the Gaussian `divergence` from the old policy, and s of each step
    divergence     (B, S), >= 0: for the divergence mask, the Gaussian `divergence` from the old policy
    divergence_threshold  >= 0
    """
    plan = plan if isinstance(plan, ChunkPlan) else ChunkPlan(plan)
    new = _arrays.double_matrix(new_log_probs, "new_log_probs")
    old = _arrays.doubles(old_log_probs, "old_log_probs", new.shape)
    batch, steps = new.shape
    advantage = _arrays.doubles(advantages, "advantages", (batch,))
    options = _abi.new(_abi.ChunkLossOptions)
    if clip is not None:
        options.clip_low, options.clip_high = clip_range(clip)
    options.surrogate = _arrays.choice(surrogate, _abi.SURROGATE, "surrogate")
    options.ratio_cap = _arrays.real(ratio_cap, "ratio_cap")
    options.dual_clip = _arrays.real(dual_clip, "dual_clip")
    options.kl = _arrays.real(kl, "kl")
    options.kl_estimator = _arrays.choice(kl_estimator, _abi.KL_ESTIMATOR, "kl_estimator")
    options.kl_level = _arrays.choice(kl_level, _abi.KL_LEVEL, "kl_level")
    options.average = _arrays.choice(average, _abi.AVERAGE, "average")
    if normaliser is not None:
        options.normaliser = _arrays.real(normaliser, "normaliser")
        if options.normaliser == 0:  # which stands for none in the library
            raise InvalidArgument("normaliser is 0; it must be positive")
    options.divergence_threshold = _arrays.real(divergence_threshold, "divergence_threshold")
    if selection is not None:
        _arrays.point(options, "selection", selection_mask(selection, batch, len(plan)))
    if mask is not None:
        present = _arrays.doubles(mask, "mask", new.shape) != 0
        _arrays.point(options, "mask", present.astype(np.uint8))
    for name, value in (
        ("reference_log_probs", reference_log_probs),
        ("ratio_bias", ratio_bias),
        ("divergence", divergence),
    ):
        if value is not None:
            _arrays.point(options, name, _arrays.doubles(value, name, new.shape))
    if ratio_scale is not None:
        _arrays.point(options, "ratio_scale", _arrays.doubles(ratio_scale, "ratio_scale", (steps,)))
    if weights is not None:
        given = _arrays.doubles(weights, "weights")
        if given.shape not in ((len(plan),), (batch, len(plan))):
            raise InvalidArgument(f"weights has shape {given.shape}; it must be {(len(plan),)} or {(batch, len(plan))}")
        _arrays.point(options, "weights", given)
        options.weights_per_sample = given.ndim - 1
    loss, stats = ctypes.c_double(), _abi.new(_abi.ChunkStats)
    grad, ratios = np.empty((batch, steps)), np.empty((batch, len(plan)))
    grad_bias = None if ratio_bias is None else np.empty((batch, steps))
    _arrays.point(options, "grad_ratio_bias", grad_bias)
    check(
        _abi.lib.cgrpo_chunk_loss(
            *(new, old, advantage, batch, steps, plan.sizes, len(plan)),
            *(ctypes.byref(options), ctypes.byref(loss), grad, ratios, ctypes.byref(stats)),
        )
    )
    return ChunkLoss(
        loss.value,
        _arrays.given_back(grad, new_log_probs),
        _arrays.given_back(ratios, new_log_probs),
        ChunkStats._of(stats),
        None if grad_bias is None else _arrays.given_back(grad_bias, new_log_probs),
    )


def gcpo_weights(plan: ChunkPlan) -> NDArray[np.float64]:
    """sqrt((T - m)/m) with m the middle step of each chunk, T = S + 1: (K,), for `chunk_loss`'s weights (GCPO). Refused
    for a first chunk of one step, where GCPO divides by zero."""
    plan = plan if isinstance(plan, ChunkPlan) else ChunkPlan(plan)
    weights = np.empty(len(plan))
    check(_abi.lib.cgrpo_gcpo_weights(plan.sizes, len(plan), weights))
    return weights


def tempflow_weights(plan: ChunkPlan, sampler: Sampler) -> NDArray[np.float64]:
    """Mean of the noise s over the steps of each chunk, divided by its mean over all trained steps: (K,), for
    `chunk_loss`'s weights (TempFlow-GRPO, arXiv 2508.04324, with chunks of one step)."""
    plan = plan if isinstance(plan, ChunkPlan) else ChunkPlan(plan)
    weights = np.empty(len(plan))
    check(_abi.lib.cgrpo_tempflow_weights(sampler._handle, plan.sizes, len(plan), weights))
    return weights


def clip_range(clip: Any) -> tuple[float, float]:
    """(low, high) from a pair, or from one number for both."""
    if isinstance(clip, (tuple, list)):
        if len(clip) != 2:
            raise InvalidArgument(f"clip has {len(clip)} numbers; it must be one number or (low, high)")
        return _arrays.real(clip[0], "clip[0]"), _arrays.real(clip[1], "clip[1]")
    both = _arrays.real(clip, "clip")
    return both, both
