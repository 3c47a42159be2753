"""examples/python/chunkgrpo.ipynb runs from top to bottom, in a kernel of its own, and improves its model."""

from __future__ import annotations

import re

import pytest
from conftest import ROOT

NOTEBOOK = ROOT / "examples" / "python" / "chunkgrpo.ipynb"

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, 4)


@pytest.fixture(scope="module")
def run(notebook):
    """Its cells with what they printed and drew."""
    kernel = {"metadata": {"path": str(NOTEBOOK.parent)}}
    return nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3", resources=kernel).execute()


def outputs(run, word):
    """Of the one cell that has a word in its source: its text, and whether it drew."""
    (cell,) = (cell for cell in run.cells if cell.cell_type == "code" and word in cell.source)
    text = "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in cell.outputs)
    return text, any("image/png" in output.get("data", {}) for output in cell.outputs)


def test_it_holds_no_outputs_that_could_be_stale(notebook):
    fresh = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(fresh)
    cells = [cell for cell in fresh.cells if cell.cell_type == "code"]
    assert cells and all(cell.outputs == [] and cell.execution_count is None for cell in cells)


def test_no_cell_warns_or_complains(run):
    for cell in run.cells:
        for output in cell.get("outputs", []):
            assert output.output_type != "error" and output.get("name") != "stderr", output


@pytest.mark.parametrize("call", ["plot.trajectory", "plot.step_weights", "plot.run", "plot.grids"])
def test_its_pictures_are_drawn(run, call):
    assert outputs(run, call)[1]


def test_the_ratios_are_1_before_a_step_and_the_loss_falls_by_it(run):
    text, _ = outputs(run, "cg.chunk_loss")
    assert text.startswith("ratios [1.]")
    before, after, clipped = map(float, re.search(r"loss (\S+) -> (\S+), clipped (\S+)", text).groups())
    assert after < before and 0.05 < clipped < 0.9


def test_the_model_draws_more_of_the_digits_that_it_is_asked_for(run):
    before, after = map(float, re.search(r"before: (\S+) +after: (\S+)", outputs(run, "plot.grids")[0]).groups())
    assert after > before + 0.15
