"""Tensors that callers give, checked."""

from __future__ import annotations

from typing import Any

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


def constant(value: Any, name: str) -> Tensor:
    tensor = checked(value, name)
    if tensor.requires_grad and torch.is_grad_enabled():
        raise InvalidArgument(f"{name} requires grad, but there is a gradient for velocities alone; detach() it")
    return tensor.detach()
