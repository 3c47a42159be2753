"""Chunk-GRPO in a PyTorch script: a small diffusion transformer learns to draw the digit that it is asked for.

    PYTHONPATH=bindings/python python examples/python/torch_digits.py
    tensorboard --logdir build/torch-digits

needs torch, scikit-learn, tqdm, tensorboard, pillow and matplotlib. The model, the optimiser and the loop are ordinary PyTorch; what
chunkgrpo does stands in `iterate`. Copy from here.

The model first learns flow matching on 1,797 handwritten digits, with 30 % of the prompts wrong, as captions from the web
are; then Chunk-GRPO puts it right by the reward alone, a classifier that knows one half of the data. The judge is
another kind of classifier, trained on the other half. The price is variety: the reward asks for nothing but the right
digit. `--resume` goes on from the checkpoint.
"""

import argparse
import copy
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from sklearn.svm import SVC
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

sys.path.append(str(Path(__file__).resolve().parents[2] / "bindings/python"))  # where chunkgrpo is not installed

import chunkgrpo as cg
import chunkgrpo.torch as cgt
from chunkgrpo import plot

Array = NDArray[Any]
TREE = Path(__file__).resolve().parents[2]
SHAPE = (1, 8, 8)
SCHEDULE = cg.Schedule.shifted(steps=17, shift=3.0)
SAMPLER = cg.Sampler(SCHEDULE, dynamics="flow_sde", eta=0.7)  # rollouts explore
ODE = cg.Sampler(SCHEDULE, dynamics="ode")  # evaluation does not
GROUP = 12  # samples per prompt


class Classifier(Protocol):
    """One of scikit-learn's."""

    def predict(self, rows: Array, /) -> Any: ...
    def predict_proba(self, rows: Array, /) -> Any: ...


class Writer(Protocol):
    def add_scalar(self, name: str, value: float, step: int, /) -> None: ...


class Block(nn.Module):
    """Attention and MLP, each with adaptive layer norm and a gate that begins at zero (DiT, arXiv 2212.09748)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulation(context)[:, None].chunk(6, -1)
        q, k, v = self.qkv(norm(h) * (1 + scale1) + shift1).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        h = h + gate1 * self.project(attended)
        return h + gate2 * self.mlp(norm(h) * (1 + scale2) + shift2)


def norm(h: Tensor) -> Tensor:
    return F.layer_norm(h, h.shape[-1:])


class DiT(nn.Module):
    """velocity (B, 1, 8, 8) at x (B, 1, 8, 8), sigma (B,) or a number, digit (B,)."""

    frequencies: Tensor

    def __init__(self, width: int = 64, depth: int = 4, heads: int = 4) -> None:
        super().__init__()
        self.enter, self.leave = nn.Conv2d(1, width, 2, stride=2), nn.ConvTranspose2d(width, 1, 2, stride=2)
        self.position = nn.Parameter(0.02 * torch.randn(16, width))
        self.digit = nn.Embedding(10, width)
        self.time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.register_buffer("frequencies", 1000 * 10_000 ** -torch.linspace(0, 1, width // 2))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.last = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor, sigma: Any, digit: Tensor) -> Tensor:
        angles = torch.as_tensor(sigma, dtype=x.dtype, device=x.device).expand(len(x))[:, None] * self.frequencies
        context = F.silu(self.time(torch.cat([angles.cos(), angles.sin()], 1)) + self.digit(digit))
        h = self.enter(x).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            h = block(h, context)
        shift, scale = self.last(context)[:, None].chunk(2, -1)
        h = norm(h) * (1 + scale) + shift
        return self.leave(h.transpose(1, 2).unflatten(2, (4, 4)))


def pretrain(model: nn.Module, images: Tensor, digits: Tensor, steps: int, writer: Writer) -> None:
    """Flow matching: the velocity at x = (1 - sigma) x0 + sigma e is e - x0. Sigma is spread as the schedule's steps are."""
    average = averaged(model, 0.99)
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, 2e-4)
    for step in tqdm(range(steps), "flow matching"):
        rows = torch.randint(len(images), (128,))
        x0, noise, t = images[rows], torch.randn(128, *SHAPE), torch.rand(128)
        sigma = 3 * t / (1 + 2 * t)
        x = torch.lerp(x0, noise, sigma[:, None, None, None])
        loss = F.mse_loss(model(x, sigma, digits[rows]), noise - x0)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        decay.step()
        average.update_parameters(model)
        if step % 20 == 0:
            writer.add_scalar("flow_matching/loss", loss.item(), step)
    model.load_state_dict(average.module.state_dict())


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))


def rollout(
    sampler: cg.Sampler, model: nn.Module, digit: Tensor, seed: int, ids: Array, group_size: Optional[int] = None
) -> cg.Trajectory[Tensor]:
    """A trajectory for each digit (B,). The noise follows from seed and ids: the same for any batch split or machine."""
    noise = cg.initial_noise((len(digit), *SHAPE), seed, group_size=group_size, sample_ids=ids, like=torch.empty(0))
    velocity = lambda x, sigma, step: model(x, sigma, digit)  # noqa: E731
    return sampler.rollout(velocity, noise, seed=seed, sample_ids=ids)


def iterate(
    model: nn.Module,
    average: AveragedModel,
    optimiser: torch.optim.Optimizer,
    plan: cg.ChunkPlan,
    reward_model: Classifier,
    iteration: int,
    options: argparse.Namespace,
) -> dict[str, float]:
    """One Chunk-GRPO iteration: samples, rewards, advantages, and an optimiser step for each share of the prompts."""
    prompts = np.random.default_rng([options.seed, iteration]).permutation(10)
    digit = torch.from_numpy(prompts).repeat_interleave(GROUP)
    ids = iteration * len(digit) + np.arange(len(digit))
    trajectory = rollout(SAMPLER, model, digit, options.seed, ids, GROUP)
    rewards = log_probs(reward_model, trajectory.images)[np.arange(len(digit)), digit]
    advantages = cg.advantages(rewards, GROUP)

    for rows in np.array_split(np.arange(len(digit)), options.updates):
        optimiser.zero_grad()
        out = cgt.streamed_backward(
            lambda x, sigma, step: model(x, sigma, digit[rows]),
            SAMPLER,
            trajectory.latents[rows],
            trajectory.log_probs[rows],
            advantages[rows],
            plan,
            clip=1e-3,  # and the other options of chunkgrpo.chunk_loss
        )
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update_parameters(model)
    return {
        "reward": rewards.mean(),
        "loss": out.loss.item(),
        "gradient_norm": norm.item(),
        "ratio_std": out.stats.ratio_std,
        "clipped": out.stats.clip_fraction_low + out.stats.clip_fraction_high,
    }


def log_probs(classifier: Classifier, images: Tensor) -> Array:
    return np.log(classifier.predict_proba(images.flatten(1).numpy()) + 1e-6)


def classifiers(images: Tensor, digits: Tensor, seed: int) -> tuple[Classifier, Classifier]:
    """The reward model and the judge, each from its own half of the data, four times with noise."""
    order = np.random.default_rng(seed).permutation(len(images))
    halves = []
    for half in (order[::2], order[1::2]):
        x = np.tile(images[half].flatten(1).numpy(), (4, 1))
        noise = np.random.default_rng(seed).normal(0, 0.25, x.shape)
        halves.append((x + noise.astype(np.float32), np.tile(digits[half].numpy(), 4)))
    reward_model = MLPClassifier((128,), max_iter=60, early_stopping=True, random_state=seed).fit(*halves[0])
    return reward_model, SVC(C=10).fit(*halves[1])


class Evaluation:
    """Samples by the ODE, from the same noise every time, and the share that shows the digit of the prompt."""

    def __init__(self, model: nn.Module, reward_model: Classifier, judge: Classifier, count: int = 500) -> None:
        digit = torch.arange(count) % 10
        self.images = rollout(ODE, model, digit, 2025, np.arange(count)).images
        flat, wanted = self.images.flatten(1).numpy(), digit.numpy()
        self.right = judge.predict(flat) == wanted
        self.scores = {"reward_model": float((reward_model.predict(flat) == wanted).mean()), "judge": float(self.right.mean())}

    def panel(self, title: str) -> tuple[str, Array, Array]:
        ink = ((1 - self.images[:80, 0]) * 127.5).clamp(0, 255).byte().numpy()
        return f"{title}: {100 * self.scores['judge']:.1f} % right", ink, ~self.right[:80]


def parse(arguments: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=TREE / "build/torch-digits", help="folder of pictures, metrics and checkpoint")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in OUTPUT")
    parser.add_argument("--quick", action="store_true", help="150 and 5 steps, to see it work, without samples.png")
    parser.add_argument("--width", type=int, default=64, help="of the network")
    parser.add_argument("--pretrain-steps", type=int, default=800, help="optimiser steps of flow matching")
    parser.add_argument("--iterations", type=int, default=30, help="of training by reward")
    parser.add_argument("--updates", type=int, default=5, help="optimiser steps per iteration")
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="of training by reward")
    if parser.parse_args(arguments).quick:
        parser.set_defaults(pretrain_steps=150, iterations=5)
    return parser.parse_args(arguments)


def main(arguments: Optional[Sequence[str]] = None) -> dict[str, Any]:
    options = parse(arguments)
    torch.manual_seed(options.seed)
    data = cast(Any, load_digits())  # a Bunch
    images = torch.tensor(data.images / 8 - 1, dtype=torch.float32)[:, None]
    digits = torch.tensor(data.target)
    reward_model, judge = classifiers(images, digits, options.seed)

    model = DiT(options.width)
    average = averaged(model, 0.9)
    optimiser = torch.optim.AdamW(model.parameters(), options.learning_rate, weight_decay=1e-4)
    parts: dict[str, Any] = {"model": model, "average": average, "optimiser": optimiser}
    checkpoint = options.output / "checkpoint.pt"
    if options.resume:
        saved = torch.load(checkpoint, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        plan, rewards = cg.ChunkPlan(saved["chunks"]), saved["rewards"]
        pretrained = DiT(options.width)
        pretrained.load_state_dict(saved["pretrained"])
    writer = SummaryWriter(options.output, purge_step=len(rewards) + 1 if options.resume else None)
    if not options.resume:
        wrong = torch.rand(len(digits)) < 0.3
        prompts = torch.where(wrong, (digits + torch.randint(1, 10, digits.shape)) % 10, digits)
        pretrain(model, images, prompts, options.pretrain_steps, writer)
        average.module.load_state_dict(model.state_dict())
        pretrained = copy.deepcopy(model)
        # Chunks from the model's own dynamics: the best segmentation of its relative-L1 curve.
        look = rollout(SAMPLER, model, torch.arange(100) % 10, options.seed, np.arange(100))
        plan, rewards = cg.ChunkPlan.optimal(look.relative_l1).plan, []

    def save() -> None:
        states = {name: part.state_dict() for name, part in parts.items()}
        states.update(pretrained=pretrained.state_dict(), chunks=plan.sizes.tolist(), rewards=rewards)
        torch.save(states, checkpoint.with_suffix(".new"))
        os.replace(checkpoint.with_suffix(".new"), checkpoint)

    before = Evaluation(pretrained, reward_model, judge)
    tqdm.write(f"{plan}\nbefore: {before.scores}")
    bar = tqdm(range(len(rewards), options.iterations), "Chunk-GRPO", options.iterations, initial=len(rewards))
    for iteration in bar:
        figures = iterate(model, average, optimiser, plan, reward_model, iteration, options)
        rewards.append(float(figures["reward"]))
        bar.set_postfix(reward=f"{rewards[-1]:.3f}")
        for name, value in figures.items():
            writer.add_scalar(f"chunk_grpo/{name}", value, iteration + 1)
        if (iteration + 1) % 10 == 0 or iteration + 1 == options.iterations:
            save()

    after = Evaluation(average, reward_model, judge)
    panels = [before.panel("before"), after.panel("after Chunk-GRPO")]
    title = "mean reward: log-probability of the digit asked for"
    plot.save(plot.curve(rewards, title), options.output / "reward.png")
    if not options.quick:  # which is too short to draw digits
        plot.save(plot.grids(panels, [str(i % 10) for i in range(80)], columns=10), options.output / "samples.png")
        samples = np.asarray(Image.open(options.output / "samples.png").convert("RGB"))
        writer.add_image("samples", samples, len(rewards), dataformats="HWC")
    writer.close()
    print("prompt accuracy     before   after")
    for name in before.scores:
        print(f"{name.replace('_', ' '):17}  {before.scores[name]:.3f}   {after.scores[name]:.3f}")
    return {"before": before.scores, "after": after.scores, "rewards": rewards}


if __name__ == "__main__":
    main()
