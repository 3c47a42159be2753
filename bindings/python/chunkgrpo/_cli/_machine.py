"""The machine that this process runs on: processor, OpenBLAS, CUDA. Nothing is loaded for it but CUDA's driver."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

_SETS = ("baseline", "avx2", "avx512")


def lesser(name: str) -> tuple[str, ...]:
    """The instruction sets that CHUNKGRPO_SIMD can ask for instead."""
    return _SETS[: _SETS.index(name)] if name in _SETS else ()


def _described(word: str) -> Optional[str]:
    """The first line of /proc/cpuinfo that begins with a word."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(word) and ":" in line), None)


def widest() -> Optional[str]:
    """The widest instruction set of the library that this processor has; None where it does not say."""
    flags = set((_described("flags") or "").split())
    if not flags:
        return None
    if flags >= {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}:
        return "avx512"
    return "avx2" if flags >= {"avx2", "fma"} else "baseline"


def model() -> str:
    return _described("model name") or platform.processor() or platform.machine()


def cores() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class OpenBLAS(NamedTuple):
    version: str
    core: str
    path: str


def openblas() -> Optional[OpenBLAS]:
    """The one that libchunkgrpo has loaded; numpy's and scipy's are others."""
    try:
        paths = {line.split(maxsplit=5)[-1].strip() for line in Path("/proc/self/maps").read_text().splitlines()}
    except OSError:
        return None
    own = [path for path in paths if "openblas" in path and not any(f"/{n}.libs/" in path for n in ("numpy", "scipy"))]
    for path in sorted(own):
        for before in ("", "scipy_"):
            try:
                library = ctypes.CDLL(path)
                core, config = (getattr(library, f"{before}openblas_get_{what}") for what in ("corename", "config"))
            except (OSError, AttributeError):
                continue
            core.restype = config.restype = ctypes.c_char_p
            words = config().decode().split()
            return OpenBLAS(words[1] if len(words) > 1 else "of unknown version", core().decode(), path)
    return None


class CUDA(NamedTuple):
    driver: tuple[int, int]
    devices: list[tuple[str, tuple[int, int]]]


_ASKED = ("cuInit", "cuDriverGetVersion", "cuDeviceGetCount", "cuDeviceGetName", "cuDeviceGetAttribute")


def cuda() -> Union[CUDA, str]:
    """Driver and devices, or why there are none."""
    try:
        driver: Any = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no driver"
    if not all(hasattr(driver, name) for name in _ASKED):
        return "a driver of another kind"
    version, count = ctypes.c_int(), ctypes.c_int()
    if driver.cuInit(0) != 0 or driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return "a driver that does not start"
    if driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value == 0:
        return "no device"
    devices = []
    for index in range(count.value):
        name, major, minor = ctypes.create_string_buffer(256), ctypes.c_int(), ctypes.c_int()
        driver.cuDeviceGetName(name, 256, index)
        for number, attribute in ((major, 75), (minor, 76)):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
            driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, index)
        devices.append((name.value.decode(), (major.value, minor.value)))
    return CUDA((version.value // 1000, version.value % 1000 // 10), devices)
