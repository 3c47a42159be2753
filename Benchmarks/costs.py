"""What chunkgrpo adds to an iteration of a large model on many GPUs: seconds and bytes, computed from measured costs of
calls and from the messages that its ranks send. docs/costs.md shows what this prints, and a test compares.

    PYTHONPATH=bindings/python python Benchmarks/costs.py              # the tables
    PYTHONPATH=bindings/python python Benchmarks/costs.py --measure    # this machine's seconds per message, to be written below
    ... --hop 1e-4 --speed 2e14                                        # with a slower network, a slower GPU
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import chunkgrpo as cg
import chunkgrpo.distributed as cgd

GPU = json.loads((Path(__file__).parent / "results/gpu.json").read_text())
# Measured, docs/gpu.md: an iteration of 9 steps with a model that costs nothing, of which the device is busy for little.
HOST_STEP = 5.8e-3 / 9
# Measured by --measure, of a core of an AMD EPYC (Zen 4): seconds of the processor for each rank that an exchange hears, and for
# each that `advantages` hears, with 12 samples.
HEARD, ADVANTAGES = 15e-6, 25e-6

STEPS, FRACTION = 17, 0.5
"""Of a rollout; of its chunks that are trained."""
GPUS = (8, 64, 1024)


@dataclass(frozen=True)
class Model:
    name: str
    batch: int
    """Samples of each GPU in an iteration."""
    elements: int
    """D"""
    tokens: int
    parameters: float
    width: int
    layers: int
    measured: str
    """The shape in results/gpu.json that is nearest by its bytes."""

    def kernel(self, call: str) -> float:
        """Seconds of a call on the device, float32."""
        (found,) = (
            row["chunkgrpo"] for row in GPU["times"]
            if (row["call"], row["shape"], row["type"]) == (call, self.measured, "float32")
        )  # fmt: skip
        return 1e-6 * found * self.batch * self.elements / math.prod(map(int, self.measured.split("x")))

    @property
    def forward(self) -> float:
        """Floating-point operations for one sample: products with the parameters, and attention."""
        return 2 * self.parameters * self.tokens + 4 * self.tokens**2 * self.width * self.layers


MODELS = (
    Model("FLUX 720²", 12, 2025 * 64, 2025 + 512, 12e9, 3072, 57, "12x2025x64"),
    Model("FLUX 1024²", 12, 4096 * 64, 4096 + 512, 12e9, 3072, 57, "1x16x21x60x104"),
    Model("Wan 480p, 81 frames", 4, 16 * 21 * 60 * 104, 21 * 30 * 52, 14e9, 5120, 40, "1x16x21x60x104"),
)
TRAINED = STEPS - 1


def iteration(model: Model, speed: float) -> float:
    """Seconds of the model alone: T forward passes, and for each trained step a forward pass and one with gradients, which
    costs three."""
    return model.batch * (STEPS + FRACTION * TRAINED * (1 + 3)) * model.forward / speed


def device(model: Model) -> float:
    """Seconds of chunkgrpo's kernels on a GPU in an iteration."""
    trained = 2 * model.kernel("log_prob") + model.kernel("gradient")
    return STEPS * model.kernel("step") + FRACTION * TRAINED * trained


def host() -> float:
    return STEPS * HOST_STEP


def trajectory(model: Model) -> int:
    """Bytes of the latents of a rollout, float32."""
    return 4 * (STEPS + 1) * model.batch * model.elements


class Recorder:
    """An all-gather of one rank, which keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[int] = []

    def __call__(self, values: Any, seconds: float) -> Any:
        self.sent.append(len(values))
        return values[None]


def messages(batch: int) -> list[tuple[str, list[int]]]:
    """The exchanges of an iteration of docs/distributed.md's program, and the bytes of each all-gather of a rank in them."""
    recorder = Recorder()
    ranks = cgd.Ranks(0, 1, recorder)
    plan = cg.ChunkPlan([2, 3, 4, 7])
    ids = np.arange(batch) + 10**6
    chosen = plan.select(batch, FRACTION, seed=1, sample_ids=ids)
    old = np.zeros((batch, TRAINED))
    stats = cg.chunk_loss(old, old, np.ones(batch), plan, selection=chosen).stats
    rewards = np.linspace(0, 1, batch)

    def together() -> None:
        with ranks.together("the reward"):
            pass

    calls = {
        "`together`": together,
        "`advantages`": lambda: ranks.advantages(rewards, groups=ids // 12, sample_ids=ids),
        "`normaliser`": lambda: ranks.normaliser(plan, selection=chosen),
        "`needed_steps`": lambda: ranks.needed_steps(plan, selection=chosen),
        "`mean`, `total`": lambda: (ranks.mean(0.5), ranks.total(1.5)),
        "`merge_stats`": lambda: ranks.merge_stats(stats),
    }
    found = []
    for name, call in calls.items():
        recorder.sent = []
        call()
        found.append((name, recorder.sent))
    return found


def exchange(batch: int, gpus: int, hop: float, bandwidth: float) -> tuple[float, float, int]:
    """Of an iteration: seconds on the network and of the processor, and bytes that a rank receives. An all-gather goes round a ring: each rank hands on what it got, gpus - 1 times."""
    sent = [size for _, sizes in messages(batch) for size in sizes]
    bytes_in = gpus * sum(sent)
    network = len(sent) * (gpus - 1) * hop + bytes_in / bandwidth
    return network, gpus * ((len(sent) - 1) * HEARD + ADVANTAGES), bytes_in


# ----------------------------------------------------------------------------------------------------------------------


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def seconds(value: float) -> str:
    return f"{1e3 * value:.3g} ms" if value < 1 else f"{value:,.3g} s" if value < 100 else f"{value:,.0f} s"


def size(count: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3)):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:.0f} B"


def tables(speed: float, hop: float, bandwidth: float) -> str:
    def share(value: float, model: Model) -> str:
        return f"{100 * value / iteration(model, speed):.2g} %"

    rows = []
    for m in MODELS:
        added = device(m) + host()
        rows.append(
            [m.name, f"{m.batch} × {m.elements:,}", seconds(iteration(m, speed)), seconds(device(m)), seconds(host()),
             share(added, m), size(trajectory(m))]
        )  # fmt: skip
    one = table(["", "B × D", "the model", "kernels", "host", "together", "latents of a rollout"], rows)

    rows = [[name, f"{len(sizes)}", size(sum(sizes))] for name, sizes in messages(12)]
    every = [n for _, sizes in messages(12) for n in sizes]
    two = table(["", "all-gathers", "bytes of a rank"], [*rows, ["an iteration", f"{len(every)}", size(sum(every))]])

    rows = []
    for gpus in GPUS:
        for m in MODELS:
            network, processor, bytes_in = exchange(m.batch, gpus, hop, bandwidth)
            rows.append([f"{gpus:,}", m.name, size(bytes_in), seconds(network), seconds(processor), share(network + processor, m)])
    three = table(["GPUs", "", "bytes that a rank receives", "network", "processor", "of an iteration"], rows)
    return "\n\n".join([one, two, three])


def measure(gpus: int = 1024, batch: int = 12) -> None:
    """What a rank's processor does in an exchange: it hears messages of all, which are made before."""

    class Sent(Exception):
        pass

    def advantages(ranks: Any) -> Any:
        ids = batch * ranks.rank + np.arange(batch)
        return ranks.advantages(np.linspace(0, 1, batch), groups=ids // 12, sample_ids=ids)

    def mean(ranks: Any) -> Any:
        return ranks.mean(0.5)

    for call in (mean, advantages):
        rows: list[Any] = []

        def keep(values: Any, seconds: float) -> Any:
            rows.append(values)
            raise Sent

        for rank in range(gpus):
            try:
                call(cgd.Ranks(rank, gpus, keep))
            except cgd.RankFailed:
                pass
        heard = np.stack(rows)
        times = []
        for _ in range(5):
            ranks = cgd.Ranks(0, gpus, lambda values, seconds: heard)
            start = time.perf_counter()
            call(ranks)
            times.append(time.perf_counter() - start)
        print(f"{call.__name__} of {gpus} ranks: {min(times) / gpus * 1e6:.1f} µs per rank")


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--measure", action="store_true")
    options.add_argument("--speed", type=float, default=4e14, help="of a GPU, operations per second that the model reaches")
    options.add_argument("--hop", type=float, default=5e-5, help="seconds for a small message from one machine to the next")
    options.add_argument("--bandwidth", type=float, default=1e9, help="bytes per second of a rank's messages")
    given = options.parse_args()
    if given.measure:
        return measure()
    print(tables(given.speed, given.hop, given.bandwidth))


if __name__ == "__main__":
    sys.exit(main())
