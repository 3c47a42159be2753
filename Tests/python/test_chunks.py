"""Chunk plans, their weights, and which chunks are drawn."""

from __future__ import annotations

import copy
import itertools
import pickle

import numpy as np
import pytest

import chunkgrpo as cg


def test_a_plan_knows_its_steps_boundaries_and_slices():
    plan = cg.ChunkPlan([2, 3, 4, 7])
    assert plan.sizes.tolist() == [2, 3, 4, 7] and plan.steps == 16 and len(plan) == 4
    assert plan.boundaries.tolist() == [0, 2, 5, 9, 16]
    assert plan.slices == [slice(0, 2), slice(2, 5), slice(5, 9), slice(9, 16)]
    assert plan == cg.ChunkPlan(np.array([2, 3, 4, 7], np.int32)) != cg.ChunkPlan([16])


def test_a_plan_prints_in_one_line():
    assert str(cg.ChunkPlan([2, 3, 1, 10])) == "4 chunks over 16 steps: 0-1 | 2-4 | 5 | 6-15"
    assert str(cg.ChunkPlan([1])) == "1 chunk over 1 step: 0"
    assert repr(cg.ChunkPlan([2, 3])) == "ChunkPlan([2, 3])"


def test_a_plan_is_a_weighting_of_steps():
    plan = cg.ChunkPlan([2, 3, 4, 7])
    weights = plan.step_weights
    np.testing.assert_allclose(weights, np.repeat(1 / np.array([8, 12, 16, 28]), [2, 3, 4, 7]))
    assert weights.sum() == pytest.approx(1)
    # At the sampling policy the gradient of the loss is -A times it, averaged over the batch.
    log_probs, adv = np.zeros((5, 16)), np.arange(5.0) - 1
    grad = cg.chunk_loss(log_probs, log_probs, adv, plan).grad_log_probs
    np.testing.assert_allclose(grad, -adv[:, None] * weights / 5, atol=1e-18)


@pytest.mark.parametrize(
    "steps, size, sizes", [(16, 5, [5, 5, 5, 1]), (16, 4, [4] * 4), (16, 16, [16]), (3, 1, [1] * 3), (7, 4, [4, 3])]
)
def test_fixed_chunks_end_with_the_remainder(steps, size, sizes):
    assert cg.ChunkPlan.fixed(steps, size).sizes.tolist() == sizes


@pytest.mark.parametrize(
    "curve, options, sizes",
    [
        ([1, 2, 3, 4, 3, 2, 1, 2, 3], {}, [4, 3, 2]),  # up, down, up
        ([5, 5, 5, 5], {}, [4]),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], {}, [5, 5]),  # halved
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], {"max_size": 0}, [10]),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], {"max_size": 3}, [2, 3, 2, 3]),
    ],
)
def test_adaptive_boundaries_follow_the_curve(curve, options, sizes):
    assert cg.ChunkPlan.adaptive([curve, curve], **options).sizes.tolist() == sizes


def test_adaptive_plans_are_plans_whatever_the_curve():
    rng = np.random.default_rng(1)
    for _ in range(200):
        steps = int(rng.integers(1, 40))
        max_size = int(rng.integers(3, 9))
        plan = cg.ChunkPlan.adaptive(rng.random((2, steps)), max_size=max_size, min_size=2)
        assert plan.steps == steps and plan.sizes.max() <= max_size
        assert plan.sizes.min() >= min(2, steps)


def test_weights_are_means_over_chunks():
    curve = np.random.default_rng(0).random((3, 16))
    plan = cg.ChunkPlan([2, 3, 4, 7])
    expected = np.stack([curve[:, part].mean(1) for part in plan.slices], axis=1) + 1e-8
    np.testing.assert_allclose(plan.weights(curve), expected, rtol=1e-14)


def test_every_chunk_is_selected_by_default():
    selection = cg.ChunkPlan([2, 3]).select(4)
    assert selection.dtype == bool and selection.shape == (4, 2) and selection.all()


@pytest.mark.parametrize("fraction, count", [(0.5, 2), (0.25, 1), (0.74, 2), (0.75, 3), (1.0, 4)])
def test_a_fraction_is_rounded_down(fraction, count):
    assert (cg.ChunkPlan([2, 3, 4, 7]).select(50, fraction, seed=1).sum(1) == count).all()


def test_fixed_chunks_are_those_of_every_sample():
    selection = cg.ChunkPlan([2, 3, 4, 7]).select(3, chunks=[0, 3])
    np.testing.assert_array_equal(selection, [[True, False, False, True]] * 3)


def pair_probabilities(p):
    """Of drawing {i, j} one after the other without replacement."""
    return {
        (i, j): p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j]) for i, j in itertools.combinations(range(len(p)), 2)
    }


@pytest.mark.parametrize("weighting", ["normalised", "softmax", None])
def test_selection_frequencies_are_the_exact_probabilities(weighting):
    draws = 200_000
    w = np.array([0.1, 0.5, 1.2, 2.0])
    p = {"normalised": w, "softmax": np.exp(w), None: np.ones(4)}[weighting]
    options = {"weights": w, "weighting": weighting} if weighting else {}
    selection = cg.ChunkPlan([2, 3, 4, 7]).select(draws, fraction=0.5, seed=3, **options)
    assert (selection.sum(1) == 2).all()
    for (i, j), exact in pair_probabilities(p / p.sum()).items():
        share = (selection[:, i] & selection[:, j]).mean()
        assert abs(share - exact) <= 4 * np.sqrt(exact * (1 - exact) / draws)


def test_selection_is_the_same_for_any_split_of_the_batch():
    plan = cg.ChunkPlan([1] * 16)
    weights = np.random.default_rng(0).random((10, 16))
    whole = plan.select(10, 0.5, weights, seed=5)
    parts = [
        plan.select(len(ids), 0.5, weights[ids], seed=5, sample_ids=ids) for ids in ([0, 1, 2], [3], list(range(4, 10)))
    ]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert (plan.select(10, 0.5, weights, seed=6) != whole).any()


def test_a_weight_of_zero_is_never_drawn():
    selection = cg.ChunkPlan([2, 3, 4, 7]).select(1000, fraction=0.5, weights=[0, 1, 1, 1], seed=1)
    assert not selection[:, 0].any()


def test_a_plan_is_found_and_carried_to_another_schedule():
    curve = np.repeat([1.0, 0.4, 0.1, 0.35], [2, 3, 4, 7])
    noisy = curve * np.exp(0.03 * np.random.default_rng(0).standard_normal((32, 16)))
    fit = cg.ChunkPlan.optimal(noisy)
    assert fit.plan == cg.ChunkPlan([2, 3, 4, 7])
    np.testing.assert_allclose(fit.curve, noisy.mean(axis=0) + 1e-8, rtol=1e-12)
    np.testing.assert_allclose(fit.levels, [fit.curve[steps].mean() for steps in fit.plan.slices])
    assert (
        0.99 < fit.explained <= 1 and "4 chunks over 16 steps: 0-1 | 2-4 | 5-8 | 9-15" in str(fit) and "%" in str(fit)
    )
    assert len(cg.ChunkPlan.optimal(noisy, 6, max_size=4).plan) == 6
    short, long = cg.Schedule.shifted(17, 3.0), cg.Schedule.shifted(50, 3.0)
    carried = fit.plan.carried(short, long)
    assert carried.steps == 49 and carried.carried(long, short) == fit.plan


@pytest.mark.parametrize(
    "name, call",
    [
        ("count", lambda: cg.ChunkPlan.optimal(np.ones((1, 4)), 5)),
        ("explained", lambda: cg.ChunkPlan.optimal(np.ones((1, 4)), explained=1.0)),
        ("min_size", lambda: cg.ChunkPlan.optimal(np.ones((1, 4)), min_size=3, max_size=2)),
        ("trained", lambda: cg.ChunkPlan([2, 2]).carried(cg.Schedule.linear(9), cg.Schedule.linear(5))),
        ("too few", lambda: cg.ChunkPlan([1, 1, 1, 1]).carried(cg.Schedule.linear(5), cg.Schedule.linear(4))),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(name, call):
    with pytest.raises(cg.InvalidArgument, match=name):
        call()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_plan_can_be_copied_and_pickled(copied):
    plan = cg.ChunkPlan([2, 3, 4, 7])
    assert copied(plan) == plan and not copied(plan).sizes.flags.writeable


class Own(cg.ChunkPlan):
    """At the module's level, for pickle."""


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_is_of_the_same_class(copied):
    own = Own(*([2, 3],))
    twin = copied(own)
    assert type(twin) is Own and twin.steps == own.steps


def test_a_selection_that_is_drawn_insists_on_a_seed():
    plan = cg.ChunkPlan([2, 3, 4, 7])
    with pytest.raises(cg.InvalidArgument, match="^seed: a fraction of 0.5 is drawn.*seed=iteration"):
        plan.select(4, 0.5)
    assert plan.select(4).all() and plan.select(4, chunks=[1]).sum() == 4
    assert len({plan.select(4, 0.5, seed=iteration).tobytes() for iteration in range(9)}) > 5
