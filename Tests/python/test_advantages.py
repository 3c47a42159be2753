"""Advantages of rewards, best-of-n and a prompt's history. Their numbers are checked against public code case by case
in Swift (AdvantageFixtureTests); here each option must arrive and mean what it says."""

from __future__ import annotations

import numpy as np
import pytest

import chunkgrpo as cg


@pytest.mark.parametrize("group_size", [None, 2, 3, 12])
def test_advantages_of_a_group_sum_to_zero_and_have_unit_deviation(group_size):
    rewards = np.random.default_rng(0).normal(size=24) * 7 + 3
    adv = cg.advantages(rewards, group_size or 24).reshape(-1, group_size or 24)
    np.testing.assert_allclose(adv.sum(1), 0, atol=1e-12)
    np.testing.assert_allclose(adv.std(1, ddof=1), 1, rtol=1e-6)


def test_equal_rewards_and_groups_of_one_give_zeros():
    np.testing.assert_array_equal(cg.advantages([0.1] * 6, group_size=3), 0)
    np.testing.assert_array_equal(cg.advantages([1, 2, 3], group_size=1), 0)


def test_advantages_are_clamped():
    rewards = [0] * 40 + [1]
    assert cg.advantages(rewards, len(rewards)).max() == 5
    assert cg.advantages(rewards, len(rewards), clamp=2).max() == 2
    assert cg.advantages(rewards, len(rewards), clamp=float("inf")).max() == pytest.approx(40 / np.sqrt(41))


@pytest.mark.parametrize("rewards", [[1, 0, 0], [True, False, False], (1.0, 0.0, 0.0), np.array([1, 0, 0], np.float16)])
def test_rewards_may_be_any_real_numbers(rewards):
    np.testing.assert_allclose(cg.advantages(rewards, 3), np.array([2, -1, -1]) / np.sqrt(3), rtol=1e-6)


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


@pytest.mark.parametrize(
    "name, call",
    [
        ("groups", lambda: cg.advantages([1.0, 2.0], groups=[1])),
        ("groups", lambda: cg.advantages([1.0, 2.0], group_size=2, groups=[1, 1])),
        ("trim", lambda: cg.advantages([1.0, 2.0], 2, trim=1.0)),
        ("trim", lambda: cg.advantages([1.0, 2.0, 3.0], 3, trim=0.9)),
        ("trim", lambda: cg.advantages([1.0, 2.0, 3.0], 3, trim=0.4, baseline="leave_one_out")),
        ("floor", lambda: cg.advantages([1.0, 2.0], 2, floor=-1.0)),
        ("weights", lambda: cg.advantages([[1.0, 2.0]], 1, weights=[1.0])),
        ("baseline", lambda: cg.advantages([1.0, 2.0], 2, baseline="median")),
        ("keep", lambda: cg.best_of_n([1.0, 2.0], 3)),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(name, call):
    with pytest.raises(cg.InvalidArgument, match=name):
        call()


def test_a_forgotten_group_size_is_refused_unless_no_group_is_asked_for():
    rewards = [1.0, 2.0, 4.0, 3.0]
    for options in ({}, {"group_size": None}, {"baseline": "batch"}, {"scale": "batch"}):
        with pytest.raises(cg.InvalidArgument, match="group_size: give the number of samples per prompt, or groups="):
            cg.advantages(rewards, **options)
    whole = cg.advantages(rewards, baseline="batch", scale="batch", epsilon=0)
    np.testing.assert_allclose(whole, (np.array(rewards) - 2.5) / np.std(rewards, ddof=1))


def test_absent_rewards_and_groups_that_cannot_be_told_apart_are_named():
    with pytest.raises(cg.WrongType, match="sample 1 is None"):
        cg.advantages([1.0, None, 2.0], 3)
    with pytest.raises(cg.WrongType, match="sample 2 is None"):
        cg.advantages([[1.0, 2.0], [1.0, 3.0], [2.0, None]], 3)
    for call, words in (
        (lambda: cg.RewardHistory().update("ab", [1.0, None]), r"rewards\[1\] is None"),
        (lambda: cg.best_of_n([1.0, 2.0, None], 2), r"scores\[2\] is None"),
        (lambda: cg.chunk_loss(np.zeros((2, 1)), [[0.0], [None]], [1.0, 2.0], [1]), r"old_log_probs\[1\]\[0\] is None"),
        (lambda: cg.advantages([1.0, 2.0], 2, weights=[None]), r"weights\[0\] is None"),
    ):
        with pytest.raises(cg.WrongType, match=words):
            call()
    for name in ("present", "mask"):
        with pytest.raises(cg.NonFinite, match=rf"{name}\[1\](\[0\])? is nan; it must be zero"):
            if name == "present":
                cg.advantages([1.0, 2.0], 2, present=[1, np.nan])
            else:
                cg.chunk_loss(np.zeros((2, 1)), np.zeros((2, 1)), [1.0, 2.0], [1], mask=[[1], [np.nan]])
    with pytest.raises(cg.WrongType, match="groups must hold hashable values"):
        cg.advantages([1.0, 2.0], groups=[["a"], ["b"]])
    with pytest.raises(cg.WrongType, match="prompts must hold hashable values"):
        cg.RewardHistory().update([{}, {}], [1.0, 2.0])
    with pytest.raises(cg.WrongType, match="groups must hold one value for each sample, not int"):
        cg.advantages([1.0, 2.0], groups=2)
    with pytest.raises(cg.InvalidArgument, match=r"groups\[1\] is nan, which no other group equals"):
        cg.advantages([1.0, 2.0], groups=[0, float("nan")])


def test_groups_that_are_numbers_of_a_framework_are_told_apart_by_their_value():
    torch = pytest.importorskip("torch")
    rewards, expected = [1.0, 2.0, 4.0, 8.0], cg.advantages([1.0, 2.0, 4.0, 8.0], 2)
    for number in (torch.tensor, np.array, np.int64):
        np.testing.assert_array_equal(cg.advantages(rewards, groups=[number(i) for i in (3, 3, 1, 1)]), expected)
    with pytest.raises(cg.WrongType, match=r"groups\[0\] is an array of shape \(2,\)"):
        cg.advantages(rewards, groups=[torch.tensor([1, 2])] * 4)


def test_absent_rewards_are_left_out_as_if_they_were_not_there():
    """Against the advantages of those that are there alone, and against sums by hand."""
    rewards, present = np.array([1.0, np.nan, 3.0, 5.0, 2.0, np.nan]), np.array([1, 0, 1, 1, 1, 0], bool)
    rewards = np.stack([rewards, np.arange(6.0)], 1)
    grid = np.stack([present, np.ones(6, bool)], 1)
    found = cg.advantages(rewards, 3, present=grid)
    sums = np.where(grid, rewards, 0).sum(1)
    np.testing.assert_allclose(found, cg.advantages(sums, 3), rtol=1e-12)

    found = cg.advantages(rewards, 3, present=grid, mixing="normalised_sum")
    first = np.zeros(6)
    for group in (slice(0, 3), slice(3, 6)):
        own = np.where(present[group])[0] + group.start
        first[own] = cg.advantages(rewards[own, 0], len(own))
    np.testing.assert_allclose(found, first + cg.advantages(rewards[:, 1], 3), rtol=1e-12)
    with pytest.raises(cg.InvalidArgument, match="no reward of sample 1"):
        cg.advantages(rewards[:, 0], 3, present=present)
