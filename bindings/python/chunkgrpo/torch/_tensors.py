"""Tensors that callers give, checked."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from .._frameworks import refuse_arrays
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
    kinds = {v.dtype for v in velocities if v is not None} - {latents.dtype}
    mixed = latents.dtype is torch.float32 and kinds == {torch.bfloat16}
    own = not kinds or mixed and all(v is None or v.dtype in kinds for v in velocities)
    given = [None if v is None else v.detach() if own else v.detach().to(latents.dtype) for v in velocities]
    return given[0] if len(given) == 1 else tuple(given)


def constant(value: Any, name: str) -> Tensor:
    tensor = checked(value, name)
    if tensor.requires_grad and torch.is_grad_enabled():
        raise InvalidArgument(f"{name} requires grad, but there is a gradient for velocities alone; detach() it")
    return tensor.detach()
