"""The chunks of a UniRL segment: a plan over its SDE steps, and which of them each sample trains."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
from numpy.typing import NDArray
from unirl.distributed.tensor.batch import FieldKind, field
from unirl.types.segments.latent import LatentSegment

from .. import _arrays
from .._draws import Draw, digests
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
    keys = torch.from_numpy(digests(str(name).encode() for name in sample_ids).view(np.int64))
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
        last = f"; {total - 1} leaves out the last step, {total - 1}, which this segment has" if total - 1 in steps else ""
        raise InvalidArgument(
            f"plan has {plan.steps} steps; the segment has {len(steps)} SDE steps, {steps}, of a schedule of {total}. "
            f"The sizes must sum to {len(steps)}, or to {total}, of which each rollout trains its SDE steps{last}"
        )
    number = np.repeat(np.arange(len(plan)), plan.sizes)[columns]
    kept, sizes = np.unique(number, return_counts=True)
    return Chunks(ChunkPlan(sizes), columns, kept.tolist(), plan)


def drawn(draw: Draw, chunks: Chunks, segment: LatentSegment, steps: list[int], progress: float) -> NDArray[np.bool_]:
    """(B, K) bool: another draw in each rollout, which UniRL tells by its progress; the same after a resume."""
    named = draw.options["chunks"]
    present = None if named is None else [chunks.kept.index(chunk) for chunk in named if chunk in chunks.kept]
    if present == []:
        raise InvalidArgument(f"chunks is {list(named)}: none of them has an SDE step of this segment, {steps}")

    def keys() -> NDArray[np.uint64]:
        found = getattr(segment, "sample_keys", None)
        if found is None:
            raise WrongType(
                f"the segment is a {type(segment).__name__} without sample keys, by which a fraction of "
                f"{draw.fraction:g} is drawn: UniRL's TrainStack calls prepare_part, which adds them to a LatentSegment. "
                "Call it, or give shared=True"
            )
        return np.asarray(found.cpu().numpy().view(np.uint64))

    batch, moment = len(segment.latents), float(progress).hex()
    return draw(chunks.plan, batch, moment, keys, lambda: movement(segment, steps), present)


def movement(segment: LatentSegment, steps: list[int]) -> NDArray[np.float64]:
    """(B, S): the relative L1 of each SDE step."""
    pairs = (torch.stack([segment.latents_at(step), segment.latents_at(step + 1)], 1) for step in steps)
    return np.concatenate([np.asarray(_arrays.plain(relative_l1(pair), "")) for pair in pairs], 1)
