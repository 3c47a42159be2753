"""Exact answers. For Gaussian data the optimal velocity is affine in x, so every moment and the policy gradient are
closed forms; rollouts must agree within four standard errors."""

from __future__ import annotations

import numpy as np
import pytest

import chunkgrpo as cg

MU, TAU, TARGET = 0.4, 0.6, 1.0
SAMPLES, SIZE = 100_000, 2
each_sde = pytest.mark.parametrize("dynamics", ["flow_sde", "dance_sde"])


def affine(sigma):
    """v*(x, sigma) = c x + d for data N(MU, TAU^2)."""
    c = (sigma - (1 - sigma) * TAU**2) / ((1 - sigma) ** 2 * TAU**2 + sigma**2)
    return c, -MU - c * (1 - sigma) * MU


def recursion(sampler, bias):
    """Mean and variance of an element before each step and after the last, and d mean_T / d bias_k."""
    mean, variance, sensitivity = [0.0], [1.0], []
    for k, sigma in enumerate(sampler.schedule.sigmas[:-1]):
        a, b, s, _ = sampler.coefficients(k)
        c, d = affine(sigma)
        mean.append((a + b * c) * mean[-1] + b * (d + bias[k]))
        variance.append((a + b * c) ** 2 * variance[-1] + s * s)
        sensitivity = [(a + b * c) * value for value in sensitivity] + [b]
    return np.array(mean), np.array(variance), np.array(sensitivity)


def policy(bias):
    def velocity(x, sigma, step):
        c, d = affine(sigma)
        return c * x + (d + bias[step])

    return velocity


def rollout(dynamics, bias, seed):
    sampler = cg.Sampler(cg.Schedule.shifted(17, 3.0), dynamics, eta=0.7, threads=2)
    x_init = cg.initial_noise((SAMPLES, SIZE), seed, dtype=np.float64)
    return sampler, sampler.rollout(policy(bias), x_init, seed=seed)


@each_sde
def test_moments_after_every_step(dynamics):
    sampler, trajectory = rollout(dynamics, np.zeros(17), seed=5)
    mean, variance, _ = recursion(sampler, np.zeros(17))
    n = SAMPLES * SIZE
    actual = trajectory.latents
    assert (np.abs(actual.mean((0, 2)) - mean) <= 4 * np.sqrt(variance / n)).all()
    # Over all elements around the exact mean, so that it is an average of n independent numbers.
    spread = ((actual - mean[None, :, None]) ** 2).mean((0, 2))
    assert (np.abs(spread - variance) <= 4 * variance * np.sqrt(2 / n)).all()


@each_sde
@pytest.mark.parametrize("sizes", [[1] * 16, [2, 3, 4, 7], [16]], ids=["steps", "chunks", "sequence"])
def test_mean_policy_gradient_is_the_exact_one(dynamics, sizes):
    bias = 0.1 * np.sin(np.arange(17))
    sampler, trajectory = rollout(dynamics, bias, seed=6)
    mean, variance, sensitivity = recursion(sampler, bias)
    # R = -mean over elements of (x_T - TARGET)^2
    expected_reward = -((mean[-1] - TARGET) ** 2 + variance[-1])
    exact = -2 * (mean[-1] - TARGET) * sensitivity[:16]
    rewards = -((trajectory.images - TARGET) ** 2).mean(1)

    velocity = policy(bias)
    sigmas = sampler.schedule.sigmas
    velocities = np.stack([velocity(trajectory.latents[:, k], sigmas[k], k) for k in range(16)], axis=1)
    log_probs = sampler.log_probs(trajectory.latents, velocities)
    plan = cg.ChunkPlan(sizes)
    out = cg.chunk_loss(log_probs, trajectory.log_probs, rewards - expected_reward, plan)
    assert (out.ratios == 1).all()
    grad = sampler.log_probs_vjp(trajectory.latents, velocities, out.grad_log_probs).sum(2)
    # The loss averages over samples and shares itself out to steps by the plan's weights; log-probabilities are means
    # over elements, so that the score is SIZE times theirs.
    each = -grad * SAMPLES * SIZE / plan.step_weights
    error = each.std(0) / np.sqrt(SAMPLES)
    assert (np.abs(each.mean(0) - exact) <= 4 * error).all()
    assert (np.abs(exact) > 8 * error).any()  # the test can tell the gradient from none
