"""Accuracy against collapse on the digits of examples/python/digits.py: Chunk-GRPO with several plans, NFT and AWM, at
equal evaluations of the model.

    make lib && PYTHONPATH=bindings/python python Benchmarks/collapse.py --processes 2

Every plan starts from the same pretrained network of a seed, with a hit-or-miss reward and the same prompts, group size,
optimiser and average. The embedded trainer has no NFT and no AWM: they train its network in PyTorch, which is the same
function (forward_trainer.py). A backward pass counts as two evaluations. At some counts, 1,000 samples by the ODE tell the
judge's accuracy, the spread of the right digits within a prompt (deviation of a pixel, mean over pixels and prompts) and
the Fréchet distance to the real digits in the judge's features. A faster climb may only be a faster collapse: so the last
table has, for each plan, the accuracy where its curve crosses a given spread.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

for library in ("OMP", "OPENBLAS"):  # a process of this program has one thread
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")

import numpy as np  # noqa: E402

TREE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TREE / "examples/python"))

import digits  # noqa: E402

import chunkgrpo as cg  # noqa: E402

SIZES = [2, 3, 4, 7]
STEPS = {"chunk_sizes": [1] * 16}
CHUNKS = {"chunk_sizes": SIZES}
# A step of chunk j weighs 1/(K |C_j|) in the chunk's gradient, 1/S in that of single steps.
WEIGHTED = {**STEPS, "chunk_weights": [16 / (4 * size) for size in SIZES for _ in range(size)]}
PLANS = {
    "step level": STEPS,
    "step level, chunk weights": WEIGHTED,
    "chunks 2-3-4-7": CHUNKS,
    "NFT": {"method": "nft"},
    "AWM": {"method": "awm"},
    "chunks of 4": {"chunk_sizes": [4] * 4},
    "chunks 7-4-3-2": {"chunk_sizes": SIZES[::-1]},
}
COMPARED = list(PLANS)[:5]
for plan in COMPARED:  # with a divergence from the pretrained network: the Gaussian one of steps, that of velocities
    forward = "method" in PLANS[plan]
    for weight in (0.1, 0.3) if forward else (0.1, 0.2):
        kl = {"kl": weight} if forward else {"reference_kl": weight, "reference_divergence": "gaussian"}
        PLANS[f"{plan}, KL {weight}"] = {**PLANS[plan], **kl}
COMPARED += [plan for plan in PLANS if "KL" in plan]
ITERATION = 41  # evaluations per sample in an iteration without KL: 17 of the rollout, 8 trained steps forward and backward
AT = [ITERATION * n for n in (0, 5, 10, 15, 20, 30, 40, 50, 60, 80, 100, 125, 150, 200, 250, 300)]
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

    def trainer(self, options):
        """The trainer of a plan, pretrained, and its evaluations per iteration. Pretraining is a function of the seed: every
        plan gets the same network."""
        forward = "method" in options
        trainer = cg.Trainer(64, 10, seed=self.seed, ema_decay=0.95, threads=1, **({} if forward else options))
        trainer.pretrain(self.images, digits.ONE_HOT[self.captions], steps=1000)
        if not forward:
            trained = 16 * trainer.options["chunk_fraction"]
            return trainer, trainer.options["steps"] + trained * (3 + (trainer.options["reference_kl"] > 0))
        from forward_trainer import ForwardTrainer

        with tempfile.TemporaryDirectory() as folder:
            trainer.save(folder)
            made = ForwardTrainer(folder, **options, seed=self.seed)
        return made, made.evaluations

    def measure(self, trainer):
        asked = np.arange(1000) % 10
        drawn = trainer.sample(digits.ONE_HOT[asked], eta=0, seed=12345)
        right = self.judge.log_probs(drawn).argmax(1) == asked
        features = (self.judge.forward(x)[0] for x in (drawn, self.images))
        return float(right.mean()), digits.spread(drawn[right], asked[right]), digits.frechet(*features)

    def curve(self, options, evaluations):
        """(evaluations, reward, accuracy, spread, Fréchet distance) along a run; the first is before it."""
        trainer, each = self.trainer(options)
        points, rewards = [(0, float("nan"), *self.measure(trainer))], []
        for at in (at for at in AT[1:] if at <= evaluations):
            while trainer.iterations * each < at:
                asked = (trainer.iterations * PROMPTS + np.arange(PROMPTS)) % 10

                def reward(images, prompt):
                    return (self.reward_model.log_probs(images).argmax(1) == asked[prompt]).astype(float)

                report = trainer.iterate(digits.ONE_HOT[asked], reward)
                rewards.append(getattr(report, "reward_mean", report))
            points.append((at, float(np.mean(rewards[-5:])), *self.measure(trainer)))
        return points


def run(job):
    """The curve of (plan, seed, evaluations)."""
    plan, seed, evaluations = job
    return job, Task(seed).curve(PLANS[plan], evaluations)


def accuracy_at(points, share):
    """The best accuracy on the curve, a line from point to point, where the spread is at least `share` of that before."""
    limit = share * points[0][3]
    best = points[0][2]
    for (_, _, a, s, _), (_, _, b, t, _) in zip(points, points[1:]):
        if min(s, t) < limit <= max(s, t):  # crossed between the two
            best = max(best, b + (a - b) * (limit - t) / (s - t))
        if t >= limit:
            best = max(best, b)
    return best


def with_error(values, places=3):
    mean = f"{np.mean(values):.{places}f}"
    return f"{mean} ± {np.std(values, ddof=1) / len(values) ** 0.5:.{places}f}" if len(values) > 1 else mean


def tables(curves):
    """curves: plan -> a curve for each seed."""
    print("\n| plan | evaluations | reward | judge | spread, of before | Fréchet, of before |\n|---|---|---|---|---|---|")
    for name, runs in curves.items():
        for at, *_ in runs[0]:
            own = [next(point for point in points if point[0] == at) for points in runs]
            cells = [with_error([point[i] for point in own]) for i in (1, 2)]
            for i, places in ((3, 2), (4, 1)):
                cells.append(with_error([point[i] / points[0][i] for point, points in zip(own, runs)], places))
            print(f"| {name} | {at} | {' | '.join(cells)} |")
    shares = (0.95, 0.9, 0.85, 0.8, 0.75)
    print(f"\n| the judge's best accuracy with a spread of at least … of before | {' | '.join(map(str, shares))} |")
    print("|---|" + "---|" * len(shares))
    methods = {}  # with and without KL
    for name, runs in curves.items():
        methods.setdefault(name.split(", KL")[0], []).append(runs)
    rows = {name: [runs] for name, runs in curves.items()}
    rows.update({f"{name}, best of its weights": own for name, own in methods.items() if len(own) > 1})
    for name, own in rows.items():
        best = [[max(accuracy_at(run, share) for run in of_seed) for of_seed in zip(*own)] for share in shares]
        print(f"| {name} | {' | '.join(map(with_error, best))} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=100, help="evaluations: so many times 41; three times with KL")
    parser.add_argument("--plans", nargs="*", default=COMPARED, help="some of: " + ", ".join(PLANS))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--output", type=Path, default=TREE / "build/collapse.json", help="curves; those in it are kept")
    options = parser.parse_args()
    known = json.loads(options.output.read_text()) if options.output.exists() else {}
    jobs = {}
    for name in options.plans:
        evaluations = ITERATION * options.iterations * (3 if "KL" in name else 1)
        for seed in range(1, options.seeds + 1):
            jobs[f"{name}/{evaluations}/{seed}"] = (name, seed, evaluations)
    left = [job for key, job in jobs.items() if key not in known]
    left.sort(key=lambda job: -job[2] * (4 if "method" in PLANS[job[0]] else 1))  # the longest first
    options.output.parent.mkdir(parents=True, exist_ok=True)
    with multiprocessing.get_context("spawn").Pool(options.processes, maxtasksperchild=1) as pool:
        for (name, seed, evaluations), points in pool.imap_unordered(run, left):
            known[f"{name}/{evaluations}/{seed}"] = points
            options.output.write_text(json.dumps(known))
            print(f"{name}, seed {seed}", *("%d: %.3f %.3f %.3f %.1f" % tuple(p) for p in points), sep="\n  ", file=sys.stderr)
    tables({name: [known[key] for key, job in jobs.items() if job[0] == name] for name in options.plans})


if __name__ == "__main__":
    main()
