"""The wheel of `make wheel`, in an environment of its own: numpy and nothing else, far from the repository."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from conftest import ROOT

import chunkgrpo as cg

# Runs on the wheel's package and prints what it found.
USE = """
import ctypes, json, sys
import numpy as np
import chunkgrpo as cg

x, v, next_x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
log_prob = cg.Sampler(cg.Schedule.shifted(17, 3.0)).log_prob(3, x, v, next_x)
trainer = cg.Trainer(5, 2, width=32, blocks=1, seed=3)
trainer.pretrain(x, np.eye(2, dtype=np.float32)[[0, 1, 0, 1]], steps=20, batch_size=4)
velocity = trainer.velocity(x, 0.5, np.eye(2, dtype=np.float32)[[0, 1, 0, 1]])
loaded = {line.split()[-1] for line in open("/proc/self/maps") if "/" in line}
print(json.dumps({
    "version": cg.__version__,
    "package": cg.__file__,
    "log_prob": [number.hex() for number in log_prob.tolist()],
    "velocity": velocity.tolist(),
    "libraries": sorted(path for path in loaded if any(name in path for name in ("blas", "chunkgrpo.so", "gfortran"))),
    "frameworks": sorted({"torch", "jax", "diffusers", "ml_dtypes"} & set(sys.modules)),
}))
"""


@pytest.fixture(scope="module")
def wheel():
    found = list((ROOT / "dist").glob("*.whl"))
    if not found:
        pytest.skip("no wheel: `make wheel` builds it")
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/")}


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """What the package says of itself in an environment with numpy alone, that environment's folder, and what runs in it."""
    folder = tmp_path_factory.mktemp("environment")
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--python", str(python)]
    names = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "OMP_NUM_THREADS")}

    def run(*command):
        done = subprocess.run(command, cwd=folder, env=names, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    run(*pip, "install", "--quiet", str(wheel), f"numpy=={np.__version__}")
    assert set(re.findall(r"^[\w-]+", run(*pip, "freeze"), re.MULTILINE)) == {"chunkgrpo", "numpy"}
    run(*pip, "check")
    return json.loads(run(str(python), "-c", USE)), str(folder.resolve()), lambda code: run(str(python), "-c", code)


def test_name_says_any_python_3_on_linux_from_glibc_2_28_on_as_auditwheel_has_checked(wheel):
    name = re.fullmatch(rf"chunkgrpo-{re.escape(cg.__version__)}-py3-none-manylinux_2_(\d+)_(\w+)\.whl", wheel.name)
    assert name and name[2] == platform.machine()
    assert name[2] != "x86_64" or int(name[1]) <= 28


def test_holds_every_module_the_library_openblas_and_the_licences(contents):
    folder = ROOT / "bindings" / "python"
    modules = {str(path.relative_to(folder)) for path in (folder / "chunkgrpo").rglob("*.py")} | {"chunkgrpo_command.py"}
    libraries = {name for name in contents if ".so" in name}
    openblas = [name for name in libraries if name.startswith("chunkgrpo.libs/") and "openblas" in name]
    assert {name for name in contents if name.endswith(".py")} == modules
    assert libraries == {"chunkgrpo/libchunkgrpo.so", *openblas} and len(openblas) == 1
    assert "chunkgrpo/py.typed" in contents
    licences = [contents[name].decode() for name in contents if "/licenses/" in name]
    for words in ("Apache License", "Name: OpenBLAS", "GCC RUNTIME LIBRARY EXCEPTION"):
        assert any(words in licence for licence in licences)
    for text in [ROOT / "NOTICE", *(ROOT / "LICENSES").iterdir()]:
        assert text.read_text() in licences


def test_needs_numpy_alone_and_offers_the_frameworks_as_extras(contents):
    (metadata,) = [contents[name].decode() for name in contents if name.endswith(".dist-info/METADATA")]
    needs = re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE)
    assert [need for need in needs if "extra ==" not in need] == ["numpy>=1.24"]
    assert {"torch", "diffusers", "jax", "plot"} <= set(re.findall(r"^Provides-Extra: (.*)$", metadata, re.MULTILINE))


def test_library_has_no_symbols_left_to_strip(contents, tmp_path):
    library = tmp_path / "library.so"
    library.write_bytes(contents["chunkgrpo/libchunkgrpo.so"])
    sections = subprocess.run(["readelf", "-SW", library], capture_output=True, text=True, check=True).stdout
    assert ".dynsym" in sections and ".symtab" not in sections and ".debug" not in sections


def test_installed_package_and_its_libraries_are_those_of_the_wheel(installed):
    said, folder, _ = installed
    assert said["version"] == cg.__version__
    assert said["package"].startswith(folder)
    assert said["frameworks"] == []
    assert all(path.startswith(folder) for path in said["libraries"])
    names = [os.path.basename(path) for path in said["libraries"]]
    assert "libchunkgrpo.so" in names
    assert any("chunkgrpo.libs" in path and "openblas" in path for path in said["libraries"])


def test_installed_package_computes_what_the_tree_does(installed):
    said, _, _ = installed
    x, v, next_x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    log_prob = cg.Sampler(cg.Schedule.shifted(17, 3.0)).log_prob(3, x, v, next_x)
    assert said["log_prob"] == [number.hex() for number in log_prob.tolist()]
    trainer = cg.Trainer(5, 2, width=32, blocks=1, seed=3)  # on Debian's OpenBLAS
    conditions = np.eye(2, dtype=np.float32)[[0, 1, 0, 1]]
    trainer.pretrain(x, conditions, steps=20, batch_size=4)
    np.testing.assert_allclose(said["velocity"], trainer.velocity(x, 0.5, conditions), rtol=1e-3, atol=1e-5)


def test_metadata_says_who_what_and_where(contents):
    (metadata,) = [contents[name].decode() for name in contents if name.endswith(".dist-info/METADATA")]
    for line in (
        "Summary: Chunk-level policy optimisation",
        "Author: The chunkgrpo contributors",
        "Keywords: flow matching",
        "License-Expression: Apache-2.0",
        "Project-URL: Method (arXiv 2510.21583), https://arxiv.org/abs/2510.21583",
        "Classifier: Typing :: Typed",
        "Description-Content-Type: text/markdown",
    ):
        assert f"\n{line}" in metadata, line


def test_the_program_of_the_packages_own_page_runs_with_numpy_alone(contents, installed):
    (metadata,) = [contents[name].decode() for name in contents if name.endswith(".dist-info/METADATA")]
    (block,) = re.findall(r"```python\n(.*?)```", metadata, re.DOTALL)
    given = "velocity = lambda latents, sigma, step: latents * 0.5\nreward = lambda images: images.mean(axis=(1, 2, 3))\n"
    said = installed[2](given + block + "print(traj.images.shape, grad_v.shape)")
    assert said == "(24, 16, 64, 64) (24, 16, 16, 64, 64)\n"


@pytest.mark.parametrize("module, package, extra", [
    ("torch", "torch", "torch"),
    ("jax", "jax", "jax"),
    ("diffusers", "torch", "diffusers"),
    ("unirl", "unirl", "unirl"),
    ("compat.dance_grpo", "torch", "torch"),
])
def test_a_module_without_its_framework_names_the_extra(installed, module, package, extra):
    code = f"""
try:
    import chunkgrpo.{module}
except ModuleNotFoundError as error:
    print(error)
"""
    name = module.split(".")[0]
    assert installed[2](code) == f"chunkgrpo.{name} needs {package}: pip install chunkgrpo[{extra}]\n"
