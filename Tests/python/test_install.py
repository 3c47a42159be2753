"""`pip install` of the folder: with the library that is built, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import chunkgrpo._library as library

pytest.importorskip("setuptools", minversion="77")


def source(tmp_path):
    """A repository with the Python package alone."""
    folder = tmp_path / "repository" / "bindings" / "python"
    ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info", "*.so", ".mypy_cache")
    shutil.copytree(ROOT / "bindings" / "python", folder, ignore=ignored)
    return folder


def install(folder, target):
    options = "--disable-pip-version-check --no-input --no-build-isolation --no-deps --no-index --target".split()
    command = [sys.executable, "-m", "pip", "install", *options, str(target), str(folder)]
    return subprocess.run(command, capture_output=True, text=True)


def test_without_the_library_the_installation_fails_with_one_sentence(tmp_path):
    done = install(source(tmp_path), tmp_path / "target")
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in said
    assert "chunkgrpo has no libchunkgrpo.so to install: run `make lib` in the repository first" in said
    assert not (tmp_path / "target" / "chunkgrpo").exists()


def test_with_the_library_built_the_installed_package_has_it_and_works(tmp_path):
    folder, target = source(tmp_path), tmp_path / "target"
    built = folder.parents[1] / "build" / "lib"
    built.mkdir(parents=True)
    shutil.copy(Path(library.lib._name), built / "libchunkgrpo.so")
    done = install(folder, target)
    assert done.returncode == 0, done.stdout + done.stderr
    use = "import chunkgrpo as cg; print(cg.__file__, cg.Schedule.linear(4).sigmas.tolist())"
    said = subprocess.run([sys.executable, "-c", use], cwd=target, capture_output=True, text=True)
    assert said.stdout.split(" ", 1) == [f"{target}/chunkgrpo/__init__.py", "[1.0, 0.75, 0.5, 0.25, 0.0]\n"], said.stderr
    assert (target / "chunkgrpo" / "libchunkgrpo.so").exists()
    command = [sys.executable, str(target / "bin" / "chunkgrpo"), "plan", "--json"]
    said = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(target)}, capture_output=True, text=True)
    assert json.loads(said.stdout)["sizes"] == [2, 3, 4, 7], said.stderr
