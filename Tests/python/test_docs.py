"""The programs on the pages of docs/ run as they are printed."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["samplers.md"]  # of whose blocks each is a whole program


def test_the_trainer_of_the_page_on_collapse_has_the_settings_that_it_names():
    import chunkgrpo as cg

    (block,) = re.findall(r"```python\n(.*?)```", (DOCS / "collapse.md").read_text(), re.DOTALL)
    names = {"cg": cg}
    exec(compile(block, "collapse.md", "exec"), names)
    options = names["trainer"].options
    assert (options["reference_kl"], options["reference_divergence"]) == (0.35, "gaussian")
    assert (options["chunk_fraction"], options["ema_decay"]) == (1.0, 0.99)


@pytest.mark.parametrize("page", PAGES)
def test_the_programs_of_a_page_run_as_printed(page):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {})
