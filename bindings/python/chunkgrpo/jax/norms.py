"""The hinge of norms, with its gradient."""

from __future__ import annotations

from typing import Any

import jax

from .. import norms
from ..norms import NormHinge
from ._host import Struct, call
from ._transforms import as_latents, dense, differentiable, floats, latents_of

jax.tree_util.register_dataclass(NormHinge, ["ratios", "hinges"], [])


def norm_hinge(velocity: Any, reference: Any) -> NormHinge[jax.Array]:
    """`chunkgrpo.norm_hinge` of velocities (B, ...): its `.hinges` (B,), max(0, mean v^2 - mean v_ref^2), are
    differentiable in velocity; its `.ratios` are data."""
    v = latents_of(velocity, "velocity")
    traced = {"velocity": v, "reference": as_latents(v, reference, "reference")}

    def gradient(traced: dict[str, Any], _: Any, cotangents: Any) -> dict[str, Any]:
        given = {**traced, "grad": dense(cotangents.hinges)}
        return {"velocity": call(norms.norm_hinge_vjp, Struct(v.shape, v.dtype), given)}

    results: Any = NormHinge(floats(v.shape[0]), floats(v.shape[0]))
    out = differentiable(norms.norm_hinge, gradient, ("velocity",), traced, results)
    return NormHinge(jax.lax.stop_gradient(out.ratios), out.hinges)
