"""The whole objective, rewards to velocity gradients, against the numbers of GCPO's code."""

from __future__ import annotations

import numpy as np
import pytest

import chunkgrpo as cg
from conftest import reference

CASES = reference("chunk_objective")
each_case = pytest.mark.parametrize("case", CASES, ids=["-".join(map(str, c["chunk_sizes"])) for c in CASES])
each_type = pytest.mark.parametrize("dtype, relative", [(np.float64, 1e-12), (np.float32, 1e-5)], ids=["f64", "f32"])


def sampler_of(case):
    schedule = cg.Schedule.shifted(case["num_steps"], case["shift"])
    return cg.Sampler(schedule, case["dynamics"], case["eta"])


def advantages_of(case):
    return cg.advantages(case["rewards"], group_size=case["group_size"], clamp=case["advantage_clip"])


def mask_of(case):
    mask = np.zeros((len(case["rewards"]), len(case["chunk_sizes"])), bool)
    for i, row in enumerate(case["selected_chunks"]):
        mask[i, row] = True
    return mask


def loss_of(case, new_log_probs, selection=None):
    return cg.chunk_loss(
        new_log_probs,
        case["old_log_probs"],
        advantages_of(case),
        cg.ChunkPlan(case["chunk_sizes"]),
        clip=(case["clip_low"], case["clip_high"]),
        selection=mask_of(case) if selection is None else selection,
        kl=case["kl_coefficient"],
    )


def close(actual, expected, relative):
    expected = np.asarray(expected, np.float64)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(actual, np.float64), expected, rtol=relative, atol=relative * scale)


@each_case
def test_advantages(case):
    unclamped = cg.advantages(case["rewards"], group_size=case["group_size"], clamp=float("inf"))
    close(unclamped, case["advantages"], 1e-12)
    limit = case["advantage_clip"]
    close(advantages_of(case), np.clip(case["advantages"], -limit, limit), 1e-12)


@each_case
@each_type
def test_log_probs_of_whole_trajectories(case, dtype, relative):
    latents, velocities = np.array(case["latents"], dtype), np.array(case["new_velocity"], dtype)
    close(sampler_of(case).log_probs(latents, velocities), case["new_log_probs"], relative)


@each_case
def test_loss_ratios_and_gradient_of_log_probs(case):
    out = loss_of(case, case["new_log_probs"])
    # The ratios are 1 + small; one ulp of 1 is the resolution that any double has for them and for what they enter.
    np.testing.assert_allclose(out.ratios, case["chunk_ratios"], rtol=1e-12)
    assert out.loss == pytest.approx(case["loss"], rel=1e-12, abs=1e-15)
    close(out.grad_log_probs, case["grad_log_probs"], 1e-12)
    assert out.stats.selected == sum(map(len, case["selected_chunks"]))


@each_case
@each_type
def test_gradient_of_velocities(case, dtype, relative):
    latents, velocities = np.array(case["latents"], dtype), np.array(case["new_velocity"], dtype)
    grad = sampler_of(case).log_probs_vjp(latents, velocities, case["grad_log_probs"])
    assert grad.dtype == dtype
    close(grad, case["grad_velocity"], relative)


@each_case
def test_the_whole_way_in_double_precision(case):
    sampler = sampler_of(case)
    latents, velocities = np.array(case["latents"]), np.array(case["new_velocity"])
    out = loss_of(case, sampler.log_probs(latents, velocities))
    assert out.loss == pytest.approx(case["loss"], rel=1e-12, abs=1e-14)
    close(sampler.log_probs_vjp(latents, velocities, out.grad_log_probs), case["grad_velocity"], 1e-12)


@each_case
@each_type
def test_relative_l1(case, dtype, relative):
    steps = len(case["old_log_probs"][0])
    latents = np.array(case["latents"], dtype)[:, : steps + 1]
    close(cg.relative_l1(latents), case["relative_l1"], relative)


@each_case
def test_chunk_weights(case):
    close(cg.ChunkPlan(case["chunk_sizes"]).weights(case["relative_l1"]), case["chunk_weights"], 1e-12)


@each_case
@pytest.mark.parametrize(
    "weighting, field", [("normalised", "chunk_probabilities"), ("softmax", "chunk_probabilities_softmax")]
)
def test_chunks_are_drawn_with_the_probabilities_of_the_source(case, weighting, field):
    plan = cg.ChunkPlan(case["chunk_sizes"])
    draws = 40_000
    probabilities = np.array(case[field])[0]
    weights = np.tile(case["chunk_weights"][0], (draws, 1))
    chosen = plan.select(draws, fraction=1 / len(plan), weights=weights, weighting=weighting, seed=11)
    assert (chosen.sum(1) == 1).all()
    error = np.sqrt(probabilities * (1 - probabilities) / draws)
    assert (np.abs(chosen.mean(0) - probabilities) <= 4 * error + 1e-12).all()


@each_case
def test_selections_mean_the_same_as_indices_mask_or_array(case):
    indices = np.array(case["selected_chunks"])
    if indices.shape[1] == len(case["chunk_sizes"]) and indices.max() <= 1:
        with pytest.raises(cg.InvalidArgument, match="a mask or indices"):
            loss_of(case, case["new_log_probs"], indices)
        return
    losses = []
    for form in (mask_of(case), indices, [tuple(row) for row in case["selected_chunks"]]):
        out = loss_of(case, case["new_log_probs"], form)
        losses.append((out.loss, out.grad_log_probs.tobytes(), out.stats))
    assert all(each == losses[0] for each in losses)
