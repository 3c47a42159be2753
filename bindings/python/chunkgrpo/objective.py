"""The objective: rewards to advantages, log-probabilities to the chunk loss and its gradient."""

from __future__ import annotations

import ctypes
import dataclasses
from dataclasses import dataclass
from typing import Any, Optional, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _abi, _arrays
from .chunks import ChunkPlan, selection_mask
from .errors import InvalidArgument, check


@dataclass(frozen=True)
class ChunkStats:
    """Over the selected chunks."""

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
    """Share with A > 0 and ratio > 1 + clip_high."""
    approximate_kl: float
    """Mean of the k3 estimate."""
    effective_sample_size: float
    """(sum ratio)^2 / (N sum ratio^2), in (0, 1]; 1 = on policy."""

    @classmethod
    def _of(cls, struct: Any) -> ChunkStats:
        return cls(**{field.name: getattr(struct, field.name) for field in dataclasses.fields(cls)})


@dataclass(frozen=True)
class ChunkLoss:
    """What `chunk_loss` returns."""

    loss: float
    grad_log_probs: NDArray[np.float64]
    """(B, S): d loss / d new_log_probs; `Sampler.log_probs_vjp` takes it on to the velocities."""
    ratios: NDArray[np.float64]
    """(B, K) of all chunks, selected or not."""
    stats: ChunkStats


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
) -> NDArray[np.float64]:
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
    return out


def _group_ids(groups: Any, batch: int) -> NDArray[np.int64]:
    """A number for each distinct group, in order of appearance."""
    names = groups.tolist() if isinstance(groups, np.ndarray) else list(groups)
    if len(names) != batch:
        raise InvalidArgument(f"groups has {len(names)} entries; there are rewards for {batch} samples")
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def best_of_n(scores: ArrayLike, keep: int) -> NDArray[np.bool_]:
    """Which `keep` of n scores to train on: the (keep + 1) // 2 highest and the keep // 2 lowest, as a bool array (n,)
    (DanceGRPO's best-of-n, over the whole batch)."""
    values = _arrays.doubles(scores, "scores")
    if values.ndim != 1:
        raise InvalidArgument(f"scores has shape {values.shape}; it must have one dimension")
    chosen = np.empty(len(values), np.uint8)
    check(_abi.lib.cgrpo_best_of_n(values, len(values), _arrays.integer(keep, "keep"), chosen))
    return chosen.astype(np.bool_)


def chunk_loss(
    new_log_probs: ArrayLike,
    old_log_probs: ArrayLike,
    advantages: ArrayLike,
    plan: ChunkPlan,
    *,
    clip: Union[float, tuple[float, float]] = (5e-5, 5e-5),
    selection: Any = None,
    kl: float = 0.0,
) -> ChunkLoss:
    """The chunk objective and its gradient, in float64.

        l_j   = mean of log_probs over the steps of chunk j,   rho_j = exp(l_j_new - l_j_old)
        k3_j  = exp(delta) - 1 - delta,                        delta = l_j_old - l_j_new
        loss  = mean over the selected chunks of  max(-A rho_j, -A clip(rho_j, 1 - low, 1 + high)) + kl k3_j

    new_log_probs  (B, S), of the policy that is trained
    old_log_probs  (B, S), of the policy that sampled
    advantages     (B,)
    plan           a ChunkPlan over S steps, or its sizes
    clip           (low, high), or one number for both; low in [0, 1], high >= 0
    selection      None = every chunk; a bool array (B, K); or for each sample the indices of its chunks, as an int
                   array (B, M) or a list of lists of any lengths
    kl             >= 0, weight of the k3 estimate
    """
    plan = plan if isinstance(plan, ChunkPlan) else ChunkPlan(plan)
    new = _arrays.double_matrix(new_log_probs, "new_log_probs")
    old = _arrays.doubles(old_log_probs, "old_log_probs", new.shape)
    batch, steps = new.shape
    advantage = _arrays.doubles(advantages, "advantages", (batch,))
    options = _abi.new(_abi.ChunkLossOptions)
    options.clip_low, options.clip_high = clip_range(clip)
    options.kl = _arrays.real(kl, "kl")
    if selection is not None:
        _arrays.point(options, "selection", selection_mask(selection, batch, len(plan)))
    loss, stats = ctypes.c_double(), _abi.new(_abi.ChunkStats)
    grad, ratios = np.empty((batch, steps)), np.empty((batch, len(plan)))
    check(
        _abi.lib.cgrpo_chunk_loss(
            *(new, old, advantage, batch, steps, plan.sizes, len(plan)),
            *(ctypes.byref(options), ctypes.byref(loss), grad, ratios, ctypes.byref(stats)),
        )
    )
    return ChunkLoss(loss.value, grad, ratios, ChunkStats._of(stats))


def clip_range(clip: Any) -> tuple[float, float]:
    """(low, high) from a pair, or from one number for both."""
    if isinstance(clip, (tuple, list)):
        if len(clip) != 2:
            raise InvalidArgument(f"clip has {len(clip)} numbers; it must be one number or (low, high)")
        return _arrays.real(clip[0], "clip[0]"), _arrays.real(clip[1], "clip[1]")
    both = _arrays.real(clip, "clip")
    return both, both
