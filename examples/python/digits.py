"""Teaches a small flow-matching model to draw the digit that it is asked for: `make lib`, then

    PYTHONPATH=bindings/python python examples/python/digits.py

A reward classifier and an independent judge learn on disjoint halves of 1,797 handwritten digits; the flow model
learns from all of them with 30 % of the prompts wrong, as captions from the web are; then Chunk-GRPO puts it right by
the reward alone. Metrics (JSON lines) and the checkpoint go to build/digits-python; `--resume` goes on from there.

OpenBLAS does not know processors newer than itself and is then several times slower than need be;
OPENBLAS_CORETYPE=SkylakeX (with AVX-512) or Haswell (with AVX2) in the environment tells it.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).resolve().parents[2] / "bindings/python"))  # where chunkgrpo is not installed

import chunkgrpo as cg

Array = NDArray[Any]
TREE = Path(__file__).resolve().parents[2]
ONE_HOT = np.eye(10, dtype=np.float32)
PROMPTS = 8  # digits that an iteration asks for


def read_digits() -> tuple[Array, Array]:
    """1,797 records of 65 bytes: 64 pixels 0 ... 16, then the digit."""
    records = np.fromfile(TREE / "examples/data/digits.u8", np.uint8).reshape(-1, 65)
    return records[:, :64] / np.float32(8) - 1, records[:, 64].astype(int)


class Classifier:
    """64 -> hidden -> 10, trained by Adam on its images with noise."""

    def __init__(self, images: Array, labels: Array, hidden: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.layers = [
            rng.normal(0, 1 / 8, (64, hidden)),
            np.zeros(hidden),
            rng.normal(0, hidden**-0.5, (hidden, 10)),
            np.zeros(10),
        ]
        first, second = ([np.zeros_like(layer) for layer in self.layers] for _ in range(2))
        for step in range(1, 1001):
            rows = rng.integers(len(images), size=128)
            x = images[rows] + rng.normal(0, 0.3, (128, 64))
            hidden_values, log_probs = self.forward(x)
            error = (np.exp(log_probs) - ONE_HOT[labels[rows]]) / 128
            back = error @ self.layers[2].T * (hidden_values > 0)
            gradients = [x.T @ back, back.sum(0), hidden_values.T @ error, error.sum(0)]
            for layer, m, v, g in zip(self.layers, first, second, gradients):
                m += 0.1 * (g - m)
                v += 0.001 * (g * g - v)
                layer -= 2e-3 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)

    def forward(self, images: Array) -> tuple[Array, Array]:
        a, b, c, d = self.layers
        hidden = np.maximum(images @ a + b, 0)
        logits = hidden @ c + d
        logits -= logits.max(1, keepdims=True)
        return hidden, logits - np.log(np.exp(logits).sum(1, keepdims=True))

    def log_probs(self, images: Array) -> Array:
        return self.forward(images)[1]

    def accuracy(self, images: Array, labels: Array) -> float:
        return float((self.log_probs(images).argmax(1) == labels).mean())


def spread(images: Array, labels: Array) -> float:
    """Deviation of a pixel over the images of a digit: the mean over pixels and digits."""
    return float(np.mean([images[labels == digit].std(0).mean() for digit in np.unique(labels)]))


def root(matrix: Array) -> Array:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T


def frechet(a: Array, b: Array) -> float:
    """The distance of Gaussians through rows of features (FID, arXiv 1706.08500)."""
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    half = root(first)
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root(half @ second @ half)))


def measure(trainer: cg.Trainer, reward_model: Classifier, judge: Classifier, real: Array) -> dict[str, float]:
    """Of 1,000 samples by the ODE: the share that shows the digit of its prompt, by both classifiers; the spread of those
    that the judge reads so; the Fréchet distance to the real digits in the judge's features."""
    digits = np.arange(1000) % 10
    images = trainer.sample(ONE_HOT[digits], eta=0, seed=12345)
    right = judge.log_probs(images).argmax(1) == digits
    return {
        "reward_model": reward_model.accuracy(images, digits),
        "judge": float(right.mean()),
        "spread": spread(images[right], digits[right]),
        "frechet": frechet(judge.forward(images)[0], judge.forward(real)[0]),
    }


def progress_bar(title: str, done: int, total: int, note: str = "") -> None:
    """Over one line in a terminal; ten lines in a file."""
    terminal = sys.stderr.isatty()
    if terminal or 10 * done // total > 10 * (done - 1) // total:
        bar = "#" * (30 * done // total)
        end = "\r" if terminal and done < total else "\n"
        print(f"{title:14} [{bar:.<30}] {done:4}/{total} {note}", end=end, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=TREE / "build/digits-python", help="folder of pictures, metrics and checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--pretrain-steps", type=int, default=1000, help="optimiser steps of flow matching")
    parser.add_argument("--iterations", type=int, default=1200, help="of training by reward")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in OUTPUT")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    checkpoint, metrics = options.output / "checkpoint", options.output / "metrics.jsonl"
    started = time.perf_counter()

    images, labels = read_digits()
    rng = np.random.default_rng(options.seed)
    order = rng.permutation(len(images))
    mine, theirs = order[::2], order[1::2]
    reward_model = Classifier(images[mine], labels[mine], hidden=128, seed=options.seed + 1)
    judge = Classifier(images[theirs], labels[theirs], hidden=96, seed=options.seed + 2)

    if options.resume:
        trainer = cg.Trainer.load(checkpoint)
        with metrics.open() as file:
            before = json.loads(file.readline())
    else:
        # Against collapse: close to the pretrained model, by the KL divergence of whole trajectories, all of whose
        # steps are trained. The average over more optimiser steps has less of their noise.
        trainer = cg.Trainer(
            latent_size=64,
            condition_size=10,
            reference_kl=0.35,
            reference_divergence="gaussian",
            chunk_fraction=1.0,
            ema_decay=0.99,
            seed=options.seed,
        )
        wrong = rng.random(len(labels)) < 0.3
        prompts = np.where(wrong, (labels + rng.integers(1, 10, size=len(labels))) % 10, labels)
        trainer.pretrain(
            images,
            ONE_HOT[prompts],
            steps=options.pretrain_steps,
            progress=lambda done, total, loss: progress_bar("Flow matching", done, total, f"loss {loss:.3f}"),
        )
        before = measure(trainer, reward_model, judge, images)
        metrics.write_text(json.dumps(before) + "\n")

    with metrics.open("a") as file:
        while trainer.iterations < options.iterations:
            asked = (trainer.iterations * PROMPTS + np.arange(PROMPTS)) % 10  # the digits take turns

            def reward(images: Array, prompt: Array) -> Array:
                return (reward_model.log_probs(images).argmax(1) == asked[prompt]).astype(float)

            report = trainer.iterate(ONE_HOT[asked], reward)
            line = {"iteration": report.iteration, "reward": report.reward_mean, "loss": report.loss}
            line.update(grad_norm=report.grad_norm, ratio_std=report.stats.ratio_std)
            line.update(reference_divergence=report.reference_divergence)
            file.write(json.dumps(line) + "\n")
            progress_bar("Chunk-GRPO", report.iteration, options.iterations, f"reward {report.reward_mean:+.3f}")
            if report.iteration % 50 == 0:
                trainer.save(checkpoint)
    trainer.save(checkpoint)
    after = measure(trainer, reward_model, judge, images)

    print(f"\n{'':31} before   after    real")
    for name, title, real in (
        ("reward_model", "right, by the reward model", ""),
        ("judge", "right, by the judge", ""),
        ("spread", "spread of the right ones", f"{spread(images, labels):8.3f}"),
        ("frechet", "Fréchet distance to real digits", f"{0:8.3f}"),
    ):
        print(f"{title:31} {before[name]:6.3f} {after[name]:7.3f}{real}")
    print(f"\n{time.perf_counter() - started:.0f} seconds; metrics and checkpoint are in {options.output}")


if __name__ == "__main__":
    main()
