"""Schedules, plans and advantages of other code bases, through the binding. Their numbers are checked case by case in Swift
(AdvantageFixtureTests, ScheduleTests); here the options must arrive."""

import json
from pathlib import Path

import numpy as np
import pytest

import chunkgrpo as cg

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
SCHEDULES = json.loads((FIXTURES / "schedules.json").read_text())


@pytest.mark.parametrize("case", SCHEDULES, ids=lambda case: f"{case['name']}-{case['steps']}-{case['mu']}")
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


def test_flux_shifts_by_the_size_of_the_image():
    assert cg.flux_mu(256 * 256) == pytest.approx(0.5) and cg.flux_mu(1024 * 1024) == pytest.approx(1.15)
    flux = cg.Schedule.flux(28, 1024, 1024)
    assert flux == cg.Schedule.make(28, shift_kind="exponential", mu=cg.flux_mu(2**20))
    assert flux.timesteps(truncated=True)[1] == int(1000 * flux.sigmas[1])


def test_a_plan_is_found_and_carried_to_another_schedule():
    curve = np.repeat([1.0, 0.4, 0.1, 0.35], [2, 3, 4, 7])
    noisy = curve * np.exp(0.03 * np.random.default_rng(0).standard_normal((32, 16)))
    fit = cg.ChunkPlan.optimal(noisy)
    assert fit.plan == cg.ChunkPlan([2, 3, 4, 7])
    np.testing.assert_allclose(fit.curve, noisy.mean(axis=0) + 1e-8, rtol=1e-12)
    np.testing.assert_allclose(fit.levels, [fit.curve[steps].mean() for steps in fit.plan.slices])
    assert 0.99 < fit.explained <= 1 and "2-4" in str(fit) and "%" in str(fit)
    assert len(cg.ChunkPlan.optimal(noisy, 6, max_size=4).plan) == 6
    short, long = cg.Schedule.shifted(17, 3.0), cg.Schedule.shifted(50, 3.0)
    carried = fit.plan.carried(short, long)
    assert carried.steps == 49 and carried.carried(long, short) == fit.plan


def test_groups_may_come_in_any_order_and_size():
    rewards = np.array([1.0, 5.0, 2.0, 7.0, 3.0])
    prompts = ["cat", "dog", "cat", "dog", "cat"]
    adv = cg.advantages(rewards, groups=prompts, epsilon=0)
    np.testing.assert_allclose(adv[[0, 2, 4]], [-1, 0, 1])
    np.testing.assert_allclose(adv[[1, 3]], np.array([-1, 1]) / np.sqrt(2))
    assert np.array_equal(adv, cg.advantages(rewards, groups=np.array([7, 3, 7, 3, 7]), epsilon=0))


def test_options_of_advantages_arrive():
    r = np.random.default_rng(1).standard_normal(12)
    g = r.reshape(3, 4)
    free = dict(group_size=4, epsilon=0.0, clamp=np.inf)
    centred = g - g.mean(1, keepdims=True)
    np.testing.assert_allclose(cg.advantages(r, **free, scale="none"), centred.ravel())
    np.testing.assert_allclose(cg.advantages(r, **free, scale="batch"), centred.ravel() / r.std(ddof=1))
    np.testing.assert_allclose(
        cg.advantages(r, **free, deviation="population"), (centred / g.std(1, keepdims=True)).ravel()
    )
    rloo = g - (g.sum(1, keepdims=True) - g) / 3
    np.testing.assert_allclose(cg.advantages(r, **free, baseline="leave_one_out", scale="none"), rloo.ravel())
    np.testing.assert_allclose(
        cg.advantages(r, **free, baseline="batch", scale="batch"), (r - r.mean()) / r.std(ddof=1)
    )
    np.testing.assert_allclose(
        cg.advantages(r, **{**free, "epsilon": 0.5}), (centred / (g.std(1, ddof=1, keepdims=True) + 0.5)).ravel()
    )
    np.testing.assert_allclose(cg.advantages(r, **free, floor=100.0), centred.ravel() / 100)
    half = cg.advantages(r, **free, subtract_median=True).reshape(3, 4)
    np.testing.assert_allclose(np.median(half, axis=1), 0, atol=1e-15)
    kept = np.sort(g, axis=1)[:, 1:]
    trimmed = (g - kept.mean(1, keepdims=True)) / kept.std(1, ddof=1, keepdims=True)
    np.testing.assert_allclose(cg.advantages(r, **free, trim=0.25), trimmed.ravel())


def test_several_rewards_are_mixed_three_ways():
    r = np.random.default_rng(2).standard_normal((8, 2)) * [1, 100]
    w = np.array([0.7, 0.3])
    free = dict(group_size=4, epsilon=0.0, clamp=np.inf)

    def normal(x):
        return cg.advantages(x, **free)

    np.testing.assert_allclose(cg.advantages(r, **free, weights=w), normal(r @ w))
    np.testing.assert_allclose(cg.advantages(r, **free), normal(r.sum(1)))
    separate = w[0] * normal(r[:, 0]) + w[1] * normal(r[:, 1])
    np.testing.assert_allclose(cg.advantages(r, **free, weights=w, mixing="normalised_sum"), separate)
    np.testing.assert_allclose(
        cg.advantages(r, **free, weights=w, mixing="gdpo"), (separate - separate.mean()) / separate.std(ddof=1)
    )


def test_best_of_n_keeps_both_ends():
    assert cg.best_of_n([3.0, 1.0, 2.0, 5.0, 4.0], 3).tolist() == [False, True, False, True, True]


@pytest.mark.parametrize(
    "name, call",
    [
        ("mu", lambda: cg.Schedule.make(5, mu=1.0)),
        ("mu", lambda: cg.Schedule.make(5, shift_kind="linear", mu=-1.0)),
        ("terminal", lambda: cg.Schedule.make(5, terminal=0)),
        ("terminal", lambda: cg.Schedule.make(5, terminal=1.0)),
        ("spacing", lambda: cg.Schedule.make(5, spacing="even")),
        ("steps", lambda: cg.Schedule.make(1, spacing="karras")),
        ("pixels", lambda: cg.flux_mu(0)),
        ("count", lambda: cg.ChunkPlan.optimal(np.ones((1, 4)), 5)),
        ("explained", lambda: cg.ChunkPlan.optimal(np.ones((1, 4)), explained=1.0)),
        ("min_size", lambda: cg.ChunkPlan.optimal(np.ones((1, 4)), min_size=3, max_size=2)),
        ("trained", lambda: cg.ChunkPlan([2, 2]).carried(cg.Schedule.linear(9), cg.Schedule.linear(5))),
        ("too few", lambda: cg.ChunkPlan([1, 1, 1, 1]).carried(cg.Schedule.linear(5), cg.Schedule.linear(4))),
        ("groups", lambda: cg.advantages([1.0, 2.0], groups=[1])),
        ("groups", lambda: cg.advantages([1.0, 2.0], group_size=2, groups=[1, 1])),
        ("trim", lambda: cg.advantages([1.0, 2.0], trim=1.0)),
        ("trim", lambda: cg.advantages([1.0, 2.0, 3.0], trim=0.9)),
        ("trim", lambda: cg.advantages([1.0, 2.0, 3.0], trim=0.4, baseline="leave_one_out")),
        ("floor", lambda: cg.advantages([1.0, 2.0], floor=-1.0)),
        ("weights", lambda: cg.advantages([[1.0, 2.0]], weights=[1.0])),
        ("baseline", lambda: cg.advantages([1.0, 2.0], baseline="median")),
        ("keep", lambda: cg.best_of_n([1.0, 2.0], 3)),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(name, call):
    with pytest.raises(cg.InvalidArgument, match=name):
        call()
