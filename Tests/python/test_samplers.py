"""What the samplers promise beyond the reference numbers: closed forms, ends, gradients."""

from __future__ import annotations

import numpy as np
import pytest

import chunkgrpo as cg
from conftest import as_dtype, dtypes

DYNAMICS = ["flow_sde", "dance_sde", "cps", "ode"]


@pytest.mark.parametrize("schedule", [cg.Schedule.shifted(17, 3), cg.Schedule.linear(5)], ids=["shifted", "linear"])
def test_flow_sde_begins_with_a_deviation_of_eta(schedule):
    assert cg.Sampler(schedule, "flow_sde", 0.7).coefficients(0)[2] == pytest.approx(0.7, rel=1e-12)


def test_defaults_of_gcpo_have_the_published_deviations(schedule):
    flow = cg.Sampler(schedule)
    dance = cg.Sampler(schedule, "dance_sde")
    s = [flow.coefficients(k)[2] for k in (0, 1, 2, 3, 15, 16)]
    np.testing.assert_allclose(s, [0.70000, 0.72170, 0.51561, 0.42521, 0.15828, 0.12044], atol=5e-6)
    np.testing.assert_allclose([dance.coefficients(k)[2] for k in (0, 16)], [0.10000, 0.27815], atol=5e-6)


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_every_sampler_without_noise_is_the_ode(schedule, dynamics):
    ode = cg.Sampler(schedule, "ode")
    quiet = cg.Sampler(schedule, dynamics, eta=0)
    for k in range(17):
        np.testing.assert_allclose(quiet.coefficients(k), ode.coefficients(k), rtol=1e-14, atol=1e-15)


def test_last_step_of_cps_is_the_predicted_image(schedule):
    sampler = cg.Sampler(schedule, "cps")
    a, b, s = sampler.coefficients(16)
    assert (a, s) == (1.0, 0.0) and b == pytest.approx(-schedule.sigmas[16])


@pytest.mark.parametrize("dynamics", ["flow_sde", "dance_sde"])
def test_last_step_ode_takes_no_noise_and_only_the_last(schedule, dynamics):
    others, ode = (cg.Sampler(schedule, dynamics, last_step=how) for how in ("as_others", "ode"))
    assert [ode.coefficients(k) for k in range(16)] == [others.coefficients(k) for k in range(16)]
    a, b, s = ode.coefficients(16)
    assert (a, s) == (1.0, 0.0) and b == pytest.approx(-schedule.sigmas[16])
    assert others.coefficients(16)[2] > 0


def test_a_deterministic_step_needs_no_noise_and_has_log_probability_zero(schedule, x_init):
    sampler = cg.Sampler(schedule, "ode")
    next_x, log_prob = sampler.step(3, x_init, x_init)
    np.testing.assert_array_equal(log_prob, 0)
    with pytest.raises(cg.InvalidArgument, match="deterministic"):
        sampler.log_prob(3, x_init, x_init, next_x)


@pytest.mark.parametrize("dynamics", DYNAMICS[:3])
@pytest.mark.parametrize("form", ["gaussian", "squared_error"])
def test_vjp_agrees_with_finite_differences(dynamics, form):
    rng = np.random.default_rng(3)
    sampler = cg.Sampler(cg.Schedule.shifted(9, 2.0), dynamics, eta=0.6, log_prob=form)
    for trial in range(20):
        k, batch = int(rng.integers(8)), int(rng.integers(1, 5))
        shape = (batch, *rng.integers(1, 6, size=rng.integers(0, 3)))
        x, v, next_x, direction = rng.normal(size=(4, *shape))
        grad_log_prob = rng.normal(size=batch)
        grad = sampler.log_prob_vjp(k, x, v, next_x, grad_log_prob)
        h = 1e-3  # the log-probability is quadratic in v: central differences are exact
        up, down = (grad_log_prob @ sampler.log_prob(k, x, v + step * direction, next_x) for step in (h, -h))
        assert np.sum(grad * direction) == pytest.approx((up - down) / (2 * h), rel=1e-8, abs=1e-9)


def test_vjp_of_whole_trajectories_is_that_of_the_steps(schedule):
    rng = np.random.default_rng(4)
    sampler = cg.Sampler(schedule)
    latents, velocities = rng.normal(size=(3, 18, 2, 5)), rng.normal(size=(3, 6, 2, 5))
    grad = rng.normal(size=(3, 6))
    grad[:, 2] = 0
    whole = sampler.log_probs_vjp(latents, velocities, grad, first_step=4)
    log_probs = sampler.log_probs(latents, velocities, first_step=4)
    for t in range(6):
        step = latents[:, t], velocities[:, t], latents[:, t + 1]
        np.testing.assert_array_equal(log_probs[:, t], sampler.log_prob(4 + t, *step))
        np.testing.assert_array_equal(whole[:, t], sampler.log_prob_vjp(4 + t, *step, grad[:, t]))
    np.testing.assert_array_equal(whole[:, 2], 0)


def test_mean_squared_noise_is_d_times_the_variance(schedule, sampler):
    x = np.zeros((4, 100_000))
    next_x, log_prob = sampler.step(5, x, x, seed=2)
    s = sampler.coefficients(5)[2]
    np.testing.assert_allclose(np.mean(next_x**2, axis=1), s * s, rtol=4 * np.sqrt(2 / 100_000))
    np.testing.assert_allclose(log_prob, -0.5 - np.log(s) - 0.5 * np.log(2 * np.pi), atol=4 * np.sqrt(0.5 / 100_000))


@pytest.mark.parametrize("elements", [9, 20_000])  # one segment of a sample, and two
@pytest.mark.parametrize("threads", [1, 3])
@dtypes("float32", "bfloat16")
def test_a_trajectory_of_many_steps_is_its_steps(dtype_name, threads, elements):
    dtype, n = as_dtype(dtype_name), 39
    sampler = cg.Sampler(cg.Schedule.shifted(n + 1, 3.0), threads=threads)
    latents = cg.normal((3, (n + 1) * elements), 1, 0, dtype=dtype).reshape(3, n + 1, elements)
    v = cg.normal((3, n * elements), 2, 0, dtype=dtype).reshape(3, n, elements)
    grad = np.random.default_rng(0).standard_normal((3, n))
    grad[:, [0, 7, 8, 20, n - 1]] = 0  # whole steps, which are skipped
    grad[1, 5] = 0
    values, grads = sampler.log_probs(latents, v), sampler.log_probs_vjp(latents, v, grad)
    for k in range(n):
        x, next_x = (np.ascontiguousarray(latents[:, j]) for j in (k, k + 1))
        step_v = np.ascontiguousarray(v[:, k])
        np.testing.assert_array_equal(values[:, k], sampler.log_prob(k, x, step_v, next_x))
        expected = sampler.log_prob_vjp(k, x, step_v, next_x, grad[:, k].copy())
        np.testing.assert_array_equal(grads[:, k].astype(np.float32), expected.astype(np.float32))


def test_a_trajectory_names_the_first_step_that_is_not_finite():
    sampler = cg.Sampler(cg.Schedule.shifted(25, 3.0))
    latents, v = np.zeros((3, 25, 5), np.float32), np.zeros((3, 24, 5), np.float32)
    v[0, 21, 2], v[2, 18, 1], v[1, 18, 1] = np.nan, np.inf, np.nan
    for call in (lambda: sampler.log_probs(latents, v), lambda: sampler.log_probs_vjp(latents, v, np.ones((3, 24)))):
        with pytest.raises(cg.NonFinite, match="sample 1 at step 18"):
            call()


def test_a_trajectory_has_no_second_order_steps():
    sampler = cg.Sampler(cg.Schedule.shifted(8, 3.0), "dpm_sde")
    x, v = np.zeros((2, 8, 5), np.float32), np.zeros((2, 7, 5), np.float32)
    with pytest.raises(cg.InvalidArgument, match="second order"):
        sampler.log_probs(x, v)
    with pytest.raises(cg.InvalidArgument, match="second order"):
        sampler.log_probs_vjp(x, v, np.ones((2, 7)))
