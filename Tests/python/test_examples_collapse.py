"""What examples/python/digits.py and Benchmarks/collapse.py measure, and a short run of the first."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from conftest import ROOT

sys.path[:0] = [str(ROOT / "examples" / "python"), str(ROOT / "Benchmarks")]

import collapse  # noqa: E402
import digits  # noqa: E402


def test_the_frechet_distance_of_gaussians_has_its_closed_form():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 4000, 3)) * [[[1, 2, 3]], [[2, 2, 1]]] + [[[0, 0, 0]], [[1, 0, 0]]]
    # Of independent features: |m - m'|^2 + sum (s - s')^2.
    assert digits.frechet(a, b) == pytest.approx(1 + 1 + 0 + 4, rel=0.05)
    assert digits.frechet(a, a) == pytest.approx(0, abs=1e-9)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    assert digits.frechet(a @ turn, b @ turn) == pytest.approx(digits.frechet(a, b), rel=1e-9)


def test_the_spread_is_the_deviation_within_a_digit():
    images = np.array([[0.0, 1.0], [2.0, 1.0], [5.0, 5.0], [5.0, 9.0]])
    assert digits.spread(images, np.array([3, 3, 7, 7])) == pytest.approx((1 + 0 + 0 + 2) / 4)
    assert digits.spread(*digits.read_digits()) == pytest.approx(0.329, abs=5e-4)


def test_accuracy_at_equal_spread_is_read_off_between_two_points():
    curve = [(0, 0.0, 0.6, 0.30, 1.0), (10, 0.0, 0.8, 0.28, 2.0), (20, 0.0, 0.9, 0.24, 3.0)]
    assert collapse.accuracy_at(curve, 0.9) == pytest.approx(0.825)  # 0.27, a quarter of the way
    assert collapse.accuracy_at(curve, 0.5) == 0.9
    back = [*curve, (30, 0.0, 0.95, 0.28, 2.0), (40, 0.0, 0.7, 0.29, 2.0)]  # the spread returns, then the accuracy falls
    assert collapse.accuracy_at(back, 0.9) == 0.95 and collapse.accuracy_at(back, 0.95) == pytest.approx(0.825)


def test_a_short_run_measures_both_models_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["digits.py", "--pretrain-steps", "5", "--iterations", "2", "--output", str(tmp_path)])
    digits.main()
    monkeypatch.setattr(sys, "argv", ["digits.py", "--iterations", "3", "--output", str(tmp_path), "--resume"])
    digits.main()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert set(lines[0]) == {"reward_model", "judge", "spread", "frechet"}
    assert [line["iteration"] for line in lines[1:]] == [1, 2, 3] and lines[-1]["reference_divergence"] > 0
    assert capsys.readouterr().out.count("Fréchet distance to real digits") == 2
