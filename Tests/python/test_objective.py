"""Properties of the chunk loss, for settings that the reference numbers do not have."""

from __future__ import annotations

import numpy as np
import pytest

import chunkgrpo as cg


def settings(rng):
    sizes = rng.integers(1, 5, size=rng.integers(1, 5))
    plan, batch = cg.ChunkPlan(sizes), int(rng.integers(1, 5))
    old = rng.normal(size=(batch, plan.steps))
    new = old + 0.2 * rng.normal(size=old.shape)
    selection = rng.random((batch, len(plan))) < 0.6
    selection[0, 0] = True
    clip = tuple(rng.uniform(0.02, 0.2, size=2))
    return new, old, rng.normal(size=batch), plan, {"clip": clip, "selection": selection, "kl": rng.choice([0, 0.3])}


def straightforward(new, old, adv, plan, clip, selection, kl):
    terms = []
    for i, row in enumerate(selection):
        for j in np.flatnonzero(row):
            delta = (old[i, plan.slices[j]] - new[i, plan.slices[j]]).mean()
            ratio = np.exp(-delta)
            bounded = np.clip(ratio, 1 - clip[0], 1 + clip[1])
            terms.append(max(-adv[i] * ratio, -adv[i] * bounded) + kl * (np.exp(delta) - 1 - delta))
    return np.mean(terms)


def test_loss_is_its_definition():
    rng = np.random.default_rng(1)
    for _ in range(100):
        new, old, adv, plan, options = settings(rng)
        out = cg.chunk_loss(new, old, adv, plan, **options)
        assert out.loss == pytest.approx(straightforward(new, old, adv, plan, **options), rel=1e-12, abs=1e-13)


def test_gradient_agrees_with_finite_differences():
    rng = np.random.default_rng(2)
    compared = 0
    for _ in range(200):
        new, old, adv, plan, options = settings(rng)
        out = cg.chunk_loss(new, old, adv, plan, **options)
        low, high = options["clip"]
        if min(np.abs(out.ratios - (1 - low)).min(), np.abs(out.ratios - (1 + high)).min()) < 1e-4:
            continue  # at the kink of the clip there is no derivative
        direction, h = rng.normal(size=new.shape), 1e-6
        up, down = (cg.chunk_loss(new + step * direction, old, adv, plan, **options).loss for step in (h, -h))
        assert np.sum(out.grad_log_probs * direction) == pytest.approx((up - down) / (2 * h), rel=1e-6, abs=1e-9)
        compared += 1
    assert compared > 150


def test_statistics_are_their_definitions():
    rng = np.random.default_rng(3)
    for _ in range(20):
        new, old, adv, plan, options = settings(rng)
        out = cg.chunk_loss(new, old, adv, plan, **options)
        chosen, (low, high) = options["selection"], options["clip"]
        expected = np.stack([np.exp((new - old)[:, part].mean(1)) for part in plan.slices], axis=1)
        np.testing.assert_allclose(out.ratios, expected, rtol=1e-12)
        ratio, a = expected[chosen], np.repeat(adv[:, None], len(plan), 1)[chosen]
        stats = out.stats
        assert stats.selected == chosen.sum()
        assert (stats.ratio_mean, stats.ratio_std) == pytest.approx((ratio.mean(), ratio.std()), abs=1e-12)
        assert (stats.ratio_min, stats.ratio_max) == pytest.approx((ratio.min(), ratio.max()), rel=1e-12)
        assert stats.clip_fraction_low == pytest.approx(((a < 0) & (ratio < 1 - low)).mean())
        assert stats.clip_fraction_high == pytest.approx(((a > 0) & (ratio > 1 + high)).mean())
        assert stats.approximate_kl == pytest.approx((1 / ratio - 1 + np.log(ratio)).mean(), abs=1e-12)
        assert stats.effective_sample_size == pytest.approx(ratio.sum() ** 2 / (len(ratio) * (ratio**2).sum()))


def test_clipped_and_unselected_chunks_have_no_gradient():
    new, old = np.full((2, 4), 0.5), np.zeros((2, 4))
    out = cg.chunk_loss(new, old, [1, -1], cg.ChunkPlan([2, 2]), clip=0.1, selection=[[0, 1], [1]])
    np.testing.assert_array_equal(out.grad_log_probs[0], 0)  # the ratio is above 1.1 and the advantage pushes on
    np.testing.assert_array_equal(out.grad_log_probs[1, :2], 0)
    assert (out.grad_log_probs[1, 2:] > 0).all()
    assert out.stats.clip_fraction_high == pytest.approx(2 / 3) and out.stats.clip_fraction_low == 0


def test_chunks_of_one_step_are_step_level_grpo():
    rng = np.random.default_rng(4)
    old = rng.normal(size=(6, 16))
    new, adv = old + 1e-4 * rng.normal(size=old.shape), rng.normal(size=6)
    out = cg.chunk_loss(new, old, adv, cg.ChunkPlan.fixed(16, 1), clip=1e-4)
    ratio, a = np.exp(new - old), adv[:, None]
    loss = np.maximum(-a * ratio, -a * np.clip(ratio, 1 - 1e-4, 1 + 1e-4))
    active = ~((a > 0) & (ratio > 1 + 1e-4) | (a < 0) & (ratio < 1 - 1e-4))
    assert out.loss == pytest.approx(loss.mean(), rel=1e-12)
    np.testing.assert_allclose(out.grad_log_probs, -a * ratio * active / loss.size, rtol=1e-11)


def test_one_chunk_of_all_steps_is_the_sequence_ratio():
    rng = np.random.default_rng(5)
    new, old = rng.normal(size=(2, 3, 16))
    out = cg.chunk_loss(new, old, [1, 2, 3], [16])
    np.testing.assert_allclose(out.ratios[:, 0], np.exp((new - old).mean(1)), rtol=1e-12)


def test_lists_of_indices_may_be_ragged_and_one_clip_serves_both_sides():
    new, old = np.full((2, 4), 0.01), np.zeros((2, 4))
    ragged = cg.chunk_loss(new, old, [1, -1], [1, 3], clip=0.1, selection=[[], [1, 0]])
    mask = cg.chunk_loss(new, old, [1, -1], [1, 3], clip=(0.1, 0.1), selection=np.array([[False, False], [True, True]]))
    assert ragged.loss == mask.loss and ragged.stats == mask.stats
    np.testing.assert_array_equal(ragged.grad_log_probs, mask.grad_log_probs)


def test_a_loss_prints_in_a_line_without_its_arrays():
    torch = pytest.importorskip("torch")
    import chunkgrpo.torch as cgt

    old, adv = np.zeros((2, 3)), [1.0, -1.0]
    said = "ChunkLoss(loss=0, 2 samples of 2 chunks, ChunkStats(selected=4, ratio_mean=1.0"
    assert repr(cg.chunk_loss(old, old, adv, [1, 2])).startswith(said)
    new = torch.tensor(old, requires_grad=True)
    assert str(cgt.chunk_loss(new, torch.tensor(old), adv, [1, 2])).startswith(said)
    assert repr(cg.Trainer(3, 2, width=8, blocks=1, group_size=4)) == "<Trainer of images of 3 numbers, conditions of 2>"
