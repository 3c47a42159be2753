"""Advantages of steps and trees, groups, weights of other engines' rollouts, forks. Numbers of the public code are compared
in Swift (CreditFixtureTests); here the binding, against numpy."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest
import torch

import chunkgrpo as cg
from conftest import ROOT

RNG = np.random.default_rng(2)
SAMPLER = cg.Sampler(cg.Schedule.shifted(7, 3.0), eta=0.6)


def normalised(values, size):
    groups = values.reshape(-1, size)
    return ((groups - groups.mean(1, keepdims=True)) / groups.std(1, ddof=1, keepdims=True)).ravel()


def test_gains_of_steps_become_advantages_of_steps():
    rewards = RNG.normal(size=(8, 5))
    gains = cg.step_gains(rewards)
    np.testing.assert_array_equal(gains, np.diff(rewards, axis=1))
    advantages = cg.step_advantages(gains, 4, epsilon=0, clamp=float("inf"))
    for k in range(4):
        np.testing.assert_allclose(advantages[:, k], normalised(gains[:, k], 4), rtol=1e-12)
    new, old = RNG.normal(size=(2, 8, 4)) * 0.1
    out = cg.chunk_loss(new, old, advantages, [1] * 4, surrogate="unclipped")
    assert out.loss == pytest.approx((-advantages * np.exp(new - old)).mean(), rel=1e-13)


def test_a_turning_point_gains_what_is_left():
    rewards = RNG.normal(size=(200, 6))
    gains = np.diff(rewards, axis=1)
    way = np.sign(gains) * np.sign(rewards[:, -1:] - rewards[:, :1])
    turns = (way > 0) & np.concatenate([np.ones((200, 1), bool), way[:, :-1] < 0], axis=1)
    expected = np.where(turns, rewards[:, -1:] - rewards[:, :-1], gains)
    np.testing.assert_array_equal(cg.step_gains(rewards, "turning_point"), expected)
    assert 0.2 < turns.mean() < 0.6


def test_a_tree_is_normalised_by_its_nodes():
    """Of any shape: against numpy, node by node."""
    rewards, groups = RNG.normal(size=12), np.repeat(["a", "b"], 6)
    first = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 3, 4])
    nodes = np.stack([first, np.arange(12) // 2 + 10 * first, np.arange(12)], 1)
    advantages = cg.tree_advantages(rewards, nodes, groups=groups, epsilon=0, clamp=float("inf"))
    for k in range(3):
        for group in "ab":
            ids, own = np.unique(nodes[groups == group, k], return_inverse=True)
            values = np.array([rewards[groups == group][own == i].mean() for i in range(len(ids))])
            expected = normalised(values, len(values))[own]
            np.testing.assert_allclose(advantages[groups == group, k], expected, rtol=1e-10)


def test_zero_std_groups_are_masked_and_counted():
    found = cg.zero_std_groups([1, 1, 2, 3, 5, 5], 2)
    assert found.mask.tolist() == [False, False, True, True, False, False] and found.mask.dtype == bool
    assert (found.groups, found.zero_std, found.ratio) == (3, 2, 2 / 3)
    assert cg.zero_std_groups([1, 1, 2, 3, 5], groups=["x", "y", "x", "y", "z"]).zero_std == 1
    assert isinstance(cg.zero_std_groups(torch.ones(4), 2).mask, torch.Tensor)


def test_win_rates():
    rewards = RNG.integers(4, size=30).astype(float)
    beaten = (rewards[:, None] > rewards).astype(float) + 0.5 * (rewards[:, None] == rewards) - 0.5 * np.eye(30)
    np.testing.assert_allclose(cg.win_rates(rewards, 30), beaten.sum(1) / 29, rtol=1e-14)


@pytest.mark.parametrize("level", ["step", "chunk", "sample"])
@pytest.mark.parametrize("mode", ["truncate", "mask", "reject", "reject_k2", "reject_k3"])
@pytest.mark.parametrize("geometric", [False, True])
def test_importance_weights(level, mode, geometric):
    plan, mask = cg.ChunkPlan([2, 1, 3]), np.ones((5, 6), bool)
    mask[1, [0, 4]] = mask[2, 2] = False
    log_probs = RNG.normal(size=(5, 6))
    behaviour = log_probs + 0.2 * RNG.normal(size=(5, 6))
    behaviour[~mask] = np.nan
    reduce = np.mean if geometric else np.sum
    bounds = {"truncate": lambda w: min(max(w, 0.9), 1.2), "mask": lambda w: w if 0.9 <= w <= 1.2 else 0}
    bounded = bounds.get(mode, lambda w: float(0.9 <= w <= 1.2))
    divergences = {"reject_k2": lambda d: d**2 / 2, "reject_k3": lambda d: np.exp(d) - 1 - d}
    several = 1 if geometric else {"step": 1, "chunk": 2, "sample": 6}[level]
    low, high = (0, 0.02 * several) if mode in divergences else (0.9, 1.2)
    delta = log_probs - behaviour

    def weight(t):
        if mode in divergences:
            return float(reduce(divergences[mode](delta[i, t])) <= high)
        return bounded(np.exp(reduce(delta[i, t])))

    expected = np.ones((5, 3))
    for i in range(5):
        for j, part in enumerate(plan.slices):
            at = np.arange(6)[part][mask[i, part]]
            if not at.size:
                continue
            over = [[t] for t in at] if level == "step" else [at] if level == "chunk" else [np.flatnonzero(mask[i])]
            expected[i, j] = np.mean([weight(t) for t in over])
    assert mode not in divergences or level == "sample" or {0, 1} <= set(expected.ravel())
    options = dict(level=level, mode=mode, low=low, high=high, geometric=geometric, mask=mask)
    np.testing.assert_allclose(cg.importance_weights(log_probs, behaviour, plan, **options), expected, rtol=1e-13)
    weights = cg.importance_weights(torch.from_numpy(log_probs), behaviour, plan, **options)
    out = cg.chunk_loss(log_probs, log_probs, np.arange(5.0), plan, weights=weights, mask=mask)
    present = np.stack([mask[:, part].any(1) for part in plan.slices], 1)
    assert out.loss == pytest.approx((-np.arange(5.0)[:, None] * expected)[present].mean(), rel=1e-12)


def test_gradient_weights():
    b, s = np.array([SAMPLER.coefficients(k)[1:3] for k in range(6)]).T
    np.testing.assert_allclose(cg.gradient_weights([1] * 6, SAMPLER), s / -b / np.mean(s / -b), rtol=1e-13)
    middle = np.sort(-b / s)[2]
    sage = middle / (-b / s)
    np.testing.assert_allclose(cg.gradient_weights([1] * 6, SAMPLER, "sage"), sage, rtol=1e-13)
    np.testing.assert_allclose(cg.gradient_weights([2, 4], SAMPLER, "sage"), [sage[:2].mean(), sage[2:].mean()], rtol=1e-13)
    np.testing.assert_allclose(cg.gradient_weights([1] * 6, SAMPLER, "precise"), 1 / -b, rtol=1e-13)


# ----------------------------------------------------------------------------------------------------------------------
# Forks


def velocity(latents, sigma, step):
    return sigma * latents - 0.1


@pytest.mark.parametrize("framework", ["numpy", "torch", "bfloat16"])
def test_a_fork_shares_the_past_and_goes_on_with_noise_of_its_own(framework):
    x = cg.initial_noise((2, 5), seed=1)
    if framework != "numpy":
        x = torch.from_numpy(x).to(torch.float32 if framework == "torch" else torch.bfloat16)
    trunk = SAMPLER.rollout(velocity, x, seed=4, sample_ids=[3, 11])
    fork = trunk.fork(2, 3)
    assert fork.position == 2 and type(fork.latents) is type(x) and fork.latents.dtype == x.dtype
    fork.advance(velocity)

    def plain(array):
        return np.asarray(array.float() if isinstance(array, torch.Tensor) and array.dtype != torch.float64 else array)

    whole, wide = plain(trunk.latents), plain(fork.latents)
    np.testing.assert_array_equal(wide[:, :3], np.repeat(whole[:, :3], 3, axis=0))
    assert len(np.unique(wide[:, 3], axis=0)) == 6
    log_probs = plain(fork.log_probs)
    np.testing.assert_array_equal(log_probs[:, :2], np.repeat(plain(trunk.log_probs)[:, :2], 3, axis=0))
    assert np.isfinite(log_probs).all()
    again = trunk.fork(2, 3)
    again.advance(velocity)
    np.testing.assert_array_equal(plain(again.images), wide[:, -1])
    copied = pickle.loads(pickle.dumps(copy.deepcopy(trunk.fork(2, 3))))
    copied.advance(velocity)
    np.testing.assert_array_equal(plain(copied.images), wide[:, -1])
    other = trunk.fork(2, 3, seed=5)
    other.advance(velocity)
    assert (plain(other.images) != wide[:, -1]).any()


def test_a_tree_of_forks_gives_advantages_and_a_loss():
    x = cg.initial_noise((2, 5), seed=1)
    tree = SAMPLER.begin(x, seed=4)
    nodes = []
    for step in range(6):
        if step in (1, 3):
            tree = tree.fork(step, 2)
            nodes = [np.repeat(column, 2) for column in nodes]
        tree.advance(velocity, steps=1)
        nodes.append(np.arange(len(tree.latents)))
    tree.advance(velocity)
    rewards = tree.images.mean(1)
    advantages = cg.tree_advantages(rewards, np.stack(nodes, 1), groups=np.repeat([0, 1], 4))
    assert advantages.shape == (8, 6) and (advantages[:, 0] == 0).all()  # one node of each group after step 0
    assert (advantages[::2, 2] == advantages[1::2, 2]).all() and (advantages[:, 5] != 0).all()
    np.testing.assert_array_equal(tree.latents[0, :4], tree.latents[1, :4])
    out = cg.chunk_loss(tree.log_probs, tree.log_probs, advantages, [1] * 6)
    assert out.loss == pytest.approx(-advantages.mean())


def test_ids_of_forks_do_not_meet():
    """Those of the noise: a million normals of a million branches, all different."""
    x = np.zeros((1000, 1))
    fork = SAMPLER.begin(x, seed=1).fork(0, 1000)
    fork.advance(lambda latents, sigma, step: np.zeros_like(latents), steps=1)
    assert len(np.unique(fork._given[1])) == 1_000_000
    assert len(np.unique(fork.latents[:, 1])) > 990_000  # float64 of draws in float32


def test_forks_of_given_noise_and_of_second_order_are_refused_where_they_cannot_go_on():
    x = cg.initial_noise((2, 5), seed=1)
    given = SAMPLER.rollout(velocity, x, noise=np.zeros((2, 7, 5), np.float32))
    with pytest.raises(cg.InvalidArgument, match="noise: that of the trajectory was given"):
        given.fork(1, 2)
    noise = RNG.normal(size=(4, 7, 5)).astype(np.float32)
    fork = given.fork(1, 2, noise=noise)
    fork.advance(velocity)
    assert len(np.unique(fork.images, axis=0)) == 4
    second = cg.Sampler(cg.Schedule.linear(5), "dpm_sde").rollout(velocity, x, seed=1)
    with pytest.raises(cg.InvalidArgument, match="step 2 is of second order"):
        second.fork(2, 2)
    assert second.fork(0, 2).position == 0


@pytest.mark.parametrize(
    "words, wrong",
    [
        ("rewards has shape", lambda: cg.step_gains([1.0, 2.0])),
        (r"rewards has shape \(2, 1\)", lambda: cg.step_gains([[1.0], [2.0]])),
        ("kind is 'all'", lambda: cg.step_gains([[1.0, 2.0]], "all")),
        ("group_size", lambda: cg.step_advantages([[1.0, 2.0]])),
        ("rewards of sample 0 at step 1 is nan", lambda: cg.step_advantages([[1.0, np.nan]], 1)),
        ("nodes has shape", lambda: cg.tree_advantages([1.0, 2.0], [1, 2], 2)),
        ("at two nodes before it", lambda: cg.tree_advantages([1.0, 2.0], [[1, 3], [2, 3]], 2)),
        ("are of two groups", lambda: cg.tree_advantages([1.0, 2.0], [[1], [1]], 1)),
        ("log_probs has shape", lambda: cg.tree_advantages([1.0, 2.0], [[1], [1]], 2, log_probs=[1.0])),
        ("group_size", lambda: cg.zero_std_groups([1.0, 2.0])),
        ("group_size", lambda: cg.win_rates([1.0, 2.0], 3)),
        ("level is 'token'", lambda: cg.importance_weights([[0.0]], [[0.0]], [1], level="token")),
        ("high", lambda: cg.importance_weights([[0.0]], [[0.0]], [1], low=3)),
        ("low = 0.5 is a bound of the ratio", lambda: cg.importance_weights([[0.0]], [[0.0]], [1], mode="reject_k3", low=0.5)),
        ("behaviour_log_probs has shape", lambda: cg.importance_weights([[0.0]], [0.0], [1])),
        ("sum to 2", lambda: cg.importance_weights([[0.0]], [[0.0]], [2])),
        ("kind is 'mean'", lambda: cg.gradient_weights([6], SAMPLER, "mean")),
        ("sizes", lambda: cg.gradient_weights([5], SAMPLER)),
        ("branches", lambda: SAMPLER.begin(np.zeros((1, 2)), seed=1).fork(0, 0)),
        ("step", lambda: SAMPLER.begin(np.zeros((1, 2)), seed=1).fork(1, 2)),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(words, wrong):
    with pytest.raises(cg.Error, match=words):
        wrong()


def test_the_page_runs_as_printed():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "credit.md").read_text(), re.S)
    names = {
        "velocity": velocity,
        "teacher_velocity": lambda latents, sigma, step: sigma * latents + 0.05 * np.tanh(latents),
        "reward": lambda images: np.sin(3 * images).mean(1),
    }
    losses = []
    for block in blocks:
        names.pop("loss", None)
        exec(compile(block, "docs/credit.md", "exec"), names)
        losses += [names["loss"].loss] if "loss" in names else []
    assert len(blocks) == 7 and len(losses) == 5 and np.isfinite(losses).all()
    assert names["fused"].shape == (8, 6) and names["branches"].log_probs.shape == (48, 6)
    assert (names["ratios"] > 0).all()


@pytest.mark.parametrize("function", [cg.zero_std_groups, cg.win_rates])
def test_several_rewards_per_sample_are_refused_where_one_is_judged(function):
    with pytest.raises(cg.InvalidArgument, match=r"rewards has shape \(6, 2\); it must be \(B,\): give one"):
        function(np.arange(12.0).reshape(6, 2), 3)


@pytest.mark.parametrize("function", [cg.gradient_weights, cg.tempflow_weights])
def test_a_sampler_in_the_place_of_the_plan_is_named(function):
    sampler = cg.Sampler(cg.Schedule.shifted(7, 3.0))
    with pytest.raises(cg.WrongType, match="plan must be a ChunkPlan or its sizes, not Sampler; are two arguments swapped"):
        function(sampler, cg.ChunkPlan([2, 4]))
