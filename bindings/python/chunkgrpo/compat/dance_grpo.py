"""DanceGRPO (XueZeyue/DanceGRPO, arXiv 2505.07818): fastvideo/train_grpo_flux.py and its siblings.

    from chunkgrpo.compat.dance_grpo import flux_step
"""

from __future__ import annotations

from typing import Any, Optional

import torch

from ._flux_step import flux_step as _flux_step


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
    """(prev_sample, pred_original_sample, log_prob), or (prev_sample_mean, pred_original_sample) without `grpo`.

    model_output  velocity (B, ...), of any floating type
    latents       like it, usually float32: the type of what is returned
    sigmas        (T + 1,) on any device, falling; index the step, an int or a tensor of one
    prev_sample   the latents to be judged; None = drawn by torch.randn_like
    sde_solver    False: the mean is the Euler step, and noise eta sqrt(sigma - sigma') is added to it all the same

    log_prob (B,) float32 and pred_original_sample are differentiable in model_output. All as the original, but for: a
    bfloat16 velocity, which is multiplied by sigmas in float32 and not in bfloat16; and prev_sample, which carries no
    gradient when it is drawn.
    """
    return _flux_step(model_output, latents, eta, sigmas, index, prev_sample, grpo, sde_solver, euler_noise=True)
