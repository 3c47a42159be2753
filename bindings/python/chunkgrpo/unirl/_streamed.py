"""A micro-batch whose steps are run twice, so that the activations of one step are held."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from unirl.models.types.replay_result import ReplayResult
from unirl.types.segments.latent import LatentSegment

from ..errors import InvalidArgument
from ..torch._drawn import Drawn


class Passes:
    """The two passes of a ChunkGRPO over a segment. Both passes of a step draw the same dropout."""

    def __init__(self, algorithm: Any, conditions: Mapping[str, Any], segment: LatentSegment, steps: list[int]) -> None:
        self.algorithm, self.conditions, self.segment, self.steps = algorithm, conditions, segment, steps
        self.drawn = Drawn(segment.latents)

    @torch.no_grad()
    def first(self) -> Any:
        """What one replay of all steps gives, without a graph."""
        found = []
        for j, step in enumerate(self.steps):
            with self.drawn.first(j):
                found.append(self.algorithm._replay(self.conditions, self.segment, [step]))
        means = None if found[0].prev_sample_means is None else torch.cat([one.prev_sample_means for one in found], 1)
        return ReplayResult(log_probs=torch.cat([one.log_probs for one in found], 1), prev_sample_means=means)

    def second(self, out: Any, base: Any, scale: float) -> None:
        """Goes backward through one step at a time, by the slopes that the chunk loss has given it."""
        for j in range(len(self.steps)):
            with self.drawn.again(j), torch.enable_grad():
                torch.autograd.backward(self._part(j, out, base) * scale)

    def _part(self, j: int, out: Any, base: Any) -> Tensor:
        of, step = self.algorithm, self.steps[j : j + 1]
        new = of._replay(self.conditions, self.segment, step)
        part: Tensor = (out.grad_log_probs[:, j].to(new.log_probs) * new.log_probs[:, 0]).sum()
        if out.grad_ratio_bias is not None:
            drift = of._gaussian(self.segment, step, means_of(new), of._old_means(self.segment, step))[:, 0]
            part = part + (out.grad_ratio_bias[:, j].to(drift) * drift).sum()
        if of.beta > 0:
            distance = of._gaussian(self.segment, step, means_of(new), means_of(base)[:, j : j + 1])
            part = part + of.beta / len(self.steps) * distance.mean()
        return part


def means_of(replay: Any) -> Tensor:
    """(B, S, ...): the means of a replay's steps."""
    if replay.prev_sample_means is None:
        raise InvalidArgument(
            "the stage's replay has no prev_sample_means, which beta > 0, guard and surrogate='divergence_mask' need"
        )
    means: Tensor = replay.prev_sample_means
    return means
