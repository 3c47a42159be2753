"""What a chunk loss gives back."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .. import objective as _objective
from .._generated import ChunkStats


@dataclass(frozen=True, eq=False, repr=False)
class ChunkLoss:
    """The result of `chunk_loss`, `chunk_policy_loss` and `streamed_backward`.

    loss            0-dim, float64, with its KL term; its size says little about progress
    ratios          (B, K) importance ratios of all chunks, selected or not; never clipped
    stats           `ChunkStats` of the selected chunks; `chunkgrpo.metrics` makes a flat dict of it
    new_log_probs   (B, S) in nats per element, detached
    grad_log_probs  (B, S): d loss / d new_log_probs
    """

    loss: Tensor
    ratios: Tensor
    stats: ChunkStats
    new_log_probs: Tensor
    grad_log_probs: Tensor

    def __repr__(self) -> str:
        return _objective.brief(self.loss.detach(), self.ratios, self.stats)
