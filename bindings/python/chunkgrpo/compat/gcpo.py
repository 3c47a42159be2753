"""GCPO (xingzhejun/GCPO, the official code of Chunk-GRPO, arXiv 2510.21583): fastvideo/train_grpo_flux_*.py.

    from chunkgrpo.compat.gcpo import flow_grpo_step, flux_step
"""

from __future__ import annotations

from typing import Any, Optional

from .._extras import needed

needed("diffusers", __name__, "diffusers")

import torch
from diffusers.utils.torch_utils import randn_tensor

from . import _step
from ._flux_step import flux_step as _flux_step


def flow_grpo_step(
    model_output: torch.Tensor,
    latents: torch.Tensor,
    eta: float,
    sigmas: torch.Tensor,
    index: Any,
    prev_sample: Optional[torch.Tensor],
    generator: Any = None,
    grpo: bool = True,
    sde_solver: bool = True,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Flow-SDE: (prev_sample, pred_original_sample, log_prob). grpo and sde_solver are not used, as in the original.

    Arguments, gradients and differences from the original as in `flux_step`; prev_sample is drawn by randn_tensor with
    `generator`, in the type of model_output.
    """
    sampler = _step.sampler(sigmas, dynamics="flow_sde", eta=float(eta))
    k, x, v = int(index), latents, model_output.to(latents.dtype)
    noise = None
    if prev_sample is None:
        noise = randn_tensor(v.shape, generator=generator, device=v.device, dtype=model_output.dtype).to(x.dtype)
    prev, log_prob = _step.transition(sampler, [k], x, v, prev_sample, noise)
    return prev, torch.add(x, v, alpha=-sampler.schedule.sigmas[k]), log_prob


def flux_step(
    model_output: torch.Tensor,
    latents: torch.Tensor,
    eta: float,
    sigmas: torch.Tensor,
    index: Any,
    prev_sample: Optional[torch.Tensor],
    grpo: bool,
    sde_solver: bool,
) -> tuple[torch.Tensor, ...]:
    """Dance-SDE, as `chunkgrpo.compat.dance_grpo.flux_step`, which documents it; but with sde_solver False, a
    prev_sample that is not given is the Euler step without noise."""
    return _flux_step(model_output, latents, eta, sigmas, index, prev_sample, grpo, sde_solver, euler_noise=False)
