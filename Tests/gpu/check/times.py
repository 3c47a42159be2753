"""Times by events: the library's calls, the same mathematics in PyTorch (eager and compiled), a copy of the same bytes.

Inputs rotate through more memory than the caches hold. `gpu` is the time in a CUDA graph of all inputs, which no
launch delays; `call` that of a loop of calls, in which Python and the launches count.

    python times.py [seconds]
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from typing import Any, Callable, Optional

import torch
from common import DEVICE, PRETENDED, on_device, part, report, synchronize

import chunkgrpo as cg

SAMPLER = cg.Sampler(cg.Schedule.shifted(steps=17, shift=3.0))
STEP = 3
A, B, S, _ = SAMPLER.coefficients(STEP)
CONSTANT = -math.log(S) - 0.5 * math.log(2 * math.pi)
SHAPES = {
    "12x2025x64": (12, 2025, 64),  # FLUX at 720 x 720, packed
    "8x16x64x64": (8, 16, 64, 64),  # SD3 at 512 x 512
    "4x16x128x128": (4, 16, 128, 128),
    "1x16x21x60x104": (1, 16, 21, 60, 104),  # a video of Wan
    "12x64": (12, 64),
}
MAIN = "12x2025x64"
CACHES = 200e6 if not PRETENDED else 1e6
Call = Callable[..., Any]


def torch_step(x: Any, v: Any, e: Any) -> Any:
    mean = A * x.float() + B * v.float()
    after = (mean + S * torch.randn_like(mean)).to(x.dtype)
    return after, torch_log_prob(x, v, after)


def torch_log_prob(x: Any, v: Any, e: Any) -> Any:
    mean = A * x.float() + B * v.float()
    return -(e.float() - mean).square().flatten(1).mean(1) / (2 * S * S) + CONSTANT


def torch_gradient(x: Any, v: Any, e: Any) -> Any:
    """The closed form: what autograd makes of torch_log_prob."""
    mean = A * x.float() + B * v.float()
    return ((e.float() - mean) * (B / (S * S * x[0].numel()))).to(v.dtype)


def torch_autograd(x: Any, v: Any, e: Any) -> Any:
    v = v.detach().requires_grad_()
    return torch.autograd.grad(torch_log_prob(x, v, e).sum(), v)[0]


def torch_distance(x: Any, v: Any, e: Any) -> Any:
    target = torch.randn_like(x.float()) - x.float()
    return (v.float() - target).square().flatten(1).mean(1)


OURS: dict[str, Call] = {
    "step": lambda x, v, e, ones: SAMPLER.step(STEP, x, v, seed=1),
    "log_prob": lambda x, v, e, ones: SAMPLER.log_prob(STEP, x, v, e),
    "gradient": lambda x, v, e, ones: SAMPLER.log_prob_vjp(STEP, x, v, e, ones),
    "distance": lambda x, v, e, ones: cg.forward.distances(x, v, seed=1),
}
EAGER: dict[str, Call] = {
    "step": torch_step, "log_prob": torch_log_prob, "gradient": torch_autograd, "distance": torch_distance,
}  # fmt: skip
COMPILED: dict[str, Call] = {**EAGER, "gradient": torch_gradient}
TENSORS = {"step": 3, "log_prob": 3, "gradient": 4, "distance": 2}
"""Read and written by the operation."""


def sets_of(shape: tuple[int, ...], kind: torch.dtype) -> list[Any]:
    size = 3 * math.prod(shape) * kind.itemsize
    count = max(4, min(64, math.ceil(CACHES / size)))
    ones = torch.ones(shape[0], dtype=torch.float64, device=DEVICE)
    return [(*(torch.randn(shape, device=DEVICE).to(kind) for _ in range(3)), ones) for _ in range(count)]


def copies(operation: str, sets: list[Any]) -> list[Any]:
    """A copy reads and writes each byte: half the operation's tensors in each direction."""
    elements = sets[0][0].numel() * TENSORS[operation] // 2
    kind = sets[0][0].dtype
    return [(torch.empty(elements, dtype=kind, device=DEVICE), torch.empty(elements, dtype=kind, device=DEVICE)) for _ in sets]


def timed(run: Callable[[], Any], calls: int, rounds: int = 7) -> float:
    """Microseconds a call, the median of rounds."""
    if PRETENDED:
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) / calls * 1e6
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(2_000_000)  # the launches are queued meanwhile
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1000 / calls)
    return statistics.median(times)


def loop(call: Call, sets: list[Any]) -> float:
    """Microseconds of a call from Python, the device's work included."""
    for arguments in sets[:3]:
        call(*arguments)
    synchronize()
    times = []
    for _ in range(5):
        start = time.perf_counter()
        for arguments in sets:
            call(*arguments)
        synchronize()
        times.append((time.perf_counter() - start) / len(sets) * 1e6)
    return statistics.median(times)


def graph(call: Call, sets: list[Any]) -> Optional[float]:
    """Microseconds of the device alone."""
    for arguments in sets[:2]:
        call(*arguments)
    synchronize()
    if PRETENDED:
        return timed(lambda: [call(*arguments) for arguments in sets], len(sets))
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        results = [call(*arguments) for arguments in sets]
    captured.replay()
    found = timed(captured.replay, len(sets))
    del results, captured
    return found


def race(operation: str, shape_name: str, kind: torch.dtype, compiled: bool) -> None:
    sets = sets_of(SHAPES[shape_name], kind)
    plain = [arguments[:3] for arguments in sets]
    contestants: dict[str, tuple[Call, list[Any]]] = {
        "chunkgrpo": (OURS[operation], sets),
        "eager": (EAGER[operation], plain),
        "copy": (lambda target, source: target.copy_(source), copies(operation, sets)),
    }
    if compiled:
        contestants["compiled"] = (torch.compile(COMPILED[operation], dynamic=False, fullgraph=True), plain)
    fields: dict[str, Any] = {}
    for name, (call, arguments) in contestants.items():
        with part(f"time {operation} {shape_name} {kind} {name}"), on_device():
            gpu, whole = graph(call, arguments), loop(call, arguments)
            fields[name] = {"gpu": round(gpu, 2), "call": round(whole, 2)}
    own = fields.get("chunkgrpo")
    if own and "copy" in fields:
        moved = TENSORS[operation] * math.prod(SHAPES[shape_name]) * kind.itemsize
        fields["gb_per_s"] = round(moved / own["gpu"] / 1000)
        fields["of_copy"] = round(fields["copy"]["gpu"] / own["gpu"], 3)
        for other in ("eager", "compiled"):
            if other in fields:
                fields[f"times_{other}"] = round(fields[other]["gpu"] / own["gpu"], 2)
                fields[f"times_{other}_call"] = round(fields[other]["call"] / own["call"], 2)
    report(f"time {operation} {shape_name} {str(kind)[6:]}", own is not None, **fields)


def main() -> None:
    end = time.monotonic() + (float(sys.argv[1]) if len(sys.argv) > 1 else 150.0)
    kinds = (torch.float32, torch.bfloat16)
    first = [(operation, MAIN, kind, True) for kind in kinds for operation in OURS]
    rest = [(operation, shape, kind, False) for shape in SHAPES if shape != MAIN for kind in kinds for operation in OURS]
    rows = first + rest
    for done, row in enumerate(rows):
        if time.monotonic() > end:
            report("times: all rows", False, done=done, of=len(rows))
            return
        with part(f"time {row}"):
            race(*row)
    report("times: all rows", True, done=len(rows), of=len(rows))


if __name__ == "__main__":
    main()
