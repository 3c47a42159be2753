"""Tensors that callers give, checked."""

from __future__ import annotations

import contextlib
from typing import Any, Optional

import torch
from torch import Tensor

from .._family import refuse_arrays
from ..errors import InvalidArgument, WrongType


def checked(value: Any, name: str) -> Tensor:
    if not isinstance(value, Tensor):
        refuse_arrays(value, name)
        raise WrongType(f"{name} must be a torch.Tensor, not {type(value).__name__}")
    return value


def floating(value: Any, name: str) -> Tensor:
    tensor = checked(value, name)
    if not tensor.dtype.is_floating_point:
        raise WrongType(f"{name} has element type {tensor.dtype}; it must be a floating type")
    return tensor


def beside(latents: Tensor, *velocities: Optional[Tensor]) -> Any:
    """Velocities, without their graph, in a type that the library takes beside these latents: in their own where all have
    it and it is the latents' or bfloat16 beside float32, else in the latents'. One alone, or a tuple. A gradient that is
    too large for float16 is to be infinite, for a GradScaler to see; the library would refuse it."""
    kind, others = latents.dtype, set()
    for v in velocities:
        if v is not None and v.dtype is not kind:
            others.add(v.dtype)
    own = not others
    if kind is torch.float32 and others == {torch.bfloat16}:
        own = all(v is None or v.dtype is torch.bfloat16 for v in velocities)
    given = []
    for v in velocities:
        given.append(None if v is None else without_graph(v) if own else v.detach().to(kind))
    return given[0] if len(given) == 1 else tuple(given)


def without_graph(tensor: Tensor) -> Tensor:
    return tensor.detach() if tensor.requires_grad else tensor


def constant(value: Any, name: str) -> Tensor:
    tensor = checked(value, name)
    if tensor.requires_grad and torch.is_grad_enabled():
        raise InvalidArgument(f"{name} requires grad, but there is a gradient for velocities alone; detach() it")
    return without_graph(tensor)


def no_graph() -> Any:
    """torch.no_grad, where there could be a graph: a backward pass has one with create_graph alone."""
    return torch.no_grad() if torch.is_grad_enabled() else _NOTHING


_NOTHING = contextlib.nullcontext()


def save(ctx: Any, *tensors: Optional[Tensor]) -> None:
    """save_for_backward, which refuses tensors made under inference_mode, such as a rollout's."""
    refused = [tensor is not None and tensor.is_inference() for tensor in tensors]
    ctx.refused = [tensor if it else None for it, tensor in zip(refused, tensors)] if True in refused else None
    ctx.save_for_backward(*[None if it else tensor for it, tensor in zip(refused, tensors)])


def saved(ctx: Any) -> Any:
    if ctx.refused is None:
        return ctx.saved_tensors
    return [tensor if other is None else other for tensor, other in zip(ctx.saved_tensors, ctx.refused)]
