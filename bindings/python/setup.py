"""The wheel holds libchunkgrpo.so, which is loaded by ctypes: one for every Python, but not for every machine.

`make wheel` builds one for other machines, from a copy of this folder that has the library in it. From the repository or
a source archive, `pip install` takes the library of `make lib`, and runs that first where there is none; it needs this
machine's OpenBLAS.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
NAME = "libchunkgrpo.so"
# A source archive has the repository within it; in the repository, this folder is within.
INSIDE = HERE / "repository"
REPOSITORY = INSIDE if INSIDE.exists() else HERE.parents[1]
# What `make lib` needs. SwiftPM looks for the tests that Package.swift names.
SOURCES = "LICENSE LICENSES Makefile NOTICE Package.swift Plugins Sources bindings/c include scripts".split()
SOURCES += ["Tests/ChunkGRPOTests", "Tests/ChunkGRPOTrainingTests"]


def build_library() -> Path:
    """The path of the library, which is built where it is missing and Swift is there; else one sentence, and the end."""
    built = REPOSITORY / "build" / "lib" / NAME
    if built.exists():
        return built
    if not (REPOSITORY / "Package.swift").exists():
        sys.exit(
            f"chunkgrpo has no {NAME} to install, and its sources are not here to build it: run `make lib` in the "
            "repository first, or install a wheel."
        )
    if not shutil.which("swift") or not shutil.which("make"):
        sys.exit(
            f"chunkgrpo has no {NAME} to install, and there is no Swift to build it: install the Swift toolchain, 6.3 or "
            "newer (https://www.swift.org/install/linux), run `make lib` in the repository on another machine, or install "
            "a wheel."
        )
    print(f"Building {NAME} with `make lib`, which takes some minutes.", flush=True)
    if subprocess.run(["make", "lib"], cwd=REPOSITORY).returncode != 0 or not built.exists():
        sys.exit(f"chunkgrpo could not build {NAME}: `make lib` failed in {REPOSITORY}, and says why above.")
    return built


class Binary(Distribution):
    def has_ext_modules(self) -> bool:
        return True


class AnyPython(bdist_wheel):
    def get_tag(self) -> "tuple[str, str, str]":
        return ("py3", "none", super().get_tag()[2])


class WithLibrary(build_py):
    def run(self) -> None:
        inside = HERE / "chunkgrpo" / NAME
        library = inside if inside.exists() else build_library()
        super().run()
        if library != inside and not self.editable_mode:  # which finds it where it is
            self.copy_file(str(library), str(Path(self.build_lib, "chunkgrpo", NAME)))


class WithSources(sdist):
    """The archive has what `make lib` needs, so that it can be installed where Swift is."""

    def make_release_tree(self, base_dir: str, files: "list[str]") -> None:
        super().make_release_tree(base_dir, [name for name in files if not name.endswith(NAME)])
        for name in SOURCES:
            source, copy = REPOSITORY / name, Path(base_dir, INSIDE.name, name)
            if source.is_dir():
                shutil.copytree(source, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
            elif source.exists():
                os.makedirs(copy.parent, exist_ok=True)
                shutil.copy2(source, copy)


commands = {"bdist_wheel": AnyPython, "build_py": WithLibrary, "sdist": WithSources}
setup(distclass=Binary, cmdclass=commands)
