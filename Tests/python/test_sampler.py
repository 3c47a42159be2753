"""What the samplers promise beyond the reference numbers: closed forms, ends, gradients."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import chunkgrpo as cg
from conftest import as_dtype, dtypes

DYNAMICS = ["flow_sde", "dance_sde", "cps", "ode"]


@pytest.mark.parametrize("schedule", [cg.Schedule.shifted(17, 3), cg.Schedule.linear(5)], ids=["shifted", "linear"])
def test_flow_sde_begins_with_a_deviation_of_eta(schedule):
    assert cg.Sampler(schedule, "flow_sde", 0.7).coefficients(0).s == pytest.approx(0.7, rel=1e-12)


def test_defaults_of_gcpo_have_the_published_deviations(schedule):
    flow = cg.Sampler(schedule)
    dance = cg.Sampler(schedule, "dance_sde")
    s = [flow.coefficients(k).s for k in (0, 1, 2, 3, 15, 16)]
    np.testing.assert_allclose(s, [0.70000, 0.72170, 0.51561, 0.42521, 0.15828, 0.12044], atol=5e-6)
    np.testing.assert_allclose([dance.coefficients(k).s for k in (0, 16)], [0.10000, 0.27815], atol=5e-6)


def test_the_wan_sde_falls_to_sigma_min(schedule):
    etas = [0.05 + (schedule.sigmas[1] - 0.05) * sigma for sigma in schedule.sigmas[:-1]]
    wan, dance = cg.Sampler(schedule, "wan_sde", wan_sigma_min=0.05), cg.Sampler(schedule, "dance_sde", etas=etas)
    assert [wan.coefficients(k) for k in range(17)] == [dance.coefficients(k) for k in range(17)]
    with pytest.raises(cg.InvalidArgument, match="wan_sigma_min"):
        cg.Sampler(schedule, wan_sigma_min=0.05)


@pytest.mark.parametrize("dynamics", DYNAMICS)
def test_every_sampler_without_noise_is_the_ode(schedule, dynamics):
    ode = cg.Sampler(schedule, "ode")
    quiet = cg.Sampler(schedule, dynamics, eta=0)
    for k in range(17):
        np.testing.assert_allclose(quiet.coefficients(k), ode.coefficients(k), rtol=1e-14, atol=1e-15)


def test_last_step_of_cps_is_the_predicted_image(schedule):
    sampler = cg.Sampler(schedule, "cps")
    a, b, s, _ = sampler.coefficients(16)
    assert (a, s) == (1.0, 0.0) and b == pytest.approx(-schedule.sigmas[16])


@pytest.mark.parametrize("dynamics", ["flow_sde", "dance_sde"])
def test_last_step_ode_takes_no_noise_and_only_the_last(schedule, dynamics):
    others, ode = (cg.Sampler(schedule, dynamics, last_step=how) for how in ("as_others", "ode"))
    assert [ode.coefficients(k) for k in range(16)] == [others.coefficients(k) for k in range(16)]
    a, b, s, _ = ode.coefficients(16)
    assert (a, s) == (1.0, 0.0) and b == pytest.approx(-schedule.sigmas[16])
    assert others.coefficients(16).s > 0


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
        shape = (batch, *rng.integers(1, 6, size=rng.integers(1, 4)))
        x, v, next_x, direction = rng.normal(size=(4, *shape))
        grad_log_prob = rng.normal(size=batch)
        grad = sampler.log_prob_vjp(k, x, v, next_x, grad_log_prob)
        h = 1e-3  # the log-probability is quadratic in v: central differences are exact
        up, down = (grad_log_prob @ sampler.log_prob(k, x, v + step * direction, next_x) for step in (h, -h))
        assert np.sum(grad * direction) == pytest.approx((up - down) / (2 * h), rel=1e-8, abs=1e-9)


def test_vjp_of_whole_trajectories_is_that_of_the_steps(schedule):
    rng = np.random.default_rng(4)
    sampler = cg.Sampler(schedule)
    latents, velocities = rng.normal(size=(3, 14, 2, 5)), rng.normal(size=(3, 6, 2, 5))
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
    s = sampler.coefficients(5).s
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


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
@pytest.mark.parametrize(
    "options",
    [
        {},
        dict(dynamics="cps", eta=0.5, log_prob="squared_error", threads=3),
        dict(etas=np.linspace(0.1, 0.9, 17), last_step="ode"),
        dict(dynamics="dpm_sde", window=[2, 3], outside="dpm_ode", after="ode", dpm_order=1),
    ],
)
def test_a_sampler_can_be_copied_and_pickled(schedule, options, copied):
    sampler = cg.Sampler(schedule, **options)
    twin = copied(sampler)
    assert twin is not sampler and twin.schedule == schedule and twin.options == sampler.options
    assert [twin.coefficients(k) for k in range(17)] == [sampler.coefficients(k) for k in range(17)]
    assert repr(twin) == repr(sampler)
    for name, value in options.items():
        assert np.array_equal(twin.options[name], value), name
    del sampler
    assert len(twin.stochastic_steps) > 0


def test_a_sampler_says_what_it_is_made_of(schedule):
    assert repr(cg.Sampler(schedule)) == "Sampler('flow_sde', eta=0.7, steps=17)"
    sampler = cg.Sampler(schedule, "cps", 0.5, window=[1, 2], after="dpm_ode")
    assert repr(sampler) == "Sampler('cps', eta=0.5, steps=17, window=[1, 2], after='dpm_ode')"


def draw(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape)


def test_a_window_mixes_samplers_along_the_trajectory():
    schedule = cg.Schedule.shifted(10, 3.0)
    sampler = cg.Sampler(schedule, eta=0.7, window=[2, 3, 4], after="dpm_ode")
    assert sampler.stochastic_steps == [2, 3, 4]
    flow, ode = cg.Sampler(schedule, eta=0.7), cg.Sampler(schedule, "ode")
    assert all(sampler.coefficients(k) == flow.coefficients(k) for k in (2, 3, 4))
    assert all(sampler.coefficients(k) == ode.coefficients(k) for k in (0, 1))
    assert sampler.coefficients(5).c != 0 and sampler.coefficients(9).c == 0


def test_guidance_goes_to_both_velocities():
    sampler = cg.Sampler(cg.Schedule.shifted(8, 3.0))
    x, v, u, next_x = (draw((2, 7), i) for i in range(4))
    w, grad = 4.5, np.array([1.0, -2.0])
    guided = u + w * (v - u)
    kwargs = dict(unconditional=u, guidance=w)
    np.testing.assert_allclose(sampler.log_prob(3, x, v, next_x, **kwargs), sampler.log_prob(3, x, guided, next_x))
    np.testing.assert_allclose(sampler.step(3, x, v, seed=1, **kwargs)[0], sampler.step(3, x, guided, seed=1)[0])
    whole = sampler.log_prob_vjp(3, x, guided, next_x, grad)
    dv, du = sampler.log_prob_vjp(3, x, v, next_x, grad, **kwargs)
    np.testing.assert_allclose(dv, w * whole)
    np.testing.assert_allclose(du, (1 - w) * whole)


def test_etas_are_a_noise_scale_a_step():
    schedule = cg.Schedule.shifted(5, 3.0)
    etas = [0.1, 0.9, 0.0, 0.4, 0.7]
    sampler = cg.Sampler(schedule, etas=etas)
    for k, eta in enumerate(etas):
        assert sampler.coefficients(k) == cg.Sampler(schedule, eta=eta).coefficients(k)


@pytest.mark.parametrize(
    "name, call",
    [
        ("window", lambda: cg.Sampler(cg.Schedule.linear(5), window=[])),
        ("window", lambda: cg.Sampler(cg.Schedule.linear(5), window=[1, 1])),
        ("window", lambda: cg.Sampler(cg.Schedule.linear(5), window=[5])),
        ("outside", lambda: cg.Sampler(cg.Schedule.linear(5), outside="flow_sde")),
        ("after", lambda: cg.Sampler(cg.Schedule.linear(5), after="cps")),
        ("etas", lambda: cg.Sampler(cg.Schedule.linear(5), etas=[1.0])),
        ("dpm_order", lambda: cg.Sampler(cg.Schedule.linear(5), dpm_order=3)),
        ("previous_image", lambda: cg.Sampler(cg.Schedule.linear(5), "dpm_ode").step(2, np.ones((1, 2)), np.ones((1, 2)))),
        ("guidance", lambda: cg.Sampler(cg.Schedule.linear(5)).step(2, np.ones((1, 2)), np.ones((1, 2)), seed=1, guidance=2)),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(name, call):
    with pytest.raises(cg.InvalidArgument, match=name):
        call()


class Own(cg.Sampler):
    """At the module's level, for pickle."""


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_is_of_the_same_class(copied):
    own = Own(*(cg.Schedule.linear(4),))
    twin = copied(own)
    assert type(twin) is Own and twin.options == own.options
