"""Schedules against diffusers' numbers where conventions agree, and against the closed forms."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import chunkgrpo as cg
from conftest import reference

CASES = reference("schedules")


def test_linear_is_one_minus_k_over_t():
    np.testing.assert_allclose(cg.Schedule.linear(10).sigmas, 1 - np.arange(11) / 10, rtol=1e-15, atol=1e-16)


@pytest.mark.parametrize("shift", [0.25, 1.0, 3.0, 12.0])
def test_shifted_is_the_closed_form(shift):
    t = 1 - np.arange(18) / 17
    np.testing.assert_allclose(cg.Schedule.shifted(17, shift).sigmas, shift * t / (1 + (shift - 1) * t), rtol=1e-14)


def test_shift_one_is_linear():
    np.testing.assert_allclose(cg.Schedule.shifted(28, 1).sigmas, cg.Schedule.linear(28).sigmas, rtol=1e-15)


@pytest.mark.parametrize("case", [c for c in CASES if c["mu"]], ids=lambda c: f"{c['name']}-{c['steps']}-mu{c['mu']}")
def test_dynamic_shift_of_diffusers_is_a_static_shift(case):
    """On the same base points 1 ... 1/n: its linear form is shift = mu, its exponential form shift = e^mu. (Its own
    static schedules have other base points, 1 ... 0.001.)"""
    shift = case["mu"] if case["name"] == "dynamic-linear" else np.exp(case["mu"])
    np.testing.assert_allclose(cg.Schedule.shifted(case["steps"], shift).sigmas, case["sigmas"], rtol=1e-6)


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c['name']}-{c['steps']}")
def test_every_schedule_of_diffusers_can_be_brought(case):
    schedule = cg.Schedule(case["sigmas"])
    np.testing.assert_array_equal(schedule.sigmas, case["sigmas"])
    assert len(schedule) == schedule.steps == case["steps"]


def test_sigmas_are_read_only_and_a_copy():
    mine = np.array([1.0, 0.5, 0.0])
    schedule = cg.Schedule(mine)
    mine[1] = 0.9
    assert schedule.sigmas[1] == 0.5
    with pytest.raises(ValueError):
        schedule.sigmas[0] = 2
    assert schedule == cg.Schedule([1, 0.5, 0]) != cg.Schedule([1, 0.4, 0])


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['name']}-{case['steps']}-{case['mu']}")
def test_schedules_are_those_of_diffusers(case):
    config = case["config"]
    spacing = [name for name in ("karras", "exponential", "beta") if config.get(f"use_{name}_sigmas")]
    dynamic = config.get("use_dynamic_shifting", False)
    schedule = cg.Schedule.make(
        case["steps"],
        base="linear" if case["input_sigmas"] else "diffusers",
        shift=config.get("shift", 1.0),
        shift_kind=config["time_shift_type"] if dynamic else "static",
        mu=case["mu"] if dynamic else None,
        terminal=config.get("shift_terminal"),
        spacing=spacing[0] if spacing else "shifted",
    )
    np.testing.assert_allclose(schedule.sigmas, case["sigmas"], rtol=0, atol=1e-6)
    np.testing.assert_allclose(schedule.timesteps(), case["timesteps"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("steps, shift, terminal", [(1, 1.0, None), (4, 5.0, None), (10, 3.0, 0.1), (50, 5.0, None)])
def test_the_base_of_unipc_is_that_of_its_scheduler(steps, shift, terminal):
    diffusers = pytest.importorskip("diffusers")
    given = dict(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift, shift_terminal=terminal)
    scheduler = diffusers.UniPCMultistepScheduler(**given)
    scheduler.set_timesteps(steps)
    schedule = cg.Schedule.make(steps, base="unipc", shift=shift, terminal=terminal)
    assert schedule.sigmas[0] == 1  # where that scheduler has 1 - 1e-6
    np.testing.assert_allclose(schedule.sigmas, scheduler.sigmas.numpy(), rtol=0, atol=2e-6)
    np.testing.assert_allclose(schedule.sigmas[1:], scheduler.sigmas.numpy()[1:], rtol=0, atol=1e-7)
    assert steps == 1 or abs(schedule.sigmas[1] - cg.Schedule.make(steps, shift=shift, terminal=terminal).sigmas[1]) > 1e-6


@pytest.mark.parametrize("width, height", [(1920, 1080), (720, 1080), (1000, 1000), (1366, 768), (1024, 1024)])
def test_flux_counts_the_tokens_of_the_pipeline(width, height):
    tokens = (width // 16) * (height // 16)
    mu = 0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256)
    t = 1 - np.arange(29) / 28
    with np.errstate(divide="ignore"):
        sigmas = np.exp(mu) / (np.exp(mu) + (1 / t - 1))
    np.testing.assert_allclose(cg.Schedule.flux(28, width, height).sigmas, sigmas, rtol=1e-12)


@pytest.mark.parametrize("base", ["linear", "diffusers", "unipc"])
@pytest.mark.parametrize("spacing", ["shifted", "karras", "exponential", "beta"])
def test_one_step_goes_from_1_to_0_as_in_diffusers(base, spacing):
    assert cg.Schedule.make(1, base=base, shift=3, spacing=spacing) == cg.Schedule([1, 0])


def test_latents_of_one_step_have_no_change():
    assert cg.relative_l1(np.zeros((3, 1, 4))).shape == (3, 0)


@pytest.mark.parametrize("first", [0.99999988, 1.0000001192092896])
def test_a_first_sigma_within_float32_of_1_is_1(first):
    schedule = cg.Schedule([first, 0.5, 0])
    assert schedule.sigmas[0] == 1 and schedule == cg.Schedule([1, 0.5, 0])
    assert cg.Sampler(schedule, eta=0.7).coefficients(0) == cg.Sampler([1, 0.5, 0], eta=0.7).coefficients(0)


def test_flux_shifts_by_the_size_of_the_image():
    assert cg.flux_mu(256 * 256) == pytest.approx(0.5) and cg.flux_mu(1024 * 1024) == pytest.approx(1.15)
    flux = cg.Schedule.flux(28, 1024, 1024)
    assert flux == cg.Schedule.make(28, shift_kind="exponential", mu=cg.flux_mu(2**20))
    assert flux.timesteps(truncated=True)[1] == int(1000 * flux.sigmas[1])


@pytest.mark.parametrize(
    "name, call",
    [
        ("mu", lambda: cg.Schedule.make(5, mu=1.0)),
        ("mu", lambda: cg.Schedule.make(5, shift_kind="linear", mu=-1.0)),
        ("terminal", lambda: cg.Schedule.make(5, terminal=0)),
        ("terminal", lambda: cg.Schedule.make(5, terminal=1.0)),
        ("spacing", lambda: cg.Schedule.make(5, spacing="even")),
        ("terminal", lambda: cg.Schedule.make(1, terminal=0.1)),
        ("pixels", lambda: cg.flux_mu(0)),
        ("ratio", lambda: cg.Schedule.flash(10, 3.0, kept=8, ratio=0.1)),
        ("kept", lambda: cg.Schedule.flash(10, 3.0, kept=0, ratio=0.5)),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(name, call):
    with pytest.raises(cg.InvalidArgument, match=name):
        call()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_schedule_can_be_copied_and_pickled(schedule, copied):
    assert copied(schedule) == schedule and not copied(schedule).sigmas.flags.writeable


class Own(cg.Schedule):
    """At the module's level, for pickle."""


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_is_of_the_same_class(copied):
    own = Own(*([1.0, 0.5, 0.0],))
    twin = copied(own)
    assert type(twin) is Own and twin.steps == own.steps
