"""How far the norm of a velocity exceeds that of a reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, overload

import numpy as np
from numpy.typing import ArrayLike

from . import _arrays
from ._arrays import A, AnyArray, Doubles, Numbers
from ._frameworks import not_compiled
from ._library import lib
from ._scalars import int32
from .errors import check

_NAMES = {"reference_velocity": "reference"}


@dataclass(frozen=True, eq=False)
class NormHinge(Generic[A]):
    """The result of `norm_hinge`.

    ratios  (B,): |v| / |v_ref|; above 1 where the velocity is inflated
    hinges  (B,): max(0, mean v^2 - mean v_ref^2)
    """

    ratios: A
    hinges: A


@overload
def norm_hinge(velocity: Numbers, reference: AnyArray, *, threads: int = 1) -> NormHinge[Doubles]: ...


@overload
def norm_hinge(velocity: A, reference: AnyArray, *, threads: int = 1) -> NormHinge[A]: ...


@not_compiled
def norm_hinge(velocity: Any, reference: AnyArray, *, threads: int = 1) -> NormHinge[Any]:
    """How far the norm of a velocity exceeds that of a reference, both (B, ...), of each sample: NormGuard (arXiv
    2606.27771) found that training against a reward inflates it. The paper has no code; here the hinge is of the mean
    squares, to the power one.

    Log the ratios; add beta mean(hinges) to the loss. `norm_hinge_vjp` is the gradient; in `chunkgrpo.torch` and
    `chunkgrpo.jax` the hinges are differentiable.
    """
    v = _arrays.borrow(velocity, "velocity", on_host=True)
    w = _arrays.borrow_like(reference, v, "reference", "velocity", on_host=True)
    ratios, hinges = np.empty(v.shape[0]), np.empty(v.shape[0])
    check(lib.cgrpo_norm_hinge(v.tensor(), w.tensor(), int32(threads, "threads"), ratios, hinges, None, None), **_NAMES)
    return NormHinge(v.give(ratios), v.give(hinges))


@not_compiled
def norm_hinge_vjp(velocity: A, reference: AnyArray, grad: ArrayLike, *, threads: int = 1) -> A:
    """Vector-Jacobian product of the hinges of `norm_hinge`: grad (B,) to gradients like velocity, zero where the norm is
    at most the reference's. `reference` has none."""
    v = _arrays.borrow(velocity, "velocity", on_host=True)
    w = _arrays.borrow_like(reference, v, "reference", "velocity", on_host=True)
    out, upstream = v.new(), _arrays.doubles(grad, "grad", v.shape[:1])
    at = v.tensor(), w.tensor(), int32(threads, "threads")
    check(lib.cgrpo_norm_hinge(*at, None, None, upstream, out.tensor()), **_NAMES)
    result: A = out.result()
    return result
