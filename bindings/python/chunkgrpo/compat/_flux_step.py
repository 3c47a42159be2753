"""The step that DanceGRPO's and GCPO's scripts share, but for the noise of an Euler step."""

from __future__ import annotations

import math
from typing import Any, Optional

import torch

from . import _step


def flux_step(
    model_output: torch.Tensor,
    latents: torch.Tensor,
    eta: float,
    sigmas: torch.Tensor,
    index: Any,
    prev_sample: Optional[torch.Tensor],
    grpo: bool,
    sde_solver: bool,
    *,
    euler_noise: bool,
) -> tuple[torch.Tensor, ...]:
    sampler = _step.sampler(sigmas, dynamics="dance_sde" if sde_solver else "ode", eta=float(eta))
    k, x, v = int(index), latents, model_output.to(latents.dtype)
    sigma, next_sigma = sampler.schedule.sigmas[[k, k + 1]].tolist()
    image = torch.add(x, v, alpha=-sigma)
    if not grpo:
        return _step.mean(sampler, [k], x, v), image
    if sde_solver:
        noise = torch.randn_like(x) if prev_sample is None else None
        prev, log_prob = _step.transition(sampler, [k], x, v, prev_sample, noise)
        return prev, image, log_prob
    mean, s = _step.mean(sampler, [k], x, v), eta * math.sqrt(sigma - next_sigma)
    if prev_sample is None:
        prev_sample = torch.add(mean, torch.randn_like(mean), alpha=s).detach() if euler_noise else mean
    return prev_sample, image, _step.gaussian_log_prob(prev_sample.detach().float() - mean.float(), s)
