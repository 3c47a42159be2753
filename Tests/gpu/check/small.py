"""A few calls on small arrays of CuPy, for compute-sanitizer: every kernel of the hot forms, sizes with remainders."""

from __future__ import annotations

import cupy
import numpy as np

import chunkgrpo as cg
import chunkgrpo.forward

SAMPLER = cg.Sampler(cg.Schedule.shifted(steps=5, shift=3.0))

for kind in ("float32", "float16"):
    for size in (1, 70, 1025, 3000):
        x, v, e, u = (cupy.asarray(np.random.default_rng(i).standard_normal((3, size)).astype(kind)) for i in range(4))
        after, value = SAMPLER.step(2, x, v, seed=1)
        SAMPLER.step([0, 1, 2], x, v, noise=e, unconditional=u, guidance=2.0)
        again = SAMPLER.log_prob(2, x, v, after)
        SAMPLER.log_prob_vjp(2, x, v, after, cupy.ones(3), unconditional=u, guidance=2.0)
        t = SAMPLER.rollout(lambda latents, sigma, k: latents * 0.5, x, seed=7)
        SAMPLER.log_probs_vjp(t.latents, t.latents[:, :4] * 0.5, np.ones((3, 4)))
        cg.divergences(SAMPLER, t.latents[:, :3], t.latents[:, 1:4])
        chunkgrpo.forward.distances(x, v, seed=1, old_velocity=u, reference_velocity=e, beta=0.5)
        slopes = chunkgrpo.forward.Distances(distance=cupy.ones(3), old_divergence=cupy.ones(3))
        chunkgrpo.forward.distances_vjp(x, v, slopes, seed=1, old_velocity=u)
        assert (value.get() == again.get()).all()
print("small: done")
