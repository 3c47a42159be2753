"""README's numbers of examples/python/render_text.py and its picture, and which ways take speckle off the paper.

    for seed in 1 2; do python examples/python/render_text.py --seed $seed --output build/text/$seed; done
    PYTHONPATH=bindings/python python Benchmarks/text.py build/text

A run takes five minutes on two cores. The ways are tried on the pictures of seed 1: last steps by the pretrained model, and
its touch-up at several sigmas. Runs of seed 1 that hold the last step, or all of them, lie in build/text/held, such as

    python examples/python/render_text.py --seed 1 --last-step 0.1 --iterations 80 --output build/text/held/last-80

It writes Benchmarks/results/text.json, copies the picture of seed 1 and prints both tables.
"""

import json
import shutil
import sys
from pathlib import Path

TREE = Path(__file__).resolve().parents[1]
sys.path.append(str(TREE / "examples/python"))

import numpy as np  # noqa: E402
import ocr  # noqa: E402
import render_text as rt  # noqa: E402

import chunkgrpo as cg  # noqa: E402

ODE = cg.Sampler(cg.Schedule.shifted(rt.STEPS, rt.SHIFT), dynamics="ode")
NAMES = {1: "the last step", 2: "the last two steps", 3: "the last three steps"}


def ways(folder):
    """For each way its name, what both readers read as asked, and the noise of the paper, times the pretrained model's."""
    task = rt.Task("0123456789", 3, 200, np.random.default_rng([1, 1]))
    trained, pretrained = (cg.Trainer.load(folder / name) for name in ("checkpoint", "pretrained"))
    conditions, recogniser, found = task.conditions(task.held_out), ocr.Recogniser(), []
    own = {model: model.sample(conditions, eta=0, seed=2025) for model in (trained, pretrained)}
    before = rt.Evaluation(own[pretrained], task, recogniser)

    def score(name, images):
        scores = rt.Evaluation(images, task, recogniser, before).scores
        noise = scores["paper_noise"] / before.scores["paper_noise"]
        found.append({"name": name, **{key: scores[key] for key in ("exact", "tesseract_exact")}, "noise": noise})

    def last_steps(count):
        def velocity(x, sigma, step):
            return (trained if step < rt.STEPS - count else pretrained).velocity(x, sigma, conditions)

        return ODE.rollout(velocity, cg.initial_noise(own[trained].shape, seed=2025)).images

    score("as they are", own[trained])
    for count, name in NAMES.items():
        score(f"{name} by the pretrained model", last_steps(count))
    for sigma in (0.2, 0.25, 0.3, 0.4):
        score(f"touched up at σ = {sigma}", rt.touched_up(pretrained, own[trained], conditions, sigma))
    score("the pretrained model's, touched up at σ = 0.3", rt.touched_up(pretrained, own[pretrained], conditions, 0.3))
    return found


def held(folder):
    """Run 1 and those that hold steps near the pretrained model, without their touch-up, in the order of what they hold."""
    found = []
    for run in (folder / "1", *folder.glob("held/*")):
        options, summary = (json.loads((run / name).read_text()) for name in ("options.json", "summary.json"))
        scores, before = summary["untouched"], summary["before"]
        of = {key: options[key] for key in ("last_step", "kl", "iterations")}
        noise = scores["paper_noise"] / before["paper_noise"]
        found.append({**of, **{key: scores[key] for key in ("exact", "tesseract_exact")}, "noise": noise})
    return sorted(found, key=lambda run: [run[key] for key in ("kl", "last_step", "iterations")])


def main():
    folder = Path(sys.argv[1])
    results = {}
    for seed in ("1", "2"):
        summary = json.loads((folder / seed / "summary.json").read_text())
        results[seed] = {name: summary[name] for name in ("before", "after", "untouched")}
    results["ways"], results["held"] = ways(folder / "1"), held(folder)
    (TREE / "Benchmarks/results/text.json").write_text(json.dumps(results, indent=1) + "\n")
    shutil.copy(folder / "1" / "samples.png", TREE / "examples/images/text.png")

    scores = [(results[seed]["before"], results[seed]["after"], results[seed]["untouched"]) for seed in ("1", "2")]
    print("| | seed 1 | seed 2 |\n|---|---|---|")
    for name, key in (("read as asked by PP-OCR", "exact"), ("by tesseract", "tesseract_exact")):
        print(f"| {name} | " + " | ".join(f"{before[key]:.3g} → {after[key]:.3g}" for before, after, _ in scores) + " |")
    for name, which in (("noise of the paper, times that before", 1), ("without the touch-up", 2)):
        ratios = [three[which]["paper_noise"] / three[0]["paper_noise"] for three in scores]
        print(f"| {name} | " + " | ".join(f"{ratio:.2f}" for ratio in ratios) + " |")
    print("\n| pictures of the trained model | PP-OCR | tesseract | noise |\n|---|---|---|---|")
    for way in results["ways"]:
        print(f"| {way['name']} | {way['exact']:.3g} | {way['tesseract_exact']:.3g} | {way['noise']:.2f} × |")
    print("\n| last step, KL, iterations | PP-OCR | tesseract | noise |\n|---|---|---|---|")
    for run in results["held"]:
        name = f"{run['last_step']:g}, {run['kl']:g}, {run['iterations']}"
        print(f"| {name} | {run['exact']:.3g} | {run['tesseract_exact']:.3g} | {run['noise']:.2f} × |")


if __name__ == "__main__":
    main()
