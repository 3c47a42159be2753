"""The options of the chunk loss and the divergences, through the binding. Their numbers are checked against the public
code case by case in Swift (ObjectiveFixtureTests, VelocityObjectiveFixtureTests); here each option must arrive and mean
what it says."""

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
    noise = np.array([SAMPLER.coefficients(k)[2] for k in range(6)])
    np.testing.assert_allclose(cg.tempflow_weights([1] * 6, SAMPLER), noise / noise.mean(), rtol=1e-14)
    np.testing.assert_allclose(cg.tempflow_weights(PLAN, SAMPLER), means(noise[None])[0] / noise.mean(), rtol=1e-14)


def test_weights_of_one_and_chunks_of_one_step_are_step_level_grpo():
    plain = cg.chunk_loss(NEW, OLD, ADV, [1] * 6, clip=0.1)
    same = cg.chunk_loss(NEW, OLD, ADV, [1] * 6, clip=0.1, weights=np.ones(6), mask=np.ones((3, 6)), average="step")
    assert same.loss == pytest.approx(plain.loss, rel=1e-15)
    np.testing.assert_allclose(same.grad_log_probs, plain.grad_log_probs, rtol=1e-14)


def policies(dtype=np.float64):
    """Latents, old and new velocities of a rollout."""
    x = cg.initial_noise((3, 5, 7), seed=1, dtype=dtype)
    old = lambda x, sigma, step: np.tanh(x + step)  # noqa: E731
    traj = SAMPLER.rollout(old, x, seed=4, sample_ids=[5, 6, 7])
    sigmas = SAMPLER.schedule.sigmas.tolist()
    v_old = np.stack([old(traj.latents[:, k], sigmas[k], k) for k in range(6)], axis=1)
    return traj, v_old, v_old + (0.1 * np.random.default_rng(2).normal(size=v_old.shape)).astype(dtype)


def test_divergences_are_their_definitions_and_the_old_mean_is_made_again():
    traj, old, new = policies()
    a, b, s = np.array([SAMPLER.coefficients(k)[:3] for k in range(6)]).T
    delta = -np.diff(SAMPLER.schedule.sigmas)[:6]
    squares = ((new - old) ** 2).mean(axis=(2, 3))
    expected = {
        "gaussian": b**2 * squares / (2 * s**2),
        "gaussian_per_time": b**2 * squares * delta / (2 * s**2),
        "mean": b**2 * squares,
        "velocity": squares,
    }
    for kind, value in expected.items():
        np.testing.assert_allclose(cg.divergence(SAMPLER, new, old, kind=kind), value, rtol=1e-12)
        again = cg.divergence_from_sampled(SAMPLER, traj.latents, new, seed=4, sample_ids=[5, 6, 7], kind=kind)
        np.testing.assert_allclose(again, value, rtol=1e-9)
    later = cg.divergence(SAMPLER, new[:, 2:4], old[:, 2:4], first_step=2)
    np.testing.assert_array_equal(later, cg.divergence(SAMPLER, new, old)[:, 2:4])


def guard(latents, new, old, log_probs):
    """GRPO-Guard: the whole objective from velocities, and its gradient in them."""
    scale = [SAMPLER.coefficients(k)[2] for k in range(6)]
    bias = cg.divergence(SAMPLER, new, old)
    out = cg.chunk_loss(
        SAMPLER.log_probs(latents, new), log_probs, ADV, PLAN, clip=0.01, kl=0.1, ratio_bias=bias, ratio_scale=scale
    )
    grad = SAMPLER.log_probs_vjp(latents, new, out.grad_log_probs)
    return out.loss, grad + cg.divergence_vjp(SAMPLER, new, old, out.grad_ratio_bias)


def test_guards_gradient_in_the_velocities_agrees_with_finite_differences():
    traj, old, new = policies()
    _, grad = guard(traj.latents, new, old, traj.log_probs)
    direction, h = np.random.default_rng(3).normal(size=new.shape), 1e-5
    up, down = (guard(traj.latents, new + step * direction, old, traj.log_probs)[0] for step in (h, -h))
    assert np.sum(grad * direction) == pytest.approx((up - down) / (2 * h), rel=1e-6)


def test_divergence_from_sampled_has_the_gradient_of_the_one_from_velocities():
    traj, old, new = policies()
    upstream = np.random.default_rng(4).normal(size=(3, 6))
    noise = np.stack([cg.normal((3, 5, 7), 4, k, [5, 6, 7], dtype=np.float64) for k in range(6)], axis=1)
    given = cg.divergence_vjp(SAMPLER, new, old, upstream, kind="mean")
    for source in ({"seed": 4, "sample_ids": [5, 6, 7]}, {"noise": noise}):
        sampled = cg.divergence_from_sampled_vjp(SAMPLER, traj.latents, new, upstream, kind="mean", **source)
        np.testing.assert_allclose(sampled, given, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("dtype, tolerance", [(np.float32, 1e-4), (np.float16, 0.2)])
def test_divergences_in_other_types(dtype, tolerance):
    traj, old, new = policies(dtype)
    value = cg.divergence(SAMPLER, new, old)
    exact = cg.divergence(SAMPLER, new.astype(np.float64), old.astype(np.float64))
    np.testing.assert_allclose(value, exact, rtol=1e-5)
    again = cg.divergence_from_sampled(SAMPLER, traj.latents, new, seed=4, sample_ids=[5, 6, 7])
    np.testing.assert_allclose(again, exact, rtol=tolerance)


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
        ("mask has shape", call(mask=np.ones(6))),
        ("mask: no", call(mask=np.zeros((3, 6)))),
        ("weights has shape", call(weights=np.ones(2))),
        (r"weights\[0\]", call(weights=[-1, 1, 1])),
        ("ratio_bias has shape", call(ratio_bias=np.ones((3, 3)))),
        ("ratio_scale has shape", call(ratio_scale=np.ones(3))),
        (r"ratio_scale\[0\]", call(ratio_scale=-np.ones(6))),
        ("CISPO", call(surrogate="cispo", ratio_scale=np.ones(6))),
        ("divergence: the", call(surrogate="divergence_mask")),
        ("divergence is for", call(divergence=np.ones((3, 6)))),
        ("divergence_threshold", call(divergence_threshold=1.0)),
        ("step 0", lambda: cg.gcpo_weights([1, 2])),
        ("sizes", lambda: cg.tempflow_weights([3], SAMPLER)),
        ("other has shape", lambda: cg.divergence(SAMPLER, np.ones((2, 3, 4)), np.ones((2, 3, 5)))),
        ("kind is", lambda: cg.divergence(SAMPLER, np.ones((2, 3, 4)), np.ones((2, 3, 4)), kind="kl")),
        ("grad has shape", lambda: cg.divergence_vjp(SAMPLER, np.ones((2, 3, 4)), np.ones((2, 3, 4)), [1])),
        ("noise", lambda: cg.divergence_from_sampled(SAMPLER, np.ones((2, 4, 4)), np.ones((2, 3, 4)))),
        ("velocities has shape", lambda: cg.divergence_from_sampled(SAMPLER, np.ones((2, 3, 4)), np.ones((2, 3, 4)), seed=1)),
        ("step", lambda: cg.divergence(SAMPLER, np.ones((2, 3, 4)), np.ones((2, 3, 4)), first_step=5)),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(words, wrong):
    with pytest.raises(cg.InvalidArgument, match=words):
        wrong()
