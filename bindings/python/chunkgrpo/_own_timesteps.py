"""A step of the diffusers scheduler whose samples are at timesteps of their own."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor

from .errors import InvalidArgument
from .torch._tensors import beside


def step_of_each(
    scheduler: Any, model_output: torch.Tensor, timesteps: torch.Tensor, sample: torch.Tensor, generator: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """The next latents, and their log-probabilities (B,)."""
    kind = torch.promote_types(sample.dtype, model_output.dtype)
    latents, velocity = sample.to(kind), beside(sample.to(kind), model_output)
    if timesteps.shape != latents.shape[:1]:
        raise InvalidArgument(f"timestep has shape {tuple(timesteps.shape)}; it must be {(len(latents),)}")
    steps = [_step_of(scheduler._times, value) for value in timesteps.tolist()]
    coefficients = [scheduler.sampler.coefficients(k) for k in steps]
    if any(c.c for c in coefficients):
        raise InvalidArgument("timesteps that differ need steps of first order: dpm_order=1")
    source: dict[str, Any] = {}
    generator = scheduler.generator if generator is None else generator
    if generator is not None:
        device: Any = latents.device
        source["noise"] = randn_tensor(latents.shape, generator=generator, device=device, dtype=latents.dtype)
    elif any(c.s > 0 for c in coefficients):
        if scheduler.sample_ids is None:
            raise InvalidArgument(
                "timesteps that differ are of no single run: set scheduler.sample_ids to the ids of these samples, which "
                "their noise follows from, or give a generator"
            )
        source.update(seed=scheduler.config.seed, sample_ids=[int(i) for i in scheduler.sample_ids])
    result: tuple[torch.Tensor, torch.Tensor] = scheduler.sampler.step(steps, latents, velocity, **source)
    return result


def numbers_of(timestep: Any, timesteps: torch.Tensor, times: list[float]) -> list[float]:
    """The numbers of a timestep. Those of an element of `timesteps` are known: no device is waited for."""
    if not isinstance(timestep, torch.Tensor):
        return [float(timestep)]
    if timestep.is_cuda and timestep.numel() == 1:
        memory = timestep.untyped_storage().data_ptr()
        if timestep.dtype == timesteps.dtype and memory == timesteps.untyped_storage().data_ptr():
            return [times[timestep.storage_offset() - timesteps.storage_offset()]]
    values: list[float] = timestep.flatten().tolist()
    return values


def _step_of(times: list[float], timestep: float) -> int:
    """The step of a timestep, which may have been rounded to bfloat16 where that leaves no doubt."""
    close = [k for k, own in enumerate(times) if own == timestep]
    close = close or [k for k, own in enumerate(times) if abs(timestep - own) <= 2**-8 * abs(own)]
    if len(close) != 1:
        which = "close to several" if close else "none"
        raise InvalidArgument(f"timestep holds {timestep}, which is {which} of scheduler.timesteps; do not round them")
    return close[0]
