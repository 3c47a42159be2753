"""One process's share of the benchmarks: every kernel against its peers, with a fixed number of threads.

`bench.py` starts it with the environment that is fair to PyTorch and reads one JSON object per line: a race, with the
times of all that took part, in nanoseconds a call.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import subprocess
import sys
import time
from ctypes import c_double, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any, Callable

TREE = Path(__file__).resolve().parents[1]
BUILD = TREE / "build/bench"

SHAPES = {
    "12x2025x64": (12, 2025, 64),  # FLUX at 720 x 720, packed
    "8x16x64x64": (8, 16, 64, 64),  # SD3 at 512 x 512
    "4x16x128x128": (4, 16, 128, 128),  # at 1024 x 1024
    "1x16x21x60x104": (1, 16, 21, 60, 104),  # a video of Wan
    "12x64": (12, 64),
}
MAIN, TINY = "12x2025x64", "12x64"
NORMAL, STEP, STEP_GIVEN, STEP_L1, LOG_PROB, VJP, ROLLOUT, LOSS_GRADIENT, FORWARD, FORWARD_VJP = range(10)
F32, BF16 = 1, 3
TYPES = {"f32": (F32, F32), "bf16": (BF16, BF16), "f32+bf16": (F32, BF16)}
"""Of the latents and of the velocities."""
STEP_INDEX, ETA = 3, 0.7  # of measure.c

Contestant = Callable[[], float]  # nanoseconds of a call


def timed(call: Callable[[], Any], calls: int = 1) -> Contestant:
    """The mean of `calls` calls after one that is not counted: what the others left in the caches is nobody's merit."""

    def run() -> float:
        call()
        start = time.perf_counter_ns()
        for _ in range(calls):
            call()
        return (time.perf_counter_ns() - start) / calls

    return run


WARM = 0.02  # seconds


def race(contestants: dict[str, Contestant], repetitions: int, pause: float) -> dict[str, list[float]]:
    """Each in turn, again and again: a pause in which the threads of the last one fall asleep, then calls until it is warm,
    of which the last one counts. A processor takes a while to wake up from the pause, two take longer."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for contestant in contestants.values():
        for _ in range(2):
            contestant()
    gc.collect()
    gc.disable()
    for _ in range(repetitions):
        for name, contestant in contestants.items():
            time.sleep(pause)
            warm = time.perf_counter() + WARM
            value = contestant()
            while time.perf_counter() < warm:
                value = contestant()
            times[name].append(value)
    gc.enable()
    return times


class Library:
    """measure.c, and through it the library."""

    def __init__(self) -> None:
        self.lib = ctypes.CDLL(str(BUILD / "libmeasure.so"))
        self.lib.job_create.restype = c_void_p
        self.lib.job_create.argtypes = 3 * [c_int32] + 3 * [c_int64] + [c_int32] + 5 * [c_void_p]
        self.lib.job_destroy.argtypes = [c_void_p]
        self.lib.job_run.argtypes, self.lib.job_run.restype = [c_void_p, c_int64], c_double

    def job(self, kind: int, kernel: Kernel, threads: int, calls: int = 1, steps: int = 0) -> Contestant:
        """A call from C, on the arrays of `kernel`."""
        pointers = [None if t is None else t.data_ptr() for t in kernel.arrays]
        types = TYPES[kernel.type]
        handle = self.lib.job_create(kind, *types, kernel.batch, kernel.elements, steps, threads, *pointers)

        def run(keep: Any = kernel.arrays) -> float:
            if self.lib.job_run(handle, 1) < 0:
                raise RuntimeError("the library refused a call")
            return float(self.lib.job_run(handle, calls))

        return run

    def limit(self, name: str, count: int, threads: int, *arrays: Any) -> Contestant:
        """A loop over streams of `count` bytes."""
        function = getattr(self.lib, "limit_" + name)
        function.argtypes = [c_int32, c_int64] + len(arrays) * [c_void_p]
        function.restype = c_double

        def run() -> float:
            pointers = [a.data_ptr() for a in arrays]  # here, so that the arrays live as long as this function
            function(threads, count // 4, *pointers)
            return float(function(threads, count // 4, *pointers))

        return run


class Kernel:
    """The arrays of a shape and type, which all contestants read."""

    def __init__(self, shape: tuple[int, ...], type_name: str) -> None:
        import torch

        torch.manual_seed(0)
        self.type = type_name
        self.dtype, velocity = (torch.bfloat16 if number == BF16 else torch.float32 for number in TYPES[type_name])
        self.shape, self.batch, self.elements = shape, shape[0], math.prod(shape[1:])
        self.x, self.v, self.noise = (torch.randn(shape).to(self.dtype) for _ in range(3))
        self.v = self.v.to(velocity)
        self.next_x, self.grad = torch.empty_like(self.x), torch.empty_like(self.v)
        self.bytes = self.x.numel() * self.x.element_size()

    @property
    def arrays(self) -> tuple[Any, ...]:
        return self.x, self.v, self.next_x, self.grad, self.noise


class Bench:
    def __init__(self, threads: int, repetitions: int, quick: bool) -> None:
        import torch

        import chunkgrpo as cg

        self.torch, self.cg = torch, cg
        torch.set_num_threads(threads)
        self.threads, self.repetitions, self.quick = threads, repetitions, quick
        self.pause = 0.02 if threads > 1 else 0.0
        self.library = Library()
        schedule = cg.Schedule.shifted(17, 3.0)
        self.sampler = cg.Sampler(schedule, eta=ETA, threads=threads)
        sigmas = [float(s) for s in schedule.sigmas]
        self.sigmas = sigmas[STEP_INDEX], sigmas[STEP_INDEX + 1], ETA

    def report(
        self, row: str, contestants: dict[str, Contestant], shape: str = "", type_name: str = "", **more: Any
    ) -> None:
        times = race(contestants, self.repetitions, self.pause)
        line = {"row": row, "shape": shape, "type": type_name, "threads": self.threads, "times": times, **more}
        print(json.dumps(line), flush=True)

    # ------------------------------------------------------------------------------------------------------------------
    # A step, a log-probability, its gradient

    def kernels(self, shape_name: str, type_name: str, rows: set[str], peers: bool) -> None:
        """The races `step`, `step_given`, `log_prob`, `gradient` at one shape and type. peers: with those that take
        long to compile, and JAX."""
        torch, k = self.torch, STEP_INDEX
        import chunkgrpo.torch as cgt
        from peers import Compiled, Eager, Numpy, jax_functions

        kernel = Kernel(SHAPES[shape_name], type_name)
        x, v, next_x, noise = kernel.x, kernel.v, kernel.next_x, kernel.noise
        calls = 200 if shape_name == TINY else 1
        slow_calls = 20 if shape_name == TINY else 1
        with torch.no_grad():
            next_x.copy_(self.sampler.step(k, x, v, noise=noise)[0])
        weights = torch.linspace(-1, 1, kernel.batch)
        weights64 = weights.double()
        leaf = v.clone().requires_grad_()

        eager = Eager(*self.sigmas, kernel.batch, len(kernel.shape))
        compiled = Compiled(*self.sigmas) if peers else None
        arrays = [t.numpy() for t in (x, v, next_x)] if type_name == "f32" else None
        plain = Numpy(*self.sigmas) if arrays else None
        jit = jax_functions(*self.sigmas) if peers else None
        if jit:
            import jax
            import jax.numpy as jnp

            kind = jnp.bfloat16 if type_name == "bf16" else jnp.float32
            jx, jv, jn = (jnp.asarray(t.float().numpy()).astype(kind) for t in (x, v, next_x))
            jw, key = jnp.asarray(weights.numpy()), jax.random.key(0)  # threefry; "rbg" is slower on a CPU
        where = {"shape": shape_name, "type_name": type_name}

        def limit(name: str, *streams: Any) -> Contestant:
            return self.library.limit(name, kernel.bytes, self.threads, *streams)

        def native(kind: int) -> Contestant:
            return self.library.job(kind, kernel, self.threads, calls)

        def ours(call: Callable[[], Any]) -> Contestant:
            return timed(call, calls)

        def theirs(call: Callable[[], Any]) -> Contestant:
            return timed(call, slow_calls)

        out = torch.empty_like(x)  # the limits write here, not where the library reads
        if "step" in rows:
            c = {"C": native(STEP), "Python": ours(lambda: self.sampler.step(k, x, v, seed=1))}
            # The call from C has written other latents than those of `noise`.
            if arrays:
                c["Python, numpy"] = ours(lambda: self.sampler.step(k, arrays[0], arrays[1], seed=1))
            c["eager"] = theirs(lambda: eager.step(x, v))
            if compiled:
                c["compiled"] = theirs(lambda: compiled.step(x, v))
                if shape_name == MAIN:
                    c["compiled, randn inside"] = theirs(lambda: compiled.step_with_noise_inside(x, v))
            if plain:
                c["numpy"] = theirs(lambda: plain.step(*arrays[:2]))
            if jit:
                c["jax"] = theirs(lambda: jax.block_until_ready(jit["step"](key, jx, jv)))
            if shape_name != TINY:
                c["limit"] = limit("read2_write1", x, v, out)
            self.report("step", c, **where)
            if compiled and shape_name == MAIN:
                c = {"C": native(STEP_GIVEN), "Python": ours(lambda: self.sampler.step(k, x, v, noise=noise))}
                c["compiled"] = theirs(lambda: compiled.step_given(x, v, noise))
                same(self.sampler.step(k, x, v, noise=noise)[1], compiled.step_given(x, v, noise)[1])
                c["limit"] = limit("read3_write1", x, v, noise, out)
                self.report("step_given", c, **where)
            with torch.no_grad():
                next_x.copy_(self.sampler.step(k, x, v, noise=noise)[0])

        same(self.sampler.log_prob(k, x, v, next_x), eager.log_prob_no_grad(x, v, next_x))
        if "log_prob" in rows:
            c = {"C": native(LOG_PROB), "Python": ours(lambda: self.sampler.log_prob(k, x, v, next_x))}
            if arrays:
                c["Python, numpy"] = ours(lambda: self.sampler.log_prob(k, *arrays))
            c["eager"] = theirs(lambda: eager.log_prob_no_grad(x, v, next_x))
            if compiled:
                same(self.sampler.log_prob(k, x, v, next_x), compiled.log_prob(x, v, next_x))
                c["compiled"] = theirs(lambda: compiled.log_prob(x, v, next_x))
            if plain:
                c["numpy"] = theirs(lambda: plain.log_prob(*arrays))
            if jit:
                found = torch.from_numpy(jit["log_prob"](jx, jv, jn).__array__().copy())
                same(self.sampler.log_prob(k, x, v, next_x), found)
                c["jax"] = theirs(lambda: jit["log_prob"](jx, jv, jn).block_until_ready())
            if shape_name != TINY:
                c["limit"] = limit("read3", x, v, next_x)
            self.report("log_prob", c, **where)

        if "gradient" in rows:

            def autograd() -> Any:
                value = cgt.log_prob(self.sampler, k, x, leaf, next_x)
                return torch.autograd.grad(value, leaf, weights64)[0]

            expected = eager.gradient(x, leaf, next_x, weights)[1].float()
            same(autograd(), expected)
            c = {"C": native(VJP)}
            c["Python"] = ours(lambda: self.sampler.log_prob_vjp(k, x, v, next_x, weights64))
            if arrays:
                c["Python, numpy"] = ours(lambda: self.sampler.log_prob_vjp(k, *arrays, weights64.numpy()))
            c["Python, autograd"] = ours(autograd)
            c["eager"] = theirs(lambda: eager.gradient(x, leaf, next_x, weights))
            if compiled:
                same(compiled.gradient(x, leaf, next_x, weights)[1].float(), expected)
                c["compiled"] = theirs(lambda: compiled.gradient(x, leaf, next_x, weights))
            if plain:
                c["numpy"] = theirs(lambda: plain.gradient(*arrays, weights.numpy()))
            if jit:
                c["jax"] = theirs(lambda: jax.block_until_ready(jit["gradient"](jx, jv, jn, jw)))
            if shape_name != TINY:
                c["limit"] = limit("read3_write1", x, v, next_x, out)
                c["limit, streaming stores"] = limit("read3_write1_streaming", x, v, next_x, out)
            self.report("gradient", c, **where)

    # ------------------------------------------------------------------------------------------------------------------
    # The library against itself

    def noise(self) -> None:
        torch = self.torch
        import jax
        import numpy as np

        kernel = Kernel(SHAPES[MAIN], "f32")
        random, out = np.random.default_rng(0), kernel.grad.numpy()
        draw = jax.jit(lambda key: jax.random.normal(key, kernel.shape))
        keys = {name: jax.random.key(0, impl=name) for name in ("threefry2x32", "rbg")}
        c = {
            "C": self.library.job(NORMAL, kernel, self.threads),
            "torch": timed(lambda: torch.randn(kernel.shape, out=kernel.grad)),
            "numpy": timed(lambda: random.standard_normal(dtype=np.float32, out=out)),
            **{f"jax, {name}": timed(lambda key=key: draw(key).block_until_ready()) for name, key in keys.items()},
        }
        self.report("noise", c, MAIN, "f32", elements=kernel.x.numel())

    def types(self) -> None:
        """bf16, and bf16 velocities with f32 latents, beside f32."""
        kernels = {name: Kernel(SHAPES[MAIN], name) for name in TYPES}
        for row, kind in (("step", STEP), ("log_prob", LOG_PROB), ("gradient", VJP)):
            c = {name: self.library.job(kind, kernel, self.threads) for name, kernel in kernels.items()}
            self.report(f"types {row}", c, MAIN)

    def one_or_two(self) -> None:
        """One thread beside two; the limit too."""
        shapes = [MAIN] if self.quick else [s for s in SHAPES if s != TINY]
        for shape in shapes:
            kernel = Kernel(SHAPES[shape], "f32")
            x, v, next_x, grad, _ = kernel.arrays
            for row, kind in (("step", STEP), ("log_prob", LOG_PROB), ("gradient", VJP)):
                c = {str(n): self.library.job(kind, kernel, n) for n in (1, self.threads)}
                if row == "gradient":
                    for n in (1, self.threads):
                        c[f"limit {n}"] = self.library.limit("read3_write1", kernel.bytes, n, x, v, next_x, grad)
                self.report(f"threads {row}", c, shape, "f32")

    def forward(self) -> None:
        """The distance of the forward process and its gradient, with the noise given."""
        from chunkgrpo import forward

        torch = self.torch
        for type_name in ("f32", "bf16"):
            kernel = Kernel(SHAPES[MAIN], type_name)
            x, v, _, grad, noise = kernel.arrays
            leaf, weights = v.clone().requires_grad_(), torch.ones(kernel.batch)

            def distance(v: Any) -> Any:
                return (v - (noise - x)).square().flatten(1).mean(1)

            def eager() -> None:
                with torch.no_grad():
                    distance(v)

            def limit(name: str, *streams: Any) -> Contestant:
                return self.library.limit(name, kernel.bytes, self.threads, *streams)

            ours = lambda: forward.distances(x, v, noise=noise, threads=self.threads).distance
            same(ours(), distance(v.double()))
            c = {"C": self.library.job(FORWARD, kernel, self.threads), "Python": timed(ours), "eager": timed(eager)}
            c["limit"] = limit("read3", x, v, noise)
            self.report("forward", c, MAIN, type_name)
            c = {"C": self.library.job(FORWARD_VJP, kernel, self.threads)}
            c["eager"] = timed(lambda: torch.autograd.grad(distance(leaf), leaf, weights.to(leaf.dtype)))
            c["limit"] = limit("read3_write1", x, v, noise, grad)
            c["limit, past the caches"] = limit("read3_write1_streaming", x, v, noise, grad)
            self.report("forward_gradient", c, MAIN, type_name)

    def relative_l1(self) -> None:
        kernel = Kernel(SHAPES[MAIN], "f32")
        kinds = {"without": STEP, "with": STEP_L1}
        c = {name: self.library.job(kind, kernel, self.threads) for name, kind in kinds.items()}
        self.report("relative_l1", c, MAIN, "f32")

    def callback(self) -> None:
        """A rollout of 16 steps whose model does nothing, from C and from Python."""
        import numpy as np

        steps, calls = 16, 50
        kernel = Kernel(SHAPES[TINY], "f32")
        x = kernel.x.numpy()
        latents = self.torch.zeros(12, steps + 2, 64)
        latents[:, 0] = kernel.x
        kernel.x = latents
        velocity = np.zeros_like(x)
        sampler = self.cg.Sampler(self.cg.Schedule.shifted(steps, 3.0), eta=ETA)
        c = {
            "C": self.library.job(ROLLOUT, kernel, 1, calls, steps),
            "Python": timed(lambda: sampler.rollout(lambda x, sigma, step: velocity, x, seed=1), calls),
        }
        self.report("callback", c, TINY, "f32", steps=steps)

    def growth(self) -> None:
        """Loss and gradient of a trajectory, and a rollout, ten times as large in B, D or S. All beyond the caches."""
        torch = self.torch
        b, d, s = 4, 1 << 18, 16
        sizes = {"base": (b, d, s), "B": (10 * b, d, s), "D": (b, 10 * d, s), "T": (b, d, 10 * s)}
        most = 10 * b * d * s
        # One set of arrays for all, touched beforehand.
        x = torch.randn(1 << 20).repeat(math.ceil(most * (10 * s + 2) / (10 * s) * 1.13 / (1 << 20)))
        v, grad = x[:most].clone(), torch.zeros(most)
        for row, kind in (("growth loss_gradient", LOSS_GRADIENT), ("growth rollout", ROLLOUT)):
            c = {}
            for name, (batch, elements, steps) in sizes.items():
                kernel = Kernel((1, 1), "f32")
                kernel.batch, kernel.elements = batch, elements
                kernel.x, kernel.v, kernel.next_x, kernel.grad = x, v, grad, grad
                c[name] = self.library.job(kind, kernel, self.threads, 1, steps)
            if kind == LOSS_GRADIENT:
                for name, times in (("limit", 1), ("limit x 10", 10)):
                    count = times * 4 * b * d * s
                    c[name] = self.library.limit("read3_write1_streaming", count, self.threads, x, x, v, grad)
            self.report(row, c, f"{b}x{s}x{d}", "f32")

    def swift(self) -> None:
        """The same calls from C and from Swift."""
        program = subprocess.Popen([BUILD / "kernels"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert program.stdin and program.stdout

        def ask(line: str) -> float:
            program.stdin.write(line + "\n")
            program.stdin.flush()
            return float(program.stdout.readline())

        for type_name in ("f32", "bf16"):
            kernel = Kernel(SHAPES[MAIN], type_name)
            for row, kind in (("step", STEP), ("log_prob", LOG_PROB), ("gradient", VJP)):
                line = f"{row} {type_name} {kernel.batch} {kernel.elements} {self.threads}"
                c = {"C": self.library.job(kind, kernel, self.threads), "Swift": lambda line=line: ask(line)}
                self.report(f"swift {row}", c, MAIN, type_name)
        program.stdin.close()
        program.wait()


def same(left: Any, right: Any) -> None:
    """All contestants compute the same, up to the rounding of bf16."""
    worst = float((left.double() - right.double()).abs().max() / right.double().abs().max())
    if not worst <= 1e-2:
        raise SystemExit(f"two contestants differ by {worst}, which is no comparison")


def main() -> None:
    arguments = json.loads(sys.argv[1])
    rows, quick = set(arguments["rows"]), arguments["quick"]
    bench = Bench(arguments["threads"], arguments["repetitions"], quick)
    several = bench.threads > 1
    kernels = rows & {"step", "log_prob", "gradient"}
    for shape in SHAPES if kernels else ():
        for type_name in ("f32", "bf16"):
            if quick and (shape not in (MAIN, TINY) or (type_name != "f32" and shape == TINY)):
                continue
            bench.kernels(shape, type_name, kernels, peers=shape == MAIN if quick else True)
    if "noise" in rows:
        bench.noise()
    if "bf16" in rows:
        bench.types()
    if "threads" in rows and several:
        bench.one_or_two()
    if "forward" in rows:
        bench.forward()
    if "relative_l1" in rows:
        bench.relative_l1()
    if "callback" in rows and not several:
        bench.callback()
    if "growth" in rows and not several:
        bench.growth()
    if "swift" in rows and (BUILD / "kernels").exists():
        bench.swift()


if __name__ == "__main__":
    main()
