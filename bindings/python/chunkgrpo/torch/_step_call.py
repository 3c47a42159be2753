"""One step without its tensors: what the nodes of autograd keep of a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Optional, Union

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .. import _arrays, _residuals
from .._steps import all_noisy, noisy
from ..sampler import Sampler

Step = Union[int, Sequence[int], Tensor, NDArray[Any]]
"""A step number, or (B,) of them: one per sample."""
Guidance = Union[float, Sequence[float], Tensor, NDArray[Any]]
"""One number, or (B,)."""


class StepCall(NamedTuple):
    """A step without its tensors."""

    sampler: Sampler
    step: Any
    """A number, or (B,) int64."""
    guidance: Any
    """A number, or (B,) float64."""

    @staticmethod
    def of(sampler: Sampler, step: Any, guidance: Any, latents: Tensor) -> StepCall:
        """Of arguments, copied: nobody changes them before the gradient is taken."""
        number, each = _arrays.steps(step, "step", len(latents))
        if _arrays.per_sample(guidance):
            guidance = np.array(_arrays.doubles(guidance, "guidance", (len(latents),)))
        return StepCall(sampler, number if each is None else each, guidance)

    def rows(self, samples: NDArray[np.intp]) -> StepCall:
        """The same of some of the samples."""
        guidance = self.guidance[samples] if _arrays.per_sample(self.guidance) else self.guidance
        return self._replace(step=self.step[samples], guidance=guidance)

    def log_prob(
        self,
        latents: Tensor,
        velocity: Tensor,
        next_latents: Tensor,
        unconditional: Optional[Tensor],
        previous_image: Optional[Tensor],
    ) -> Tensor:
        """`Sampler.log_prob`, of one velocity or of both, which `beside` has made alike."""
        extras = self.extras(unconditional, previous_image)
        value: Tensor = self.sampler.log_prob(self.step, latents, velocity, next_latents, **extras)
        return value

    def vjp(
        self,
        latents: Tensor,
        velocity: Tensor,
        next_latents: Tensor,
        upstream: Tensor,
        unconditional: Optional[Tensor],
        previous_image: Optional[Tensor],
    ) -> tuple[Tensor, ...]:
        """`Sampler.log_prob_vjp`, of one velocity or of both, which `beside` has made alike. Samples at a deterministic step have the gradient 0: `step`
        gives them the constant 0."""
        if all_noisy(self.sampler, self.step):
            extras = self.extras(unconditional, previous_image)
            grads = self.sampler.log_prob_vjp(self.step, latents, velocity, next_latents, upstream, **extras)
            return (grads,) if unconditional is None else grads
        samples = np.flatnonzero(noisy(self.sampler, self.step))
        some = _arrays.given_back(samples, latents)
        at = latents, velocity, next_latents, upstream, unconditional, previous_image
        parts: Any = [None if tensor is None else tensor.index_select(0, some) for tensor in at]
        return tuple(
            torch.zeros_like(velocity).index_copy_(0, some, part) for part in self.rows(samples).vjp(*parts)
        )

    def residual_vjp(self, residual: Tensor, upstream: Tensor, guided: bool, in_place: bool) -> tuple[Tensor, ...]:
        """`chunkgrpo.residual_vjp`, of one velocity or of both."""
        grads = _residuals.vjp(
            self.sampler, self.step, residual, upstream, guided=guided, guidance=self.guidance, in_place=in_place
        )
        return tuple(grads) if guided else (grads,)

    def extras(self, unconditional: Optional[Tensor], previous_image: Optional[Tensor]) -> Any:
        return {"unconditional": unconditional, "guidance": self.guidance, "previous_image": previous_image}
