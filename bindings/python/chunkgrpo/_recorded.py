"""The record of one run of a pipeline of diffusers."""

from __future__ import annotations

import contextlib
from typing import Any

import torch

from .errors import InvalidArgument
from .sampler import Sampler
from .trajectory import relative_l1


class RecordedTrajectory:
    """The record of one run of a pipeline; the scheduler makes it.

    sampler      the Sampler that took the steps
    first_step   the step it began with: 0, or later for image to image
    sample_ids   of the samples, for the library's noise

    T steps, of which S = T - 1 are trained. n steps have been taken so far, from first_step on. Its tensors can be
    trained on, also where the pipeline ran under torch.inference_mode. pickle, torch.save and copy.deepcopy keep it.
    """

    def __init__(self, sampler: Sampler, first_step: int, latents: torch.Tensor, sample_ids: list[int]) -> None:
        self.sampler = sampler
        self.first_step = first_step
        self.sample_ids = sample_ids
        with outside_inference():
            self._frames = latents.new_empty((sampler.schedule.steps - first_step + 1, *latents.shape))
        self._frames[0] = latents
        self._log_probs: list[torch.Tensor] = []
        self._own: tuple[Any, int] = (None, 0)

    @property
    def position(self) -> int:
        """The step that comes next, first_step ... T."""
        return self.first_step + len(self._log_probs)

    @property
    def done(self) -> bool:
        return self.position == self.sampler.schedule.steps

    @property
    def latents(self) -> torch.Tensor:
        """(B, n + 1, ...), of the type that the pipeline has: latents[:, 0] before the first step. Not a copy."""
        return self._frames[: len(self._log_probs) + 1].movedim(0, 1)

    @property
    def images(self) -> torch.Tensor:
        """(B, ...): the latents after the last step taken."""
        return self._frames[len(self._log_probs)]

    current = images
    """(B, ...): the same, by the name that `Trajectory` has for them while steps are to come."""

    @property
    def log_probs(self) -> torch.Tensor:
        """(B, n) float64, without the last step of the schedule, which is not trained."""
        trained = self.sampler.schedule.steps - 1 - self.first_step
        rows = self._log_probs[:trained]
        if not rows:
            return self._frames.new_empty((self._frames.shape[1], 0), dtype=torch.float64)
        return torch.stack(rows, dim=1)

    @property
    def relative_l1(self) -> Any:
        """(B, n) float64: mean|x' - x| / (mean|x| + 1e-8) of the same steps."""
        log_probs = self.log_probs
        return relative_l1(self.latents[:, : log_probs.shape[1] + 1]) if log_probs.shape[1] else log_probs

    def __repr__(self) -> str:
        steps = self.sampler.schedule.steps
        return f"<RecordedTrajectory of {self._frames.shape[1]} samples at step {self.position} of {steps}>"

    def _expect(self, step: int, latents: torch.Tensor) -> None:
        """That these are the latents that a step of this run begins with."""
        last = self.images
        if latents.shape != last.shape:
            raise InvalidArgument(
                f"sample has shape {tuple(latents.shape)}; this run began with {tuple(last.shape)}. "
                "set_timesteps begins a new one"
            )
        if step != self.position:
            raise InvalidArgument(f"step {step} after step {self.position - 1}: a recorded run takes every step once")
        if self._is_own(latents):
            return
        if latents.dtype != last.dtype or latents.device != last.device or not torch.equal(latents, last):
            raise InvalidArgument(
                f"the latents were changed between steps {step - 1} and {step} "
                "(by in-painting, a callback, another type), so that they are no trajectory; "
                "with record=False they may be"
            )

    def _is_own(self, latents: torch.Tensor) -> bool:
        """Whether these are the latents of the last step, unchanged: known without a look at the elements, for which a
        device would have to be waited for."""
        own, version = self._own
        return own is not None and latents is own and own._version == version

    def _append(self, latents: torch.Tensor, log_prob: torch.Tensor) -> None:
        self._log_probs.append(log_prob)
        self._frames[len(self._log_probs)] = latents
        if latents.is_cuda and not latents.is_inference():
            self._own = latents, latents._version

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_own": (None, 0)}


def outside_inference() -> Any:
    """Where tensors are made that autograd may save: as if there were no inference mode."""
    return torch.inference_mode(False) if torch.is_inference_mode_enabled() else contextlib.nullcontext()
