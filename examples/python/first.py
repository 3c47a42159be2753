"""Chunk-GRPO on a model of your own, in numpy alone.

The model here is the exact velocity field of Gaussian data plus one number per step, and those numbers are trained: the
reward wants brighter images than the data has. Put your own network where `velocity` is, and give `grad_v` to its
backward pass.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).resolve().parents[2] / "bindings/python"))  # where chunkgrpo is not installed

import chunkgrpo as cg

DATA_MEAN, DATA_STD, WANTED = 0.0, 0.5, 1.0
LEARNING_RATE = 60  # large, for log-probabilities are means over elements and chunks
parser = argparse.ArgumentParser(
    description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
)
parser.add_argument("--iterations", type=int, default=20, help="each of two updates")
options = parser.parse_args()
bias = np.zeros(17, np.float32)


def velocity(x: NDArray[np.float32], sigma: float, step: int) -> NDArray[np.float32]:
    """The best velocity for images ~ N(DATA_MEAN, DATA_STD^2), and what is learned."""
    variance = (1 - sigma) ** 2 * DATA_STD**2 + sigma**2
    centred = x - (1 - sigma) * DATA_MEAN
    return -DATA_MEAN + (sigma - (1 - sigma) * DATA_STD**2) / variance * centred + bias[step]


def reward(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return -np.abs(images.mean(axis=(1, 2)) - WANTED)


schedule = cg.Schedule.shifted(steps=17, shift=3.0)
sampler = cg.Sampler(schedule, dynamics="flow_sde", eta=0.7)
plan = cg.ChunkPlan([2, 3, 4, 7])
sigmas = schedule.sigmas.tolist()  # Python floats leave float32 latents float32
print(f"plan: {plan}")

for iteration in range(options.iterations):
    # 8 prompts, 12 samples of each that start from the same noise
    x_init = cg.initial_noise((96, 4, 4), seed=iteration, group_size=12)
    traj = sampler.rollout(velocity, x_init, seed=iteration)
    rewards = reward(traj.images)
    adv = cg.advantages(rewards, group_size=12)
    weights = plan.weights(traj.relative_l1)
    for update in range(2):
        chosen = plan.select(batch=96, fraction=0.5, weights=weights, seed=2 * iteration + update)
        new_v = np.stack([velocity(traj.latents[:, k], sigmas[k], k) for k in range(plan.steps)], axis=1)
        new_logp = sampler.log_probs(traj.latents, new_v)
        out = cg.chunk_loss(new_logp, traj.log_probs, adv, plan, clip=0.01, selection=chosen)
        grad_v = sampler.log_probs_vjp(traj.latents, new_v, out.grad_log_probs)
        bias[: plan.steps] -= LEARNING_RATE * grad_v.sum(axis=(0, 2, 3))  # the backward pass of this model
    if iteration % 4 == 3 or iteration == 0:
        stats = out.stats
        print(
            f"iteration {iteration + 1:2}   ratio {stats.ratio_mean:.4f} +- {stats.ratio_std:.4f}   "
            f"clipped {stats.clip_fraction_low + stats.clip_fraction_high:.2f}   reward {rewards.mean():+.3f}"
        )
