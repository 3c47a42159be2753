"""A Chunk-GRPO iteration of a small transformer over FLUX's packed latents: rollout, reward, streamed backward.

Three ways: with the library's kernels in place; with copies to the CPU and back; and all written in PyTorch, compiled.
And with a model that costs nothing, so that only the ways differ. The host's waits for the device are counted.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
import time
import warnings
from typing import Any, Callable

import torch
from common import DEVICE, PRETENDED, on_device, part, report, staged, synchronize
from torch import nn

import chunkgrpo as cg
import chunkgrpo.torch as cgt

warnings.simplefilter("ignore", cg.RatioWarning)
SHAPE = (12, 2025, 64) if not PRETENDED else (4, 20, 64)
WIDTH = 512 if not PRETENDED else 64
SCHEDULE = cg.Schedule.shifted(steps=9, shift=3.0)
SAMPLER = cg.Sampler(SCHEDULE)
PLAN = cg.ChunkPlan([2, 3, 3])
COEFFICIENTS = [SAMPLER.coefficients(k) for k in range(9)]
ROUNDS = 7 if not PRETENDED else 2


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(-1, (-1, 64)).transpose(1, 2) for part in self.qkv(self.first(x)).chunk(3, -1))
        x = x + self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.mlp(self.second(x))


class Model(nn.Module):
    """velocity(latents, sigma)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave, self.time = nn.Linear(64, WIDTH), nn.Linear(WIDTH, 64), nn.Linear(1, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))

    def forward(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            h = self.enter(x) + self.time(torch.full((1, 1), sigma, device=x.device))
            for block in self.blocks:
                h = block(h)
            return self.leave(h)


class Nothing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((64,), 0.3))

    def forward(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        return x * self.weight


def reward(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1).float().mean(1)


def ours(model: nn.Module, optimiser: Any, x: torch.Tensor, number: int, on_policy: bool = False) -> None:
    velocity = lambda latents, sigma, step: model(latents, sigma)  # noqa: E731
    t = SAMPLER.rollout(velocity, x, seed=number)
    advantages = _advantages(reward(t.images))
    cgt.streamed_backward(
        velocity, SAMPLER, t.latents, t.log_probs, advantages, PLAN, clip=1e-4, on_policy=on_policy
    )
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def ours_on_policy(model: nn.Module, optimiser: Any, x: torch.Tensor, number: int) -> None:
    """Without the pass whose ratios are 1: less work than the others do."""
    ours(model, optimiser, x, number, on_policy=True)


def _advantages(rewards: torch.Tensor) -> torch.Tensor:
    grouped = rewards.double().view(-1, 4)
    return ((grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-8)).flatten()


def torch_step(x: Any, v: Any, a: Any, b: Any, s: Any) -> Any:
    mean = a * x + b * v.float()
    after = mean + s * torch.randn_like(mean)
    return after, torch_log_prob(x, v, after, a, b, s)


def torch_log_prob(x: Any, v: Any, after: Any, a: Any, b: Any, s: Any) -> Any:
    mean = a * x + b * v.float()
    return -(after - mean).square().flatten(1).mean(1) / (2 * s * s) - torch.log(s) - 0.5 * math.log(2 * math.pi)


def torch_gradient(x: Any, v: Any, after: Any, a: Any, b: Any, s: Any, grad: Any) -> Any:
    mean = a * x + b * v.float()
    return ((after - mean) * (grad * b / (s * s * x[0].numel())).view(-1, 1, 1)).to(v.dtype)


def in_torch(functions: list[Callable[..., Any]]) -> Callable[..., None]:
    step, log_prob, gradient = functions
    numbers = [[torch.tensor(n, dtype=torch.float32, device=DEVICE) for n in c[:3]] for c in COEFFICIENTS]

    def iteration(model: nn.Module, optimiser: Any, x: torch.Tensor, number: int) -> None:
        latents, old = [x], []
        with torch.no_grad():
            for k in range(9):
                after, value = step(latents[-1], model(latents[-1], SCHEDULE.sigmas[k]), *numbers[k])
                latents.append(after)
                old.append(value)
            advantages = _advantages(reward(latents[-1])).float()
            new = [log_prob(latents[k], model(latents[k], SCHEDULE.sigmas[k]), latents[k + 1], *numbers[k]) for k in range(8)]
            slopes = []
            for first, size in zip((0, 2, 5), PLAN.sizes):
                difference = torch.stack([new[k] - old[k] for k in range(first, first + size)]).mean(0)
                ratio = difference.exp()
                clipped = (ratio > 1 + 1e-4) & (advantages > 0) | (ratio < 1 - 1e-4) & (advantages < 0)
                slope = torch.where(clipped, 0.0, -advantages * ratio / size / len(PLAN) / len(x))
                slopes += [slope] * size
        for k in range(8):
            v = model(latents[k], SCHEDULE.sigmas[k])
            v.backward(gradient(latents[k], v.detach(), latents[k + 1], *numbers[k], slopes[k]))
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    return iteration


WAITS = ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaDeviceSynchronize", "cudaMemcpy", "cuStreamSynchronize")


def profiled(iteration: Callable[[], None]) -> dict[str, Any]:
    """How often the host waits for the device in an iteration, and how long the device's kernels run, as the profiler
    sees them."""
    if PRETENDED:
        iteration()
        return {"waits": {}}
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as prof:
        iteration()
    found: dict[str, int] = {}
    busy = 0.0
    for event in prof.events():
        if event.name in WAITS:
            found[event.name] = found.get(event.name, 0) + 1
        if event.device_type == DeviceType.CUDA:
            busy += event.time_range.elapsed_us()
    return {"waits": found, "busy_ms": round(busy / 1e3, 3)}  # one cudaDeviceSynchronize is the profiler's own


def places(iteration: Callable[[], None]) -> list[str]:
    """Where PyTorch itself waits, by its warnings."""
    if PRETENDED:
        return []
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            iteration()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [f"{w.filename.rpartition('/')[2]}:{w.lineno}" for w in seen if "synchroniz" in str(w.message)]


def once_of(kind: type[nn.Module], iteration: Callable[..., None]) -> Callable[[], None]:
    torch.manual_seed(0)
    model = kind().to(DEVICE)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-5, foreach=True)
    x, numbers = torch.randn(SHAPE, device=DEVICE), itertools.count()
    return lambda: iteration(model, optimiser, x, next(numbers))


def measured(kind: type[nn.Module], ways: list[Any]) -> None:
    """All ways in turn, round by round, so that what the machine does meanwhile meets all of them."""
    ready, times = [], {}
    for name, iteration, around in ways:
        with part(f"iteration, {kind.__name__}, {name}"), around(), on_device():
            once = once_of(kind, iteration)
            for _ in range(3):
                once()
            ready.append((name, once, around))
            times[name] = []
    for _ in range(ROUNDS):
        for name, once, around in ready:
            with around(), on_device():
                synchronize()
                start = time.perf_counter()
                once()
                synchronize()
            times[name].append((time.perf_counter() - start) * 1e3)
    for name, once, around in ready:
        fields: dict[str, Any] = {"ms": round(statistics.median(times[name]), 3), "least": round(min(times[name]), 3)}
        with part(f"iteration, {kind.__name__}, {name}: waits"), around(), on_device():
            fields.update(profiled(once), places=places(once))
        report(f"iteration, {kind.__name__}, {name}", True, **fields)
    report(
        f"iteration, {kind.__name__}: ms", len(ready) == len(ways),
        **{name: round(statistics.median(found), 3) for name, found in times.items()},
    )  # fmt: skip


def main() -> None:
    functions: list[Any] = [torch_step, torch_log_prob, torch_gradient]
    compiled = functions if PRETENDED else [torch.compile(f, dynamic=False) for f in functions]
    ways = [
        ("kernels in place", ours, contextlib.nullcontext),
        ("kernels in place, the only update", ours_on_policy, contextlib.nullcontext),
        ("copies to the CPU", ours, staged),
        ("PyTorch, compiled", in_torch(compiled), contextlib.nullcontext),
        ("PyTorch, eager", in_torch(functions), contextlib.nullcontext),
    ]
    for kind in (Nothing, Model):
        measured(kind, ways)


if __name__ == "__main__":
    main()
