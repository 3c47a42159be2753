"""Steps, log-probabilities and gradients against the numbers of public implementations."""

from __future__ import annotations

import numpy as np
import pytest

import chunkgrpo as cg
from conftest import reference

CASES = reference("steps")
IDS = [f"{c['dynamics']}-T{c['num_steps']}-eta{c['eta']}-step{c['index']}" for c in CASES]
each_case = pytest.mark.parametrize("case", CASES, ids=IDS)
each_type = pytest.mark.parametrize("dtype", [np.float64, np.float32])


def sampler_of(case):
    form = "squared_error" if case["dynamics"] == "cps" else "gaussian"  # as the source has it
    schedule = cg.Schedule.shifted(case["num_steps"], case["shift"])
    return cg.Sampler(schedule, case["dynamics"], case["eta"], log_prob=form)


def tolerance(case, dtype):
    if dtype == np.float32:
        return 1e-5
    return 1e-6 if case["dynamics"] == "dance_sde" else 1e-12  # its source computes in float32


def close(actual, expected, relative):
    expected = np.asarray(expected, np.float64)
    scale = np.abs(expected).max()  # of the whole array: single elements may cancel
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=relative, atol=relative * scale)


@each_case
def test_schedule_has_the_sigmas_of_the_source(case):
    sigmas = cg.Schedule.shifted(case["num_steps"], case["shift"]).sigmas
    k = case["index"]
    assert sigmas[k] == pytest.approx(case["sigma"], rel=1e-14)
    assert sigmas[k + 1] == pytest.approx(case["sigma_next"], rel=1e-14)


@each_case
def test_coefficients_give_mean_and_standard_deviation(case):
    a, b, s, _ = sampler_of(case).coefficients(case["index"])
    relative = tolerance(case, np.float64)
    assert s == pytest.approx(case["std"], rel=relative)
    close(a * np.array(case["latents"]) + b * np.array(case["velocity"]), case["mean"], relative)


@each_case
@each_type
def test_step_with_given_noise(case, dtype):
    x, v, eps = (np.array(case[name], dtype) for name in ("latents", "velocity", "noise"))
    next_x, log_prob = sampler_of(case).step(case["index"], x, v, noise=eps)
    assert next_x.dtype == dtype and next_x.shape == x.shape
    close(next_x, case["next_latents"], tolerance(case, dtype))
    close(log_prob, case["log_prob"], max(tolerance(case, dtype), 1e-12))


@each_case
@each_type
def test_log_prob_of_given_next_latents(case, dtype):
    x, v, next_x = (np.array(case[name], dtype) for name in ("latents", "velocity", "next_latents"))
    close(sampler_of(case).log_prob(case["index"], x, v, next_x), case["log_prob"], tolerance(case, dtype))


@each_case
@each_type
def test_gradient_of_log_prob(case, dtype):
    x, v, next_x = (np.array(case[name], dtype) for name in ("latents", "velocity", "next_latents"))
    grad = sampler_of(case).log_prob_vjp(case["index"], x, v, next_x, case["grad_log_prob"])
    assert grad.dtype == dtype
    close(grad, case["grad_velocity"], tolerance(case, dtype))


@each_case
def test_predicted_image_is_the_ode_to_sigma_zero(case):
    sigma = case["sigma"]
    ode = cg.Sampler(cg.Schedule([sigma, 0.0]), "ode")
    x0, _ = ode.step(0, np.array(case["latents"]), np.array(case["velocity"]))
    close(x0, case["x0_prediction"], tolerance(case, np.float64))
