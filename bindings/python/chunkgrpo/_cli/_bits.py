"""The self-test of bits: what the kernels write, as digests. They are the same on every processor, with any instruction
set and number of threads."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from ..noise import initial_noise
from ..sampler import Sampler
from ..schedule import Schedule

KNOWN = {
    "noise float32": "f3f89484e991fdbf",
    "latents float32": "9d8c9a506d0516b7",
    "gradient float32": "a3964e4fce91a0cb",
    "noise float64": "2c1adbc9de87c8b1",
    "latents float64": "ef3919a44300b9e4",
    "gradient float64": "a45af3230a23f395",
    "noise float16": "ccb58dc223a4879f",
    "latents float16": "be0cde562b0faa5f",
    "gradient float16": "7c4b0daed84a4d55",
}
"""Of the library's contract. They change where a version says that its numbers do."""


def digests(threads: int = 1) -> dict[str, str]:
    """Of noise, of a rollout's latents, and of the gradient of its log-probabilities, in each element type."""
    sampler = Sampler(Schedule.shifted(5, 3.0), threads=threads)
    found = {}
    for kind in (np.float32, np.float64, np.float16):
        x = initial_noise((3, 1031), seed=7, dtype=kind)
        half = kind(0.5)
        trajectory = sampler.rollout(lambda latents, sigma, step: latents * half, x, seed=99)
        new = trajectory.latents[:, :4] * half
        grad = sampler.log_probs_vjp(trajectory.latents, new * half, np.array([[0.75, -1.25, 0.5, 1.0]] * 3))
        for name, array in (("noise", x), ("latents", trajectory.latents), ("gradient", grad)):
            found[f"{name} {np.dtype(kind).name}"] = _digest(array)
    return found


def on_policy() -> float:
    """The largest |log ratio| of a policy that has not moved: 0."""
    sampler = Sampler(Schedule.shifted(5, 3.0))
    trajectory = sampler.rollout(lambda x, sigma, step: x * np.float32(0.5), initial_noise((3, 1031), seed=7), seed=99)
    again = sampler.log_probs(trajectory.latents, trajectory.latents[:, :4] * np.float32(0.5))
    return float(np.abs(np.asarray(again) - np.asarray(trajectory.log_probs)).max())


def _digest(array: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
