"""How a pipeline makes one velocity of what its transformer returns: found by trying, so that a replay has its bits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor

# form -> velocity of (the one without guidance, the one with it, the scale)
_FORMS: dict[str, Any] = {
    # diffusers, pipeline_stable_diffusion_3.py: noise_pred_uncond + guidance_scale * (noise_pred_text - noise_pred_uncond)
    "from unconditional": lambda u, c, g: u + g * (c - u),
    # diffusers, pipeline_z_image.py: pos + guidance_scale * (pos - neg)
    "from conditional": lambda u, c, g: c + g * (c - u),
    # diffusers, pipeline_qwenimage.py: comb_pred * (cond_norm / noise_norm)
    "rescaled": lambda u, c, g: _rescaled(u + g * (c - u), c),
}


def _rescaled(guided: Tensor, conditional: Tensor) -> Tensor:
    norm: Any = torch.norm
    rescaled: Tensor = guided * (norm(conditional, dim=-1, keepdim=True) / norm(guided, dim=-1, keepdim=True))
    return rescaled


@dataclass(frozen=True)
class Rule:
    """sign times the one output, or a form of two: `swapped` where the first of them is the conditional one."""

    form: Optional[str] = None
    scale: float = 1.0
    swapped: bool = False
    sign: int = 1

    def __call__(self, outputs: Sequence[Tensor]) -> Tensor:
        first, second = outputs[0], outputs[-1]
        if self.form is not None:
            first, second = (second, first) if self.swapped else (first, second)
            first = _FORMS[self.form](first, second, self.scale)
        return first if self.sign > 0 else -first


def rule_of(
    outputs: Sequence[Tensor], velocity: Tensor, known: Sequence[float], last: Optional[Rule]
) -> Optional[Rule]:
    """The rule that makes exactly this velocity of the outputs, or None.

    known  scales that the pipeline says it has
    last   the rule of the step before
    """
    if last is not None and (last.form is None) == (len(outputs) == 1) and _same(last(outputs), velocity):
        return last
    if len(outputs) > 2:
        return None
    tried = _of_one() if len(outputs) == 1 else _of_two(outputs, velocity, known)
    return next((rule for rule in tried if _same(rule(outputs), velocity)), None)


def _same(ours: Tensor, theirs: Tensor) -> bool:
    return ours.dtype == theirs.dtype and ours.shape == theirs.shape and torch.equal(ours, theirs)


def _of_one() -> Iterator[Rule]:
    return (Rule(sign=sign) for sign in (1, -1))


def _of_two(outputs: Sequence[Tensor], velocity: Tensor, known: Sequence[float]) -> Iterator[Rule]:
    for swapped in (False, True):
        u, c = (tensor.double() for tensor in (reversed(outputs) if swapped else outputs))
        for sign in (1, -1):
            v = sign * velocity.double()
            for form, solve in _SOLVED.items():
                for scale in (*known, *_decimals(float(solve(u, c, v)))):
                    yield Rule(form, scale, swapped, sign)


def _projected(residual: Tensor, direction: Tensor) -> Any:
    return (residual * direction).sum() / direction.square().sum().clamp_min(1e-300)


def _unscaled(u: Tensor, c: Tensor, v: Tensor) -> Any:
    """The scale g of v = _rescaled(u + g (c - u), c), by least squares: Gauss and Newton's steps."""
    if u.ndim < 2:
        return torch.nan
    ours, h = _FORMS["rescaled"], 1e-3
    g = _first_scale(u, c, v)
    for _ in range(8):
        g = g + _projected(v - ours(u, c, g), (ours(u, c, g + h) - ours(u, c, g - h)) / (2 * h))
    return g


def _first_scale(u: Tensor, c: Tensor, v: Tensor) -> Any:
    """Each row of v is p u + q c = r (u + g (c - u)), whatever r: g = q / (p + q)."""
    uu, uc, cc = (u * u).sum(-1), (u * c).sum(-1), (c * c).sum(-1)
    uv, cv = (u * v).sum(-1), (c * v).sum(-1)
    p, q = uv * cc - cv * uc, cv * uu - uv * uc
    return (q / (p + q)).flatten().nanmedian()


_SOLVED: dict[str, Any] = {
    "from unconditional": lambda u, c, v: _projected(v - u, c - u),
    "from conditional": lambda u, c, v: _projected(v - c, c - u),
    "rescaled": _unscaled,
}


def _decimals(scale: float) -> list[float]:
    """What a person may have written for it."""
    if not 0 <= scale < 1e6:  # a negative one is the other way round
        return []
    return list(dict.fromkeys(round(scale, digits) for digits in range(7)))
