"""Teaches a small flow-matching model to write what it is asked for: Flow-GRPO's visual-text task on a laptop.

    PYTHONPATH=bindings/python python examples/python/render_text.py
    PYTHONPATH=bindings/python python examples/python/render_text.py --model torch

needs pillow, matplotlib, rapidocr-onnxruntime and, for the judge, Debian's tesseract-ocr.

A prompt is three digits, its picture 16x32 pixels. The model learns from rendered pictures, 15 % of whose captions' digits
were drawn by lot: it writes well, but often not what it was asked for. Then Chunk-GRPO trains it by the reward alone: how
probable the text that was asked for is to a real OCR model (PP-OCRv4), and whether it reads exactly that. 200 texts are
held out: the model meets them in neither phase and is judged by them alone, by the same reader and by tesseract, which no
gradient has seen. Pretrain it for a quarter of the time and the reader that rewards will be content with pictures that
tesseract cannot read: what is not legible to begin with has no reason to become so to anyone else.

No reader minds speckle on the paper, so training leaves it there, most of it in the last steps of a picture. The pretrained
model takes it off: at the end each picture is noised a little, and denoised by that model in one step (`touched_up`). The run
also prints the scores of the pictures as the trained model left them.

Metrics (JSON lines), checkpoints, samples.png and reward.png go to build/render-text; `--resume` goes on from there.
`--model torch` has a PyTorch network of the same size in place of the library's own, trained through chunkgrpo.torch.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

import ocr

TREE = Path(__file__).resolve().parents[2]
core = TREE / "scripts/openblas-core"  # an OpenBLAS that is older than the processor is four times slower unless told
if core.exists():
    setting = subprocess.run([core], capture_output=True, text=True).stdout
    os.environ.update(dict(line.split("=", 1) for line in setting.split()))

sys.path.append(str(TREE / "bindings/python"))  # where chunkgrpo is not installed

import chunkgrpo as cg  # noqa: E402
from chunkgrpo import plot  # noqa: E402

Array = NDArray[Any]
Texts = Sequence[str]
STEPS, SHIFT, ETA = 17, 3.0, 0.7
GROUP = 12  # samples per prompt
LOWEST_LOG_PROB = -10  # below it, all is illegible alike


class Task:
    """Texts of `length` characters, in random order, some of them held out, and their pictures."""

    def __init__(self, alphabet: str, length: int, held_out: int, rng: np.random.Generator) -> None:
        self.alphabet, self.length, self.shape = alphabet, length, (16, 2 + 10 * length)
        texts = rng.permutation(["".join(characters) for characters in itertools.product(alphabet, repeat=length)])
        self.held_out, self.known = texts[:held_out].tolist(), texts[held_out:].tolist()

    def conditions(self, texts: Texts) -> Array:
        """(B, length * characters): one character after the other, one-hot."""
        one_hot = np.eye(len(self.alphabet), dtype=np.float32)
        return np.stack([one_hot[[self.alphabet.index(c) for c in text]].ravel() for text in texts])

    def images(self, texts: Texts, rng: np.random.Generator) -> Array:
        """(B, D) in [-1, 1], in Pillow's own font, near the middle."""
        height, width = self.shape
        images = np.empty((len(texts), height * width), np.float32)
        font = ImageFont.load_default(13)
        for image, text in zip(images, texts):
            picture = Image.new("L", (width, height), 255)
            middle = (width / 2 + rng.uniform(-1, 1), height / 2 + rng.uniform(-0.5, 0.5))
            ImageDraw.Draw(picture).text(middle, text, 0, font, anchor="mm")
            image[:] = np.asarray(picture).ravel() / 127.5 - 1
        return images

    def paper(self, texts: Texts) -> Array:
        """(B, H, W): which pixels are more than two away from the ink of the rendered texts."""
        ink = self.images(texts, np.random.default_rng(0)).reshape(-1, *self.shape) < 0.9
        padded = np.pad(ink, ((0, 0), (2, 2), (2, 2)))
        near = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), axis=(1, 2))
        return np.logical_not(near.any((3, 4)))

    def pictures(self, images: Array) -> Array:
        """(B, H, W) uint8"""
        return np.clip((images.reshape(-1, *self.shape) + 1) * 127.5, 0, 255).astype(np.uint8)


def chunk_plan(images: Array) -> cg.ChunkPlan:
    """Chunks from the temporal dynamics (arXiv 2510.21583): the relative-L1 curve of a rollout. By the ODE, since in an SDE's
    curve the noise hides what the model does.

    The flow is the exact one of these images, v = (x - E[x0 | x]) / sigma, so that there is a plan before there is a model.
    """

    def velocity(x: Array, sigma: float, step: int) -> Array:
        logits = ((1 - sigma) * x @ images.T - (1 - sigma) ** 2 / 2 * (images**2).sum(1)) / sigma**2
        weights = np.exp(logits - logits.max(1, keepdims=True))
        return (x - weights @ images / weights.sum(1, keepdims=True)) / sigma

    sampler = cg.Sampler(cg.Schedule.shifted(STEPS, SHIFT), dynamics="ode")
    rollout = sampler.rollout(velocity, cg.initial_noise((64, images.shape[1]), seed=0))
    plan = cg.ChunkPlan.adaptive(rollout.relative_l1)
    print(plan, file=sys.stderr)
    return plan


def touched_up(pretrained: Any, images: Array, conditions: Array, sigma: float, draws: int = 4) -> Array:
    """SDEdit (arXiv 2108.01073) in one step: what the pretrained model takes the images for, x - sigma v, when noise of this
    sigma is on them; the mean over draws of the noise."""
    noise = cg.initial_noise((draws, *images.shape), seed=2026)
    noised = (1 - sigma) * images + sigma * noise
    return np.mean([x - sigma * pretrained.velocity(x, sigma, conditions) for x in noised], axis=0)


class Evaluation:
    """What both readers see in images of the held-out texts. The noise of the paper is the deviation of the pixels that
    were paper `before`, of 255."""

    def __init__(
        self, images: Array, task: Task, recogniser: ocr.Recogniser, before: Optional["Evaluation"] = None
    ) -> None:
        texts, self.pictures = task.held_out, task.pictures(images)
        self.paper: Array = before.paper if before else task.paper(texts) & (self.pictures > 200)
        read, log_probs = recogniser(self.pictures, texts)
        self.right = np.equal(read, texts)
        self.scores = {"log_prob": float(log_probs.mean()), "exact": float(self.right.mean())}
        if ocr.has_tesseract():
            self.right = np.equal(ocr.tesseract(self.pictures, task.alphabet), texts)
            self.scores["tesseract_exact"] = float(self.right.mean())
        self.scores["paper_noise"] = float(self.pictures[self.paper].std())


def progress_bar(title: str, done: int, total: int, note: str = "") -> None:
    """Over one line in a terminal; twenty lines in a file."""
    terminal = sys.stderr.isatty()
    if terminal or 20 * done // total > 20 * (done - 1) // total:
        bar = "#" * (30 * done // total)
        end = "\r" if terminal and done < total else "\n"
        print(f"{title:14} [{bar:.<30}] {done:4}/{total} {note}", end=end, file=sys.stderr, flush=True)


def pretrained(trainer_class: Any, task: Task, options: argparse.Namespace, rng: np.random.Generator) -> Any:
    texts = rng.choice(task.known, 20_000).tolist()
    images = task.images(texts, rng)
    wrong = rng.random((len(texts), task.length)) < options.wrong  # captions from the web are not always right either
    prompts = ["".join(rng.choice(list(task.alphabet)) if w else c for c, w in zip(t, ws)) for t, ws in zip(texts, wrong)]
    sizes = chunk_plan(images[:500]).sizes
    trainer = trainer_class(
        latent_size=images.shape[1],
        condition_size=len(task.alphabet) * task.length,
        width=options.width,
        blocks=4,
        steps=STEPS,
        shift=SHIFT,
        eta=ETA,
        chunk_sizes=sizes,
        # With a divergence the last chunk, which draws details and the paper, is held near the pretrained model, and the
        # reward trains the others.
        chunk_weights=[1.0] * (len(sizes) - 1) + [0.0] if options.kl and len(sizes) > 1 else None,
        chunk_fraction=1.0,
        group_size=GROUP,
        clip=1e-3,
        updates_per_rollout=options.updates,
        learning_rate=options.learning_rate,
        reference_kl=options.kl,
        reference_divergence="gaussian",
        reference_last_step=options.last_step,
        ema_decay=0.98,
        seed=options.seed,
    )
    trainer.pretrain(
        images,
        task.conditions(prompts),
        steps=options.pretrain_steps,
        progress=lambda done, total, loss: progress_bar("Flow matching", done, total, f"loss {loss:.3f}"),
    )
    return trainer


def iterate(trainer: Any, task: Task, recogniser: ocr.Recogniser, options: argparse.Namespace) -> dict[str, float]:
    """One iteration of Chunk-GRPO, with texts that follow from its number alone: a line for the metrics."""
    rng = np.random.default_rng([options.seed, 2, trainer.iterations])
    texts = rng.choice(task.known, options.prompts, replace=False)
    exact = []

    def reward(images: Array, prompt: Array) -> Array:
        read, log_probs = recogniser(task.pictures(images), texts[prompt])
        exact.extend(np.equal(read, texts[prompt]))
        return np.maximum(log_probs, LOWEST_LOG_PROB) + exact

    report = trainer.iterate(task.conditions(texts), reward)
    clipped = report.stats.clip_fraction_low + report.stats.clip_fraction_high
    return {
        "iteration": report.iteration,
        "reward": report.reward_mean,
        "exact": float(np.mean(exact)),
        "loss": report.loss,
        "grad_norm": report.grad_norm,
        "ratio_std": report.stats.ratio_std,
        "clipped": clipped,
        "last_step_divergence": report.last_step_divergence,
    }


def parse(arguments: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--model", choices=("embedded", "torch"), default="embedded", help="who trains: the embedded network, or one in PyTorch")
    parser.add_argument("--output", type=Path, default=TREE / "build/render-text", help="folder of pictures, metrics and checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in OUTPUT")
    parser.add_argument("--quick", action="store_true", help="two of four digits and a small model, to see it work, without samples.png")
    parser.add_argument("--alphabet", default="0123456789", help="characters of the texts")
    parser.add_argument("--length", type=int, default=3, help="characters of a text")
    parser.add_argument("--width", type=int, default=512, help="hidden size of the network")
    parser.add_argument("--pretrain-steps", type=int, default=4000, help="optimiser steps of flow matching")
    parser.add_argument("--wrong", type=float, default=0.15, help="share of characters that captions have by chance")
    parser.add_argument("--iterations", type=int, default=40, help="of training by reward")
    parser.add_argument("--prompts", type=int, default=24, help="texts per iteration")
    parser.add_argument("--updates", type=int, default=4, help="optimiser steps per iteration")
    parser.add_argument("--learning-rate", type=float, default=2e-4, help="of training by reward")
    parser.add_argument("--kl", type=float, default=0.0, help="weight of the KL divergence from the pretrained model")
    parser.add_argument("--last-step", type=float, default=0.0, help="weight of the divergence of the last step from the pretrained model")
    parser.add_argument("--touch-up", type=float, default=0.3, help="sigma at which the pretrained model touches up; 0: none")
    parser.add_argument("--held-out", type=int, default=200, help="texts that are for the evaluation alone")
    given = parser.parse_args(arguments)
    if given.resume:  # the run that is to go on has its options
        parser.set_defaults(**json.loads((given.output / "options.json").read_text()))
    elif given.quick:
        parser.set_defaults(alphabet="0123", length=2, width=352, pretrain_steps=200)
        parser.set_defaults(iterations=6, prompts=12, held_out=4)
    return parser.parse_args(arguments)


def main(arguments: Optional[Sequence[str]] = None) -> dict[str, Any]:
    options = parse(arguments)
    start, checkpoint, metrics = (options.output / name for name in ("pretrained", "checkpoint", "metrics.jsonl"))
    options.output.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    rng = np.random.default_rng([options.seed, 1])
    task = Task(options.alphabet, options.length, options.held_out, rng)
    recogniser = ocr.Recogniser()
    if not ocr.has_tesseract():
        print("There is no tesseract (Debian: tesseract-ocr): the recogniser alone judges.", file=sys.stderr)
    trainer_class: Any = cg.Trainer
    if options.model == "torch":
        from torch_policy import TorchTrainer as trainer_class

    if options.resume:
        trainer = trainer_class.load(checkpoint)
        lines = [json.loads(line) for line in metrics.read_text().splitlines()][: trainer.iterations]
    else:
        trainer, lines = pretrained(trainer_class, task, options, rng), []
        trainer.save(start)
        trainer.save(checkpoint)
        kept = {name: value for name, value in vars(options).items() if name not in ("output", "resume")}
        (options.output / "options.json").write_text(json.dumps(kept) + "\n")
    pretraining_seconds = time.perf_counter() - began
    start_model, conditions = trainer_class.load(start), task.conditions(task.held_out)
    before = Evaluation(start_model.sample(conditions, eta=0, seed=2025), task, recogniser)
    print(f"before: {before.scores}", file=sys.stderr)

    while trainer.iterations < options.iterations:
        lines.append(iterate(trainer, task, recogniser, options))
        note = "reward {reward:+.3f}, exact {exact:.3f}".format(**lines[-1])
        progress_bar("Chunk-GRPO", trainer.iterations, options.iterations, note)
        if trainer.iterations % 10 == 0 or trainer.iterations == options.iterations:
            metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
            trainer.save(checkpoint)

    images = trainer.sample(conditions, eta=0, seed=2025)
    untouched = after = Evaluation(images, task, recogniser, before)
    if options.touch_up:
        after = Evaluation(touched_up(start_model, images, conditions, options.touch_up), task, recogniser, before)
    seconds = time.perf_counter() - began
    summary: dict[str, Any] = {"before": before.scores, "after": after.scores, "untouched": untouched.scores}
    summary.update(seconds=seconds, cpu_seconds=time.process_time())
    (options.output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    judge = "tesseract_exact" if ocr.has_tesseract() else "exact"
    panels = [
        (f"{title}: {100 * one.scores[judge]:.1f} % right", one.pictures[:64], ~one.right[:64])
        for title, one in (("before", before), ("after Chunk-GRPO", after))
    ]
    if not options.quick:  # which is too short to write
        plot.save(plot.grids(panels, task.held_out[:64], columns=8), options.output / "samples.png")
    if lines:
        title = "mean reward: log-probability of the text asked for, + 1 if read exactly"
        plot.save(plot.run(lines, title=title), options.output / "reward.png")

    print(f"\n{len(task.held_out)} held-out texts    before   after   without the touch-up")
    for name in before.scores:
        numbers = before.scores[name], after.scores[name], untouched.scores[name]
        print(f"{name.replace('_', ' '):18} {numbers[0]:8.3f} {numbers[1]:7.3f} {numbers[2]:7.3f}")
    print(f"\n{seconds:.0f} seconds, {pretraining_seconds:.0f} of them before Chunk-GRPO; all is in {options.output}")
    return summary


if __name__ == "__main__":
    main()
