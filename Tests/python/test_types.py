"""The package's type hints hold under mypy --strict, and are there for those who use it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from conftest import ROOT

USER = """
import numpy as np
import chunkgrpo as cg

sampler: cg.Sampler = cg.Sampler(cg.Schedule.shifted(steps=17, shift=3.0), dynamics="flow_sde", eta=0.7)
reveal_type(sampler.coefficients(3))
cg.Sampler(sampler.schedule, eta="0.7")
cg.ChunkPlan([2, 3]).no_such_method()
"""


def mypy(*arguments):
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--cache-dir", ROOT / "build/mypy", *arguments]
    return subprocess.run(command, cwd=ROOT / "bindings" / "python", capture_output=True, text=True)


def test_the_package_is_clean_under_mypy_strict():
    found = mypy("chunkgrpo")
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_users_mistakes_are_found(tmp_path):
    (tmp_path / "user.py").write_text(USER)
    found = mypy(tmp_path / "user.py").stdout
    assert "tuple[float, float, float]" in found
    assert 'Argument "eta" to "Sampler" has incompatible type "str"' in found
    assert '"ChunkPlan" has no attribute "no_such_method"' in found
    assert "Found 2 errors" in found
