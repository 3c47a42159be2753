"""The programs on the pages of docs/ run as they are printed."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = ["samplers.md"]  # of whose blocks each is a whole program


@pytest.mark.parametrize("page", PAGES)
def test_the_programs_of_a_page_run_as_printed(page):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {})
