"""The package's type hints hold under mypy --strict, and find a user's mistakes under mypy and pyright, both strict."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "bindings" / "python"

RIGHT = """
import numpy as np
from numpy.typing import NDArray
import torch
import chunkgrpo as cg
import chunkgrpo.distributed as cgd
import chunkgrpo.torch as cgt
from chunkgrpo import plot
from chunkgrpo.diffusers import FlowMatchSDEScheduler


def model(latents: torch.Tensor, sigma: float, step: int) -> torch.Tensor:
    return latents * sigma


def velocity(latents: NDArray[np.float32], sigma: float, step: int) -> NDArray[np.float32]:
    return latents


sampler: cg.Sampler = cg.Sampler(cg.Schedule.shifted(steps=17, shift=3.0), dynamics="flow_sde", eta=0.7, threads=2)
plan = cg.ChunkPlan([2, 3, 4, 7])
plot.save(plot.plan(plan, schedule=sampler.schedule), "plan.svg")
a, b, s, c = sampler.coefficients(3)
trajectory = sampler.rollout(model, torch.zeros(4, 8), seed=7)
reveal_type(sampler.coefficients(3).s)  # 1: float
reveal_type(trajectory.images)  # 2: Tensor
reveal_type(trajectory.log_probs)  # 3: Tensor
reveal_type(cg.advantages(trajectory.images.mean(1), group_size=2))  # 4: Tensor
reveal_type(sampler.log_probs_vjp(trajectory.latents, trajectory.latents[:, 1:], np.ones((4, 16))))  # 5: Tensor
loss = cg.chunk_loss(trajectory.log_probs, trajectory.log_probs, [1.0], plan, clip=0.1)
reveal_type(loss.grad_log_probs)  # 6: Tensor
reveal_type(cgt.chunk_loss(trajectory.log_probs, trajectory.log_probs, [1.0], plan, kl=0.1).loss)  # 7: Tensor
reveal_type(sampler.log_prob(0, torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3)))  # 8: Tensor
own = sampler.rollout(velocity, np.zeros((4, 8), np.float32), seed=7)
reveal_type(own.latents)  # 9: ndarray
reveal_type(cg.advantages([1.0, 2.0], 2, scale="batch"))  # 10: ndarray
rows, single = np.zeros((4, 16)), np.zeros((4, 17, 8), np.float32)
reveal_type(own.log_probs)  # 11: float64
reveal_type(own.relative_l1)  # 12: float64
reveal_type(sampler.step(0, single[:, 0], single[:, 0], seed=1)[1])  # 13: float64
reveal_type(sampler.log_prob(0, single[:, 0], single[:, 0], single[:, 0]))  # 14: float64
reveal_type(sampler.log_probs(single, single[:, 1:]))  # 15: float64
reveal_type(cg.relative_l1(single))  # 16: float64
reveal_type(cg.divergences(sampler, single, single))  # 17: float64
reveal_type(cg.divergences_from_sampled(sampler, single, single[:, 1:], seed=1))  # 18: float64
reveal_type(cg.advantages(single[:, 0, 0], 4))  # 19: float64
reveal_type(cg.Recipe("gcpo").advantages([1.0, 2.0]))  # 20: float64
reveal_type(cg.RewardHistory().update(["a"], [1.0]))  # 21: float64
reveal_type(cg.chunk_loss([[0.0]], [[0.0]], [1.0], plan).grad_log_probs)  # 22: float64
reveal_type(cg.chunk_loss(single[:, 0], rows, rows[0], plan).ratios)  # 23: float64
reveal_type(plan.weights(single[:, 0]))  # 24: float64
reveal_type(cg.best_of_n(np.ones(4), 2))  # 25: bool
reveal_type(sampler.step(0, single[:, 0], single[:, 0], seed=1)[0])  # 26: _32Bit
reveal_type(sampler.log_probs_vjp(single, single[:, 1:], rows))  # 27: _32Bit
reveal_type(cg.relative_l1(torch.zeros(4, 5, 6)))  # 28: Tensor
reveal_type(cg.divergences(sampler, torch.zeros(4, 5, 6), torch.zeros(4, 5, 6)))  # 29: Tensor
reveal_type(sampler.step(0, torch.zeros(2, 3), torch.zeros(2, 3), seed=1)[1])  # 30: Tensor
reveal_type(cg.best_of_n(torch.zeros(4), 2))  # 31: Tensor
scheduler = FlowMatchSDEScheduler(shift=3.0, dynamics="cps", eta=0.5, wan_sigma_min=0.1)
reveal_type(scheduler)  # 32: FlowMatchSDEScheduler
reveal_type(FlowMatchSDEScheduler.from_config({}, eta=0.7, window=[1]))  # 33: FlowMatchSDEScheduler
reveal_type(scheduler.trajectory)  # 34: RecordedTrajectory
reveal_type(FlowMatchSDEScheduler.from_config({}, True, etta=1)[0])  # 35: FlowMatchSDEScheduler
ranks = cgd.of_torch(timeout=60.0)
with cgt.no_sync(torch.nn.Linear(1, 1)), ranks.together("the reward"):
    print(ranks.rank)
reveal_type(ranks.needed_steps(plan, batch=4))  # 36: bool
reveal_type(ranks.normaliser(plan, batch=4, average="step"))  # 37: float
reveal_type(ranks.sample_ids(4))  # 38: signedinteger
reveal_type(ranks.seed(7))  # 39: int
scheduler.save_pretrained("folder")
scheduler.configure(window=[1, 2])
cg.Recipe("gcpo").loss
cg.SDEWindow(4, 15, strategy="random")
cg.Trainer(4, 2, width=32, dynamics="cps", clip=(0.1, 0.2)).pretrain(np.ones((2, 4)), np.ones((2, 2)), steps=3)
"""
REVEALED = ["float", *["Tensor"] * 7, "ndarray", "ndarray", *["float64"] * 14, "bool", "_32Bit", "_32Bit"]
REVEALED += [*["Tensor"] * 4, *["FlowMatchSDEScheduler"] * 2, "RecordedTrajectory", "FlowMatchSDEScheduler"]
REVEALED += ["bool", "float", "_64Bit", "int"]

WRONG = """
import chunkgrpo as cg
import chunkgrpo.torch as cgt
import torch
from chunkgrpo.diffusers import FlowMatchSDEScheduler

schedule, plan, rows = cg.Schedule.linear(4), cg.ChunkPlan([3]), torch.zeros(2, 3)
cg.Sampler(schedule, dynamics="flow-sde")
cg.Sampler(schedule, eta="0.7")
cg.Sampler(schedule, log_prob="sum")
cg.chunk_loss(rows, rows, [1.0, 2.0], plan, clipp=0.1)
cg.chunk_loss(rows, rows, [1.0, 2.0], plan, surrogate="ppo")
cgt.chunk_loss(rows, rows, [1.0, 2.0], plan, kl="a little")
cg.advantages([1.0, 2.0], 2, scale="std")
cg.SDEWindow(4, 15, strategy="sliding")
cg.Schedule.make(4, spacing="log")
cg.Trainer(4, 2, learning_rte=1e-3)
FlowMatchSDEScheduler(etta=0.3)
FlowMatchSDEScheduler(1000, 1.0, False, 0.5, 1.15, 256, 4096, False, None, False, False, False, "linear", False, "cps")
FlowMatchSDEScheduler.from_config({}, etta=0.7)
FlowMatchSDEScheduler().configure(window=[1], dynamics="flow-sde")
plan.no_such_method()
"""


EXAMPLES = ROOT / "examples" / "python"
# Strict but for what PyTorch, scikit-learn and the like leave without types.
TYPED_EXAMPLES = sorted(path.stem for path in EXAMPLES.glob("*.py"))
IN_NUMPY = ("digits", "first", "tokens")
# What pyright's strict mode says of code that calls PyTorch, diffusers, peft, scikit-learn or ONNX Runtime, whatever the
# code: they lack annotations or stubs, or (diffusers) load their names lazily.
OF_UNTYPED_LIBRARIES = ["reportMissingTypeStubs", "reportPrivateImportUsage"]
OF_UNTYPED_LIBRARIES += [f"reportUnknown{what}Type" for what in ("Argument", "Lambda", "Member", "Variable")]
# Of the examples alone: with other options for PyTorch, mypy would read it anew for each test.
EXAMPLES_CONFIG = f"""
[[tool.mypy.overrides]]
module = {json.dumps(TYPED_EXAMPLES)}
warn_return_any = false
warn_unused_ignores = false
disallow_untyped_calls = false

[[tool.mypy.overrides]] # which peft imports, and which takes longer to read than all others
module = ["transformers", "transformers.*"]
follow_imports = "skip"

[[tool.mypy.overrides]]
module = ["sklearn.*", "tqdm.*", "onnxruntime.*", "accelerate.*"]
ignore_missing_imports = true
"""


def mypy(*arguments):
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--cache-dir", ROOT / "build/mypy", *arguments]
    return subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True)


def pyright(*paths, folder=None, **rules):
    """What basedpyright, a pyright with its own node, says in pyright's strict mode: (file, line, severity, message)."""
    pytest.importorskip("basedpyright")
    config = (folder or paths[0].parent) / "pyrightconfig.json"
    include = [str(path) for path in paths] if folder else [path.name for path in paths]
    config.write_text(json.dumps({"typeCheckingMode": "strict", "extraPaths": [str(PACKAGE)], "include": include, **rules}))
    options = "--outputjson", "--pythonpath", sys.executable, "--project", config
    command = [sys.executable, "-m", "basedpyright", *options]
    found = subprocess.run(command, capture_output=True, text=True)
    return [
        (Path(item["file"]).name, item["range"]["start"]["line"], item["severity"], item["message"])
        for item in json.loads(found.stdout)["generalDiagnostics"]
    ]


def mistakes(text):
    """The lines of a program from its first `cg.Sampler(` on: each of them is one mistake."""
    lines = text.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("cg.Sampler("))
    return set(range(first, len(lines)))


def test_the_package_is_clean_under_mypy_strict():
    found = mypy("chunkgrpo")
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_examples_are_clean_under_mypy_strict(tmp_path):
    config = tmp_path / "pyproject.toml"
    config.write_text((PACKAGE / "pyproject.toml").read_text() + EXAMPLES_CONFIG)
    found = mypy("--config-file", config, *(EXAMPLES / f"{name}.py" for name in TYPED_EXAMPLES))
    assert found.returncode == 0, found.stdout + found.stderr


def test_the_examples_in_numpy_are_clean_under_pyright_strict(tmp_path):
    paths = [EXAMPLES / f"{name}.py" for name in IN_NUMPY]
    # A name that a loop binds is used after it.
    assert not pyright(*paths, folder=tmp_path, reportPossiblyUnboundVariable="none")


def test_the_other_examples_are_clean_under_pyright_strict_where_their_libraries_have_types(tmp_path):
    paths = [EXAMPLES / f"{name}.py" for name in TYPED_EXAMPLES if name not in IN_NUMPY]
    off = dict.fromkeys(("reportPossiblyUnboundVariable", *OF_UNTYPED_LIBRARIES), "none")
    assert not pyright(*paths, folder=tmp_path, extraPaths=[str(PACKAGE), str(EXAMPLES)], **off)


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A user's right and wrong one, in a folder of their own."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "right.py").write_text(RIGHT)
    (folder / "wrong.py").write_text(WRONG)
    return folder / "right.py", folder / "wrong.py"


@pytest.fixture(scope="module")
def of_mypy(programs):
    """Its lines on each of both."""
    lines = mypy("--strict", *programs).stdout.splitlines()
    return [[line for line in lines if path.name in line] for path in programs]


@pytest.fixture(scope="module")
def of_pyright(programs):
    """What it found in each of both."""
    found = pyright(*programs)
    return [[item[1:] for item in found if item[0] == path.name] for path in programs]


def known(revealed, found):
    assert len(revealed) == len(REVEALED), found
    for text, expected in zip(revealed, REVEALED):
        assert expected in text, found


def test_a_right_program_is_clean_under_mypy_and_its_types_are_known(of_mypy):
    found = of_mypy[0]
    assert not [line for line in found if "error" in line], found
    known([line.split("Revealed type is")[1] for line in found if "Revealed type is" in line], found)


def test_a_users_mistakes_are_found_by_mypy(of_mypy):
    found = [line for line in of_mypy[1] if ": error:" in line]
    assert {int(line.split(":")[1]) - 1 for line in found} == mistakes(WRONG), found
    assert any('"ChunkPlan" has no attribute "no_such_method"' in line for line in found)


def test_a_right_program_is_clean_under_pyright_and_its_types_are_known(of_pyright):
    found = of_pyright[0]
    assert not [item for item in found if item[1] != "information"], found
    known([message for _, severity, message in found if severity == "information"], found)


def test_a_users_mistakes_are_found_by_pyright(of_pyright):
    found = of_pyright[1]
    assert {line for line, severity, _ in found if severity == "error"} == mistakes(WRONG), found
