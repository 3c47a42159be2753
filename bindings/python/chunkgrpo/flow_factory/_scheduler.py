"""A scheduler of Flow-Factory whose steps and log-probabilities are this library's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Optional

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from .. import torch as cgt
from .._generated import DYNAMICS, LOG_PROB_FORM
from .._options import unknown
from .._scalars import choice, integer, real
from ..errors import InvalidArgument
from ..sampler import Sampler
from ..schedule import Schedule
from ._engine import FlowMatchEulerDiscreteSDEScheduler, SDESchedulerOutput

_OWN = {"dynamics": None, "log_prob": None, "wan_sigma_min": 0.0, "threads": 1}
_THEIRS = {"noise_level", "sde_steps", "num_sde_steps", "seed", "dynamics_type"}
_NAMES = {"Flow-SDE": "flow_sde", "Dance-SDE": "dance_sde", "CPS": "cps", "ODE": "ode"}
_OUTPUTS = ("next_latents", "next_latents_mean", "std_dev_t", "dt", "log_prob", "noise_pred")
_OF_THE_SCHEDULE = ("wan_sde", "flash_sde")


class ChunkSDEScheduler(FlowMatchEulerDiscreteSDEScheduler):
    """Flow-Factory's FlowMatchEulerDiscreteSDEScheduler with the samplers of this library: same arguments, same outputs.

    What it has more are keys of the section `scheduler` of a configuration:

    dynamics       a name of `Sampler`, such as "precise" or "sage", instead of dynamics_type; eta is noise_level. Not
                   "dpm_sde" and "dpm_ode", which need the step before
    log_prob       "gaussian" or "squared_error"; None = as Flow-Factory, "squared_error" for CPS
    wan_sigma_min  in [0, 1]; of "wan_sde" and "flash_sde"
    threads        of the library on the CPU; 0 = one per core

    Latents are stored in the type in which they come, and the log-probability is that of the stored ones, so that a policy
    that has not changed has a ratio of exactly 1. Arithmetic is float32. Noise is torch's, by `generator`. Steps are on the
    CPU or on CUDA, wherever the latents are. A key that is not known raises WrongType.
    """

    def __init__(self, **options: Any) -> None:
        own = {name: options.pop(name, default) for name, default in _OWN.items()}
        known = {*_OWN, *_THEIRS, *FlowMatchEulerDiscreteScheduler._get_init_keys(FlowMatchEulerDiscreteScheduler)}
        for name in options:
            if name not in known and not name.startswith("_"):
                raise unknown(name, "scheduler", known)
        super().__init__(**options)
        if own["dynamics"] is not None and self.dynamics_type != "Flow-SDE":
            raise InvalidArgument(
                f"scheduler has dynamics {own['dynamics']!r} and dynamics_type {self.dynamics_type!r}: give one of them"
            )
        self._own = own
        self._sampler_options(self._dynamics(None))

    def step(
        self,
        noise_pred: Tensor,
        timestep: Any,
        latents: Tensor,
        next_latents: Optional[Tensor] = None,
        timestep_next: Any = None,
        generator: Any = None,
        noise_level: Any = None,
        compute_log_prob: bool = True,
        return_dict: bool = True,
        return_kwargs: Sequence[str] = _OUTPUTS,
        dynamics_type: Optional[str] = None,
        sigma_max: Optional[float] = None,
    ) -> Any:
        """One step from latents (B, ...) under the velocity noise_pred, like them; or, with next_latents, the
        log-probability of a step that was taken, differentiable in noise_pred. The arguments and the outputs are those of
        Flow-Factory. A step without noise has log-probability 0.
        """
        if sigma_max is not None:
            raise InvalidArgument(f"sigma_max is {sigma_max}; leave it out: it is the sigma after the first one")
        for name in return_kwargs:
            if name not in _OUTPUTS:
                raise unknown(name, "return_kwargs", _OUTPUTS)
        velocity = noise_pred.float()
        if set(return_kwargs) == {"noise_pred"} and return_dict:
            return SDESchedulerOutput(noise_pred=velocity)
        sigmas = self._sigmas(timestep, timestep_next, len(latents))
        etas = self._etas(noise_level, dynamics_type, sigmas[0], len(latents))
        dynamics = self._dynamics(dynamics_type)
        rows = list(zip(*(column.tolist() for column in (*sigmas, etas))))
        steps = [self._step_of(dynamics, *row) for row in rows]
        found = _Steps(steps, latents.float(), velocity)
        if next_latents is None:
            # Drawn also where none is added, as in Flow-Factory: a seed then means the same images.
            noise = randn_tensor(velocity.shape, generator=generator, device=velocity.device, dtype=velocity.dtype)
            following = found.taken(noise, latents.dtype)
        else:
            following = next_latents.detach().float()
        values = {"next_latents": following, "noise_pred": velocity, "log_prob": None}
        if compute_log_prob and ("log_prob" in return_kwargs or not return_dict):
            values["log_prob"] = found.log_prob(following)
        if "next_latents_mean" in return_kwargs or not return_dict:
            values["next_latents_mean"] = found.mean()
        values["dt"], values["std_dev_t"] = found.spread(whole=dynamics == "cps" and self._own["dynamics"] is None)
        if not return_dict:
            order = ("next_latents", "next_latents_mean", "noise_pred", "log_prob", "std_dev_t", "dt")
            return tuple(values[name] for name in order)
        return SDESchedulerOutput(**{name: values.get(name) for name in return_kwargs})

    # ------------------------------------------------------------------------------------------------------------------

    def _dynamics(self, given: Optional[str]) -> str:
        if given is None and self._own["dynamics"] is not None:
            name = self._own["dynamics"]
            choice(name, DYNAMICS, "dynamics")
            if name in ("dpm_sde", "dpm_ode"):
                raise InvalidArgument(f"dynamics is {name!r}, which needs the step before; take one of the others")
            return str(name)
        name = given or self.dynamics_type
        if name not in _NAMES:
            raise InvalidArgument(f"dynamics_type is {name!r}; it must be one of {', '.join(_NAMES)}")
        return _NAMES[name]

    def _sampler_options(self, dynamics: str) -> tuple[tuple[str, Any], ...]:
        form = self._own["log_prob"] or ("squared_error" if dynamics == "cps" else "gaussian")
        choice(form, LOG_PROB_FORM, "log_prob")
        wan, threads = real(self._own["wan_sigma_min"], "wan_sigma_min"), integer(self._own["threads"], "threads", 0)
        options = (("dynamics", dynamics), ("log_prob", form), ("wan_sigma_min", wan), ("threads", threads))
        _sampler((1.0, 0.5, 0.0), 0.5, options)
        return options

    def _sigmas(self, timestep: Any, following: Any, batch: int) -> tuple[Tensor, Tensor]:
        """sigma and the next one of each sample, (B,) float32 on the CPU."""
        now = torch.as_tensor(timestep).detach().cpu()
        if following is None:
            if not now.is_floating_point():
                raise InvalidArgument(f"timestep is {timestep}; it must be one of scheduler.timesteps, not an index")
            places = [self.index_for_timestep(t) for t in now.reshape(-1).to(self.timesteps.device)]
            pairs = self.sigmas[places], self.sigmas[[place + 1 for place in places]]
        else:
            pairs = now.float() / 1000, torch.as_tensor(following).detach().float() / 1000
        return _each(pairs[0], "timestep", batch), _each(pairs[1], "timestep_next", batch)

    def _etas(self, level: Any, dynamics_type: Optional[str], sigma: Tensor, batch: int) -> Tensor:
        if self.is_eval or "ODE" in (dynamics_type or self.dynamics_type):
            return torch.zeros(batch)
        if level is None:
            level = self.get_noise_level_for_sigma(sigma.to(self.sigmas))
        return _each(torch.as_tensor(level).detach().double(), "noise_level", batch)

    def _step_of(self, dynamics: str, sigma: float, following: float, eta: float) -> tuple[Sampler, int]:
        """A sampler of few steps, and which of them goes from one sigma to the other."""
        sigmas = (sigma, following) if following == 0 else (sigma, following, 0.0)
        if eta == 0:  # evaluation, and steps that are not trained
            return _sampler(sigmas, eta, (("dynamics", "ode"),)), 0
        if dynamics in _OF_THE_SCHEDULE:
            sigmas = (*self._before(sigma), *sigmas)
        return _sampler(sigmas, eta, self._sampler_options(dynamics)), sigmas.index(sigma)

    def _before(self, sigma: float) -> list[float]:
        """The first two sigmas of the schedule, as far as they come before this one: a timestep has been rounded."""
        distance, place = (self.sigmas.double().cpu() - sigma).abs().min(0)
        if distance > 1e-6:
            raise InvalidArgument(
                f"timestep is {1000 * sigma}, which is none of scheduler.timesteps; dynamics {self._own['dynamics']!r} need "
                "the whole schedule"
            )
        before: list[float] = self.sigmas[: min(2, int(place))].tolist()
        return before


@lru_cache(maxsize=4096)
def _sampler(sigmas: tuple[float, ...], eta: float, options: tuple[tuple[str, Any], ...]) -> Sampler:
    given: Any = dict(options)
    return Sampler(Schedule(sigmas), eta=eta, **given)


def _each(value: Tensor, name: str, batch: int) -> Tensor:
    """(B,) on the CPU."""
    values = value.reshape(-1).cpu()
    if len(values) not in (1, batch):
        raise InvalidArgument(f"{name} has {len(values)} values; it must have one, or {batch}, one per sample")
    return values.expand(batch)


class _Steps:
    """The steps of a batch, mostly one for all its samples."""

    def __init__(self, steps: list[tuple[Sampler, int]], latents: Tensor, velocity: Tensor) -> None:
        self.latents, self.velocity = latents, velocity
        self.numbers = [sampler.coefficients(step) for sampler, step in steps]
        self.parts: list[tuple[tuple[Sampler, int], Any]] = [
            (step, [i for i, other in enumerate(steps) if other == step]) for step in dict.fromkeys(steps)
        ]
        if len(self.parts) == 1:
            self.parts = [(steps[0], slice(None))]

    def taken(self, noise: Tensor, kind: torch.dtype) -> Tensor:
        """The next latents as they are stored, in float32."""
        rows = torch.empty_like(self.latents)
        with torch.no_grad():
            for (sampler, step), at in self.parts:
                source: Any = {"noise": noise[at]} if sampler.coefficients(step).s > 0 else {}
                rows[at] = sampler.step(step, self.latents[at], self.velocity[at].detach(), **source)[0]
        return rows.to(kind).float()

    def log_prob(self, following: Tensor) -> Tensor:
        """(B,) float32."""
        rows = torch.zeros(len(following), device=following.device)
        for (sampler, step), at in self.parts:
            if sampler.coefficients(step).s > 0:
                value = cgt.log_prob(sampler, step, self.latents[at], self.velocity[at], following[at]).float()
                whole = isinstance(at, slice)
                rows = value if whole else rows.index_put((torch.tensor(at, device=rows.device),), value)
        return rows

    def mean(self) -> Tensor:
        """a x + b v, differentiable in the velocity."""
        a, b = (self._column(list(column)) for column in zip(*((n.a, n.b) for n in self.numbers)))
        return a * self.latents + b * self.velocity

    def spread(self, whole: bool) -> tuple[Tensor, Tensor]:
        """dt < 0, and the deviation s of the step as Flow-Factory gives it: over sqrt(-dt), but for CPS."""
        lengths, spread = [0.0] * len(self.numbers), [0.0] * len(self.numbers)
        for (sampler, step), at in self.parts:
            begin, end = sampler.schedule.sigmas[step : step + 2].tolist()
            s = sampler.coefficients(step).s
            for i in range(len(lengths)) if isinstance(at, slice) else at:
                lengths[i], spread[i] = end - begin, s if whole else s / (begin - end) ** 0.5
        return self._column(lengths), self._column(spread)

    def _column(self, values: list[float]) -> Tensor:
        """(B, 1, ...) beside the latents."""
        column = torch.tensor(values, dtype=self.latents.dtype, device=self.latents.device)
        return column.reshape(-1, *[1] * (self.latents.ndim - 1))
