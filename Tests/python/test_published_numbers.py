"""The numbers of README and docs are those of the measurements in Benchmarks/results."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest
from conftest import ROOT

import chunkgrpo as cg

RESULTS = ROOT / "Benchmarks" / "results"
COLLAPSE = json.loads((RESULTS / "collapse.json").read_text())
METHODS = ("chunks 2-3-4-7", "step level", "step level, chunk weights", "NFT", "AWM")
WEIGHTS = {"NFT": ("0.1", "0.3"), "AWM": ("0.1", "0.3")}  # of the divergence; of the others 0.1 and 0.2


def rows(page, first):
    """The cells behind the first one, of each row of the table of `page` whose head begins with `first`."""
    text = (ROOT / page).read_text()
    table = text[text.index(f"| {first}") :].split("\n\n")[0]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]
    return {row[0]: row[1:] for row in cells}


def runs(name):
    """(seeds, points, 5): evaluations, reward, accuracy, spread, Frechet distance."""
    found = [points for key, points in COLLAPSE.items() if key.rsplit("/", 2)[0] == name]
    assert len(found) == 5
    return np.array(found, float)


def printed(values, places):
    """As the pages print them: without the zero before the point where there are two or three places."""
    mean, error = np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values))
    text = f"{mean:.{places}f} ± {error:.{places}f}"
    return re.sub(r"\b0\.", ".", text) if places > 1 else text


def at_the_end(name):
    last, before = runs(name)[:, -1], runs(name)[:, 0]
    columns = [(last[:, 1], 3), (last[:, 2], 3), (last[:, 3] / before[:, 3], 2), (last[:, 4] / before[:, 4], 1)]
    return [printed(values, places) for values, places in columns]


def best_at(names, share):
    """For each seed the highest accuracy, on the lines between the points of its runs, where the spread is at least
    `share` of that before. A line has its highest point at an end, or where it crosses."""
    found = []
    for of_seed in zip(*(runs(name) for name in names)):
        best = 0.0
        for points in of_seed:
            fine = np.linspace(0, 1, 20001)[:, None]
            for one, two in zip(points, points[1:]):
                line = one[2:4] + fine * (two[2:4] - one[2:4])
                best = max(best, *line[line[:, 1] >= share * points[0, 3] - 1e-12][:, 0], 0.0)
        found.append(best)
    return np.array(found)


def test_the_readmes_comparison_is_that_of_the_curves():
    table = rows("README.md", "after 4,100 evaluations | reward | judge | spread | Fréchet | judge")
    assert tuple(table) == METHODS
    for name, cells in table.items():
        assert cells[:4] == at_the_end(name)
        weights = [f"{name}, KL {weight}" for weight in WEIGHTS.get(name, ("0.1", "0.2"))]
        for cell, names in ((cells[4], [name]), (cells[5], [name, *weights])):
            mean, error = (float(part) for part in cell.split(" ± "))
            values = best_at(names, 0.9)
            assert mean == pytest.approx(values.mean(), abs=6e-4)
            assert error == pytest.approx(values.std(ddof=1) / 5**0.5, abs=6e-4)


def test_the_page_on_collapse_has_the_ends_of_the_curves():
    table = rows("docs/collapse.md", "after 4,100 evaluations, no divergence")
    assert sorted(table) == sorted(METHODS)
    for name, cells in table.items():
        assert cells == at_the_end(name)
    for name, cells in rows("docs/collapse.md", "after 12,300 evaluations, with a divergence").items():
        method, weight = name.replace(" Gaussian", "").replace(" velocity", "").rsplit(", ", 1)
        assert cells == at_the_end(f"{method}, KL {weight}")


def test_the_readmes_table_and_picture_of_the_demo_are_of_its_runs():
    measured = json.loads((RESULTS / "demo.json").read_text())
    assert measured["version"] == cg.__version__, "run Benchmarks/demo.py"
    seeds = measured["seeds"]
    table = rows("README.md", "seed | right, by the judge")
    assert list(table) == list(seeds) and len(seeds) == 5
    for seed, cells in table.items():
        for cell, name, unit in zip(cells, ("judge", "spread", "frechet"), (0.01, 1, 1)):
            assert cell.count(" → ") == 1
            for text, phase in zip(cell.removesuffix(" %").split(" → "), ("before", "after")):
                half = 0.5 * unit * 10.0 ** -len(text.split(".")[1])
                assert float(text) * unit == pytest.approx(seeds[seed][phase][name], abs=half + 1e-6), (seed, phase, name)
    text = (ROOT / "README.md").read_text()
    assert {f"real digits: {run['real']['spread']:.3f}" for run in seeds.values()} == {
        re.search(r"real digits: [\d.]+", text)[0]}
    (iterations,) = {run["iterations"] for run in seeds.values()}
    assert f"after {iterations:,} iterations" in text
    # The picture is that of one of these runs, which wrote its numbers into it.
    picture = (ROOT / "examples/images/digits.png").read_bytes()
    assert hashlib.sha256(picture).hexdigest() == measured["picture"]["sha256"] and str(measured["picture"]["seed"]) in seeds

def test_the_readme_says_how_written_texts_were_read():
    seeds = [json.loads((RESULTS / "text.json").read_text())[seed] for seed in ("1", "2")]
    table = rows("README.md", "| seed 1 | seed 2 |")
    for name, score in (("read as asked by PP-OCR", "exact"), ("by tesseract", "tesseract_exact")):
        assert table[name] == [f"{seed['before'][score]:.3g} → {seed['after'][score]:.3g}" for seed in seeds]
    for name, who in (("noise of the paper, times that before", "after"), ("without the touch-up", "untouched")):
        assert table[name] == [f"{seed[who]['paper_noise'] / seed['before']['paper_noise']:.2f}" for seed in seeds]


def test_the_page_on_collapse_says_what_takes_speckle_off():
    lines = json.loads((RESULTS / "text.json").read_text())["ways"]
    table = rows("docs/collapse.md", "pictures of the trained model | PP-OCR")
    assert list(table) == [line["name"] for line in lines]
    for line in lines:
        expected = [f"{line['exact']:.3g}", f"{line['tesseract_exact']:.3g}", f"{line['noise']:.2f} ×"]
        assert table[line["name"]] == expected


def test_the_page_on_collapse_says_what_holding_the_last_step_does():
    runs = json.loads((RESULTS / "text.json").read_text())["held"]
    table = rows("docs/collapse.md", "last step, KL, iterations | PP-OCR")
    names = [f"{run['last_step']:g}, {run['kl']:g}, {run['iterations']}" for run in runs]
    assert list(table) == names
    for name, run in zip(names, runs):
        assert table[name] == [f"{run['exact']:.3g}", f"{run['tesseract_exact']:.3g}", f"{run['noise']:.2f} ×"]


def test_the_times_on_a_gpu_are_those_that_were_measured():
    measured = json.loads((RESULTS / "gpu.json").read_text())
    assert measured["card"].removeprefix("NVIDIA ") in (ROOT / "docs/gpu.md").read_text()
    names = {"step with noise and log-probability": "step", "log-probability": "log_prob", "gradient": "gradient"}
    names["distances of the forward process"] = "distance"
    table = rows("docs/gpu.md", "12×2025×64 | chunkgrpo")
    assert len(table) == 8
    times = {(row["call"], row["shape"], row["type"]): row for row in measured["times"]}
    for name, cells in table.items():
        call, kind = name.rsplit(", ", 1)
        row = times[names[call], "12x2025x64", kind]
        for cell, contestant in zip(cells, ("chunkgrpo", "copy", "eager", "compiled")):
            assert float(cell) == pytest.approx(row[contestant], abs=0.0501)
    step = times["step", "12x2025x64", "float32"]
    said = re.search(r"takes ([\d.]+) µs; eager PyTorch ([\d.]+),\s+compiled ([\d.]+)", (ROOT / "README.md").read_text())
    assert said and [float(number) for number in said.groups()] == pytest.approx(
        [step[contestant] for contestant in ("chunkgrpo", "eager", "compiled")], abs=0.0501)
