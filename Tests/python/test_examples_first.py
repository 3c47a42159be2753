"""The block that users start from runs as it is printed, with numpy only; so does examples/python/first.py."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np

from conftest import ROOT

BLOCK = """
import numpy as np, chunkgrpo as cg
schedule = cg.Schedule.shifted(steps=17, shift=3.0)              # schedule.sigmas: (18,)
sampler  = cg.Sampler(schedule, dynamics="flow_sde", eta=0.7)    # or "dance_sde", "cps", "ode"
x1, logp = sampler.step(k, x, v, noise=eps)                      # or seed=7, sample_ids=ids instead of noise
logp     = sampler.log_prob(k, x, v, x1)                         # (B,)
dv       = sampler.log_prob_vjp(k, x, v, x1, grad_log_prob)      # like v
traj     = sampler.rollout(velocity, x_init, seed=7)             # velocity(x, sigma, step) -> v
traj.latents, traj.log_probs, traj.relative_l1                   # (B, T+1, …), (B, S), (B, S)
plan     = cg.ChunkPlan([2, 3, 4, 7])                            # or .fixed(16, 5), .adaptive(traj.relative_l1)
chosen   = plan.select(batch=len(x_init), fraction=0.5, weights=plan.weights(traj.relative_l1), seed=3)
adv      = cg.advantages(rewards, group_size=12, clamp=5.0)
out      = cg.chunk_loss(new_logp, traj.log_probs, adv, plan, clip=(5e-5, 5e-5), selection=chosen, kl=0.04)
out.loss, out.grad_log_probs, out.ratios, out.stats              # selection may also be a list of chunk indices a sample
"""


def test_the_first_block_runs_as_written():
    rng = np.random.default_rng(0)
    x, v, eps, x_init = rng.normal(size=(4, 24, 2, 4, 4)).astype(np.float32)
    given = {
        "k": 3,
        **{"x": x, "v": v, "eps": eps, "x_init": x_init},
        "grad_log_prob": rng.normal(size=24),
        "velocity": lambda x, sigma, step: x * sigma,
        "rewards": rng.normal(size=24),
        "new_logp": rng.normal(size=(24, 16)) * 1e-5,
    }
    # The rollout makes the log-probabilities that new_logp is near to; give the block those.
    import chunkgrpo as cg

    traj = cg.Sampler(cg.Schedule.shifted(17, 3.0)).rollout(given["velocity"], x_init, seed=7)
    given["new_logp"] = traj.log_probs + given["new_logp"]
    exec(BLOCK, given)
    assert given["schedule"].sigmas.shape == (18,)
    assert given["logp"].shape == (24,) and given["dv"].shape == v.shape and given["dv"].dtype == v.dtype
    assert given["traj"].latents.shape == (24, 18, 2, 4, 4)
    assert given["traj"].log_probs.shape == given["traj"].relative_l1.shape == (24, 16)
    assert given["chosen"].shape == (24, 4) and (given["chosen"].sum(1) == 2).all()
    assert given["out"].grad_log_probs.shape == (24, 16) and given["out"].ratios.shape == (24, 4)
    assert np.isfinite(given["out"].loss) and given["out"].stats.selected == 48


def test_the_first_example_runs():
    env = {**os.environ, "PYTHONPATH": str(ROOT / "bindings/python")}
    script = ROOT / "examples/python/first.py"
    done = subprocess.run([sys.executable, script], env=env, capture_output=True, text=True, check=True)
    rewards = [float(line.split()[-1]) for line in done.stdout.splitlines() if "reward" in line]
    assert rewards[0] < -0.8 and rewards[-1] > -0.2
