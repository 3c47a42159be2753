"""CuPy's arrays in place, JAX's arrays, and arrays that are given by DLPack."""

from __future__ import annotations

import importlib

import numpy as np
from common import part, report

import chunkgrpo as cg

SAMPLER = cg.Sampler(cg.Schedule.shifted(steps=8, shift=3.0))
SHAPE = (3, 41, 25)


def numbers(kind: str) -> list[np.ndarray]:
    draw = np.random.default_rng(3)
    return [draw.standard_normal(SHAPE).astype(kind) for _ in range(3)]


def calls(x, v, e, grad):
    """Arrays in, arrays out."""
    t = SAMPLER.rollout(lambda latents, sigma, k: (latents * 0.5).astype(latents.dtype), x, seed=7)
    rows = t.latents[:, 2:5], (t.latents[:, 2:4] * 0.25).astype(t.latents.dtype)
    return [
        *SAMPLER.step(3, x, v, seed=1, sample_ids=[4, 5, 6]), *SAMPLER.step(3, x, v, noise=e), SAMPLER.log_prob(3, x, v, e),
        SAMPLER.log_prob_vjp(3, x, v, e, grad), t.latents, t.log_probs, t.relative_l1, SAMPLER.log_probs(*rows, 2),
        SAMPLER.log_probs_vjp(*rows, np.ones((3, 2)), 2), cg.divergence(SAMPLER, 2, v, e), cg.normal(SHAPE, 3, 1, like=x),
        cg.forward.noised(x, 0.5, seed=2), cg.forward.distances(x, v, seed=2).distance,
    ]  # fmt: skip


def cupy_arrays() -> None:
    cupy = importlib.import_module("cupy")
    for kind in ("float32", "float64", "float16"):
        host = numbers(kind)
        expected = calls(*host, np.ones(3))
        for name, stream in (("default", cupy.cuda.Stream.null), ("own", cupy.cuda.Stream(non_blocking=True))):
            with stream:
                found = calls(*[cupy.asarray(a) for a in host], cupy.ones(3))
                ours = all(isinstance(a, cupy.ndarray) for a in found)
                right = sum(a.get(stream=stream).tobytes() == np.ascontiguousarray(b).tobytes() for a, b in zip(found, expected))
            report(f"CuPy, {kind}, {name} stream", ours and right == len(expected), equal=right, of=len(expected))


def jax_arrays() -> None:
    jax = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)
    for kind in ("float32", "bfloat16"):
        host = [np.asarray(jax.numpy.asarray(a).astype(kind)) for a in numbers("float32")]
        expected = calls(*host, np.ones(3))
        found = calls(*[jax.numpy.asarray(a) for a in host], jax.numpy.ones(3))
        ours = all(isinstance(a, jax.Array) for a in found)
        right = sum(np.asarray(a).tobytes() == np.ascontiguousarray(b).tobytes() for a, b in zip(found, expected))
        where = str(jax.devices()[0])
        report(f"JAX, {kind}", ours and right == len(expected), equal=right, of=len(expected), device=where)


if __name__ == "__main__":
    for name, work in (("CuPy", cupy_arrays), ("JAX", jax_arrays)):
        with part(name):
            work()
