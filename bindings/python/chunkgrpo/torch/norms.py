"""The hinge of norms, with its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import norms
from ._tensors import constant, floating
from .autograd import _apply, _first_order, _save, _saved, eager


@eager
def norm_hinge(velocity: Tensor, reference: Tensor) -> Tensor:
    """max(0, mean v^2 - mean v_ref^2) (B,) float64 of velocities (B, ...), differentiable in velocity: NormGuard's hinge,
    for the penalty of `streamed_backward`. As `chunkgrpo.norm_hinge`, whose ratios are for the log; `reference` may have
    another floating type."""
    floating(velocity, "velocity")
    other = constant(floating(reference, "reference"), "reference").to(velocity.dtype)
    return _apply(_NormHinge, velocity, other)


class _NormHinge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, velocity: Tensor, reference: Tensor) -> Tensor:
        _save(ctx, velocity, reference)
        return norms.norm_hinge(velocity, reference).hinges

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        velocity, reference = _saved(ctx)
        with torch.no_grad():
            grads = norms.norm_hinge_vjp(velocity, reference, grad.contiguous())
        return _first_order(grads, grad, velocity), None
