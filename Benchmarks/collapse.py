"""Accuracy against collapse: chunks of several sizes on the digits of examples/python/digits.py, at equal model evaluations.

    make lib && PYTHONPATH=bindings/python python Benchmarks/collapse.py

Every plan starts from the same pretrained model of a seed, with a hit-or-miss reward. At some iterations, 1,000 samples by
the ODE tell the judge's accuracy, the spread of the right digits within a prompt (deviation of a pixel, mean over pixels
and prompts) and the Fréchet distance to the real digits in the judge's features. A faster climb may only be a faster
collapse: so the last table has, for each plan, the accuracy where its curve crosses a given spread.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

TREE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TREE / "examples/python"))

import digits  # noqa: E402

import chunkgrpo as cg  # noqa: E402

PLANS = {
    "step level": ([1] * 16, {}),
    "chunks of 4": ([4] * 4, {}),
    "chunks 2-3-4-7": ([2, 3, 4, 7], {}),
    "chunks 7-4-3-2": ([7, 4, 3, 2], {}),
    "step level, KL": ([1] * 16, {"reference_kl": 0.2, "reference_divergence": "gaussian"}),
    "chunks 2-3-4-7, KL": ([2, 3, 4, 7], {"reference_kl": 0.2, "reference_divergence": "gaussian"}),
}
AT = (10, 20, 30, 50, 75, 100, 150, 200, 300)
PROMPTS = 8


class Task:
    """The data, the classifiers and the pretraining of one seed, as in examples/python/digits.py."""

    def __init__(self, seed):
        self.seed = seed
        self.images, self.labels = digits.read_digits()
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self.images))
        mine, theirs = order[::2], order[1::2]
        self.reward_model = digits.Classifier(self.images[mine], self.labels[mine], 128, seed + 1)
        self.judge = digits.Classifier(self.images[theirs], self.labels[theirs], 96, seed + 2)
        wrong = rng.random(len(self.labels)) < 0.3
        self.captions = np.where(wrong, (self.labels + rng.integers(1, 10, len(wrong))) % 10, self.labels)

    def pretrained(self, sizes, options):
        """Pretraining is a function of the seed: every plan gets the same network."""
        trainer = cg.Trainer(64, 10, seed=self.seed, chunk_sizes=sizes, ema_decay=0.95, **options)
        trainer.pretrain(self.images, digits.ONE_HOT[self.captions], steps=1000)
        return trainer

    def measure(self, trainer):
        asked = np.arange(1000) % 10
        drawn = trainer.sample(digits.ONE_HOT[asked], eta=0, seed=12345)
        right = self.judge.log_probs(drawn).argmax(1) == asked
        features = (self.judge.forward(x)[0] for x in (drawn, self.images))
        return float(right.mean()), digits.spread(drawn[right], asked[right]), digits.frechet(*features)

    def curve(self, sizes, options, iterations):
        """(iterations, reward, accuracy, spread, Fréchet distance) along a run; the first is before it."""
        trainer = self.pretrained(sizes, options)
        points, rewards = [(0, float("nan"), *self.measure(trainer))], []
        while trainer.iterations < iterations:
            asked = (trainer.iterations * PROMPTS + np.arange(PROMPTS)) % 10

            def reward(images, prompt):
                return (self.reward_model.log_probs(images).argmax(1) == asked[prompt]).astype(float)

            rewards.append(trainer.iterate(digits.ONE_HOT[asked], reward).reward_mean)
            if trainer.iterations in AT or trainer.iterations == iterations:
                points.append((trainer.iterations, float(np.mean(rewards[-10:])), *self.measure(trainer)))
        return points


def accuracy_at(points, share):
    """Accuracy where the spread first falls below `share` of that before, between two points; the last where it never does."""
    limit = share * points[0][3]
    for (_, _, a, s, _), (_, _, b, t, _) in zip(points, points[1:]):
        if t < limit:
            return b + (a - b) * (limit - t) / (s - t)
    return points[-1][2]


def with_error(values):
    return f"{np.mean(values):.3f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def table(curves):
    print("\n| plan | iterations | reward | judge | spread | Fréchet |\n|---|---|---|---|---|---|")
    for name, runs in curves.items():
        for point in zip(*runs):
            columns = np.array(point).T
            cells = [with_error(list(column)) for column in columns[1:]]
            print(f"| {name} | {int(columns[0][0])} | {' | '.join(cells)} |")
    shares = (0.95, 0.9, 0.85, 0.8, 0.75)
    print(f"\n| judge's accuracy where the spread is … of that before | {' | '.join(map(str, shares))} |")
    print("|---|" + "---|" * len(shares))
    for name, runs in curves.items():
        print(f"| {name} | " + " | ".join(with_error([accuracy_at(run, share) for run in runs]) for share in shares) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--plans", nargs="*", default=list(PLANS), help="some of: " + ", ".join(PLANS))
    parser.add_argument("--output", type=Path, default=TREE / "build/collapse.json", help="curves; those in it are kept")
    options = parser.parse_args()
    known = json.loads(options.output.read_text()) if options.output.exists() else {}
    for seed in range(1, options.seeds + 1):
        task = Task(seed)
        for name in options.plans:
            key = f"{name}/{options.iterations}/{seed}"
            if key not in known:
                known[key] = task.curve(*PLANS[name], options.iterations)
                options.output.parent.mkdir(parents=True, exist_ok=True)
                options.output.write_text(json.dumps(known))
                print(key, *("%d: %.3f %.3f %.3f %.1f" % tuple(point) for point in known[key]), sep="\n  ", file=sys.stderr)
    curves = {}
    for name in options.plans:
        curves[name] = [known[f"{name}/{options.iterations}/{seed}"] for seed in range(1, options.seeds + 1)]
    table(curves)


if __name__ == "__main__":
    main()
