"""The hinge of norms, with its gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import norms
from ..norms import NormHinge
from ._nodes import apply, first_order
from ._tensors import constant, floating, save, saved
from .autograd import eager


@eager
def norm_hinge(velocity: Tensor, reference: Tensor) -> NormHinge[Tensor]:
    """`chunkgrpo.norm_hinge` of velocities (B, ...): its `.hinges` (B,) float64, max(0, mean v^2 - mean v_ref^2), are
    differentiable in velocity, for the penalty of `streamed_backward`; its `.ratios` are data. `reference` may have
    another floating type."""
    floating(velocity, "velocity")
    other = constant(floating(reference, "reference"), "reference").to(velocity.dtype)
    hinges, ratios = apply(_NormHinge, velocity, other)
    return NormHinge(ratios, hinges)


class _NormHinge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, velocity: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        save(ctx, velocity, reference)
        found = norms.norm_hinge(velocity, reference)
        ctx.mark_non_differentiable(found.ratios)
        return found.hinges, found.ratios

    @staticmethod
    def backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
        velocity, reference = saved(ctx)
        with torch.no_grad():
            grads = norms.norm_hinge_vjp(velocity, reference, grad.contiguous())
        return first_order(grads, grad, velocity), None
