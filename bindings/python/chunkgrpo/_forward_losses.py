"""Losses of the forward process: distances (B, N) of B samples in N draws to a number and its gradient in them."""

from __future__ import annotations

import ctypes
from ctypes import byref
from dataclasses import dataclass, replace
from typing import Any, Generic, Optional

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _arrays
from ._arrays import A, Doubles
from ._distances import NUMBERS, Distances
from ._frameworks import not_compiled
from ._generated import (
    MATCHING_WEIGHTING,
    ChunkLossKeywords,
    ChunkLossOptions,
    CrdKeywords,
    CrdOptions,
    DgpoKeywords,
    DgpoOptions,
    DpoOptions,
    ForwardStatsStruct,
    MatchingWeighting,
    NftKeywords,
    NftOptions,
)
from ._groups import group_ids
from ._library import lib, new
from ._options import Unpack, documented, fill, record, unknown
from ._scalars import choice, flag, integer, real
from .chunks import ChunkPlan
from .errors import InvalidArgument, WrongType, check
from .objective import chunk_loss


@dataclass(frozen=True, eq=False)
class ForwardLoss(Generic[A]):
    """The result of a loss of the forward process.

    loss    the number to make small, with its KL term
    grads   d loss / d the number of each name, in the shape of the distances: for `distances_vjp`
    stats   `ForwardStats`, or `ChunkStats` of AWM and FPO; `metrics` makes a flat dict of it
    ratios  (B, K) importance ratios of the chunks of AWM and FPO, never clipped; else None
    """

    loss: float
    grads: Distances[A]
    stats: Any
    ratios: Optional[A] = None


@documented(NftOptions)
@not_compiled
def nft_loss(
    distances: Distances[A], advantages: ArrayLike, *, times: Optional[ArrayLike] = None, **options: Unpack[NftKeywords]
) -> ForwardLoss[A]:
    """DiffusionNFT (arXiv 2509.16117): with r = clamp(A / (2 c) + 1/2, 0, 1),

        loss = mean over samples and draws of  c / beta (r l+ + (1 - r) l-) + kl mean |v - v_ref|^2

    distances       (B, N) or (B,), taken with old_velocity and beta, and reference_velocity for kl
    advantages      (B,)
    times           like the distances: t; for all weightings but "velocity"
    weighting       of l+ (and l-): "adaptive": t^2 d+ / max(t mean |v+ - u|, floor), whose denominator is a constant;
                    "image": t^2 d+, the distance of the predicted image x_t - t v+; "velocity": d+
    advantage_clip  c > 0
    mode            which advantages: "all"; "positive_only"; "negative_only"; "one_only": 1 where positive, else 0;
                    "binary": their signs
    floor           > 0
    kl              >= 0, weight of the velocity KL
    """
    numbers = _Numbers(distances, "positive_distance", "negative_distance")
    plus, minus = numbers["positive_distance"], numbers["negative_distance"]
    given: dict[str, Any] = _only(options, NftKeywords, "nft_loss")
    if given.get("weighting") != "velocity":
        if times is None:
            raise InvalidArgument("there are no times; give those of the distances, or weighting='velocity'")
        given["times"] = numbers.like(times, "times")
    if given.get("weighting") in (None, "adaptive"):
        given.update(positive_absolute=numbers["positive_absolute"], negative_absolute=numbers["negative_absolute"])
    grads = {"positive_distance": np.empty(numbers.rows), "negative_distance": np.empty(numbers.rows)}
    struct = numbers.options(NftOptions, given, "nft_loss", grads)
    if distances.beta is None:
        raise InvalidArgument("distances has no beta; give that of v+ and v-, as in Distances(..., beta=1)")
    struct.beta = distances.beta
    at = plus, minus, numbers.of_samples(advantages, "advantages"), *numbers.rows, struct
    return numbers.result(lib.cgrpo_nft_loss, at, grads)


@documented(DgpoOptions, clip=None)
@not_compiled
def dgpo_loss(distances: Distances[A], advantages: ArrayLike, **options: Unpack[DgpoKeywords]) -> ForwardLoss[A]:
    """DGPO (ICLR 2026): with s_G = beta / |G| times the sum over the group of A (d - d_ref), of each draw,

        loss = mean over samples and draws of  sigmoid(s_G) A d + kl mean |v - v_ref|^2,  s_G a constant

    distances   (B, N) or (B,), taken with reference_velocity, and old_velocity to clip
    advantages  (B,)
    group_size  samples per prompt, neighbours; or
    groups      (B,) the prompt of each sample, of any hashable kind; None and None: one group
    beta        > 0
    clip        (low, high), or one number: d is clipped where exp(d_old - d) has left [1 - low, 1 + high] on the side of
                the advantage; None = nothing is
    clip_distance  a clipped d has no gradient; False: it has, for clip_kl alone
    clip_kl     nor has the KL of a clipped d; needs clip
    kl          >= 0, weight of the velocity KL
    """
    numbers = _Numbers(distances, "distance", "reference_distance")
    given: dict[str, Any] = _only(options, DgpoKeywords, "dgpo_loss")
    if given.get("groups") is not None:
        given["groups"] = group_ids(given["groups"], numbers.rows[0])
    if given.get("clip") is not None:
        given["old_distance"] = numbers["old_distance"]
    elif given.get("clip_kl"):
        raise InvalidArgument("clip_kl is of clipped distances, but clip is None, so that none is: give clip")
    grads = {"distance": np.empty(numbers.rows)}
    struct = numbers.options(DgpoOptions, given, "dgpo_loss", grads)
    d, reference = numbers["distance"], numbers["reference_distance"]
    at = d, reference, numbers.of_samples(advantages, "advantages"), *numbers.rows, struct
    return numbers.result(lib.cgrpo_dgpo_loss, at, grads)


@documented(CrdOptions)
@not_compiled
def crd_loss(
    distances: Distances[A], advantages: ArrayLike, *, adaptive: bool = True, **options: Unpack[CrdKeywords]
) -> ForwardLoss[A]:
    """Centred reward distillation (CRD, arXiv 2603.14128): the implicit reward r = -(d / w - d_old / w_old) is
    regressed on A' = clamp(A / (2 c) + 1/2, 0, 1), both less their weighted means over the batch, draw by draw:

        loss = mean over samples and draws of  c / beta f(beta (r - mean r), A' - mean A') + kl mean |v - v_ref|^2

    distances       (B, N) or (B,), taken with old_velocity, and reference_velocity for kl
    advantages      (B,)
    adaptive        w = max(mean |v - u|, floor), a constant, and w_old likewise; False: 1
    beta            > 0
    advantage_clip  c > 0
    regression      f: "mean_square", of the difference; "cross_entropy", of the sigmoids of both
    temperature     of the weights of the means: inf = equal ones; > 0: the loss is the mean of two, with
                    softmax(A' / temperature) and softmax(-A' / temperature); 0: with softmax(A') where A' > 0, and
                    equal ones (Flow-Factory's weight_temp)
    floor           > 0
    kl              >= 0, weight of the velocity KL
    kl_least        >= 0: that of a sample goes from this at A' = 0 to kl at A' = 1 (Flow-Factory's reward_adaptive_kl:
                    1e-4); -1 = kl
    """
    numbers = _Numbers(distances, "distance", "old_distance")
    given: dict[str, Any] = _only(options, CrdKeywords, "crd_loss")
    if flag(adaptive, "adaptive"):
        given.update(absolute=numbers["absolute"], old_absolute=numbers["old_absolute"])
    grads = {"distance": np.empty(numbers.rows)}
    struct = numbers.options(CrdOptions, given, "crd_loss", grads)
    at = (
        numbers["distance"],
        numbers["old_distance"],
        numbers.of_samples(advantages, "advantages"),
        *numbers.rows,
        struct,
    )
    return numbers.result(lib.cgrpo_crd_loss, at, grads)


@not_compiled
def dpo_loss(distances: Distances[A], pairs: ArrayLike, *, beta: float = 100.0) -> ForwardLoss[A]:
    """Diffusion-DPO (arXiv 2311.12908) of flow matching:

        loss = mean over pairs and draws of  -ln sigmoid(-beta/2 ((d_w - d_w_ref) - (d_l - d_l_ref)))

    distances  (B, N) or (B,), taken with reference_velocity; a pair shares noise and times
    pairs      (P, 2): the rows of the chosen and the rejected sample; `pairs` makes some
    beta       > 0
    """
    numbers = _Numbers(distances, "distance", "reference_distance")
    rows = np.array([_arrays.int64s(side, "pairs") for side in _sides(pairs)])
    batch, count = numbers.rows
    for row in rows.ravel().tolist():
        integer(row, "pairs", 0, batch - 1)
    chosen, rejected = rows
    for i in np.flatnonzero(chosen == rejected)[:1]:
        raise InvalidArgument(f"pairs[{i}] is sample {chosen[i]} twice; it must be two samples, the chosen one first")
    sides = [np.ascontiguousarray(numbers[name][side]) for name in ("distance", "reference_distance") for side in rows]
    slopes = np.empty((2, len(chosen), count))
    struct = fill(DpoOptions, {"beta": beta}, "dpo_loss")
    loss, stats = ctypes.c_double(), new(ForwardStatsStruct)
    check(lib.cgrpo_dpo_loss(*sides, len(chosen), count, struct, byref(loss), slopes[0], slopes[1], stats))
    grad = np.zeros((batch, count))
    np.add.at(grad, chosen, slopes[0])
    np.add.at(grad, rejected, slopes[1])
    return ForwardLoss(loss.value, Distances(distance=numbers.give(grad)), record(stats))


def _sides(pairs: ArrayLike) -> tuple[Any, Any]:
    rows = _arrays.plain(pairs, "pairs")
    if rows.ndim != 2 or rows.shape[1] != 2 or not len(rows):
        raise InvalidArgument(f"pairs has shape {rows.shape}; it must be (P, 2): rows of the chosen and the rejected")
    return rows[:, 0], rows[:, 1]


def pairs(advantages: ArrayLike, group_size: Optional[int] = None, *, groups: Any = None) -> NDArray[np.int64]:
    """The best and the worst sample of each group, as rows (P, 2): for `dpo_loss` (Flow-Factory's online DPO). The
    first of equals; a group whose advantages are all equal has no pair.

    advantages  (B,), or rewards
    group_size  samples per prompt, neighbours, that divides B; or
    groups      (B,) the prompt of each sample, of any hashable kind
    """
    values = _arrays.vector(advantages, "advantages")
    if (group_size is None) is (groups is None):
        raise InvalidArgument("give group_size or groups, one of them")
    size = 0 if group_size is None else integer(group_size, "group_size", 1)
    ids = None if groups is None else group_ids(groups, len(values))
    found, count = np.empty((2, len(values)), np.int64), ctypes.c_int64()
    status = lib.cgrpo_preference_pairs(values, len(values), size, ids, found[0], found[1], byref(count))
    check(status, scores="advantages")
    return np.ascontiguousarray(found[:, : count.value].T)


@documented(ChunkLossOptions, clip=1.0)
@not_compiled
def awm_loss(
    distances: Distances[A],
    advantages: ArrayLike,
    plan: Optional[ChunkPlan] = None,
    *,
    times: Optional[ArrayLike] = None,
    weighting: MatchingWeighting = "uniform",
    power: float = 0.25,
    reference_kl: float = 0.0,
    **options: Unpack[ChunkLossKeywords],
) -> ForwardLoss[A]:
    """Advantage weighted matching (AWM, arXiv 2509.25050), and FPO (arXiv 2507.21053): the chunk loss with l = -d for
    the log-probability of the image,

        rho_j = exp(mean over the draws of chunk j of  l - l_old)

    so a clipped ratio per draw, or one that the draws of a chunk share.

    distances   (B, N) or (B,), taken with old_velocity, and reference_velocity for reference_kl
    advantages  (B,), or others that `chunk_loss` takes
    plan        a ChunkPlan over the N draws, or its sizes; None = each draw its own (AWM's exp_first, Flow-Factory); [N]
                is AWM's sum_first and FPO's mean before the exponential
    times       like the distances: t; for all weightings but "uniform"
    weighting   l: "uniform": -d; "time": -t d; "time_squared": -t^2 d; "huber": -t (sqrt(d + 1e-10) - 1e-5);
                "generalised_huber": -(t / p) ((d + 1e-10)^p - 1e-10^p) with p = power
    reference_kl  >= 0, weight of the velocity KL to the reference, mean over samples and draws
    options     those of `chunk_loss`; clip is 1 where it is not given (AWM's scripts), FPO's is 0.05
    """
    numbers = _Numbers(distances, "distance", "old_distance")
    number, p = choice(weighting, MATCHING_WEIGHTING, "weighting"), real(power, "power")
    if times is None and weighting != "uniform":
        raise InvalidArgument("there are no times; give those of the distances, or weighting='uniform'")
    t = None if times is None else numbers.like(times, "times")

    def log_probs(name: str) -> tuple[Doubles, Doubles]:
        values, slopes = np.empty(numbers.rows), np.empty(numbers.rows)
        d = numbers[name]
        check(lib.cgrpo_matching_log_probs(d, t, d.size, number, p, values, slopes))
        return values, slopes

    new_rows, slopes = log_probs("distance")
    plan = ChunkPlan([1] * numbers.rows[1]) if plan is None else plan
    keywords: Any = {"clip": 1.0, **options}
    out = chunk_loss(new_rows, log_probs("old_distance")[0], advantages, plan, **keywords)
    grads: dict[str, Any] = {"distance": numbers.give(out.grad_log_probs * slopes)}
    loss, weight = out.loss, real(reference_kl, "reference_kl")
    if not 0 <= weight < np.inf:
        raise InvalidArgument(f"reference_kl is {reference_kl}; it must be >= 0 and finite")
    if weight:
        divergence = numbers["reference_divergence"]
        loss += weight * float(divergence.mean())
        grads["reference_divergence"] = numbers.give(np.full(numbers.rows, weight / divergence.size))
    ratios = _arrays.given_back(out.ratios, distances.distance)
    return ForwardLoss(loss, Distances(**grads), out.stats, ratios)


def _only(options: Any, keywords: Any, of: str) -> dict[str, Any]:
    """Options that a caller may give: not those that the distances bring."""
    known = keywords.__annotations__
    for name in options:
        if name not in known:
            raise unknown(name, of, known)
    return dict(options)


class _Numbers:
    """The distances of a loss as contiguous (B, N), and the way back."""

    def __init__(self, distances: Any, *needed: str) -> None:
        if not isinstance(distances, Distances):
            raise WrongType(f"distances must be a Distances, not {type(distances).__name__}; `distances` makes one")
        self._like = getattr(distances, needed[0])
        self._distances = _on_host(distances)
        first = self._read(needed[0])
        if first.ndim not in (1, 2) or not first.size:
            raise InvalidArgument(f"{needed[0]} has shape {first.shape}; it must be (B,) or (B, N)")
        self.shape = first.shape
        self.rows = (first.shape[0], first.size // first.shape[0])
        for name in needed:
            self[name]

    def _read(self, name: str) -> Doubles:
        value = getattr(self._distances, name)
        if value is None:
            raise InvalidArgument(f"distances has no {name}; take them with {_ORIGINS[name]}")
        return _arrays.doubles(value, name)

    def __getitem__(self, name: str) -> Doubles:
        return self.like(self._read(name), name)

    def like(self, value: Any, name: str) -> Doubles:
        return _arrays.doubles(value, name, self.shape).reshape(self.rows)

    def of_samples(self, value: Any, name: str) -> Doubles:
        return _arrays.doubles(value, name, self.rows[:1])

    def give(self, array: Doubles) -> Any:
        return _arrays.given_back(array.reshape(self.shape), self._like)

    def options(self, struct: Any, given: dict[str, Any], of: str, grads: dict[str, Doubles]) -> Any:
        """The struct of a loss, with the KL to the reference where it has a weight."""
        if given.get("kl"):
            given["reference_divergence"] = self["reference_divergence"]
        shapes = dict.fromkeys(_ROWS, self.rows)
        filled = fill(struct, given, of, shapes=shapes, positive=["group_size"])
        if given.get("kl"):
            grads["reference_divergence"] = np.empty(self.rows)
            _arrays.point(filled, "grad_reference_divergence", grads["reference_divergence"])
        return filled

    def result(self, function: Any, arguments: Any, grads: dict[str, Doubles]) -> ForwardLoss[Any]:
        loss, stats = ctypes.c_double(), new(ForwardStatsStruct)
        own = [grad for name, grad in grads.items() if name != "reference_divergence"]
        check(function(*arguments, byref(loss), *own, stats))
        given: dict[str, Any] = {name: self.give(grad) for name, grad in grads.items()}
        return ForwardLoss(loss.value, Distances(**given), record(stats))


def _on_host(distances: Any) -> Any:
    """Those on a device as numpy's arrays, with one wait for all."""
    named = {name: getattr(distances, name) for name in NUMBERS}
    return replace(distances, **dict(zip(named, _arrays.fetched(**named))))


_ROWS = (
    "times",
    "positive_absolute",
    "negative_absolute",
    "absolute",
    "old_absolute",
    "old_distance",
    "reference_divergence",
)
_ORIGINS = {
    **dict.fromkeys(("distance", "absolute"), "a velocity"),
    **dict.fromkeys(("old_distance", "old_absolute", "old_divergence"), "old_velocity"),
    **dict.fromkeys(("reference_distance", "reference_divergence"), "reference_velocity"),
    **dict.fromkeys(
        (f"{side}_{kind}" for side in ("positive", "negative") for kind in ("distance", "absolute")), "beta"
    ),
}
