"""The examples run from the tree without PYTHONPATH, and say their options with their defaults. The LoRAs have own tests."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from conftest import ROOT

FOLDER = ROOT / "examples" / "python"
NEEDS = {"torch_digits": "tensorboard", "forward_digits": "sklearn", "render_text": "PIL"}
EXAMPLES = ("first", "tokens", "digits", "forward_digits", "torch_digits", "render_text")


@pytest.mark.parametrize("name", EXAMPLES)
def test_help_names_every_option_and_its_default(name, tmp_path):
    pytest.importorskip(NEEDS.get(name, "numpy"))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, FOLDER / f"{name}.py", "--help"], cwd=tmp_path, env={**environment, "COLUMNS": "200"},
        capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stderr
    source = (FOLDER / f"{name}.py").read_text()
    for option, rest in re.findall(r"add_argument\(\s*\"(--[a-z-]+)\"(.*)", source):
        lines = re.search(rf"^  {option}\b(?:.|\n(?!  -))*", done.stdout, re.M)
        assert lines, option
        if "default=" in rest and "default=None" not in rest:
            assert "default" in lines[0], lines[0]
