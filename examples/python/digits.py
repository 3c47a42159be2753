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

import numpy as np

import chunkgrpo as cg

TREE = Path(__file__).resolve().parents[2]
ONE_HOT = np.eye(10, dtype=np.float32)
PROMPTS = np.arange(40) % 10  # the digits that an iteration asks for


def read_digits():
    """1,797 records of 65 bytes: 64 pixels 0 ... 16, then the digit."""
    records = np.fromfile(TREE / "examples/data/digits.u8", np.uint8).reshape(-1, 65)
    return records[:, :64] / np.float32(8) - 1, records[:, 64].astype(int)


class Classifier:
    """64 -> hidden -> 10, trained by Adam on its images with noise."""

    def __init__(self, images, labels, hidden, seed):
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

    def forward(self, images):
        a, b, c, d = self.layers
        hidden = np.maximum(images @ a + b, 0)
        logits = hidden @ c + d
        logits -= logits.max(1, keepdims=True)
        return hidden, logits - np.log(np.exp(logits).sum(1, keepdims=True))

    def log_probs(self, images):
        return self.forward(images)[1]

    def accuracy(self, images, labels):
        return float((self.log_probs(images).argmax(1) == labels).mean())


def prompt_accuracy(trainer, reward_model, judge):
    """Share of 1,000 samples (by the ODE) that show the digit of their prompt, by both classifiers."""
    digits = np.arange(1000) % 10
    images = trainer.sample(ONE_HOT[digits], eta=0, seed=12345)
    return {"reward_model": reward_model.accuracy(images, digits), "judge": judge.accuracy(images, digits)}


def progress_bar(title, done, total, note=""):
    """Over one line in a terminal; ten lines in a file."""
    terminal = sys.stderr.isatty()
    if terminal or 10 * done // total > 10 * (done - 1) // total:
        bar = "#" * (30 * done // total)
        end = "\r" if terminal and done < total else "\n"
        print(f"{title:14} [{bar:.<30}] {done:4}/{total} {note}", end=end, file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=TREE / "build/digits-python")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pretrain-steps", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=30)
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
        trainer = cg.Trainer(latent_size=64, condition_size=10, seed=options.seed)
        wrong = rng.random(len(labels)) < 0.3
        prompts = np.where(wrong, (labels + rng.integers(1, 10, size=len(labels))) % 10, labels)
        trainer.pretrain(
            images,
            ONE_HOT[prompts],
            steps=options.pretrain_steps,
            progress=lambda done, total, loss: progress_bar("Flow matching", done, total, f"loss {loss:.3f}"),
        )
        before = prompt_accuracy(trainer, reward_model, judge)
        metrics.write_text(json.dumps(before) + "\n")

    def reward(images, prompt):
        return reward_model.log_probs(images)[np.arange(len(images)), PROMPTS[prompt]]

    with metrics.open("a") as file:
        while trainer.iterations < options.iterations:
            report = trainer.iterate(ONE_HOT[PROMPTS], reward)
            line = {"iteration": report.iteration, "reward": report.reward_mean, "loss": report.loss}
            line.update(grad_norm=report.grad_norm, ratio_std=report.stats.ratio_std)
            file.write(json.dumps(line) + "\n")
            progress_bar("Chunk-GRPO", report.iteration, options.iterations, f"reward {report.reward_mean:+.3f}")
            if report.iteration % 10 == 0:
                trainer.save(checkpoint)
    trainer.save(checkpoint)
    after = prompt_accuracy(trainer, reward_model, judge)

    print("\nprompt accuracy     before   after")
    for name in ("reward_model", "judge"):
        print(f"{name.replace('_', ' '):17}    {before[name]:.3f}   {after[name]:.3f}")
    print(f"\n{time.perf_counter() - started:.0f} seconds; metrics and checkpoint are in {options.output}")


if __name__ == "__main__":
    main()
