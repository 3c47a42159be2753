"""How the spread of ratios goes with the learning rate and the updates per rollout, for docs/settings.md: digits, hit or miss,
D = 64, all chunks trained. `ratio_std` is the mean over the iterations 6 to 30. Some three minutes on one core.

    PYTHONPATH=bindings/python python Benchmarks/rates.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

TREE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TREE / "examples" / "python"))

from digits import ONE_HOT, Classifier, read_digits  # noqa: E402

import chunkgrpo as cg  # noqa: E402


def spread(updates: int, rate: float, seed: int = 0) -> tuple[float, float, float]:
    """ratio_std, clip_fraction, and the mean reward of the last five of 30 iterations."""
    images, labels = read_digits()
    rng = np.random.default_rng(seed)
    half = rng.permutation(len(images))[::2]
    reward_model = Classifier(images[half], labels[half], hidden=128, seed=seed + 1)
    wrong = rng.random(len(labels)) < 0.3
    prompts = np.where(wrong, (labels + rng.integers(1, 10, size=len(labels))) % 10, labels)
    trainer = cg.Trainer(64, 10, updates_per_rollout=updates, learning_rate=rate, chunk_fraction=1.0, seed=seed)
    trainer.pretrain(images, ONE_HOT[prompts], steps=600)
    lines = []
    for iteration in range(30):
        asked = (iteration * 8 + np.arange(8)) % 10

        def reward(samples, prompt):
            return (reward_model.log_probs(samples).argmax(1) == asked[prompt]).astype(float)

        lines.append(cg.metrics(trainer.iterate(ONE_HOT[asked], reward)))
    mean = lambda name, part: float(np.mean([line[name] for line in part]))  # noqa: E731
    return mean("ratio_std", lines[5:]), mean("clip_fraction", lines[5:]), mean("reward_mean", lines[-5:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rates", type=float, nargs="+", default=[1e-4, 3e-4, 1e-3])
    options = parser.parse_args()
    print("updates    rate  ratio_std  clip_fraction  reward")
    for updates in options.updates:
        for rate in options.rates:
            found = spread(updates, rate)
            print(f"{updates:7}  {rate:.0e}  {found[0]:9.2e}  {found[1]:13.3f}  {found[2]:6.3f}", flush=True)


if __name__ == "__main__":
    main()
