"""How far a policy's steps are from another's: KL to a reference, the bias of GRPO-Guard, the mask of Flow-DPPO."""

from __future__ import annotations

from ctypes import byref
from typing import Any, Optional

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _abi, _arrays
from ._arrays import Array
from .errors import InvalidArgument, check
from .noise import Source
from .sampler import Sampler


def divergence(
    sampler: Sampler, velocities: Array, other: Array, *, kind: str = "gaussian", first_step: int = 0
) -> NDArray[np.float64]:
    """Divergence (B, n) of the steps first_step ... first_step + n - 1 under `velocities` from those under `other`,
    both (B, n, ...): of a frozen reference, or of the old policy. Means over the elements of a sample; m is the mean of
    a step:

    kind  "gaussian": mean (m - m')^2 / (2 s^2), the exact KL divergence; "gaussian_per_time": without the step size in
          the variance, as Flow-GRPO (SD3, FLUX, Qwen-Image) and verl-omni have it; "mean": mean (m - m')^2, and
          "velocity": mean (v - v')^2 (Flow-Factory, x-based and v-based)

    The Gaussian kinds are refused where s = 0. Velocities have any guidance applied.
    """
    return _from_velocities(sampler, velocities, other, None, kind, first_step)


def divergence_vjp(
    sampler: Sampler, velocities: Array, other: Array, grad: ArrayLike, *, kind: str = "gaussian", first_step: int = 0
) -> Array:
    """Vector-Jacobian product of `divergence`: grad (B, n) to gradients like velocities. `other` has none."""
    return _from_velocities(sampler, velocities, other, grad, kind, first_step)


def divergence_from_sampled(
    sampler: Sampler,
    latents: Array,
    velocities: Array,
    *,
    seed: Optional[int] = None,
    sample_ids: Optional[ArrayLike] = None,
    noise: Optional[Array] = None,
    kind: str = "gaussian",
    first_step: int = 0,
) -> NDArray[np.float64]:
    """Divergence (B, n) from the steps that were sampled, whose mean was x' - s e: from latents (B, n + 1, ...) as in
    `Sampler.log_probs`, and the seed and sample_ids (or the noise (B, n, ...) of these steps) of the rollout. Neither
    the old velocity nor the old mean has to be stored.

    The rounding of latents to float16 or bfloat16 counts as distance. Refused for second-order steps.
    """
    return _from_sampled(sampler, latents, velocities, None, seed, sample_ids, noise, kind, first_step)


def divergence_from_sampled_vjp(
    sampler: Sampler,
    latents: Array,
    velocities: Array,
    grad: ArrayLike,
    *,
    seed: Optional[int] = None,
    sample_ids: Optional[ArrayLike] = None,
    noise: Optional[Array] = None,
    kind: str = "gaussian",
    first_step: int = 0,
) -> Array:
    """Vector-Jacobian product of `divergence_from_sampled`: grad (B, n) to gradients like velocities."""
    return _from_sampled(sampler, latents, velocities, grad, seed, sample_ids, noise, kind, first_step)


def _from_velocities(
    sampler: Sampler, velocities: Any, other: Any, grad: Optional[ArrayLike], kind: str, first_step: int
) -> Array:
    v = _arrays.latents(velocities, "velocities", 2)
    w = _arrays.latents(other, "other", 2)
    if w.shape != v.shape:
        raise InvalidArgument(f"other has shape {w.shape}; it must be {v.shape}, like velocities")
    number = _arrays.choice(kind, _abi.DIVERGENCE, "kind")

    def call(t: int, step: int, value: Any, upstream: Any, out: Any) -> int:
        status: int = _abi.lib.cgrpo_divergence_from_velocity(
            sampler._handle, step, number, _borrow(v[:, t]), _borrow(w[:, t]), value, upstream, out
        )
        return status

    return _each(v, grad, first_step, call)


def _from_sampled(
    sampler: Sampler,
    latents: Any,
    velocities: Any,
    grad: Optional[ArrayLike],
    seed: Optional[int],
    sample_ids: Optional[ArrayLike],
    noise: Optional[Array],
    kind: str,
    first_step: int,
) -> Array:
    x, v = _arrays.latents(latents, "latents", 2), _arrays.latents(velocities, "velocities", 2)
    if v.shape[:1] + v.shape[2:] != x.shape[:1] + x.shape[2:] or v.shape[1] >= x.shape[1]:
        raise InvalidArgument(
            f"velocities has shape {v.shape}; for latents {x.shape} it must be (B, n, ...) with n < {x.shape[1]}"
        )
    given = None if noise is None else _arrays.latents(noise, "noise", 2)
    if given is not None and given.shape != v.shape:
        raise InvalidArgument(f"noise has shape {given.shape}; it must be {v.shape}, like velocities")
    number = _arrays.choice(kind, _abi.DIVERGENCE, "kind")

    def call(t: int, step: int, value: Any, upstream: Any, out: Any) -> int:
        source = Source(len(v), None if given is None else _step(given, t), seed, sample_ids)
        status: int = _abi.lib.cgrpo_divergence_from_sampled(
            *(sampler._handle, step, number, _borrow(x[:, t]), _borrow(v[:, t]), source.pointer()),
            *(_borrow(x[:, t + 1]), value, upstream, out),
        )
        return status

    return _each(v, grad, first_step, call)


def _each(v: Array, grad: Optional[ArrayLike], first_step: int, call: Any) -> Array:
    """One step after the other: values (B, n), or gradients like v."""
    first = _arrays.integer(first_step, "first_step")
    batch, count = v.shape[:2]
    if grad is None:
        values = np.empty((count, batch))
        for t in range(count):
            check(call(t, first + t, values[t], None, None))
        return np.ascontiguousarray(values.T)
    upstream = np.ascontiguousarray(_arrays.doubles(grad, "grad", (batch, count)).T)
    out = np.empty(v.shape, v.dtype)
    for t in range(count):
        check(call(t, first + t, None, upstream[t], _borrow(out[:, t])))
    return out


def _step(array: Array, t: int) -> Array:
    return _arrays.latents(array[:, t], "noise")


def _borrow(array: Array) -> Any:
    return byref(_arrays.tensor(array))
