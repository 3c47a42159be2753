"""Variants of the kernels of the log-probability and its gradient, side by side: which shape of a block of threads, which
loads, how many bytes of arguments are fastest on this card. Two minutes.

    python tune.py [folder [seconds]]     folder: what scripts/build-ptx --variants has made

`us` is the time in a CUDA graph whose inputs rotate, as in times.py; compiled PyTorch and a copy of the same bytes stand
beside it. Rows of `base` with other arguments say where the time goes:

no sums     the log-probability without adding up: what is left are the loads and the squares
no samples  no elements at all: what a launch of so many blocks takes
"""

from __future__ import annotations

import ctypes
import json
import math
import sys
import time
from pathlib import Path
from typing import Any, Optional

import torch
from common import DEVICE, MODE, PRETENDED, bits, part, report, synchronize
from times import COMPILED, MAIN, SAMPLER, SHAPES, STEP, copies, graph, sets_of

THREADS = 256
i64, u32, f64, pointer = ctypes.c_int64, ctypes.c_uint32, ctypes.c_double, ctypes.c_void_p
TYPES = {torch.float32: "f32", torch.bfloat16: "bf16"}


class Rows(ctypes.Structure):
    _fields_ = [("base", pointer), ("batch_stride", i64), ("step_stride", i64)]


class Shape(ctypes.Structure):
    _fields_ = [("elements", i64), ("first_element", i64), ("total", f64), ("first_sample", u32)]


class Workspace(ctypes.Structure):
    _fields_ = [("arrived", pointer), ("partial", pointer), ("status", pointer)]


class Real(ctypes.Union):
    _fields_ = [("f32", ctypes.c_float), ("f64", f64)]


class Numbers(ctypes.Structure):
    _fields_ = [
        ("a", Real), ("b", Real), ("slope", f64), ("factor", f64), ("constant", f64), ("step", u32), ("place", u32), ("s", Real),
        ("p", Real), ("q", Real), ("unconditional", f64),
    ]  # fmt: skip


def arguments_of(samples: int) -> Any:
    """chunkgrpo_cuda_DifferenceArguments, with numbers of so many samples."""
    fields: Any = [
        ("x", Rows), ("v", Rows), ("next", Rows), ("gradient", Rows), ("shape", Shape), ("upstream", pointer),
        ("upstream_stride", i64), ("workspace", Workspace), ("log_prob", pointer), ("stride", i64), ("idle_zeros", u32),
        ("each", u32), ("numbers", Numbers * samples), ("y", Rows), ("z", Rows), ("unconditional", Rows),
    ]  # fmt: skip
    return type("DifferenceArguments", (ctypes.Structure,), {"_fields_": fields})()


class Driver:
    """What is needed of libcuda. Where PyTorch's tensors of the CPU stand for a device's without a driver, nothing runs."""

    def __init__(self) -> None:
        self.lib: Any = None
        if MODE == "pretended":
            return
        self.lib = ctypes.CDLL("libcuda.so.1")
        device, context = ctypes.c_int(), pointer()
        self.check(self.lib.cuInit(0))
        self.check(self.lib.cuDeviceGet(ctypes.byref(device), 0))
        self.check(self.lib.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
        self.check(self.lib.cuCtxPushCurrent_v2(context))

    def check(self, status: int) -> None:
        if status:
            text = ctypes.c_char_p()
            self.lib.cuGetErrorString(status, ctypes.byref(text))
            raise RuntimeError(f"the driver: {(text.value or b'?').decode()}")

    def module(self, text: bytes) -> Any:
        module = pointer()
        if self.lib:
            self.check(self.lib.cuModuleLoadData(ctypes.byref(module), text))
        return module

    def function(self, module: Any, name: str) -> Any:
        function = pointer()
        if self.lib:
            self.check(self.lib.cuModuleGetFunction(ctypes.byref(function), module, name.encode()))
        return function

    def launch(self, function: Any, grid: tuple[int, int], arguments: Any) -> None:
        if not self.lib:
            return
        stream = pointer(0 if PRETENDED else torch.cuda.current_stream().cuda_stream)
        parameters = (pointer * 1)(ctypes.addressof(arguments))
        one = [ctypes.c_uint(n) for n in (*grid, 1, THREADS, 1, 1, 0)]
        self.check(self.lib.cuLaunchKernel(function, *one, stream, parameters, None))


class Calls:
    """The kernels of one variant for one type, on the tensors of times.py."""

    def __init__(self, driver: Driver, text: bytes, kind: torch.dtype, about: dict[str, Any]) -> None:
        self.driver, self.each = driver, about["each"]
        module, self.k = driver.module(text), arguments_of(about["samples"])
        names = {kernel: f"chunkgrpo_{kernel}_{TYPES[kind]}_{TYPES[kind]}" for kernel in ("difference", "gradient")}
        self.functions = {kernel: driver.function(module, name) for kernel, name in names.items()}
        a, b, s, _ = SAMPLER.coefficients(STEP)
        self.n, self.precision, self.b = self.k.numbers[0], 1 / (2 * s * s), b
        self.n.a.f32, self.n.b.f32, self.n.factor = a, b, -self.precision
        self.n.constant, self.n.place = -math.log(s) - 0.5 * math.log(2 * math.pi), STEP + 1
        self.status = torch.zeros(1, dtype=torch.int64, device=DEVICE)
        self.workspace = torch.zeros(0, dtype=torch.uint8, device=DEVICE)

    def rows(self, x: Any) -> Rows:
        return Rows(x.data_ptr(), x[0].numel() * x.element_size(), 0)

    def run(self, kernel: str, x: Any, v: Any, e: Any, out: Any, *, sums: bool = True, nothing: bool = False) -> None:
        """out: the log-probabilities, or upstream and the gradient."""
        k, batch, elements = self.k, len(x), x[0].numel()
        blocks = batch * 11 * -(-elements // 1024)
        size = 12 * blocks + 48
        if self.workspace.numel() < size:
            self.workspace = torch.zeros(size, dtype=torch.uint8, device=DEVICE)
        begin, size = self.workspace.data_ptr(), self.workspace.numel()
        partial = begin + (size // 3 + 15) // 16 * 16
        k.workspace = Workspace(begin, partial if sums and kernel == "difference" else None, self.status.data_ptr())
        k.x, k.v, k.next = self.rows(x), self.rows(v), self.rows(e)
        k.shape = Shape(0 if nothing else elements, 0, elements, 0)
        k.numbers[0].slope = 2 * self.precision * self.b / elements
        k.stride = k.upstream_stride = 1
        if kernel == "difference":
            k.log_prob = out.data_ptr()
        else:
            k.upstream, k.gradient = out[0].data_ptr(), self.rows(out[1])
        own = 1024 * (self.each if kernel == "difference" else 1)
        self.driver.launch(self.functions[kernel], (-(-elements // own), batch), k)


def differ(calls: Calls, sets: list[Any]) -> int:
    """How many of the results do not have the CPU's bits."""
    x, v, e, ones = sets[0]
    found, gradient = torch.zeros(len(x), dtype=torch.float64, device=DEVICE), torch.empty_like(v)
    calls.run("difference", x, v, e, found)
    calls.run("gradient", x, v, e, (ones, gradient))
    synchronize()
    if MODE == "pretended":
        return 0
    on_cpu = [t.cpu() for t in (x, v, e)]
    expected = SAMPLER.log_prob(STEP, *on_cpu), SAMPLER.log_prob_vjp(STEP, *on_cpu, ones.cpu())
    pairs = zip(expected, (found, gradient))
    wrong = sum(int((bits(one) != bits(other.cpu())).sum()) for one, other in pairs)
    return wrong + int(calls.status.item() != 0)


def time_variant(name: str, calls: Calls, kind: torch.dtype, sets: list[Any]) -> None:
    wrong = differ(calls, sets)
    with_out = [(x, v, e, torch.zeros(len(x), dtype=torch.float64, device=DEVICE)) for x, v, e, _ in sets]
    with_gradient = [(x, v, e, (ones, torch.empty_like(v))) for x, v, e, ones in sets]
    rows: list[tuple[str, str, list[Any], dict[str, bool]]] = [
        ("log_prob", "difference", with_out, {}), ("gradient", "gradient", with_gradient, {}),
    ]  # fmt: skip
    if name == "base":
        rows += [("log_prob, no sums", "difference", with_out, {"sums": False})]
        rows += [("log_prob, no samples", "difference", with_out, {"sums": False, "nothing": True})]
        rows += [("gradient, no samples", "gradient", with_gradient, {"nothing": True})]
    for operation, kernel, arguments, options in rows:
        us = graph(lambda *given, kernel=kernel, options=options: calls.run(kernel, *given, **options), arguments)
        report(f"tune {operation} {str(kind)[6:]} {name}", wrong == 0, us=None if us is None else round(us, 2), wrong=wrong)


def time_others(kind: torch.dtype, sets: list[Any]) -> None:
    plain = [given[:3] for given in sets]
    for operation in ("log_prob", "gradient"):
        with part(f"tune {operation} {kind} others"):
            copied = graph(lambda target, source: target.copy_(source), copies(operation, sets))
            report(f"tune {operation} {str(kind)[6:]} copy", True, us=copied and round(copied, 2))
            made = COMPILED[operation] if PRETENDED else torch.compile(COMPILED[operation], dynamic=False, fullgraph=True)
            found = graph(made, plain)
            report(f"tune {operation} {str(kind)[6:]} compiled", True, us=found and round(found, 2))


def known(folder: Optional[Path]) -> dict[str, Any]:
    if folder is None or not (folder / "variants.json").exists():
        return {}
    found: dict[str, Any] = json.loads((folder / "variants.json").read_text())
    # What emulates a device runs the library's source, whatever text it is given.
    return {"base": found["base"]} if MODE == "emulated" else found


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    end = time.monotonic() + (float(sys.argv[2]) if len(sys.argv) > 2 else 110)
    driver, variants = Driver(), known(folder)
    for name, about in variants.items():
        report(f"tune: {name}", True, sentence=about["sentence"])
    all_sets = {kind: sets_of(SHAPES[MAIN] if not PRETENDED else (3, 500, 7), kind) for kind in TYPES}
    done = 0
    for kind, sets in all_sets.items():
        time_others(kind, sets)
    for name, about in variants.items():
        for kind, sets in all_sets.items():
            if folder is None or time.monotonic() > end:
                continue
            with part(f"tune {name} {kind}"):
                text = (folder / name / f"{TYPES[kind]}_{TYPES[kind]}.ptx").read_bytes() + b"\0"
                time_variant(name, Calls(driver, text, kind, about), kind, sets)
                done += 1
    report("tune: all variants", done == len(variants) * len(TYPES) > 0, done=done, of=len(variants) * len(TYPES))


if __name__ == "__main__":
    main()
