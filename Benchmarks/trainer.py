"""One side of the trainer's race: `trainer.py library|torch THREADS FOLDER` does one Chunk-GRPO iteration of the demo for
each line of its standard input, and answers with its nanoseconds. Each side has a process, so that neither's idle
threads slow the other's.

`trainer.py check 1 FOLDER` writes the weights that both start from, and makes sure that both compute the same."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

TREE = Path(__file__).resolve().parents[1]
PROMPTS, GROUP = 8, 12
ONE_HOT = np.eye(10, dtype=np.float32)
ROLLOUT_STREAM = 0x726F6C6C6F757420  # what the library's trainer mixes into its seed for rollouts


def digits() -> tuple[Any, Any]:
    records = np.fromfile(TREE / "examples/data/digits.u8", np.uint8).reshape(-1, 65)
    return records[:, :64] / np.float32(8) - 1, records[:, 64].astype(int)


def prompts(iteration: int) -> Any:
    """As the demo: the digits take turns."""
    return np.arange(PROMPTS * iteration, PROMPTS * (iteration + 1)) % 10


def reward(images: Any, wanted: Any) -> Any:
    """Of next to no cost: how near an image is to one of the data. The reward is the host's, not the trainer's."""
    return -((images - wanted) ** 2).mean(1)


def library_side(folder: str, threads: int) -> Any:
    import chunkgrpo as cg

    cg.set_thread_limit(threads)
    data, _ = digits()
    trainer = cg.Trainer.load(folder)

    def iterate(iteration: int) -> Any:
        asked = prompts(iteration)
        return trainer.iterate(ONE_HOT[asked], lambda images, prompt: reward(images, data[asked[prompt]]).astype(float))

    return iterate


def parameters(folder: object) -> dict[str, Any]:
    from safetensors.torch import load_file

    start = "parameters."
    tensors = load_file(Path(str(folder)) / "model.safetensors")
    return {name[len(start) :]: value for name, value in tensors.items() if name.startswith(start)}


def torch_side(folder: str, threads: int) -> Any:
    import torch
    from torch_trainer import Trainer

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    data = torch.from_numpy(digits()[0])
    trainer = Trainer(64, 10)
    trainer.network.load_state_dict(parameters(folder))
    trainer.start()
    groups = torch.arange(PROMPTS).repeat_interleave(GROUP)

    def iterate(iteration: int, **drawn: Any) -> Any:
        asked = prompts(iteration)
        wanted = data[asked][groups]
        return trainer.iterate(torch.from_numpy(ONE_HOT[asked]), lambda images: reward(images, wanted), **drawn)

    iterate.trainer = trainer  # type: ignore[attr-defined]
    return iterate


def check(folder: str) -> None:
    """Three iterations with the same noise and chunks: loss, gradient norm and weights agree."""
    import torch

    import chunkgrpo as cg

    data, labels = digits()
    trainer = cg.Trainer(64, 10, seed=0)
    trainer.pretrain(data, ONE_HOT[labels], steps=300)
    trainer.save(folder)
    peer, plan, batch = torch_side(folder, 1), cg.ChunkPlan([2, 3, 4, 7]), PROMPTS * GROUP
    worst = 0.0
    for iteration in range(3):
        ids = batch * iteration + np.arange(batch)
        asked = prompts(iteration)
        ours = trainer.iterate(ONE_HOT[asked], lambda images, prompt: reward(images, data[asked[prompt]]).astype(float))
        first = cg.initial_noise((batch, 64), seed=ROLLOUT_STREAM, sample_ids=ids // GROUP * GROUP)
        chosen = plan.select(batch, fraction=0.5, seed=ROLLOUT_STREAM, sample_ids=ids)
        loss, norm = peer(
            iteration,
            initial=torch.from_numpy(first),
            noise=lambda k: torch.from_numpy(cg.normal((batch, 64), seed=ROLLOUT_STREAM, step=k, sample_ids=ids)),
            selection=torch.from_numpy(np.asarray(chosen, bool)),
        )
        worst = max(worst, abs(loss - ours.loss), abs(norm / ours.grad_norm - 1))
    after = Path(folder) / "after"
    trainer.save(after)
    weights = parameters(after)
    for name, value in peer.trainer.network.state_dict().items():
        worst = max(worst, float((value - weights[name]).abs().max()))
    print(worst)
    if not worst < 1e-4:
        raise SystemExit(f"the two trainers differ by {worst}, which is no comparison")


def main() -> None:
    side, threads, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if side == "check":
        return check(folder)
    iterate = library_side(folder, threads) if side == "library" else torch_side(folder, threads)
    for iteration, _ in enumerate(sys.stdin):
        start = time.perf_counter_ns()
        iterate(iteration)
        print(time.perf_counter_ns() - start, flush=True)


if __name__ == "__main__":
    main()
