"""Shared by all tests: the package of this tree, the reference numbers, a velocity that is cheap and not linear."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "bindings" / "python"))

import chunkgrpo as cg  # noqa: E402


def reference(name):
    return json.loads((ROOT / "Tests" / "fixtures" / f"{name}.json").read_text())


def bfloat16():
    return pytest.importorskip("ml_dtypes").bfloat16


def dtypes(*names):
    """Parametrises over element types; bfloat16 is skipped where ml_dtypes is missing."""
    return pytest.mark.parametrize("dtype_name", names or ("float32", "float64", "float16", "bfloat16"))


def as_dtype(name):
    return np.dtype(bfloat16() if name == "bfloat16" else name)


def velocity(x, sigma, step):
    return (np.tanh(x.astype(np.float64)) * (0.3 + sigma) - 0.1 * step).astype(x.dtype)


def velocities(trajectory, of=velocity):
    """`of` at every latent that a trained step begins with: (B, S, ...)."""
    sigmas = trajectory.sampler.schedule.sigmas
    steps = trajectory.sampler.schedule.steps - 1
    return np.stack([of(trajectory.latents[:, k], sigmas[k], k) for k in range(steps)], axis=1)


@pytest.fixture
def schedule():
    return cg.Schedule.shifted(steps=17, shift=3.0)


@pytest.fixture
def sampler(schedule):
    return cg.Sampler(schedule)


@pytest.fixture
def x_init():
    return cg.initial_noise((6, 3, 4), seed=1)
