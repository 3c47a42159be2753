"""The example of tokens: its GRPO and GSPO losses are TRL's, numbers and gradients, and it learns."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

import chunkgrpo as cg

ROOT = Path(__file__).resolve().parents[2]
OBJECTIVES = json.loads((ROOT / "Tests/fixtures/objectives.json").read_text())
TRL = next(case for case in OBJECTIVES if case["kind"] == "trl_token_losses")
SPEC = importlib.util.spec_from_file_location("tokens", ROOT / "examples/python/tokens.py")
assert SPEC is not None and SPEC.loader is not None
tokens = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tokens)

COMPARED = [
    variant
    for variant in TRL["expected"]["variants"]
    if variant["loss_type"] == "grpo"
    and not variant["use_bias_correction_kl"]
    and variant["off_policy_mask_threshold"] is None
]


@pytest.mark.parametrize("variant", COMPARED, ids=lambda v: f"{v['importance_sampling_level']}-{v['epsilon_high']}")
def test_one_token_is_grpo_and_one_chunk_is_gspo_of_trl(variant):
    names = ("new_log_probs", "old_log_probs", "ref_log_probs", "mask")
    given = {name: np.array(TRL["inputs"][name]) for name in names}
    new, advantages = given["new_log_probs"], TRL["inputs"]["advantages"]
    loss = tokens.grpo if variant["importance_sampling_level"] == "token" else tokens.gspo
    old = given["old_log_probs"] if variant["old_log_probs_given"] else new
    out = loss(
        new,
        old,
        advantages,
        given["mask"],
        clip=(variant["epsilon_low"], variant["epsilon_high"]),
        ratio_cap=variant["delta"] or float("inf"),
        kl=variant["beta"],
        reference_log_probs=given["ref_log_probs"],
    )
    assert out.loss == pytest.approx(variant["loss"], rel=1e-12)
    np.testing.assert_allclose(out.grad_log_probs, variant["grad_wrt_new"], rtol=1e-10, atol=1e-15)


def test_there_are_variants_of_both():
    assert {variant["importance_sampling_level"] for variant in COMPARED} == {"token", "sequence"}
    assert len(COMPARED) == 11


@pytest.mark.parametrize("loss", [tokens.grpo, tokens.chunked, tokens.gspo])
def test_the_model_learns_its_letters(loss):
    rewards, _ = tokens.train(loss)
    assert rewards[0] < 0.3 and rewards[-1] > 2 * rewards[0]


def test_padding_is_not_read():
    new, old = np.full((2, 4), 0.1), np.zeros((2, 4))
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]])
    plain = cg.chunk_loss(new, old, [1, -1], [2, 2], mask=mask)
    new[1, 2:] = np.nan
    padded = cg.chunk_loss(new, old, [1, -1], [2, 2], mask=mask)
    assert padded.loss == plain.loss and padded.stats == plain.stats and padded.stats.selected == 3
    np.testing.assert_array_equal(padded.grad_log_probs, plain.grad_log_probs)
