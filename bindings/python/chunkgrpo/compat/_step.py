"""The part that the drop-in functions share: one step of a batch whose samples may be at different steps."""

from __future__ import annotations

import functools
import math
from typing import Any, Optional

import torch
from torch.utils.weak import WeakIdKeyDictionary

from .. import torch as cgt
from ..errors import InvalidArgument
from ..sampler import Sampler
from ..schedule import Schedule


@functools.lru_cache(maxsize=64)
def _sampler(sigmas: tuple[float, ...], options: tuple[tuple[str, Any], ...]) -> Sampler:
    return Sampler(Schedule(sigmas), **dict(options))


def sampler(sigmas: torch.Tensor, **options: Any) -> Sampler:
    """A Sampler over sigmas (T + 1,); the same object for the same numbers."""
    return _sampler(_numbers(sigmas), tuple(options.items()))


_read: Any = WeakIdKeyDictionary()
"""The numbers of sigmas on a device: while they are the same tensor, unchanged, nobody waits for it."""


def _numbers(sigmas: torch.Tensor) -> tuple[float, ...]:
    if not sigmas.is_cuda or sigmas.is_inference():
        return tuple(sigmas.tolist())
    known = _read.get(sigmas)
    if known is None or known[0] != sigmas._version:
        known = _read[sigmas] = sigmas._version, tuple(sigmas.tolist())
    numbers: tuple[float, ...] = known[1]
    return numbers


def mean(sampler: Sampler, steps: list[int], x: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """a x + b v, differentiable; steps: one for the batch, or one per sample."""
    a, b, *_ = zip(*(sampler.coefficients(k) for k in steps))
    return x * per_sample(a, x) + v * per_sample(b, x)


def per_sample(values: Any, like: torch.Tensor) -> torch.Tensor:
    """(B,) or one number, as (B, 1, ...), of the type and device of `like`."""
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(-1, *[1] * (like.dim() - 1))


def transition(
    sampler: Sampler,
    steps: list[int],
    x: torch.Tensor,
    v: torch.Tensor,
    prev_sample: Optional[torch.Tensor],
    noise: Optional[torch.Tensor],
) -> tuple[torch.Tensor, torch.Tensor]:
    """(prev_sample, log-probability (B,) float32), the latter differentiable in v; `noise` draws what is not given."""
    if len(steps) not in (1, len(x)):
        raise InvalidArgument(f"there are {len(steps)} timesteps; the batch has {len(x)} samples")
    at = steps[0] if len(set(steps)) == 1 else steps
    if prev_sample is not None:
        return prev_sample, cgt.log_prob(sampler, at, x, v, prev_sample.detach()).float()
    prev, log_prob = cgt.step(sampler, at, x, v, noise=noise)
    return prev, log_prob.float()


def gaussian_log_prob(difference: torch.Tensor, s: float) -> torch.Tensor:
    """-mean |x' - m|^2 / (2 s^2) - ln s - ln(2 pi)/2 of x' - m (B, ...): (B,) float32."""
    square = difference.float().flatten(1).square().mean(dim=1)
    return -square / (2 * s * s) - math.log(s) - math.log(2 * math.pi) / 2
