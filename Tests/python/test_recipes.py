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
    assert 0.99 < fit.explained <= 1 and "4 chunks over 16 steps: 0-1 | 2-4 | 5-8 | 9-15" in str(fit) and "%" in str(fit)
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


# ----------------------------------------------------------------------------------------------------------------------
# Samplers


def _draw(shape, seed):
    return np.random.default_rng(seed).standard_normal(shape)


def test_a_window_mixes_samplers_along_the_trajectory():
    schedule = cg.Schedule.shifted(10, 3.0)
    sampler = cg.Sampler(schedule, eta=0.7, window=[2, 3, 4], after="dpm_ode")
    assert sampler.stochastic_steps == [2, 3, 4]
    flow, ode = cg.Sampler(schedule, eta=0.7), cg.Sampler(schedule, "ode")
    assert all(sampler.coefficients(k) == flow.coefficients(k) for k in (2, 3, 4))
    assert all(sampler.coefficients(k) == ode.coefficients(k) for k in (0, 1))
    assert sampler.history_coefficient(5) != 0 and sampler.history_coefficient(9) == 0


def test_a_rollout_with_history_is_its_steps_and_goes_on_elsewhere():
    schedule = cg.Schedule.flash(10, 3.0, kept=4, ratio=0.8)
    sampler = cg.Sampler(schedule, eta=0.5, window=[1, 2, 3], after="dpm_ode")
    x = _draw((3, 5), 1)

    def velocity(x, sigma, step):
        return 0.5 * x - sigma

    whole = sampler.rollout(velocity, x, seed=4)
    image = None
    for k, sigma in enumerate(schedule.sigmas[:-1].tolist()):
        v = velocity(x, sigma, k)
        previous, image = image, sampler.predicted_image(k, x, v)
        np.testing.assert_array_equal(image, x + -sigma * v)
        x, log_prob = sampler.step(k, x, v, seed=4, previous_image=previous)
        np.testing.assert_array_equal(x, whole.latents[:, k + 1])
        if k < schedule.steps - 1:
            np.testing.assert_array_equal(log_prob, whole.log_probs[:, k])
    part = sampler.begin(whole.latents[:, 0], seed=4)
    part.advance(velocity, until=6)
    rest = sampler.begin(part.latents[:, 6], seed=4, position=6, previous_image=part.previous_image)
    rest.advance(velocity)
    np.testing.assert_array_equal(rest.images, whole.images)
    with pytest.raises(cg.InvalidArgument, match="previous_image"):
        sampler.begin(part.latents[:, 6], seed=4, position=6)


def test_guidance_goes_to_both_velocities():
    sampler = cg.Sampler(cg.Schedule.shifted(8, 3.0))
    x, v, u, next_x = (_draw((2, 7), i) for i in range(4))
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


def test_windows_move_along_the_trajectory():
    window = cg.SDEWindow(4, 9, iterations=2, stride=2)
    assert [window[i] for i in (0, 1, 2, 8, 9, 10)] == [
        [0, 1, 2, 3],
        [0, 1, 2, 3],
        [2, 3, 4, 5],
        [8],
        [8],
        [0, 1, 2, 3],
    ]
    subset = cg.SDEWindow(3, 12, strategy="subset", seed=5)
    assert len({tuple(subset[i]) for i in range(50)}) > 20 and all(len(set(subset[i])) == 3 for i in range(50))
    with pytest.raises(cg.InvalidArgument, match="iteration"):
        cg.SDEWindow(4, 8, iterations=1, at_end="stop")[2]


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
        ("ratio", lambda: cg.Schedule.flash(10, 3.0, kept=8, ratio=0.1)),
        ("kept", lambda: cg.Schedule.flash(10, 3.0, kept=0, ratio=0.5)),
        ("size", lambda: cg.SDEWindow(9, 8)),
        ("stride", lambda: cg.SDEWindow(2, 8, stride=0)),
        ("strategy", lambda: cg.SDEWindow(2, 8, strategy="sideways")),
        ("least", lambda: cg.SDEWindow(2, 8, strategy="linear_decay", least=30)),
    ],
)
def test_samplers_and_windows_that_make_no_sense_are_refused_by_name(name, call):
    with pytest.raises(cg.InvalidArgument, match=name):
        call()


# ----------------------------------------------------------------------------------------------------------------------
# Published recipes


@pytest.mark.parametrize("name", cg.RECIPES)
def test_a_recipe_runs_from_rollout_to_loss(name):
    recipe = cg.Recipe(name)
    assert str(recipe).startswith(name) and "refuses" in str(recipe)
    for iteration in (0, 30):
        sampler = recipe.sampler(iteration)
        groups = 2
        batch = groups * recipe.group_size
        x = cg.initial_noise((batch, 3), seed=1, group_size=recipe.group_size if recipe.share_noise else None)
        traj = sampler.rollout(lambda x, sigma, step: np.float32(0.5) * x, x, seed=2)
        adv = recipe.advantages(traj.images[:, 0])
        trained = sampler.stochastic_steps
        logp = traj.log_probs[:, trained]
        plan = recipe.plan(iteration)
        chosen = plan.select(batch, fraction=recipe.chunk_fraction)
        extra = {"divergence": np.zeros_like(logp)} if recipe.loss["surrogate"] == "divergence_mask" else {}
        out = cg.chunk_loss(logp, logp, adv, plan, selection=chosen, **recipe.loss, **extra)
        assert np.all(out.ratios == 1) and np.isfinite(out.loss)


def test_an_unknown_recipe_is_answered_with_those_there_are():
    with pytest.raises(cg.InvalidArgument, match="mixgrpo_flash"):
        cg.Recipe("ppo")


def test_a_history_compares_with_a_prompts_own_past():
    history = cg.RewardHistory(capacity=4, min_count=3)
    np.testing.assert_allclose(history.update(["a", "b"], [1.0, 3.0]), [-1, 1], atol=1e-5)
    own = np.array([1.0, 2.0, 6.0])
    second = history.update(["a", "a"], own[1:])
    np.testing.assert_allclose(second, (own[1:] - own.mean()) / (own.std() + 1e-6))
    with pytest.raises(cg.NonFinite, match="rewards"):
        history.update(["a"], [np.nan])
    with pytest.raises(cg.InvalidArgument, match="capacity"):
        cg.RewardHistory(0, 1)
