"""examples/python/render_text.py: its readers, its data and a short run of the whole, with both models."""

from __future__ import annotations

import itertools
import json
import shutil
import sys

import numpy as np
import pytest
from conftest import ROOT

pytest.importorskip("PIL")
pytest.importorskip("matplotlib")
pytest.importorskip("onnxruntime")
pytest.importorskip("rapidocr_onnxruntime")
sys.path.insert(0, str(ROOT / "examples" / "python"))

import ocr  # noqa: E402
import render_text  # noqa: E402

tesseract = pytest.mark.skipif(not ocr.has_tesseract(), reason="tesseract is not installed")


@pytest.fixture(scope="module")
def recogniser():
    return ocr.Recogniser()


@pytest.fixture(scope="module")
def clean():
    """A task, texts of it and their pictures as the model sees them."""
    task = render_text.Task("0123456789", 3, 100, np.random.default_rng(1))
    texts = task.known[:40]
    return task, texts, task.pictures(task.images(texts, np.random.default_rng(2)))


def test_ctc_log_prob_is_the_sum_over_all_alignments():
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(4), (3, 5))  # 3 pictures, 5 frames, a blank and 3 characters
    for label in ([1, 2], [1, 1], [3, 3]):
        expected = np.zeros(3)
        for path in itertools.product(range(4), repeat=5):
            collapsed = [c for i, c in enumerate(path) if c != 0 and (i == 0 or path[i - 1] != c)]
            if collapsed == label:
                expected += probabilities[:, range(5), path].prod(1)
        got = ocr.ctc_log_prob(probabilities, np.tile(label, (3, 1)))
        np.testing.assert_allclose(got, np.log(expected), rtol=1e-9)


def test_recogniser_reads_rendered_text_and_finds_it_probable(recogniser, clean):
    _, texts, pictures = clean
    read, log_probs = recogniser(pictures, texts)
    assert np.mean(np.equal(read, texts)) >= 0.95
    assert np.median(log_probs) > -0.1
    _, of_others = recogniser(pictures, texts[1:] + texts[:1])
    assert np.all(of_others < log_probs - 1)


def test_recogniser_does_not_depend_on_the_batch(recogniser, clean):
    _, texts, pictures = clean
    whole, parts = recogniser(pictures, texts), recogniser(pictures, texts, batch=7)
    assert whole[0] == parts[0]
    np.testing.assert_allclose(whole[1], parts[1], atol=1e-4)


@tesseract
def test_tesseract_reads_rendered_text_and_not_noise(clean):
    task, texts, pictures = clean
    assert np.mean(np.equal(ocr.tesseract(pictures, task.alphabet), texts)) >= 0.9
    noise = np.random.default_rng(0).integers(0, 256, pictures.shape).astype(np.uint8)
    judged = ocr.tesseract(noise, task.alphabet)
    assert len(judged) == len(texts) and not np.any(np.equal(judged, texts))


def test_held_out_texts_are_never_trained_on(clean):
    task = clean[0]
    assert len(task.held_out) == 100 and len(task.known) == 900
    assert not set(task.held_out) & set(task.known)
    seen = task.conditions(["120", "999"]).reshape(2, 3, 10).argmax(2)
    assert seen.tolist() == [[1, 2, 0], [9, 9, 9]]


def test_a_touch_up_is_the_posterior_mean_of_the_noised_images():
    """Where pixels are normal with mean 1 and deviation d, E[x0 | x] at x = (1 - s) x0 + s e is known, and v = (x - it) / s.
    Of an image 1 + f, the mean over the noise is 1 + g f with g = (1 - s)^2 d^2 / ((1 - s)^2 d^2 + s^2)."""
    s, d = 0.25, 0.2
    gain = (1 - s) * d**2 / ((1 - s) ** 2 * d**2 + s**2)

    class Normal:
        def velocity(self, x, sigma, conditions):
            assert sigma == s and x.dtype == np.float32 and len(conditions) == len(x)
            return (x - (1 + gain * (x - (1 - s)))) / s

    flaws = np.random.default_rng(0).normal(0, 1, (50, 400)).astype(np.float32)
    images, draws = 1 + flaws, 100
    touched = render_text.touched_up(Normal(), images, np.zeros((50, 2), np.float32), s, draws)
    error = touched - (1 + gain * (1 - s) * flaws)
    assert abs(error.mean()) < 5 * gain * s / (draws * error.size) ** 0.5
    assert error.std() == pytest.approx(gain * s / draws**0.5, rel=0.02)


@pytest.mark.parametrize("model", ["embedded", "torch"])
def test_a_short_run_raises_the_reward_and_a_resumed_one_goes_on_as_if_uninterrupted(model, tmp_path, monkeypatch):
    if model == "torch":
        pytest.importorskip("torch")
    monkeypatch.setattr(render_text.ocr, "has_tesseract", lambda: False)  # which has its own test
    whole, halves = tmp_path / "whole", tmp_path / "halves"

    def run(output, *more):
        held = ["--kl", "0.02", "--last-step", "1e-4"]
        return render_text.main(["--quick", "--model", model, *held, "--output", str(output), *more])

    def lines(output):
        return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]

    summary = run(whole)
    rewards = [line["reward"] for line in lines(whole)]
    assert len(rewards) == 6
    assert np.mean(rewards[-2:]) > np.mean(rewards[:2])
    assert all(line["last_step_divergence"] > 0 for line in lines(whole))
    for name in ("before", "after", "untouched"):
        assert set(summary[name]) == {"log_prob", "exact", "paper_noise"}
    assert (whole / "reward.png").read_bytes().startswith(b"\x89PNG")
    assert not (whole / "samples.png").exists()  # a quick run does not learn to write

    shutil.copytree(whole / "pretrained", halves / "checkpoint")
    shutil.copytree(whole / "pretrained", halves / "pretrained")
    shutil.copy(whole / "options.json", halves)
    (halves / "metrics.jsonl").write_text("")
    run(halves, "--resume", "--iterations", "2")
    again = run(halves, "--resume")
    assert [line["reward"] for line in lines(halves)] == pytest.approx(rewards, abs=1e-6)
    assert again["after"] == pytest.approx(summary["after"], abs=1e-6)
