"""The wheel holds libchunkgrpo.so, which is loaded by ctypes: one for every Python, but not for every machine.

`make wheel` builds one for other machines, from a copy of this folder that has the library in it. From the repository,
`pip install ./bindings/python` takes the library of `make lib`, which needs this machine's OpenBLAS.
"""

import sys
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
NAME = "libchunkgrpo.so"


class Binary(Distribution):
    def has_ext_modules(self) -> bool:
        return True


class AnyPython(bdist_wheel):
    def get_tag(self) -> "tuple[str, str, str]":
        return ("py3", "none", super().get_tag()[2])


class WithLibrary(build_py):
    def run(self) -> None:
        inside, built = HERE / "chunkgrpo" / NAME, HERE.parents[1] / "build" / "lib" / NAME
        if not inside.exists() and not built.exists():
            sys.exit(f"chunkgrpo has no {NAME} to install: run `make lib` in the repository first, or install a wheel.")
        super().run()
        if not inside.exists() and not self.editable_mode:  # which finds it where it is
            self.copy_file(str(built), str(Path(self.build_lib, "chunkgrpo", NAME)))


setup(distclass=Binary, cmdclass={"bdist_wheel": AnyPython, "build_py": WithLibrary})
