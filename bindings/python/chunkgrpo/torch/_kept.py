"""What a node of autograd keeps instead of its velocities: the residual x' - m, which its backward pass alone reads."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Optional

import torch
from torch import Tensor


def keeps(latents: Tensor, velocity: Tensor) -> bool:
    """Whether the residual is kept: where it has the type that is computed in. Beside a velocity of 16 bits it would be the
    larger array, so that there latents, velocity and next latents are read again."""
    return velocity.dtype is latents.dtype and velocity.dtype in (torch.float32, torch.float64)


def derived(*velocities: Optional[Tensor]) -> bool:
    """Whether what is made of these tensors may have a derivative: one that a node gives, or forward in mode, which it refuses."""
    return _wanted(velocities) or getattr(torch.autograd.forward_ad, "_current_level", 0) >= 0  # -1 where there is none


def _wanted(velocities: Any) -> bool:
    return torch.is_grad_enabled() and any([v is not None and v.requires_grad for v in velocities])


def graph_of(*velocities: Optional[Tensor]) -> Optional[tuple[Optional[Tensor], ...]]:
    """Tensors without elements, of the velocities' types and with their graphs, to keep instead of them: their memory
    may go. None where nobody asks for a gradient."""
    if not _wanted(velocities) or any([v is not None and v.ndim == 0 for v in velocities]):
        return None
    return tuple([None if v is None else v.index_select(0, _no_rows(v.device)) for v in velocities])


@lru_cache(None)
def _no_rows(device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.empty(0, dtype=torch.int64, device=device)


def keep(ctx: Any, *residuals: Tensor) -> None:
    """Saves them, so that hooks may take them elsewhere, and says whether the backward pass may write into them."""
    ctx.own = _IN_PLACE and _HOOKS(True) is None
    ctx.save_for_backward(*residuals)


def take(ctx: Any) -> tuple[Any, bool]:
    """The residuals, and whether nobody reads them again: then they become the gradients. Whoever would, is told by PyTorch
    that they have been modified."""
    residuals = ctx.saved_tensors
    last = ctx.own and not _KEEPS_GRAPH()
    if last:
        for residual in residuals:
            _WRITES_TO(residual)
    return residuals, last


# Whether saved tensors go through hooks, which may keep them; whether the graph of a backward pass may be taken again; and
# what says that a tensor has been changed. PyTorch shows the first two to Python by these names alone. In a release without
# one of the three, nothing is written in place.
_HOOKS: Any = getattr(torch._C._autograd, "_top_saved_tensors_default_hooks", None)
_KEEPS_GRAPH: Any = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
_WRITES_TO: Any = getattr(torch.autograd.graph, "increment_version", None)
_IN_PLACE = None not in (_HOOKS, _KEEPS_GRAPH, _WRITES_TO)
