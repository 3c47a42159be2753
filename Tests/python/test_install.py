"""`pip install` of the folder and of the source archive: with the library that is built or that make builds, or not at all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from conftest import ROOT

import chunkgrpo._library as library

pytest.importorskip("setuptools", minversion="77")


REPOSITORY = "LICENSE LICENSES Makefile NOTICE Package.swift Plugins Sources bindings/c include scripts".split()
REPOSITORY += ["Tests/ChunkGRPOTests", "Tests/ChunkGRPOTrainingTests"]


def source(tmp_path, *others):
    """A repository with the Python package alone, and the paths of `others`."""
    folder = tmp_path / "repository" / "bindings" / "python"
    ignored = shutil.ignore_patterns("__pycache__", "build", "*.egg-info", "*.so", ".mypy_cache")
    shutil.copytree(ROOT / "bindings" / "python", folder, ignore=ignored)
    for name in others:
        target = tmp_path / "repository" / name
        copy = shutil.copy if (ROOT / name).is_file() else lambda path, to: shutil.copytree(path, to, symlinks=True)
        copy(ROOT / name, target)
    return folder


def install(folder, target, path=os.environ["PATH"]):
    options = "--disable-pip-version-check --no-input --no-build-isolation --no-deps --no-index --target".split()
    command = [sys.executable, "-m", "pip", "install", *options, str(target), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": str(path)})


def program(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def fails(done, target, *words):
    said = done.stdout + done.stderr
    assert done.returncode != 0 and "Traceback" not in said
    assert all(word in said for word in words), said
    assert not (target / "chunkgrpo").exists()


def test_without_library_and_sources_the_installation_fails_with_one_sentence(tmp_path):
    done = install(source(tmp_path), tmp_path / "target")
    fails(done, tmp_path / "target", "chunkgrpo has no libchunkgrpo.so to install, and its sources are not here", "make lib")


def test_without_library_and_swift_the_installation_names_the_toolchain(tmp_path):
    done = install(source(tmp_path, "Package.swift"), tmp_path / "target", path=tmp_path)
    fails(done, tmp_path / "target", "there is no Swift to build it: install the Swift toolchain, 6.3 or newer")


def test_where_swift_is_the_installation_builds_the_library_first(tmp_path):
    folder, tools = source(tmp_path, "Package.swift"), tmp_path / "tools"
    program(tools / "swift", "exit 0")
    program(tools / "make", f'[ "$1" = lib ] && mkdir -p build/lib && cp "{library.lib._name}" build/lib/libchunkgrpo.so')
    done = install(folder, tmp_path / "target", path=f"{tools}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stdout + done.stderr
    installed = tmp_path / "target" / "chunkgrpo" / "libchunkgrpo.so"
    assert installed.read_bytes() == Path(library.lib._name).read_bytes()


def test_a_library_that_cannot_be_built_is_one_sentence_after_makes_own(tmp_path):
    folder, tools = source(tmp_path, "Package.swift"), tmp_path / "tools"
    program(tools / "swift", "exit 0")
    program(tools / "make", "echo no space is left; exit 2")
    done = install(folder, tmp_path / "target", path=f"{tools}:{os.environ['PATH']}")
    fails(done, tmp_path / "target", "no space is left", "chunkgrpo could not build libchunkgrpo.so: `make lib` failed")


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """The source archive, and the repository that it is made of."""
    folder = source(tmp_path_factory.mktemp("sdist"), *REPOSITORY)
    code = "from setuptools.build_meta import build_sdist; print(build_sdist('..'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder.parent / done.stdout.split()[-1], folder.parents[1]


def test_the_source_archive_holds_what_make_lib_needs_with_its_links(archive):
    path, repository = archive
    with tarfile.open(path) as found:
        members = {"/".join(member.name.split("/")[1:]): member for member in found if not member.isdir()}
    listed = [item for name in REPOSITORY for item in [repository / name, *(repository / name).rglob("*")]]
    expected = {str(item.relative_to(repository)) for item in listed if item.is_symlink() or item.is_file()}
    within = {name.split("/", 1)[1] for name in members if name.startswith("repository/")}
    assert within == expected
    assert {"setup.py", "pyproject.toml", "README.md", "PKG-INFO", "LICENSE", "chunkgrpo/py.typed"} <= set(members)
    links = {member.linkname for member in members.values() if member.issym()}
    assert links and not any(link.startswith("/") for link in links)


def test_the_source_archive_installs_with_the_library_that_its_make_builds(archive, tmp_path):
    path, _ = archive
    with tarfile.open(path) as found:
        found.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    plan = subprocess.run(["make", "-n", "lib"], cwd=folder / "repository", capture_output=True, text=True)
    assert plan.returncode == 0 and "build/lib/libchunkgrpo.so" in plan.stdout and not plan.stderr, plan
    tools = tmp_path / "tools"
    program(tools / "swift", "exit 0")
    program(tools / "make", f'mkdir -p build/lib && cp "{library.lib._name}" build/lib/libchunkgrpo.so')
    done = install(path, tmp_path / "target", path=f"{tools}:{os.environ['PATH']}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "target" / "chunkgrpo" / "libchunkgrpo.so").exists()


def test_make_refuses_a_path_with_a_space_in_one_sentence_before_it_builds_anything(tmp_path):
    folder = tmp_path / "a folder"
    (folder / "include").mkdir(parents=True)
    for name in ("Makefile", "include/chunkgrpo.h"):
        shutil.copy(ROOT / name, folder / name)
    for targets in (["lib"], ["demo"], ["test"], ["help", "lib"]):
        done = subprocess.run(["make", *targets], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert f'"{folder}" has a space in its path' in done.stderr and "move it" in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["Makefile", "include"]
    assert subprocess.run(["make", "help"], cwd=folder, capture_output=True).returncode == 0


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
