"""Chunks: trained steps that are judged together, and which of them to train."""

from __future__ import annotations

import ctypes
from ctypes import byref
from dataclasses import dataclass
from typing import Any, Optional, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _arrays, _frameworks
from ._arrays import A, AnyArray, Doubles, Numbers
from ._generated import AdaptiveOptions, OptimalKeywords, OptimalOptions, SelectKeywords, SelectOptions
from ._library import lib
from ._options import Unpack, documented, fill
from ._scalars import integer
from .errors import InvalidArgument, WrongType, check, text
from .schedule import Schedule


class ChunkPlan:
    """Contiguous chunks over the S = T - 1 trained steps, from step 0 on.

    sizes: steps in each chunk, each >= 1. GCPO's for T = 17 are 2, 3, 4, 7. Sizes of 1 are step-level GRPO; one chunk
    of S is GSPO's sequence ratio.
    """

    def __init__(self, sizes: ArrayLike) -> None:
        values = _arrays.int64s(sizes, "sizes")
        if values.size == 0:
            raise InvalidArgument("sizes is empty; a plan has at least one chunk")
        if values.min() < 1:
            raise InvalidArgument(f"sizes holds {values.min()}; a chunk has at least one step")
        total: int = sum(values.tolist())
        if total > 2**63 - 1:
            raise InvalidArgument("sizes has a sum beyond 64 bits")
        values.flags.writeable = False
        self._sizes: NDArray[np.int64] = values
        self._steps = total

    @classmethod
    def fixed(cls, steps: int, size: int) -> ChunkPlan:
        """Chunks of `size` steps and, where it does not divide `steps`, a last one with the remainder."""
        steps, size = integer(steps, "steps"), integer(size, "size")
        out = _arrays.empty((max(1, min(steps, 1_000_000)),), np.int64)
        count = ctypes.c_int64()
        check(lib.cgrpo_plan_fixed(steps, size, out, len(out), byref(count)))
        return cls(out[: count.value])

    @classmethod
    def adaptive(cls, relative_l1: ArrayLike, max_size: int = 7, min_size: int = 2) -> ChunkPlan:
        """Boundaries from the temporal dynamics (arXiv 2510.21583): consecutive steps whose relative L1, averaged over
        the batch, moves in the same direction form a chunk.

        relative_l1  (B, S)
        max_size     a longer run is halved until it fits; 0 = no bound
        min_size     a shorter run joins its shorter neighbour; at most (max_size + 1) / 2, so that halves keep it
        """
        curve = _arrays.matrix(relative_l1, "relative_l1")
        options = fill(AdaptiveOptions, {"max_size": max_size, "min_size": min_size}, "ChunkPlan.adaptive")
        out, count = np.empty(max(1, curve.shape[1]), np.int64), ctypes.c_int64()
        check(lib.cgrpo_plan_adaptive(curve, *curve.shape, options, out, len(out), byref(count)))
        return cls(out[: count.value])

    @classmethod
    @documented(OptimalOptions)
    def optimal(
        cls, relative_l1: ArrayLike, count: Optional[int] = None, **options: Unpack[OptimalKeywords]
    ) -> ChunkFit:
        """The segmentation of the relative-L1 curve (averaged over the batch, in logarithms) whose chunks differ least
        from their own means, in least squares.

        relative_l1  (B, S)
        count        K; None = the smallest number that explains the share `explained` of the curve's variance
        min_size, max_size  bounds on a chunk's steps; max_size None or 0 = none
        """
        curve = _arrays.matrix(relative_l1, "relative_l1")
        struct = fill(OptimalOptions, {"count": count, **options}, "ChunkPlan.optimal", positive=["count"])
        mean, sizes = np.empty(max(1, curve.shape[1])), np.empty(max(1, curve.shape[1]), np.int64)
        found, share = ctypes.c_int64(), ctypes.c_double()
        room = sizes, len(sizes), byref(found)
        check(lib.cgrpo_plan_optimal(curve, *curve.shape, struct, *room, mean, byref(share)), chunk_count="count")
        plan = cls(sizes[: found.value])
        return ChunkFit(plan, mean, np.array([mean[steps].mean() for steps in plan.slices]), share.value)

    def carried(self, source: Schedule, target: Schedule) -> ChunkPlan:
        """This plan, made for the schedule `source`, on the schedule `target`: each boundary at the step whose sigma is
        nearest to its own. A plan for T = 17 so becomes one for T = 50."""
        for schedule, name in ((source, "source"), (target, "target")):
            if not isinstance(schedule, Schedule):
                raise WrongType(f"{name} must be a chunkgrpo.Schedule, not {type(schedule).__name__}")
        out = np.empty(len(self), np.int64)
        old, new = source.sigmas, target.sigmas
        check(lib.cgrpo_plan_carry(self._sizes, len(self), old, len(old), new, len(new), out))
        return ChunkPlan(out)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(K,) int64, read-only."""
        return self._sizes

    @property
    def steps(self) -> int:
        """S, the number of trained steps."""
        return self._steps

    @property
    def boundaries(self) -> NDArray[np.int64]:
        """(K + 1,) int64: chunk j has the steps boundaries[j] ... boundaries[j + 1] - 1."""
        return np.concatenate([[0], np.cumsum(self._sizes)]).astype(np.int64)

    @property
    def slices(self) -> list[slice]:
        """One per chunk, to index steps with."""
        edges = self.boundaries.tolist()
        return [slice(first, end) for first, end in zip(edges, edges[1:])]

    @property
    def step_weights(self) -> NDArray[np.float64]:
        """(S,) float64: 1/(K |C_j|) for each step of chunk j. A plan is also a weighting of steps, with sum 1: at the
        sampling policy it is each step's share of the gradient when every chunk is trained."""
        return np.repeat(1 / (len(self) * self._sizes), self._sizes)

    @overload
    def weights(self, relative_l1: Numbers) -> Doubles: ...

    @overload
    def weights(self, relative_l1: A) -> A: ...

    def weights(self, relative_l1: Any) -> Any:
        """(B, K) float64: mean of relative_l1 (B, S) over each chunk, plus 1e-8."""
        curve = _arrays.matrix(relative_l1, "relative_l1")
        if len(curve) == self.steps != curve.shape[1]:
            raise InvalidArgument(f"relative_l1 has shape {curve.shape}; it must be (B, {self.steps}), so transpose it")
        out = np.empty((len(curve), len(self)))
        check(lib.cgrpo_chunk_weights(curve, *curve.shape, self._sizes, len(self), out))
        return _arrays.given_back(out, relative_l1)

    @documented(SelectOptions)
    def select(
        self,
        batch: int,
        fraction: float = 1.0,
        weights: Optional[ArrayLike] = None,
        **options: Unpack[SelectKeywords],
    ) -> AnyArray:
        """Which chunks of which sample to train: (B, K) bool. The same for any batch split.

        batch       B
        fraction    in (0, 1]: floor(K fraction) chunks of each sample are drawn, without replacement. Below 1 a `seed`
                    must be given, another in each iteration: the same seed draws the same chunks again
        weights     None = uniformly; (B, K), or (K,) for all samples, such as `weights(relative_l1)`
        weighting   "normalised": p = w / sum w; "softmax": p = exp w / sum exp w
        chunks      the chunks to train in every sample, instead of drawing: seed, sample_ids and weights then have no meaning
        seed        0 ... 2^64 - 1
        sample_ids  (B,) integers; None = 0 ... B - 1
        """
        batch, count = integer(batch, "batch", 1), len(self)
        selection = _arrays.empty((batch, count), np.uint8)
        given: dict[str, Any] = {**options, "fraction": fraction}
        given["sample_ids"] = _arrays.sample_ids(given.get("sample_ids"), batch)
        struct = fill(SelectOptions, given, "ChunkPlan.select")
        if options.get("chunks") is not None:
            drawn = {"seed": options.get("seed"), "sample_ids": options.get("sample_ids"), "weights": weights}
            for name in (name for name, value in drawn.items() if value is not None):
                raise InvalidArgument(f"{name} is of a draw, but chunks names those of every sample; leave one of them out")
        if 0 < struct.fraction < 1 and "seed" not in given:
            raise InvalidArgument(
                f"seed: a fraction of {struct.fraction} is drawn; give another seed in each iteration, seed=iteration"
            )
        if weights is not None:
            values = chunk_weights(weights, batch, count)
            _arrays.point(struct, "weights", np.tile(values, (batch, 1)) if values.ndim == 1 else values)
        check(lib.cgrpo_chunk_select(batch, count, struct, selection))
        chosen = selection.astype(np.bool_)
        return chosen if weights is None else _arrays.given_back(chosen, weights)

    def __len__(self) -> int:
        return len(self._sizes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChunkPlan) and np.array_equal(self._sizes, other._sizes)

    def __hash__(self) -> int:
        return hash(self._sizes.tobytes())

    def __reduce__(self) -> Any:
        return type(self), (np.array(self._sizes),)

    def __repr__(self) -> str:
        return f"ChunkPlan({self._sizes.tolist()})"

    def __str__(self) -> str:
        """Such as "4 chunks over 16 steps: 0-1 | 2-4 | 5-8 | 9-15"."""
        return text(lib.cgrpo_plan_describe, self._sizes, len(self))


@dataclass(frozen=True, eq=False)
class ChunkFit:
    """A plan found from a relative-L1 curve, with what one needs to judge or to plot it.

    plan       the chunks
    curve      (S,): relative L1 of each step, averaged over the batch; no unit
    levels     (K,): the mean of the curve over each chunk
    explained  share of the variance of log(curve) that the chunks explain, in [0, 1]; 1 for a flat curve
    """

    plan: ChunkPlan
    curve: NDArray[np.float64]
    levels: NDArray[np.float64]
    explained: float

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ChunkFit) and self.plan == other.plan and np.array_equal(self.curve, other.curve)

    def __hash__(self) -> int:
        return hash(self.plan)

    def __str__(self) -> str:
        return f"{self.plan}; {100 * self.explained:.1f} % of the curve's variance explained"


def chunk_weights(weights: Any, batch: int, count: int) -> NDArray[np.float64]:
    """(K,) or (B, K) float64."""
    values = _arrays.doubles(weights, "weights")
    each = (count,), (batch, count)
    if values.shape not in each:
        raise InvalidArgument(f"weights has shape {values.shape}; it must be {each[0]} or {each[1]}")
    return values


def selection_mask(selection: Any, batch: int, count: int) -> NDArray[np.uint8]:
    """(B, K) uint8 from a bool array (B, K), or from a list of chunk indices for each sample (ragged, or (B, M)). What
    could be either is refused."""
    if _frameworks.of(selection, "selection") is not _frameworks.NUMPY:
        selection = _arrays.plain(selection, "selection")
    try:
        array = np.asarray(selection)
    except ValueError:  # ragged
        array = np.asarray(selection, object)
    if array.dtype.kind == "O" and array.ndim == 2:  # numbers that were kept as objects
        array = np.array(array.tolist())
    if array.dtype == np.bool_:
        if array.shape != (batch, count):
            raise InvalidArgument(f"selection has shape {array.shape}; it must be {(batch, count)}")
        return np.ascontiguousarray(array).view(np.uint8)
    if array.dtype.kind == "f":
        raise WrongType(f"selection has element type {array.dtype}; a mask must be bool: selection != 0")
    if array.dtype.kind in "iu" and array.shape == (batch, count) and ((array == 0) | (array == 1)).all():
        raise InvalidArgument(
            f"selection has shape {array.shape} and holds only 0 and 1: that may be a mask or indices of chunks. "
            f"Give a mask as bool, selection != 0; of indices, the mask np.eye({count}, dtype=bool)[selection].any(1)"
        )
    if array.ndim == 0:
        raise WrongType(f"selection must be a mask or lists of chunks, not {type(selection).__name__}")
    if len(selection) != batch:
        raise InvalidArgument(f"selection has {len(selection)} lists of chunks; the batch has {batch} samples")
    mask = np.zeros((batch, count), np.uint8)
    for i, row in enumerate(selection):
        if any(isinstance(item, (bool, np.bool_)) for item in np.asarray(row, object).flat):
            raise WrongType(f"selection[{i}] holds bools; a mask must be (B, K), {(batch, count)}")
        for j in _arrays.int64s(row, f"selection[{i}]"):
            chunk = integer(j, f"selection[{i}]", 0, count - 1)
            if mask[i, chunk]:
                raise InvalidArgument(f"selection[{i}] names chunk {chunk} twice")
            mask[i, chunk] = 1
    return mask
