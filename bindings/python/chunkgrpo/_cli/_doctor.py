"""Say what this installation is made of, and whether it works.

Library, instruction set, OpenBLAS, CUDA driver, packages, and a self-test of bits. The exit status is 1
where something fails, else 0. Put what it prints into a report."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple, Optional

from .. import __version__
from .._generated import ABI_VERSION
from .._library import lib
from ..process import instruction_set
from . import _bits, _machine
from ._common import emit, plainly

EXAMPLE = "chunkgrpo doctor --json"

_PACKAGES = (
    "numpy",
    "torch",
    "diffusers",
    "jax",
    "mlx",
    "cupy",
    "ml_dtypes",
    "matplotlib",
    "transformers",
    "accelerate",
)


class Finding(NamedTuple):
    """state: "ok", "note" or "FAIL"."""

    state: str
    name: str
    value: str
    advice: Optional[str] = None


def arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(options: argparse.Namespace) -> int:
    found = [*_library(), *_processor(), *_blas(), *_cuda(), *_packages(), *_self_test()]
    failed = any(one.state == "FAIL" for one in found)
    if options.json:
        emit({"ok": not failed, "findings": [one._asdict() for one in found]})
    else:
        for one in found:
            print(
                plainly(f"{one.state:4}  {one.name:16}  {one.value}" + (f"\n{'':24}{one.advice}" if one.advice else ""))
            )
        print("\nSomething fails, as above." if failed else "\nAll is well.")
    return int(failed)


def _library() -> Iterator[Finding]:
    yield Finding("ok", "chunkgrpo", f"{__version__}, binary interface {ABI_VERSION}, {lib._name}")
    try:
        package = metadata.version("chunkgrpo")
    except metadata.PackageNotFoundError:
        yield Finding("note", "package", f"not installed: taken from {Path(__file__).resolve().parents[2]}")
    else:
        same = package == __version__
        advice = (
            None if same else "Package and library are of two versions: install one anew, or look at CHUNKGRPO_LIBRARY."
        )
        yield Finding("ok" if same else "note", "package", package, advice)
    yield Finding("ok", "python", f"{platform.python_version()}, {platform.platform()}")


def _processor() -> Iterator[Finding]:
    chosen, wanted = instruction_set(), os.environ.get("CHUNKGRPO_SIMD")
    able = _machine.widest()
    if wanted:
        yield Finding("note", "instruction set", f"{chosen}, CHUNKGRPO_SIMD={wanted} asks for it")
    elif able not in (None, chosen):
        advice = "The library was built without CHUNKGRPO_DISPATCH=1: `make lib` sets it."
        yield Finding("note", "instruction set", f"{chosen}, and the processor has {able}", advice)
    else:
        yield Finding("ok", "instruction set", chosen)
    yield Finding("ok", "processors", f"{_machine.cores()}, {_machine.model()}")


def _blas() -> Iterator[Finding]:
    found = _machine.openblas()
    if found is None:
        yield Finding("note", "OpenBLAS", "not found in this process; chunkgrpo.Trainer alone needs it")
        return
    core = {"avx512": "SkylakeX", "avx2": "Haswell"}.get(_machine.widest() or "")
    advice = None
    if found.core == "Prescott" and core:
        advice = (
            f"It is older than the processor: OPENBLAS_CORETYPE={core} makes chunkgrpo.Trainer some four times as fast."
        )
    yield Finding("note" if advice else "ok", "OpenBLAS", f"{found.version}, core {found.core}, {found.path}", advice)


def _cuda() -> Iterator[Finding]:
    found = _machine.cuda()
    if isinstance(found, str):
        yield Finding("note", "CUDA", f"{found}: tensors of the CPU alone")
        return
    old = found.driver < (11, 0)
    advice = "CUDA 11 or later is needed." if old else None
    yield Finding("note" if old else "ok", "CUDA", f"driver of CUDA {found.driver[0]}.{found.driver[1]}", advice)
    for name, capability in found.devices:
        able = capability >= (7, 5)
        advice = None if able else "Turing (7.5) or later runs the kernels; tensors of this one are copied to the CPU."
        yield Finding(
            "ok" if able else "note", "device", f"{name}, compute capability {capability[0]}.{capability[1]}", advice
        )


def _packages() -> Iterator[Finding]:
    found, missing = [], []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    yield Finding("ok", "packages", ", ".join(found))
    if missing:
        yield Finding("note", "not installed", ", ".join(missing))


def _self_test() -> Iterator[Finding]:
    here = _bits.digests()
    wrong = [name for name, digest in here.items() if _bits.KNOWN[name] != digest]
    advice = "Please report it, with all of the above." if wrong else None
    said = (
        f"{', '.join(wrong)} differ from those of every other machine"
        if wrong
        else f"{len(here)} digests are the known ones"
    )
    yield Finding("FAIL" if wrong else "ok", "bits", said, advice)
    for name, threads, simd in [
        ("threads", 4, None),
        *(("set", 1, lesser) for lesser in _machine.lesser(instruction_set())),
    ]:
        other = _of_process(threads, simd)
        what = f"{threads} threads" if simd is None else simd
        same = other == here
        yield Finding(
            "ok" if same else "FAIL", f"bits, {what}", "the same" if same else "others, or none: " + str(other)[:200]
        )
    moved = _bits.on_policy()
    said = (
        "exactly 1 at the policy that sampled"
        if moved == 0
        else f"off by {moved:g} in logarithm at the policy that sampled"
    )
    yield Finding("ok" if moved == 0 else "FAIL", "ratios", said)


def _of_process(threads: int, simd: Optional[str]) -> object:
    """The digests of a process of its own, or what went wrong."""
    environment = {**os.environ, "CHUNKGRPO_LIBRARY": str(lib._name)}
    package = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    if simd is not None:
        environment["CHUNKGRPO_SIMD"] = simd
    program = f"import json; from chunkgrpo._cli import _bits; print(json.dumps(_bits.digests({threads})))"
    command = [sys.executable, "-c", program]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        return json.loads(done.stdout) if done.returncode == 0 else done.stderr.strip().splitlines()[-1:]
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        return str(error)
