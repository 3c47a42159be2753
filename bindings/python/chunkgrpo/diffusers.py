"""diffusers: a scheduler that samples with this library's samplers and records what training needs.

    from chunkgrpo.diffusers import FlowMatchSDEScheduler

    pipe.scheduler = FlowMatchSDEScheduler.from_config(pipe.scheduler.config, dynamics="flow_sde", eta=0.7)
    velocity = velocity_of(pipe)                                  # its own calls to its transformer, to be repeated
    images = pipe(prompt, num_inference_steps=17).images          # the pipeline as it is
    traj = pipe.scheduler.trajectory                              # latents, log-probabilities, relative L1

    cgt.streamed_backward(velocity, traj.sampler, traj.latents, traj.log_probs, advantages, plan)  # chunkgrpo.torch
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Optional, TypeVar, Union, overload

from ._extras import needed

needed("torch", __name__, "diffusers")
needed("diffusers", __name__, "diffusers")

import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteSchedulerOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin  # where DiffusionPipeline.from_pretrained looks for it
from diffusers.utils.torch_utils import randn_tensor

from ._flow_config import check_flow_matching
from ._generated import Dynamics, SamplerKeywords, SamplerOptions
from ._options import F, Unpack, documented, unknown
from ._own_timesteps import numbers_of, step_of_each
from ._recorded import RecordedTrajectory, outside_inference
from ._scalars import seed_number
from ._velocity_of import PipelineVelocity, velocity_of
from .errors import InvalidArgument
from .sampler import Sampler
from .schedule import Schedule
from .torch._tensors import beside

Own = TypeVar("Own", bound="FlowMatchSDEScheduler")

if TYPE_CHECKING:

    class FlowMatchEulerDiscreteScheduler:
        """diffusers has hardly any types: this is what a program has of its scheduler beside ours."""

        config: Any
        timesteps: torch.Tensor
        sigmas: torch.Tensor
        step_index: Optional[int]
        order: int
        _step_index: int

        def __init__(self, **options: Any) -> None: ...
        def set_timesteps(self, *arguments: Any, **options: Any) -> None: ...
        def step(self, *arguments: Any, **options: Any) -> Any: ...
        @classmethod
        def from_config(cls, *arguments: Any, **options: Any) -> Any: ...
        @classmethod
        def from_pretrained(cls: type[Own], *arguments: Any, **options: Any) -> Own: ...  # type: ignore[misc]
        @classmethod
        def _get_init_keys(cls, kind: Any) -> set[str]: ...
        def __getattr__(self, name: str) -> Any: ...  # what else diffusers has

    def register_to_config(function: F) -> F: ...

else:
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.configuration_utils import register_to_config

__all__ = ["FlowMatchSDEScheduler", "PipelineVelocity", "RecordedTrajectory", "SchedulerMixin", "velocity_of"]


class SchedulerKeywords(SamplerKeywords, total=False):
    """Options of FlowMatchSDEScheduler: those of `Sampler`, its own, and diffusers'."""

    dynamics: Dynamics
    eta: float
    seed: int
    record: bool
    num_train_timesteps: int
    shift: float
    use_dynamic_shifting: bool
    base_shift: Optional[float]
    max_shift: Optional[float]
    base_image_seq_len: int
    max_image_seq_len: int
    shift_terminal: Optional[float]
    use_karras_sigmas: bool
    use_exponential_sigmas: bool
    use_beta_sigmas: bool
    time_shift_type: str


class FlowMatchSDEScheduler(FlowMatchEulerDiscreteScheduler):
    """A FlowMatchEulerDiscreteScheduler whose steps are those of a `Sampler`, for any pipeline that has one.

    The first arguments, and every schedule that follows from them, are diffusers'. The others are those of `Sampler`:

    dynamics   as in `Sampler`: "flow_sde", "dance_sde", "cps", "ode", "precise" ...
    eta        noise scale, >= 0; 0 gives the image of diffusers' own scheduler
    log_prob   "gaussian" or "squared_error"
    last_step  "ode": the last step, which is not trained, takes no noise (GCPO, DanceGRPO); "as_others" (Flow-GRPO,
               and the default of `Sampler`)
    wan_sigma_min, etas, window, outside, after, dpm_order, threads  as in `Sampler`; lists, so that they can be saved
    seed       0 ... 2^64 - 1, of the library's noise. Processes of one job that sample different images each need one of
               their own, such as seed=accelerator.process_index: with equal seeds and ids their noise is equal
    record     whether to keep the trajectory

    Attributes, to be set between runs:

    next_sample_id  of the first sample of the next run; 0 at first. Every run takes the ids that follow those of the
                    last, so no two runs of a training have the same noise. Keep it in a checkpoint.
    sample_ids      None, or (B,) integers for the runs that follow instead
    generator       None, or a torch.Generator (or a list of B): it draws the noise instead of the library. The pipeline's
                    own argument of that name draws the initial latents alone, and is not passed on to the scheduler

    For evaluation, where the same generator is to give the same images: `with scheduler.evaluation(): pipe(...)`.

    log_prob        (B,) float64 of the latest step with timesteps that differ, or None

    `trajectory` is the record of the latest run, `sampler` the Sampler over the sigmas that set_timesteps made.

    Deterministic Euler steps are diffusers' own, to the bit. Latents that are wider than the model's output stay so:
    under autocast they are float32 throughout, where diffusers' own scheduler rounds them to the output's type. Nothing
    here is differentiable: gradients come from `chunkgrpo.torch`.

    Raises WrongType for an option that it has not; InvalidArgument for options out of bounds, for stochastic_sampling
    and invert_sigmas, for a step before set_timesteps or with the timestep of another step, and for latents that were
    changed between two steps (in-painting) while recording.
    """

    @register_to_config
    @documented(SamplerOptions, last_step="ode")  # which register_to_config takes the defaults from
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        shift: float = 1.0,
        use_dynamic_shifting: bool = False,
        base_shift: Optional[float] = 0.5,
        max_shift: Optional[float] = 1.15,
        base_image_seq_len: int = 256,
        max_image_seq_len: int = 4096,
        invert_sigmas: bool = False,
        shift_terminal: Optional[float] = None,
        use_karras_sigmas: bool = False,
        use_exponential_sigmas: bool = False,
        use_beta_sigmas: bool = False,
        time_shift_type: str = "exponential",
        stochastic_sampling: bool = False,
        *,
        dynamics: Dynamics = "flow_sde",
        eta: float = 0.7,
        seed: int = 0,
        record: bool = True,
        **options: Unpack[SamplerKeywords],
    ) -> None:
        self._refuse_unknown(options)
        super().__init__(**{name: self.config[name] for name in _INHERITED})
        self._check()
        self.sampler: Optional[Sampler] = None
        self.trajectory: Optional[RecordedTrajectory] = None
        self.next_sample_id = 0
        self.sample_ids: Any = None
        self.generator: Any = None
        self.log_prob: Optional[torch.Tensor] = None
        self._watch: Any = None
        """What `velocity_of` sees the steps with."""

    @overload
    @classmethod
    def from_config(
        cls: type[Own],
        config: Any = None,
        return_unused_kwargs: Literal[False] = False,
        **kwargs: Unpack[SchedulerKeywords],
    ) -> Own: ...

    @overload
    @classmethod
    def from_config(
        cls: type[Own], config: Any, return_unused_kwargs: Literal[True], **kwargs: Any
    ) -> tuple[Own, dict[str, Any]]: ...

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """A scheduler with the configuration of another, and `kwargs` instead of its entries. `flow_shift` (UniPC's and
        DPM-Solver's, which Wan's pipelines have) is `shift`. The rest of a solver's configuration has no meaning here.

        Raises InvalidArgument for the configuration of a scheduler that is no flow-matching one: its model returns
        something else than the velocity.
        """
        if not return_unused_kwargs:
            cls._refuse_unknown(kwargs)
        if isinstance(config, Mapping):
            check_flow_matching(config, cls._get_init_keys(cls))
            if config.get("flow_shift") is not None:
                kwargs.setdefault("shift", config["flow_shift"])
        return super().from_config(config, return_unused_kwargs, **kwargs)

    def configure(self, **options: Unpack[SchedulerKeywords]) -> None:
        """Changes options, such as `window` or `eta`, from the next run on. The sample ids go on."""
        self._refuse_unknown(options)
        before = self.config
        defaults = [name for name in self.config.get("_use_default_values", []) if name not in options]
        self.register_to_config(**options, _use_default_values=defaults)
        try:
            self._check()
        except Exception:
            self._internal_dict = before
            raise

    @classmethod
    def _refuse_unknown(cls, options: Any) -> None:
        known = cls._get_init_keys(cls)
        for name in options:
            if name not in known:
                raise unknown(name, cls.__name__, known)

    def set_timesteps(  # pipelines look at the names of its parameters
        self,
        num_inference_steps: Optional[int] = None,
        device: Any = None,
        sigmas: Optional[list[float]] = None,
        mu: Optional[float] = None,
        timesteps: Optional[list[float]] = None,
    ) -> None:
        """As diffusers'. A new run and a new record begin."""
        self._warn_of_equal_noise()
        with outside_inference():
            super().set_timesteps(num_inference_steps, device, sigmas, mu, timesteps)
        self._times = self.timesteps.tolist()
        self.sampler = self._sampler(self.sigmas.tolist())
        self.trajectory = None
        self._ids: Optional[list[int]] = None
        self._image: Optional[torch.Tensor] = None
        if self._watch is not None:
            self._watch.began()

    @torch.no_grad()
    def step(
        self,
        model_output: torch.Tensor,
        timestep: Union[float, torch.Tensor],
        sample: torch.Tensor,
        s_churn: float = 0.0,
        s_tmin: float = 0.0,
        s_tmax: float = float("inf"),
        s_noise: float = 1.0,
        generator: Any = None,
        per_token_timesteps: Optional[torch.Tensor] = None,
        return_dict: bool = True,
    ) -> Any:
        """The next latents from `sample` (B, ...) and the velocity `model_output`, like it: diffusers' signature.

        timestep   one of `timesteps`; or (B,) of them that differ: each sample is then at its own step, outside of the run.
                   Such a step is not recorded and moves nothing on; it needs `sample_ids` or a generator, and leaves its
                   log-probabilities (B,) in `log_prob`. Deterministic steps are then this library's
        generator  draws the noise of this step, instead of the attribute of that name
        per_token_timesteps  only where the dynamics are deterministic
        s_churn, s_tmin, s_tmax, s_noise  not used, as in diffusers
        """
        if self.sampler is None:
            raise InvalidArgument("step before set_timesteps: there are no sigmas to step between yet")
        if per_token_timesteps is not None:
            if self.sampler.stochastic_steps:
                raise InvalidArgument("per_token_timesteps needs deterministic dynamics: eta=0 or dynamics='ode'")
            return super().step(
                model_output, timestep, sample, per_token_timesteps=per_token_timesteps, return_dict=return_dict
            )
        if isinstance(timestep, int) or (isinstance(timestep, torch.Tensor) and not timestep.is_floating_point()):
            raise InvalidArgument(f"timestep is {timestep}; it must be one of scheduler.timesteps, not an index")
        next_latents: Any
        if isinstance(timestep, torch.Tensor) and timestep.numel() > 1 and bool((timestep != timestep.flatten()[0]).any()):
            next_latents, self.log_prob = step_of_each(self, model_output, timestep, sample, generator)
            return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=next_latents) if return_dict else (next_latents,)
        if self.step_index is None:
            self._init_step_index(timestep)
        step, steps = self._step_index, self.sampler.schedule.steps
        if step >= steps:
            raise InvalidArgument(f"the run has taken all its {steps} steps; set_timesteps begins a new one")
        kind = torch.promote_types(sample.dtype, model_output.dtype)
        self._check_timestep(step, timestep)
        latents, velocity = sample.to(kind), beside(sample.to(kind), model_output)
        ids = self._next_ids(len(latents)) if self._ids is None else self._ids
        if self.trajectory is not None:
            self.trajectory._expect(step, latents)

        next_latents, log_prob = self._take(step, timestep, latents, velocity, ids, generator)
        if self._ids is None:  # the first step of a run, which begins when it has gone well
            self._ids = ids
            self.next_sample_id += 0 if self.sample_ids is not None else len(latents)
            recorded = self.config.record
            self.trajectory = RecordedTrajectory(self.sampler, step, latents, ids) if recorded else None
        if self.trajectory is not None:
            self.trajectory._append(next_latents, log_prob)
        if self._watch is not None:
            self._watch.stepped(self.trajectory, model_output, sample)
        return FlowMatchEulerDiscreteSchedulerOutput(prev_sample=next_latents) if return_dict else (next_latents,)

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[None]:
        """Within it, runs take no noise and are not recorded: images depend on the pipeline's generator alone. They are
        those of diffusers' own scheduler. Afterwards everything is as before: options, sample ids, the record.

            with pipe.scheduler.evaluation():
                images = pipe(prompts, generator=torch.Generator().manual_seed(0)).images
        """
        before = dict(self.__dict__)
        self.configure(dynamics="ode", etas=None, window=None, after=None, record=False)
        try:
            yield
        finally:
            self.__dict__.clear()
            self.__dict__.update(before)

    # ------------------------------------------------------------------------------------------------------------------

    def _check_timestep(self, step: int, timestep: Any) -> None:
        """That a timestep is that of the step. Rounding to bfloat16 is let through, if it does not make it another's."""
        own = self._times[step] if step < len(self._times) else None
        for given in numbers_of(timestep, self.timesteps, self._times):
            close = own is not None and abs(given - own) <= 2**-8 * abs(own)
            if given != own and (given in self._times or not close):
                raise InvalidArgument(
                    f"timestep is {given}; the run is at step {step}, whose timestep is {own}. set_timesteps begins a "
                    "new run, set_begin_index one that begins later"
                )

    def _warn_of_equal_noise(self) -> None:
        distributed = torch.distributed
        if "seed" not in self.config.get("_use_default_values", []) or not distributed.is_available():
            return
        if distributed.is_initialized() and distributed.get_world_size() > 1 and self.generator is None:
            warnings.warn(
                f"{distributed.get_world_size()} processes sample with the default seed, so that their noise is equal; "
                "give each its own (seed=torch.distributed.get_rank()), or the same on purpose (seed=0)",
                stacklevel=3,
            )

    def _take(
        self, step: int, timestep: Any, latents: Any, velocity: Any, ids: list[int], generator: Any
    ) -> tuple[Any, Any]:
        """The next latents and their log-probabilities."""
        assert self.sampler is not None
        a, _, s, c = self.sampler.coefficients(step)
        if s == 0 and c == 0 and abs(a - 1) < 1e-12:  # Euler
            next_latents = super().step(velocity.to(latents.dtype), timestep, latents, return_dict=False)[0]
            log_prob = torch.zeros(len(latents), dtype=torch.float64, device=latents.device)
        else:
            source: dict[str, Any] = {}
            generator = self.generator if generator is None else generator
            if s > 0 and generator is not None:
                kind = {"device": latents.device, "dtype": latents.dtype}
                source["noise"] = randn_tensor(latents.shape, generator=generator, **kind)
            elif s > 0:
                source.update(seed=self.config.seed, sample_ids=ids)
            source["previous_image"] = None if c == 0 else self._image
            next_latents, log_prob = self.sampler.step(step, latents, velocity, **source)
            self._step_index += 1
        if step + 1 < self.sampler.schedule.steps and self.sampler.coefficients(step + 1).c:
            self._image = self.sampler.predicted_image(step, latents, velocity)
        return next_latents, log_prob

    def _next_ids(self, batch: int) -> list[int]:
        ids = range(self.next_sample_id, self.next_sample_id + batch) if self.sample_ids is None else self.sample_ids
        return [int(i) for i in ids]

    def _sampler(self, sigmas: Any, **changes: Any) -> Sampler:
        options: Any = {**{name: self.config[name] for name in SamplerOptions.keywords}, **changes}
        return Sampler(Schedule(sigmas), **options)

    def _check(self) -> None:
        for name in ("stochastic_sampling", "invert_sigmas"):
            if self.config[name]:
                reason = "`dynamics` says how noise enters" if name == "stochastic_sampling" else "sigmas must fall"
                raise InvalidArgument(f"{name} is true, which this scheduler does not take: {reason}")
        seed_number(self.config.seed)
        self._sampler([1.0, 0.5, 0.0], etas=None, window=None)

    def __getstate__(self) -> dict[str, Any]:
        """For copy.deepcopy and pickle: a copy begins a new record."""
        return {**self.__dict__, "sampler": self.sampler is not None, "trajectory": None, "_ids": None, "_watch": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.sampler = self._sampler(self.sigmas.tolist()) if state["sampler"] else None


_INHERITED = FlowMatchEulerDiscreteScheduler._get_init_keys(FlowMatchEulerDiscreteScheduler) - {"self"}
