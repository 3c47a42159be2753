"""The record of one run of a pipeline of diffusers."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Optional

import torch

from . import _replayed
from ._rows import alike, rows_of, some, taken
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

    len(record) is B. record[rows] is a record of some samples: rows are a slice, integers, a mask (B,), or one integer.
    `chunkgrpo.concatenate` makes one record of several. Both keep what `velocity_of` repeats.
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
        self._calls: list[_replayed.StepCalls] = []
        self._reason: Optional[str] = None

    def __len__(self) -> int:
        return int(self._frames.shape[1])

    def __getitem__(self, rows: Any) -> RecordedTrajectory:
        chosen = rows_of(rows, len(self))
        frames = self._frames[:, chosen] if isinstance(chosen, slice) else some(self._frames.movedim(1, 0), chosen).movedim(0, 1)
        other = self._with(frames, taken(self.sample_ids, chosen), [some(row, chosen) for row in self._log_probs])
        other._calls = _replayed.some_rows(self._calls, chosen)
        return other

    def to(self, device: Any) -> RecordedTrajectory:
        """With its tensors, and those that `velocity_of` repeats, on another device."""
        log_probs = [row.to(device) for row in self._log_probs]
        other = self._with(self._frames.to(device), list(self.sample_ids), log_probs)
        other._calls = _replayed.moved(self._calls, device)
        return other

    @property
    def position(self) -> int:
        """The step that comes next, first_step ... T."""
        return self.first_step + len(self._log_probs)

    @property
    def done(self) -> bool:
        """Whether all T steps are taken."""
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

    def _with(self, frames: torch.Tensor, sample_ids: list[int], log_probs: list[torch.Tensor]) -> RecordedTrajectory:
        """A record of the same run with other samples, as yet without calls."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__, sample_ids=sample_ids, _frames=frames, _log_probs=log_probs)
        other.__dict__.update(_own=(None, 0), _calls=[])
        return other

    @staticmethod
    def _joined(records: Sequence[RecordedTrajectory]) -> RecordedTrajectory:
        alike(records, "sampler", "first_step", "position")
        frames = [record._frames for record in records]
        kinds = {(frame.shape[0], frame.shape[2:], frame.dtype, frame.device) for frame in frames}
        if len(kinds) > 1:
            shapes = " and ".join(f"{frame.dtype} {tuple(frame.movedim(0, 1).shape)} on {frame.device}" for frame in frames)
            raise InvalidArgument(f"latents of the trajectories are {shapes}; all but the first size must be the same")
        log_probs = [torch.cat(rows) for rows in zip(*(record._log_probs for record in records))]
        ids = [number for record in records for number in record.sample_ids]
        other = records[0]._with(torch.cat(frames, dim=1), ids, log_probs)
        other._reason = next((record._reason for record in records if record._reason is not None), None)
        if other._reason is None:
            try:
                other._calls = _replayed.all_rows([record._calls for record in records])
            except InvalidArgument as error:  # to be said where they are replayed
                other._reason = str(error)
        return other

    def _calls_of(self, step: int) -> _replayed.StepCalls:
        """The pipeline's calls in a step."""
        if self._reason is not None:
            raise InvalidArgument(f"the pipeline's calls cannot be replayed: {self._reason}")
        taken = len(self._log_probs)
        if len(self._calls) != taken:
            raise InvalidArgument(
                f"{len(self._calls)} of {taken} recorded steps have the pipeline's calls: call velocity_of(pipe) before the "
                "run, and after its scheduler is set"
            )
        if not self.first_step <= step < self.first_step + taken:
            raise InvalidArgument(f"step = {step} is not recorded: {self.first_step} ... {self.position - 1} are")
        return self._calls[step - self.first_step]

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
