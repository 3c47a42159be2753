"""Schedules against diffusers' numbers where conventions agree, and against the closed forms."""

from __future__ import annotations

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
