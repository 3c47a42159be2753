"""Time the main calls on this machine, in some seconds.

Milliseconds are the best of several calls. `make bench` of the repository compares with PyTorch, numpy and JAX."""

from __future__ import annotations

import argparse
import math
import re
import time
from typing import Any, Callable

import numpy as np

from ..chunks import ChunkPlan
from ..noise import initial_noise
from ..objective import advantages, chunk_loss
from ..process import instruction_set
from ..sampler import Sampler
from ..schedule import Schedule
from . import _machine
from ._common import Failure, emit, plainly, table

EXAMPLE = "chunkgrpo bench --latents 16x128x128 --batch 4 --threads 1 2"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--latents", type=sizes, metavar="CxHxW", default="16x64x64", help="of a sample")
    parser.add_argument("--batch", type=int, metavar="B", default=8, help="samples")
    parser.add_argument("--type", choices=("float32", "float64", "float16"), default="float32", help="of the elements")
    cores = _machine.cores()
    default = sorted({1, cores})
    parser.add_argument("--threads", type=int, nargs="+", metavar="N", default=default, help="threads, each in turn")
    parser.add_argument("--seconds", type=float, metavar="S", default=0.2, help="for each number")


def sizes(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text):
        raise argparse.ArgumentTypeError(f"{text!r} must be sizes, such as 16x64x64")
    return tuple(map(int, text.split("x")))


def run(options: argparse.Namespace) -> int:
    if not (math.isfinite(options.seconds) and options.seconds > 0):
        raise Failure(f"--seconds is {options.seconds}; it must be a positive number")
    if options.batch < 1:
        raise Failure(f"--batch is {options.batch}; it must be at least 1")
    shape, kind = (options.batch, *options.latents), np.dtype(options.type)
    size = math.prod(shape) * kind.itemsize
    rows: dict[str, dict[str, Any]] = {}
    for threads in options.threads:
        for name, call, moved in _calls(shape, kind, threads):
            row = rows.setdefault(name, {"call": name, "milliseconds": {}, "bytes": moved * size})
            row["milliseconds"][threads] = 1000 * _best(call, options.seconds)
    shown = {"instruction_set": instruction_set(), "shape": shape, "type": kind.name, "rows": list(rows.values())}
    if options.json:
        return emit(shown)
    head = ["call", *(f"{n} thread{'s' * (n > 1)}, ms" for n in options.threads), "GB/s"]
    lines = []
    for row in rows.values():
        times = list(row["milliseconds"].values())
        speed = f"{row['bytes'] / min(times) / 1e6:.1f}" if row["bytes"] else "-"
        lines.append([row["call"], *(f"{value:.3f}" for value in times), speed])
    extent = " x ".join(map(str, shape))
    print(plainly(f"{extent} {kind.name}, {instruction_set()}, {_machine.model()}\n\n{table(head, lines)}"))
    print("\nGB/s: latents, velocities and gradients that are read and written, at the best number of threads")
    return 0


def _calls(shape: tuple[int, ...], kind: Any, threads: int) -> list[tuple[str, Callable[[], object], int]]:
    """Name, call, and how many arrays of latents it reads and writes."""
    sampler = Sampler(Schedule.shifted(17, 3.0), threads=threads)
    x, v = (initial_noise(shape, seed=seed, dtype=kind) for seed in (1, 2))
    after = sampler.step(5, x, v, seed=3)[0]
    ones = np.ones(len(x))
    rows = np.zeros((len(x), 16))
    plan, adv = ChunkPlan([2, 3, 4, 7]), advantages(np.arange(float(len(x))), len(x))
    return [
        ("step, with noise", lambda: sampler.step(5, x, v, seed=3), 3),
        ("log-probability", lambda: sampler.log_prob(5, x, v, after), 3),
        ("gradient", lambda: sampler.log_prob_vjp(5, x, v, after, ones), 4),
        ("chunk loss", lambda: chunk_loss(rows, rows, adv, plan), 0),
    ]


def _best(call: Callable[[], object], seconds: float) -> float:
    """Seconds of the fastest of at least three calls."""
    call()
    best, end, count = math.inf, time.perf_counter() + seconds, 0
    while count < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best, count = min(best, time.perf_counter() - start), count + 1
    return best
