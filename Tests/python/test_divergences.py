"""Divergences through the binding. Their numbers are checked against the public code case by case in Swift
(VelocityObjectiveFixtureTests)."""

from __future__ import annotations

import numpy as np
import pytest

import chunkgrpo as cg

PLAN = cg.ChunkPlan([2, 1, 3])
SAMPLER = cg.Sampler(cg.Schedule.shifted(7, 3.0), eta=0.6)
ADV = np.array([1.2, -0.7, 0.4])


def policies(dtype=np.float64):
    """Latents, old and new velocities of a rollout."""
    x = cg.initial_noise((3, 5, 7), seed=1, dtype=dtype)
    old = lambda x, sigma, step: np.tanh(x + step)  # noqa: E731
    traj = SAMPLER.rollout(old, x, seed=4, sample_ids=[5, 6, 7])
    sigmas = SAMPLER.schedule.sigmas.tolist()
    v_old = np.stack([old(traj.latents[:, k], sigmas[k], k) for k in range(6)], axis=1)
    return traj, v_old, v_old + (0.1 * np.random.default_rng(2).normal(size=v_old.shape)).astype(dtype)


def test_divergences_are_their_definitions_and_the_old_mean_is_made_again():
    traj, old, new = policies()
    a, b, s = np.array([SAMPLER.coefficients(k)[:3] for k in range(6)]).T
    delta = -np.diff(SAMPLER.schedule.sigmas)[:6]
    squares = ((new - old) ** 2).mean(axis=(2, 3))
    expected = {
        "gaussian": b**2 * squares / (2 * s**2),
        "gaussian_per_time": b**2 * squares * delta / (2 * s**2),
        "mean": b**2 * squares,
        "velocity": squares,
    }
    for kind, value in expected.items():
        np.testing.assert_allclose(cg.divergences(SAMPLER, new, old, kind=kind), value, rtol=1e-12)
        again = cg.divergences_from_sampled(SAMPLER, traj.latents, new, seed=4, sample_ids=[5, 6, 7], kind=kind)
        np.testing.assert_allclose(again, value, rtol=1e-9)
    later = cg.divergences(SAMPLER, new[:, 2:4], old[:, 2:4], first_step=2)
    np.testing.assert_array_equal(later, cg.divergences(SAMPLER, new, old)[:, 2:4])


def guard(latents, new, old, log_probs):
    """GRPO-Guard: the whole objective from velocities, and its gradient in them."""
    scale = [SAMPLER.coefficients(k).s for k in range(6)]
    bias = cg.divergences(SAMPLER, new, old)
    out = cg.chunk_loss(
        SAMPLER.log_probs(latents, new), log_probs, ADV, PLAN, clip=0.01, kl=0.1, ratio_bias=bias, ratio_scale=scale
    )
    grad = SAMPLER.log_probs_vjp(latents, new, out.grad_log_probs)
    return out.loss, grad + cg.divergences_vjp(SAMPLER, new, old, out.grad_ratio_bias)


def test_guards_gradient_in_the_velocities_agrees_with_finite_differences():
    traj, old, new = policies()
    _, grad = guard(traj.latents, new, old, traj.log_probs)
    direction, h = np.random.default_rng(3).normal(size=new.shape), 1e-5
    up, down = (guard(traj.latents, new + step * direction, old, traj.log_probs)[0] for step in (h, -h))
    assert np.sum(grad * direction) == pytest.approx((up - down) / (2 * h), rel=1e-6)


def test_divergence_from_sampled_has_the_gradient_of_the_one_from_velocities():
    traj, old, new = policies()
    upstream = np.random.default_rng(4).normal(size=(3, 6))
    noise = np.stack([cg.normal((3, 5, 7), 4, k, [5, 6, 7], dtype=np.float64) for k in range(6)], axis=1)
    given = cg.divergences_vjp(SAMPLER, new, old, upstream, kind="mean")
    for source in ({"seed": 4, "sample_ids": [5, 6, 7]}, {"noise": noise}):
        sampled = cg.divergences_from_sampled_vjp(SAMPLER, traj.latents, new, upstream, kind="mean", **source)
        np.testing.assert_allclose(sampled, given, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-4), (np.float16, 0.2)])
def test_divergences_in_other_types(dtype, tolerance):
    traj, old, new = policies(dtype)
    value = cg.divergences(SAMPLER, new, old)
    exact = cg.divergences(SAMPLER, new.astype(np.float64), old.astype(np.float64))
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    again = cg.divergences_from_sampled(SAMPLER, traj.latents, new, seed=4, sample_ids=[5, 6, 7])
    np.testing.assert_allclose(again, exact, rtol=tolerance)


def test_the_divergence_of_one_step_is_that_of_the_formula_whatever_its_channels():
    rng = np.random.default_rng(6)
    v, other, upstream = rng.normal(size=(2, 5, 4)), rng.normal(size=(2, 5, 4)), rng.normal(size=2)
    for step in range(6):
        _, b, s, _ = SAMPLER.coefficients(step)
        expected = b**2 * ((v - other) ** 2).mean(axis=(1, 2)) / (2 * s**2)
        np.testing.assert_allclose(cg.divergence(SAMPLER, step, v, other), expected, rtol=1e-12)
        grad = cg.divergence_vjp(SAMPLER, step, v, other, upstream)
        slope = b**2 * (v - other) / (20 * s**2)
        np.testing.assert_allclose(grad, upstream[:, None, None] * slope, rtol=1e-9)


def test_the_divergence_of_one_step_in_every_framework():
    torch, jax = pytest.importorskip("torch"), pytest.importorskip("jax")
    import chunkgrpo.jax as cgj
    import chunkgrpo.torch as cgt

    rng = np.random.default_rng(7)
    v, other, upstream = rng.normal(size=(2, 4)), rng.normal(size=(2, 4)), rng.normal(size=2)
    expected = cg.divergence(SAMPLER, 3, v, other)
    slope = cg.divergence_vjp(SAMPLER, 3, v, other, upstream)
    leaf = torch.tensor(v, requires_grad=True)
    found = cgt.divergence(SAMPLER, 3, leaf, torch.tensor(other))
    (found * torch.tensor(upstream)).sum().backward()
    np.testing.assert_array_equal(found.detach(), expected)
    np.testing.assert_array_equal(leaf.grad, slope)
    for transform in (lambda f: f, jax.jit):
        found = transform(lambda v: cgj.divergence(SAMPLER, 3, v, other))(v)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        found = transform(jax.grad(lambda v: (cgj.divergence(SAMPLER, 3, v, other) * upstream).sum()))(v)
        np.testing.assert_allclose(found, slope, rtol=1e-4)


def test_an_axis_that_does_not_fit_the_schedule_is_refused():
    torch = pytest.importorskip("torch")
    import chunkgrpo.torch as cgt

    channels = np.ones((2, 16, 3))  # of one step, where the second axis is not that of the steps
    words = r"velocities has shape \(2, 16, 3\), which is 16 steps from step 3 on; the schedule has 7.*divergence\(s"
    with pytest.raises(cg.InvalidArgument, match=words):
        cg.divergences(SAMPLER, channels, channels, first_step=3)
    with pytest.raises(cg.InvalidArgument, match=words):
        cgt.divergences(SAMPLER, torch.tensor(channels), torch.tensor(channels), first_step=3)
    with pytest.raises(cg.WrongType, match="sampler must be a chunkgrpo.Sampler, not ndarray"):
        cg.divergence(channels, 3, channels, SAMPLER)
