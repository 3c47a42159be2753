"""vLLM-Omni: its pipelines sample with this library's samplers, and requests come back with their trajectories.

    options = {"dynamics": "flow_sde", "eta": 0.7}
    engine = AsyncOmni(model=..., diffusion_scheduler="chunkgrpo", diffusion_scheduler_kwargs=options)

where vLLM-Omni takes a scheduler by name (its entry-point group `vllm_omni.schedulers` has this one), or by class path. An
earlier one takes a pipeline by class path, and `recording` makes it. docs/vllm-omni.md has both.

Nothing here imports vLLM-Omni: it needs diffusers and PyTorch alone.
"""

from __future__ import annotations

import itertools
import threading
from typing import Any, Optional

import torch

from . import diffusers as _diffusers
from ._generated import SamplerOptions
from ._options import Unpack, unknown
from .errors import InvalidArgument

__all__ = ["FlowMatchSDEScheduler", "recording"]

# What verl-omni calls the options.
_NAMES = {"noise_level": "eta", "sde_type": "dynamics"}
_SDE_TYPES = {"sde": "flow_sde", "cps": "cps"}
_OF_A_REQUEST = ("sample_ids", "generator")
_OPTIONS = ("dynamics", "eta", "seed", "record", *SamplerOptions.keywords, *_OF_A_REQUEST)


class FlowMatchSDEScheduler(_diffusers.FlowMatchSDEScheduler):
    """`chunkgrpo.diffusers.FlowMatchSDEScheduler`, with the collector of trajectories that vLLM-Omni asks schedulers for.

    Its options are those of that class; `configure` changes them for one request, and takes besides

    sample_ids  (B,) integers of the request's samples: their noise follows from the seed and these, whatever engine, batch
                or order they run in
    generator   a torch.Generator instead, or a list of B

    A request that gives neither, and no seed of vLLM-Omni's, takes ids that no other request of the process has had. Ranks
    that share a request count alike; engines that run beside each other need a `seed` of their own each.
    """

    _taken = itertools.count()
    _lock = threading.Lock()

    def configure(self, **options: Any) -> None:
        """Changes options for this request: `reset` brings those of the engine back. Also after set_timesteps, until the
        first step. `noise_level` is eta; `sde_type` "sde" is the dynamics "flow_sde", "cps" is "cps"."""
        if self.step_index is not None and self.step_index < len(self.timesteps):
            raise InvalidArgument("configure after the first step of a run: reset begins another")
        given = _renamed(options)
        for name in given:
            if name not in _OPTIONS:
                raise unknown(name, "configure", _OPTIONS)
        own = {name: given.pop(name) for name in _OF_A_REQUEST if name in given}
        if all(own.get(name) is not None for name in _OF_A_REQUEST):
            raise InvalidArgument("sample_ids and generator are given: the noise is drawn by one of them; leave the other out")
        before = self.__dict__.get("_engine", (self._internal_dict, self.sample_ids, self.generator))
        super().configure(**given)
        self._engine = before
        for name, value in own.items():
            setattr(self, name, value)
        self._take_options()

    def reset(self) -> None:
        """Begins a run anew: no record, no step taken, and the options, sample_ids and generator that the engine has."""
        self._internal_dict, self.sample_ids, self.generator = self.__dict__.pop(
            "_engine", (self._internal_dict, self.sample_ids, self.generator)
        )
        self.trajectory = self._ids = self._image = None
        self._step_index: Any = None
        self._take_options()

    def get_trajectory(self) -> dict[str, Any]:
        """Of the run so far, n steps: `latents` (B, n + 1, ...) of the pipeline's type, `log_probs` (B, n) float64, without
        the last step of the schedule, which is not trained, `timesteps` (n,), `sigmas` (n + 1,), and `sample_ids` (B,) int64,
        all on the latents' device. All are None before the first step."""
        record = self.trajectory
        if record is None:
            return dict.fromkeys(("latents", "log_probs", "timesteps", "sigmas", "sample_ids"))
        first, last = record.first_step, record.position
        device = record.latents.device
        return {
            "latents": record.latents,
            "log_probs": record.log_probs,
            "timesteps": self.timesteps[first:last].to(device),
            "sigmas": self.sigmas[first : last + 1].to(device),
            "sample_ids": torch.tensor(record.sample_ids, device=device),
        }

    # ------------------------------------------------------------------------------------------------------------------

    def _take_options(self) -> None:
        """The sampler of the options, where there is a schedule already."""
        if self.sampler is not None:
            self.sampler = self._sampler(self.sigmas.tolist())

    def _warn_of_equal_noise(self) -> None:
        """The ranks of an engine share their requests, and so the noise."""

    def _next_ids(self, batch: int) -> list[int]:
        if self.sample_ids is not None:
            return super()._next_ids(batch)
        with self._lock:  # of all copies: step-wise execution copies the scheduler for each request
            return [next(self._taken) for _ in range(batch)]


def recording(pipeline: type, **options: Unpack[_diffusers.SchedulerKeywords]) -> Any:
    """A subclass of a pipeline of vLLM-Omni that samples with `FlowMatchSDEScheduler(**options)` and puts the trajectory of
    each request into its DiffusionOutput: trajectory_latents (B, n + 1, ...), trajectory_log_probs (B, n) and
    trajectory_timesteps (n,). For the releases that take a pipeline by class path, and no scheduler:

        # rollout.py
        from vllm_omni.diffusion.models.qwen_image.pipeline_qwen_image import QwenImagePipeline
        Pipeline = chunkgrpo.vllm_omni.recording(QwenImagePipeline, dynamics="flow_sde", eta=0.7)

        AsyncOmni(model=..., custom_pipeline_args={"pipeline_class": "rollout.Pipeline"})

    A request says its own options by `extra_args={"scheduler_configure": {"sample_ids": [17], "eta": 0.9}}`. Requests that
    run as one batch must give the same, but for the ids.
    """
    if not isinstance(pipeline, type) or not callable(getattr(pipeline, "forward", None)):
        raise InvalidArgument(f"pipeline is {pipeline!r}; it must be a class of vLLM-Omni's pipelines, with a forward")
    FlowMatchSDEScheduler(**options)  # what is wrong is said here, and not in a worker

    base: Any = pipeline

    class Recording(base):  # type: ignore[misc]
        scheduler: Any

        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            self.scheduler = FlowMatchSDEScheduler.from_config(self.scheduler.config, **options)

        def forward(self, req: Any, *arguments: Any, **keywords: Any) -> Any:
            self.scheduler.reset()
            given = _configuration(list(req.sampling_params_list))
            if given:
                self.scheduler.configure(**given)
            outputs = super().forward(req, *arguments, **keywords)
            each = outputs if isinstance(outputs, list) else [outputs]
            _attach(each, self.scheduler)
            return outputs

        def prepare_encode(self, state: Any, **keywords: Any) -> Any:
            state = super().prepare_encode(state, **keywords)
            state.scheduler.reset()
            given = _configuration([state.sampling])
            if given:
                state.scheduler.configure(**given)
            return state

        def post_decode(self, state: Any, **keywords: Any) -> Any:
            output = super().post_decode(state, **keywords)
            _attach([output], state.scheduler)
            return output

    Recording.__name__ = Recording.__qualname__ = f"Recording{pipeline.__name__}"
    return Recording


def _renamed(options: dict[str, Any]) -> dict[str, Any]:
    """With this library's names for those of verl-omni."""
    given = {_NAMES.get(name, name): value for name, value in options.items()}
    if len(given) < len(options):
        raise InvalidArgument(f"configure has {' and '.join(sorted(options))}: noise_level is eta, sde_type is dynamics")
    kind = options.get("sde_type")
    if kind is not None:
        if kind not in _SDE_TYPES:
            raise InvalidArgument(f"sde_type is {kind!r}; it must be {' or '.join(_SDE_TYPES)}")
        given["dynamics"] = _SDE_TYPES[kind]
    return given


def _configuration(requests: list[Any]) -> dict[str, Any]:
    """The options of the requests of a batch, whose sample_ids are put together."""
    given = [dict((getattr(request, "extra_args", None) or {}).get("scheduler_configure") or {}) for request in requests]
    ids = [options.pop("sample_ids", None) for options in given]
    if any(options != given[0] for options in given):
        raise InvalidArgument(f"requests of one batch have the options {' and '.join(map(str, given))}; give the same")
    if any(own is not None for own in ids):
        if any(own is None for own in ids):
            raise InvalidArgument("sample_ids: some requests of the batch give them and others do not; all must")
        given[0]["sample_ids"] = [int(number) for own in ids for number in own]
    return given[0] if given else {}


def _attach(outputs: list[Any], scheduler: FlowMatchSDEScheduler) -> None:
    """Each request's rows of the trajectory, as they stand one after the other in the batch."""
    found = scheduler.get_trajectory()
    if found["latents"] is None or not _exports():
        return
    batch = len(found["latents"])
    if batch % len(outputs):
        raise InvalidArgument(f"the trajectory has {batch} samples, which are not the same number for {len(outputs)} requests")
    size = batch // len(outputs)
    for i, output in enumerate(outputs):
        rows = slice(i * size, (i + 1) * size)
        output.trajectory_latents = found["latents"][rows]
        output.trajectory_log_probs = found["log_probs"][rows]
        output.trajectory_timesteps = found["timesteps"]


def _exports() -> bool:
    """One rank's outputs leave the engine."""
    distributed: Optional[Any] = torch.distributed if torch.distributed.is_available() else None
    return distributed is None or not distributed.is_initialized() or distributed.get_rank() == 0
