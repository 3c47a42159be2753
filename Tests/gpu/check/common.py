"""What the parts of `make gpu-check` share: the device, and how a result is reported.

Where there is no GPU, tensors of the CPU can stand for those of a device. GPU_CHECK_DEVICE says who computes:

pretended  the CPU's functions: every call that these programs make is known to be one that the library has
emulated   the kernels, by a driver that runs them on the CPU (Tests/gpu/driver), FAKE_CUDA_ANY_POINTER=1
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from typing import Any, Callable, Iterator

import torch

import chunkgrpo as cg
import chunkgrpo.forward  # noqa: F401
from chunkgrpo import _frameworks, _status

MODE = os.environ.get("GPU_CHECK_DEVICE", "cuda")
PRETENDED = MODE != "cuda"
DEVICE = torch.device("cpu" if PRETENDED else "cuda:0")
START = time.monotonic()


def report(name: str, ok: bool, **fields: Any) -> None:
    """One line of JSON, printed at once."""
    print(json.dumps({"name": name, "ok": ok, "at": round(time.monotonic() - START, 1), **fields}), flush=True)


@contextlib.contextmanager
def part(name: str) -> Iterator[None]:
    """What fails inside is reported, and the rest goes on."""
    try:
        yield
    except Exception as error:
        traceback.print_exc(file=sys.stderr)
        report(name, False, error=f"{type(error).__name__}: {error}"[:500])


if PRETENDED:
    from chunkgrpo import _cuda, _on_device

    class Pretended(_cuda.TorchCuda):
        """Tensors of the CPU, called as those of a device are."""

        def __init__(self, device: Any) -> None:
            super().__init__(device)
            self.index, self.device = 0, "cuda:0"

        def stream(self) -> int:
            return 0

        def capture(self) -> int:
            return 0

        def wait(self) -> None:
            pass

        def ready(self) -> None:
            super().ready()
            word = _status.of("torch", 0)
            if word is not None:
                _status.check(int(word), "torch", 0)

        def queue(self, shape: Any, leading: int) -> Any:
            return super().queue(shape, leading) if MODE == "emulated" else None

    if MODE == "pretended":
        _on_device.DEVICE = {"cuda": 0}
    _on_cpu = _frameworks._make_torch_on_cpu


@contextlib.contextmanager
def on_device() -> Iterator[None]:
    """Calls on DEVICE's tensors; only the pretended one has to be told."""
    if PRETENDED:
        _frameworks._torch_on_cpu.clear()
        _frameworks._make_torch_on_cpu = lambda value: [Pretended(value.device)]
    try:
        yield
    finally:
        if PRETENDED:
            _frameworks._torch_on_cpu.clear()
            _frameworks._make_torch_on_cpu = _on_cpu


@contextlib.contextmanager
def staged() -> Iterator[None]:
    """The copies to the CPU and back that devices without kernels get."""
    before = list(_frameworks.kernels)
    _frameworks.kernels.clear()
    try:
        yield
    finally:
        _frameworks.kernels.extend(before)


def synchronize() -> None:
    if not PRETENDED:
        torch.cuda.synchronize()


def moved(value: Any) -> Any:
    """Tensors of the CPU as copies on DEVICE, with the strides that they have."""
    if isinstance(value, torch.Tensor):
        copy = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=DEVICE)
        return copy.copy_(value)
    if isinstance(value, dict):
        return {name: moved(item) for name, item in value.items()}
    if isinstance(value, cg.forward.Distances):
        return type(value)(**{name: moved(item) for name, item in vars(value).items()})
    return value


def leaves(value: Any) -> list[Any]:
    """The tensors of a result, on the CPU."""
    if isinstance(value, torch.Tensor):
        return [value.detach().cpu()]
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in leaves(item)]
    if isinstance(value, cg.forward.Distances):
        return leaves([item for item in vars(value).values() if isinstance(item, torch.Tensor)])
    return []


def bits(tensor: torch.Tensor) -> torch.Tensor:
    kinds = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().view(kinds[tensor.element_size()])


class Tally:
    """Counts comparisons of the device's results with the CPU's, bit by bit."""

    def __init__(self, name: str) -> None:
        self.name, self.equal, self.different, self.errors, self.refused = name, 0, 0, 0, 0
        self.worst: list[str] = []

    def compare(self, label: str, call: Callable[[Callable[[Any], Any]], Any]) -> None:
        """call(place): makes its arguments by `place`, and returns what the function under test does."""
        try:
            expected = leaves(call(lambda value: value))
        except cg.Error as error:
            expected = error
        try:
            with on_device():
                found = leaves(call(moved))
        except Exception as error:
            if isinstance(expected, cg.Error) and type(error) is type(expected):
                self.refused += 1  # by both
                return
            self.errors += 1
            self.worst.append(f"{label}: {type(error).__name__}: {str(error)[:160]}")
            return
        if isinstance(expected, cg.Error):
            self.errors += 1
            self.worst.append(f"{label}: the CPU refuses it ({str(expected)[:120]}), the device does not")
            return
        for i, (one, other) in enumerate(zip(expected, found)):
            self._judge(f"{label}[{i}]", one, other)
        if len(expected) != len(found) or not expected:
            self.errors += 1
            self.worst.append(f"{label}: {len(found)} results, {len(expected)} on the CPU")

    def _judge(self, label: str, expected: torch.Tensor, found: torch.Tensor) -> None:
        if expected.shape == found.shape and expected.dtype == found.dtype:
            wrong = int((bits(expected) != bits(found)).sum())
            self.equal += wrong == 0
            self.different += wrong > 0
            if wrong:
                far = (expected.double() - found.double()).abs().max().item()
                self.worst.append(f"{label}: {wrong} of {expected.numel()} differ, by at most {far:.3g}")
            return
        self.different += 1
        self.worst.append(f"{label}: {found.dtype} {tuple(found.shape)}, on the CPU {expected.dtype} {tuple(expected.shape)}")

    def report(self) -> None:
        report(
            self.name, self.different + self.errors == 0 and self.equal > 0, equal=self.equal, different=self.different,
            errors=self.errors, refused=self.refused, first=self.worst[:25],
        )  # fmt: skip
