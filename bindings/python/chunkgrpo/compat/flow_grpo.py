"""Flow-GRPO (yifan123/flow_grpo, arXiv 2505.05470): diffusers_patch/sd3_sde_with_logprob.py, and the Wan pipeline's.

    from chunkgrpo.compat.flow_grpo import sde_step_with_logprob
"""

from __future__ import annotations

import math
from typing import Any, Optional

from .._extras import needed

needed("diffusers", __name__, "diffusers")

import torch
from diffusers.utils.torch_utils import randn_tensor

from ..errors import InvalidArgument
from . import _step


def sde_step_with_logprob(
    self: Any,
    model_output: torch.Tensor,
    timestep: torch.Tensor,
    sample: torch.Tensor,
    noise_level: float = 0.7,
    prev_sample: Optional[torch.Tensor] = None,
    generator: Any = None,
    sde_type: str = "sde",
    return_sqrt_dt: bool = False,
) -> tuple[torch.Tensor, ...]:
    """(prev_sample, log_prob, prev_sample_mean, std_dev_t), and sqrt(-dt) with return_sqrt_dt; all float32.

    self          a FlowMatchEulerDiscreteScheduler after set_timesteps
    model_output, sample  velocity and latents (B, ...)
    timestep      (B,) of self.timesteps, which may differ, or (1,) for all samples
    noise_level   eta
    prev_sample   like sample: the latents to be judged; None = drawn by randn_tensor with `generator`
    sde_type      "sde" (Flow-SDE) or "cps" (FlowCPS, log_prob = -mean (x' - m)^2)

    log_prob (B,) and prev_sample_mean are differentiable in model_output. std_dev_t and sqrt(-dt) are (B, 1, ...), or
    (1, 1, ...) for one timestep. All as the original, but for: packed latents (B, N, C), which the version of July 2025
    broadcasts to (B, B, N, C); noise_level 0 with "sde", where the log-probability is 0 instead of NaN, and that of a
    given prev_sample an InvalidArgument; and prev_sample, which carries no gradient when it is drawn.
    """
    if sde_type not in ("sde", "cps"):
        raise InvalidArgument(f"sde_type is {sde_type!r}; it must be 'sde' or 'cps'")
    form = {"sde": ("flow_sde", "gaussian"), "cps": ("cps", "squared_error")}[sde_type]
    sampler = _step.sampler(self.sigmas, dynamics=form[0], eta=float(noise_level), log_prob=form[1])
    steps = _indices(self, timestep)
    x, v = sample.float(), model_output.float()
    noise = None
    if prev_sample is None:
        noise = randn_tensor(v.shape, generator=generator, device=v.device, dtype=v.dtype)
    sqrt_dt = [math.sqrt(sampler.schedule.sigmas[k] - sampler.schedule.sigmas[k + 1]) for k in steps]
    s = [sampler.coefficients(k).s for k in steps]
    if prev_sample is not None and sde_type == "cps" and 0 in s:  # the density is a point, the squared error is not
        prev, mean = prev_sample.float(), _step.mean(sampler, steps, x, v)
        log_prob = -(prev.detach() - mean).square().flatten(1).mean(dim=1)
    else:
        prev, log_prob = _step.transition(
            sampler, steps, x, v, None if prev_sample is None else prev_sample.float(), noise
        )
        mean = _step.mean(sampler, steps, x, v)
    std = s if sde_type == "cps" else [noise_scale / root for noise_scale, root in zip(s, sqrt_dt)]
    result = (prev, log_prob, mean, _step.per_sample(std, x))
    return (*result, _step.per_sample(sqrt_dt, x)) if return_sqrt_dt else result


def wan_sde_step_with_logprob(
    self: Any,
    model_output: torch.Tensor,
    timestep: torch.Tensor,
    sample: torch.Tensor,
    prev_sample: Optional[torch.Tensor] = None,
    generator: Any = None,
    determistic: bool = False,
    return_pixel_log_prob: bool = False,
    return_dt_and_std_dev_t: bool = False,
) -> tuple[torch.Tensor, ...]:
    """`sde_step_with_logprob` of wan_pipeline_with_logprob.py: (prev_sample, log_prob, prev_sample_mean, s), or with
    return_dt_and_std_dev_t (prev_sample, log_prob, prev_sample_mean, g, sqrt(-dt)); all float32. self is the Wan
    scheduler, whose last sigma must be 0.

    determistic (so spelt there): prev_sample is the Euler step, judged by the SDE's density. return_pixel_log_prob is
    not used, as in the original.
    """
    if prev_sample is not None and generator is not None:
        raise InvalidArgument("prev_sample and generator exclude each other; give one of them")
    self.sigmas = self.sigmas.to(sample.device)
    sampler = _step.sampler(self.sigmas, dynamics="wan_sde")
    sigmas = sampler.schedule.sigmas
    if sigmas[-1] != 0:
        raise InvalidArgument(f"the last sigma is {sigmas[-1]}; it must be 0")
    steps = _indices(self, timestep)
    x, v = sample.float(), model_output.float()
    dt = [sigmas[k] - sigmas[k + 1] for k in steps]
    noise = None
    if prev_sample is None:
        noise = randn_tensor(v.shape, generator=generator, device=v.device, dtype=v.dtype)
    if determistic:
        prev_sample = x - _step.per_sample(dt, x) * v
    prev, log_prob = _step.transition(sampler, steps, x, v, None if prev_sample is None else prev_sample.float(), noise)
    mean = _step.mean(sampler, steps, x, v)
    s, sqrt_dt = [sampler.coefficients(k).s for k in steps], [math.sqrt(d) for d in dt]
    if return_dt_and_std_dev_t:
        std = [noise_scale / root for noise_scale, root in zip(s, sqrt_dt)]
        return prev, log_prob, mean, _step.per_sample(std, x), _step.per_sample(sqrt_dt, x)
    return prev, log_prob, mean, _step.per_sample(s, x)


def _indices(scheduler: Any, timestep: torch.Tensor) -> list[int]:
    """The step of each timestep, found once where they are all the same."""
    if timestep.dim() != 1 or not len(timestep):
        raise InvalidArgument(f"timestep has shape {tuple(timestep.shape)}; it must be (B,) or (1,)")
    if (timestep == timestep[0]).all():
        return [_index(scheduler, timestep[0])] * len(timestep)
    return [_index(scheduler, t) for t in timestep]


def _index(scheduler: Any, timestep: torch.Tensor) -> int:
    try:
        index: int = scheduler.index_for_timestep(timestep)
    except IndexError:
        given = f"{timestep.item()} ({str(timestep.dtype).rpartition('.')[2]})"
        raise InvalidArgument(f"timestep {given} is none of scheduler.timesteps; it must not be rounded") from None
    return index
