"""The chunks of a UniRL segment: a plan over its SDE steps, and which of them each sample trains."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from numpy.typing import NDArray
from unirl.distributed.tensor.batch import FieldKind, field
from unirl.types.segments.latent import LatentSegment

from .. import _arrays
from .._generated import SelectOptions
from .._options import fill
from .._scalars import flag, seed_number
from ..chunks import ChunkPlan
from ..errors import InvalidArgument, WrongType
from ..trajectory import relative_l1


@dataclasses.dataclass
class KeyedSegment(LatentSegment):
    """A segment whose samples know their keys, through UniRL's slices and shuffles."""

    sample_keys: Optional[torch.Tensor] = field(kind=FieldKind.CONCAT, default=None)
    """(B,) int64: of UniRL's sample ids, which are the same on every rank."""


def keyed(segment: LatentSegment, sample_ids: list[str]) -> LatentSegment:
    """The segment with a key for each sample."""
    if type(segment) is not LatentSegment:
        return segment
    digests = [hashlib.blake2b(str(name).encode(), digest_size=8).digest() for name in sample_ids]
    keys = torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], dtype=torch.int64)
    fields = {item.name: getattr(segment, item.name) for item in dataclasses.fields(segment)}
    return KeyedSegment(**fields, sample_keys=keys)


class Chunks(NamedTuple):
    """A plan over the SDE steps of a segment."""

    plan: ChunkPlan
    columns: list[int]
    """(S,): each step's place in the plan that the recipe has."""
    kept: list[int]
    """(K,): each chunk's number in that plan."""
    whole: ChunkPlan

    def of(self, values: Any, name: str) -> Any:
        """Of numbers (..., K) or (..., S) of the recipe's plan, those of this one."""
        last = values.shape[-1]
        if last == len(self.whole):
            return values[..., self.kept]
        if last == self.whole.steps:
            return values[..., self.columns]
        raise InvalidArgument(
            f"{name} has shape {tuple(values.shape)}; its last size must be {len(self.whole)} (chunks) or "
            f"{self.whole.steps} (steps)"
        )


def chunks_of(plan: ChunkPlan, steps: list[int], total: int) -> Chunks:
    """The plan over the SDE steps, of which each is in 0 ... total - 1. It is a plan over them, or one over the whole
    schedule (with or without the last step), of which they have a part."""
    if plan.steps == len(steps):
        columns = list(range(len(steps)))
    elif plan.steps in (total, total - 1) and max(steps) < plan.steps:
        columns = steps
    else:
        raise InvalidArgument(
            f"plan has {plan.steps} steps; the segment has {len(steps)} SDE steps, {steps}, of a schedule of {total}. "
            f"The sizes must sum to {len(steps)}, or to {total}, of which each rollout trains its SDE steps"
            + (f"; {total - 1} leaves out the last step, {total - 1}, which this segment has" if total - 1 in steps else "")
        )
    number = np.repeat(np.arange(len(plan)), plan.sizes)[columns]
    kept, sizes = np.unique(number, return_counts=True)
    return Chunks(ChunkPlan(sizes), columns, kept.tolist(), plan)


class Draw:
    """Which chunks are trained: those of `ChunkPlan.select`, by the samples' keys.

    fraction      in (0, 1]: of K chunks, floor(K fraction) are drawn
    chunks        or the numbers of the chunks that every sample trains
    weighting     of `by_movement`: "normalised" or "softmax"
    by_movement   chunks are drawn by the relative L1 of their steps; else all are alike
    shared        one draw for all samples of a rollout: the model runs the steps of these chunks alone
    seed          0 ... 2^64 - 1
    """

    def __init__(
        self, fraction: Any, chunks: Any, weighting: Any, by_movement: Any, shared: Any, seed: Any, plan: ChunkPlan
    ) -> None:
        self.shared, self.by_movement = flag(shared, "shared"), flag(by_movement, "by_movement")
        self.options = {"fraction": fraction, "weighting": weighting, "chunks": chunks}
        filled = fill(SelectOptions, self.options, "ChunkGRPO")
        self.seed, self.fraction = seed_number(seed), filled.fraction
        self.same = self.shared or chunks is not None
        if chunks is not None and (self.shared or self.by_movement):
            raise InvalidArgument("chunks names those of every sample; leave out shared and by_movement")
        if self.by_movement and (self.shared or self.fraction == 1):
            why = "shared draws once for all samples" if self.shared else f"a fraction of {self.fraction:g} takes all"
            raise InvalidArgument(f"by_movement is True: it draws for each sample by its own steps, but {why}")
        if self.shared and self.fraction == 1:
            raise InvalidArgument("shared is True, but a fraction of 1 takes every chunk; leave shared out")
        if weighting != "normalised" and not self.by_movement:
            raise InvalidArgument(f"weighting is {weighting!r}: it is of by_movement=True, which draws by weights")
        plan.select(1, **self.options, seed=0)

    @property
    def everything(self) -> bool:
        """Whether every sample trains every chunk."""
        return self.fraction == 1 and self.options["chunks"] is None

    def __call__(self, chunks: Chunks, segment: LatentSegment, steps: list[int], progress: float) -> NDArray[np.bool_]:
        """(B, K) bool."""
        batch, options = len(segment.latents), dict(self.options)
        if options["chunks"] is not None:
            options["chunks"] = [chunks.kept.index(chunk) for chunk in options["chunks"] if chunk in chunks.kept]
            if not options["chunks"]:
                named = list(self.options["chunks"])
                raise InvalidArgument(f"chunks is {named}: none of them has an SDE step of this segment, {steps}")
            return np.asarray(chunks.plan.select(batch, **options))
        if self.everything:
            return np.ones((batch, len(chunks.plan)), np.bool_)
        seed = self._seed(progress)
        if self.shared:
            return np.repeat(np.asarray(chunks.plan.select(1, seed=seed, **options)), batch, 0)
        keys = getattr(segment, "sample_keys", None)
        if keys is None:
            raise WrongType(
                f"the segment is a {type(segment).__name__} without sample keys, by which a fraction of "
                f"{self.fraction:g} is drawn: UniRL's TrainStack calls prepare_part, which adds them to a LatentSegment. "
                "Call it, or give shared=True"
            )
        ids = keys.cpu().numpy().view(np.uint64)
        weights = chunks.plan.weights(_movement(segment, steps)) if self.by_movement else None
        return np.asarray(chunks.plan.select(batch, weights=weights, seed=seed, sample_ids=ids, **options))

    def _seed(self, progress: float) -> int:
        """Another one in each rollout, which UniRL tells by its progress; the same on every rank, and after a resume."""
        text = f"{self.seed} {float(progress).hex()}".encode()
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _movement(segment: LatentSegment, steps: list[int]) -> NDArray[np.float64]:
    """(B, S): the relative L1 of each SDE step."""
    pairs = (torch.stack([segment.latents_at(step), segment.latents_at(step + 1)], 1) for step in steps)
    return np.concatenate([np.asarray(_arrays.plain(relative_l1(pair), "")) for pair in pairs], 1)
