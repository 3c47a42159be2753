"""The program of docs/training.md: it is short, its numbers do not depend on the number of processes, and a resumed run is
the run."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys

import numpy as np
import pytest

from conftest import ROOT

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("peft")

PAGE = (ROOT / "docs" / "training.md").read_text()
(PROGRAM,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
FOLDERS = os.pathsep.join(str(ROOT / folder) for folder in ("bindings/python", "examples/python"))
ONE = [sys.executable, "-W", "ignore", "train.py"]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """name -> (lines, checkpoint)."""
    done = {}

    def run(name, folder, command, *options):
        folder.mkdir(exist_ok=True)
        (folder / "train.py").write_text(PROGRAM)
        own = {"PYTHONPATH": FOLDERS, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
        call = functools.partial(subprocess.run, cwd=folder, env={**os.environ, **own}, text=True, stdout=subprocess.PIPE)
        said = call([*command, *options], check=True).stdout
        done[name] = [line for line in said.splitlines() if "reward" in line], torch.load(folder / "state.pt")

    root = tmp_path_factory.mktemp("runs")
    run("one", root / "one", ONE, "--iterations", "3")
    run("half", root / "two", TWO, "--iterations", "2")
    run("resumed", root / "two", TWO, "--iterations", "3", "--resume")
    return done


def test_the_program_is_at_most_80_lines():
    assert len(PROGRAM.splitlines()) <= 80
    for part in ("LoraConfig", "EMAModel", "penalty", "EPOCHS", "ranks", "--resume", "velocity_of"):
        assert part in PROGRAM


def test_two_processes_that_are_resumed_print_the_numbers_of_one(runs):
    (one, _), (half, _), (resumed, _) = (runs[name] for name in ("one", "half", "resumed"))
    assert len(one) == 3 and len(half) == 2 and len(resumed) == 1
    numbers = [[float(n) for line in lines for n in re.findall(r"-?\d+\.\d+", line)] for lines in (one, half + resumed)]
    np.testing.assert_allclose(*numbers, atol=2e-5)


def test_they_end_with_its_weights_averages_and_moments(runs):
    (_, one), (_, half), (_, resumed) = (runs[name] for name in ("one", "half", "resumed"))
    assert one["iteration"] == resumed["iteration"] == 3 and one["adapter"].keys() == resumed["adapter"].keys()
    for name, weight in one["adapter"].items():
        moved = (weight - half["adapter"][name]).norm()
        assert moved > 0 and (weight - resumed["adapter"][name]).norm() < 0.02 * moved
    for ours, theirs in zip(one["ema"]["shadow_params"], resumed["ema"]["shadow_params"]):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)
    assert one["ema"]["optimization_step"] == resumed["ema"]["optimization_step"] == 12
