"""The options of the chunk loss, through the binding. Their numbers are checked against the public code case by case in
Swift (ObjectiveFixtureTests, VelocityObjectiveFixtureTests); here each option must arrive and mean what it says."""

from __future__ import annotations

import numpy as np
import pytest

import chunkgrpo as cg

PLAN = cg.ChunkPlan([2, 1, 3])
SAMPLER = cg.Sampler(cg.Schedule.shifted(7, 3.0), eta=0.6)
RNG = np.random.default_rng(0)
OLD = RNG.normal(size=(3, 6))
NEW, REFERENCE = OLD + 0.2 * RNG.normal(size=OLD.shape), OLD + 0.3 * RNG.normal(size=OLD.shape)
ADV = np.array([1.2, -0.7, 0.4])
A = ADV[:, None]
FREE = {"clip": (1, 100.0)}  # no ratio here leaves it


def means(x):
    """Of each chunk: (B, K)."""
    return np.stack([x[:, part].mean(1) for part in PLAN.slices], axis=1)


RATIO = np.exp(means(NEW - OLD))


def loss(**options):
    return cg.chunk_loss(NEW, OLD, ADV, PLAN, **options).loss


def test_surrogates():
    bounded = np.clip(RATIO, 0.95, 1.1)
    assert loss(surrogate="unclipped") == pytest.approx((-A * RATIO).mean())
    cispo = (-A * bounded * means(NEW)).mean()
    assert loss(surrogate="cispo", clip=(0.05, 0.1)) == pytest.approx(cispo)
    steps = NEW - OLD
    steps = np.where(A > 0, np.minimum(steps, 0.1), np.maximum(steps, -0.05))
    assert loss(surrogate="log_clipped", clip=(0.05, 0.1)) == pytest.approx((-A * np.exp(means(steps))).mean())
    capped = np.maximum(-A * np.minimum(RATIO, 1.02), -A * bounded)
    assert loss(clip=(0.05, 0.1), ratio_cap=1.02) == pytest.approx(capped.mean())
    clipped = np.maximum(-A * RATIO, -A * bounded)
    dual = np.where(A < 0, np.minimum(clipped, -A * 1.02), clipped)
    assert loss(clip=(0.05, 0.1), dual_clip=1.02) == pytest.approx(dual.mean())


def test_advantages_of_chunks_and_steps_are_signed():
    steps = np.random.default_rng(4).normal(size=OLD.shape)
    own = means(steps)
    assert (own < 0).any() and (own > 0).any()
    for given in (steps, own):
        out = cg.chunk_loss(NEW, OLD, given, PLAN, clip=(0.05, 0.1))
        terms = np.maximum(-own * RATIO, -own * np.clip(RATIO, 0.95, 1.1))
        assert out.loss == pytest.approx(terms.mean(), rel=1e-13)
    mask = np.ones(OLD.shape, bool)
    mask[:, [0, 4]] = False
    absent = np.where(mask, steps, np.nan)
    kept = np.stack([steps[:, 1], steps[:, 2], steps[:, [3, 5]].mean(1)], 1)
    ratio = np.exp(np.stack([(NEW - OLD)[:, at].mean(1) for at in ([1], [2], [3, 5])], 1))
    out = cg.chunk_loss(NEW, OLD, absent, PLAN, mask=mask, surrogate="unclipped")
    assert out.loss == pytest.approx((-kept * ratio).mean(), rel=1e-13)


def test_equal_advantages_of_chunks_and_steps_give_the_loss_of_the_samples_to_the_bit():
    options = dict(clip=0.05, kl=0.1, average="sample")
    whole = cg.chunk_loss(NEW, OLD, ADV, PLAN, **options)
    for columns in (len(PLAN), PLAN.steps):
        each = cg.chunk_loss(NEW, OLD, np.repeat(A, columns, axis=1), PLAN, **options)
        assert each.loss == whole.loss and each.stats == whole.stats
        np.testing.assert_array_equal(each.grad_log_probs, whole.grad_log_probs)


def test_divergence_mask():
    divergence = np.abs(RNG.normal(size=OLD.shape))
    moved = np.where(A > 0, RATIO > 1, RATIO < 1)
    dropped = moved & (means(divergence) >= 0.5)
    assert dropped.any() and not dropped.all()
    out = cg.chunk_loss(
        NEW, OLD, ADV, PLAN, surrogate="divergence_mask", divergence=divergence, divergence_threshold=0.5
    )
    assert out.loss == pytest.approx(np.where(dropped, 0, -A * RATIO).mean())
    assert out.stats.clip_fraction_low + out.stats.clip_fraction_high == pytest.approx(dropped.mean())


def test_soft_gates():
    eps = np.where(RATIO < 1, 0.05, 0.1)
    spo = (-A * RATIO + np.abs(A) * (RATIO - 1) ** 2 / (2 * eps)).mean()
    assert loss(surrogate="spo", clip=(0.05, 0.1)) == pytest.approx(spo)
    for temperatures in [(1.0, 1.05), (2.5, 0.4)]:
        tau = np.where(A > 0, *temperatures)
        sapo = (-A * 4 / tau / (1 + np.exp(-tau * (RATIO - 1)))).mean()
        names = dict(zip(("sapo_temperature_pos", "sapo_temperature_neg"), temperatures))
        assert loss(surrogate="sapo", **names) == pytest.approx(sapo)
    w = RATIO ** np.array(PLAN.sizes)
    for k, r, l, m in [(2.0, 3.0, 3.0, 2.0), (0.5, 1.0, 1.5, 0.7)]:
        shape, rate = np.where(A >= 0, k, l), np.where(A >= 0, r, m)
        vespo = (-A * np.exp(rate) * w**shape * np.exp(-rate * w) * means(NEW)).mean()
        names = dict(vespo_k_pos=k, vespo_lambda_pos=r, vespo_k_neg=l, vespo_lambda_neg=m)
        assert loss(surrogate="vespo", **names) == pytest.approx(vespo)


def test_a_weight_of_the_kl_for_each_sample():
    kl = np.expm1(means(OLD - NEW)) - means(OLD - NEW)
    w = np.array([0.0, 2.0, 0.5])
    assert loss(kl=0.3, kl_weights=w, **FREE) - loss(**FREE) == pytest.approx(0.3 * (w[:, None] * kl).mean())
    assert loss(kl=0.3, kl_weights=np.ones(3), **FREE) == loss(kl=0.3, **FREE)


@pytest.mark.parametrize("reference", [None, REFERENCE])
@pytest.mark.parametrize("level", ["chunk", "step"])
def test_kl_estimates(level, reference):
    delta = (OLD if reference is None else reference) - NEW
    for name, estimate in {"k1": lambda d: -d, "k2": lambda d: d * d / 2, "k3": lambda d: np.expm1(d) - d}.items():
        kl = estimate(means(delta)) if level == "chunk" else means(estimate(delta))
        options = dict(kl_estimator=name, kl_level=level, reference_log_probs=reference, **FREE)
        assert loss(kl=0.3, **options) - loss(**FREE) == pytest.approx(0.3 * kl.mean())
        assert cg.chunk_loss(NEW, OLD, ADV, PLAN, **options).stats.approximate_kl == pytest.approx(kl.mean())


def test_averages_and_normaliser():
    term, sizes = -A * RATIO, np.array(PLAN.sizes)
    chosen = np.array([[1, 1, 0], [0, 0, 1], [1, 1, 1]], bool)
    options = dict(selection=chosen, **FREE)
    weight = chosen * sizes
    assert loss(average="chunk", **options) == pytest.approx(term[chosen].mean())
    assert loss(average="sample", **options) == pytest.approx(np.mean([t[c].mean() for t, c in zip(term, chosen)]))
    assert loss(average="step", **options) == pytest.approx((term * weight).sum() / weight.sum())
    assert loss(average="step", normaliser=24, **options) == pytest.approx((term * weight).sum() / 24)
    assert loss(average="chunk", normaliser=24, **options) == pytest.approx(term[chosen].sum() / 24)


def test_mask_makes_means_of_what_is_present():
    mask = np.array([[1, 1, 1, 1, 1, 1], [1, 0, 0, 1, 0, 1], [0, 0, 1, 0, 0, 0]])
    ratio = lambda i, steps: np.exp((NEW - OLD)[i, steps].mean())  # noqa: E731
    terms = [[(0, [0, 1]), (0, [2]), (0, [3, 4, 5])], [(1, [0]), (1, [3, 5])], [(2, [2])]]
    values = [[-ADV[i] * ratio(i, steps) for i, steps in sample] for sample in terms]
    assert loss(mask=mask, **FREE) == pytest.approx(np.mean(sum(values, [])))
    assert loss(mask=mask, average="sample", **FREE) == pytest.approx(np.mean([np.mean(v) for v in values]))


def test_weights_multiply_the_policy_terms_only():
    w = np.array([0.5, 2.0, 1.0])
    assert loss(weights=w, **FREE) == pytest.approx((-A * RATIO * w).mean())
    each = np.abs(RNG.normal(size=(3, 3)))
    kl = 0.1 * (np.expm1(means(OLD - NEW)) - means(OLD - NEW))
    assert loss(weights=each, kl=0.1, **FREE) == pytest.approx((-A * RATIO * each + kl).mean())
    np.testing.assert_allclose(cg.gcpo_weights([2, 3, 4, 7])[0], 4)
    noise = np.array([SAMPLER.coefficients(k).s for k in range(6)])
    np.testing.assert_allclose(cg.tempflow_weights([1] * 6, SAMPLER), noise / noise.mean(), rtol=1e-14)
    np.testing.assert_allclose(cg.tempflow_weights(PLAN, SAMPLER), means(noise[None])[0] / noise.mean(), rtol=1e-14)


def test_weights_of_one_and_chunks_of_one_step_are_step_level_grpo():
    plain = cg.chunk_loss(NEW, OLD, ADV, [1] * 6, clip=0.1)
    same = cg.chunk_loss(NEW, OLD, ADV, [1] * 6, clip=0.1, weights=np.ones(6), mask=np.ones((3, 6)), average="step")
    assert same.loss == pytest.approx(plain.loss, rel=1e-15)
    np.testing.assert_allclose(same.grad_log_probs, plain.grad_log_probs, rtol=1e-14)


def call(**options):
    return lambda: loss(**options)


@pytest.mark.parametrize(
    "words, wrong",
    [
        ("surrogate is 'ppo'", call(surrogate="ppo")),
        ("average is 'token'", call(average="token")),
        ("kl_estimator is 'k4'", call(kl_estimator="k4")),
        ("kl_level is 'token'", call(kl_level="token")),
        ("ratio_cap", call(ratio_cap=0.5)),
        ("dual_clip", call(dual_clip=1)),
        ("exclude each other", call(dual_clip=2, ratio_cap=2)),
        ("does not clip", call(surrogate="unclipped", clip=0.1)),
        ("normaliser is 0", call(normaliser=0)),
        ("normaliser", call(normaliser=-1)),
        (
            r"advantages has shape \(3, 2\); it must be \(3,\) or \(3, 3\) or \(3, 6\): one per sample, per chunk",
            lambda: cg.chunk_loss(NEW, OLD, np.ones((3, 2)), PLAN),
        ),
        ("mask has shape", call(mask=np.ones(6))),
        ("mask: no", call(mask=np.zeros((3, 6)))),
        ("weights has shape", call(weights=np.ones(2))),
        (r"weights\[0\]", call(weights=[-1, 1, 1])),
        ("ratio_bias has shape", call(ratio_bias=np.ones((3, 3)))),
        ("ratio_scale has shape", call(ratio_scale=np.ones(3))),
        (r"ratio_scale\[0\]", call(ratio_scale=-np.ones(6))),
        ("CISPO", call(surrogate="cispo", ratio_scale=np.ones(6))),
        ("kl_weights has shape", call(kl=1, kl_weights=np.ones(2))),
        (r"kl_weights\[1\]", call(kl=1, kl_weights=[1, -1, 1])),
        ("sapo_temperature_pos", call(surrogate="sapo", sapo_temperature_pos=0)),
        ("SPO divides", call(surrogate="spo", clip=(0, 0.1))),
        ("VESPO only", call(vespo_k_pos=1)),
        ("divergence: the", call(surrogate="divergence_mask")),
        ("divergence is for", call(divergence=np.ones((3, 6)))),
        ("divergence_threshold", call(divergence_threshold=1.0)),
        ("step 0", lambda: cg.gcpo_weights([1, 2])),
        ("sizes", lambda: cg.tempflow_weights([3], SAMPLER)),
        ("other has shape", lambda: cg.divergences(SAMPLER, np.ones((2, 3, 4)), np.ones((2, 3, 5)))),
        ("kind is", lambda: cg.divergences(SAMPLER, np.ones((2, 3, 4)), np.ones((2, 3, 4)), kind="kl")),
        ("grad has shape", lambda: cg.divergences_vjp(SAMPLER, np.ones((2, 3, 4)), np.ones((2, 3, 4)), [1])),
        ("noise", lambda: cg.divergences_from_sampled(SAMPLER, np.ones((2, 4, 4)), np.ones((2, 3, 4)))),
        (
            "velocities has shape",
            lambda: cg.divergences_from_sampled(SAMPLER, np.ones((2, 3, 4)), np.ones((2, 3, 4)), seed=1),
        ),
        ("step", lambda: cg.divergences(SAMPLER, np.ones((2, 3, 4)), np.ones((2, 3, 4)), first_step=5)),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(words, wrong):
    with pytest.raises(cg.InvalidArgument, match=words):
        wrong()


@pytest.mark.parametrize("clip", [(0.999, 1.001), (0.8, 1.2), [0.5, 3.0], (0.9999, 1.0001)])
def test_bounds_are_no_clip_range(clip):
    with pytest.raises(cg.InvalidArgument, match="which look like bounds; it has the distances from 1"):
        cg.chunk_loss(NEW, OLD, ADV, PLAN, clip=clip)


@pytest.mark.parametrize("clip", [(1, 4.0), (0.4, 0.6), (0.2, 1.5), (0.9, 0.9), 0.999, (0.5, 1.0)])
def test_wide_distances_are_a_clip_range(clip):
    low, high = clip if isinstance(clip, tuple) else (clip, clip)
    out = cg.chunk_loss(NEW, OLD, ADV, PLAN, clip=clip)
    clipped = np.clip(out.ratios, 1 - low, 1 + high)
    expected = np.maximum(-ADV[:, None] * out.ratios, -ADV[:, None] * clipped).mean()
    assert out.loss == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int32])
def test_a_selection_that_may_be_mask_or_indices_is_refused_with_both_ways_to_say_it(dtype):
    plan, mask = cg.ChunkPlan([2, 4]), np.array([[1, 0], [0, 1], [1, 1]], dtype)
    with pytest.raises(cg.InvalidArgument, match=r"holds only 0 and 1.*selection != 0.*np.eye\(2, dtype=bool\)"):
        cg.chunk_loss(NEW, OLD, ADV, plan, selection=mask)
    with pytest.raises(cg.InvalidArgument, match="holds only 0 and 1"):
        cg.chunk_loss(NEW, OLD, ADV, plan, selection=mask.tolist())
    assert cg.chunk_loss(NEW, OLD, ADV, plan, selection=mask != 0).stats.selected == 4
    indices = np.array([[0, 1], [1, 0], [0, 1]])
    both = np.eye(2, dtype=bool)[indices].any(1)
    assert cg.chunk_loss(NEW, OLD, ADV, plan, selection=both).stats.selected == 6
    assert cg.chunk_loss(NEW, OLD, ADV, plan, selection=[[0], [1], [1]]).stats.selected == 3


def test_bools_and_numbers_kept_as_objects_are_what_they_are():
    plan, mask = cg.ChunkPlan([2, 4]), np.array([[1, 0], [0, 1], [1, 0]], object)
    with pytest.raises(cg.InvalidArgument, match="holds only 0 and 1"):
        cg.chunk_loss(NEW, OLD, ADV, plan, selection=mask)
    assert cg.chunk_loss(NEW, OLD, ADV, plan, selection=mask.astype(bool).astype(object)).stats.selected == 3
    with pytest.raises(cg.WrongType, match=r"selection\[0\] holds bools; a mask must be \(B, K\)"):
        cg.chunk_loss(NEW, OLD, ADV, plan, selection=[[True, False], [True], [False]])


def test_a_mask_of_floats_is_told_to_be_bool():
    with pytest.raises(cg.WrongType, match="selection has element type float64; a mask must be bool"):
        cg.chunk_loss(NEW, OLD, ADV, PLAN, selection=np.ones((3, len(PLAN))))
