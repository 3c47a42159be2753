"""NFT or AWM instead of Chunk-GRPO on the digits of torch_digits.py: rollouts by the ODE, training at noised images.

    PYTHONPATH=bindings/python python examples/python/forward_digits.py --method nft

needs torch, scikit-learn and tqdm. What chunkgrpo does stands in `iterate`; model, data, reward and judge are those of
torch_digits.py. `--kl` is the weight of the velocity KL to the pretrained model, which keeps the variety.
"""

import argparse
import copy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, cast

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

sys.path.append(str(Path(__file__).resolve().parents[2] / "bindings/python"))  # where chunkgrpo is not installed

import chunkgrpo as cg
from chunkgrpo.torch import forward
from torch_digits import GROUP, ODE, SHAPE, Classifier, DiT, averaged, classifiers, log_probs, pretrain


class Silent:
    """A writer of TensorBoard's that writes nothing."""

    def add_scalar(self, name: str, value: float, step: int) -> None:
        pass


def iterate(
    model: nn.Module,
    frozen: nn.Module,
    average: AveragedModel,
    optimiser: torch.optim.Optimizer,
    reward_model: Classifier,
    iteration: int,
    options: argparse.Namespace,
) -> dict[str, float]:
    """One iteration: samples, rewards, advantages, and an optimiser step for each share of the samples."""
    prompts = np.random.default_rng([options.seed, iteration]).permutation(10)
    digit = torch.from_numpy(prompts).repeat_interleave(GROUP)
    batch, ids = len(digit), iteration * len(digit) + np.arange(len(digit))
    # One noise per sample: the ODE adds none.
    noise = cg.initial_noise((batch, *SHAPE), options.seed, sample_ids=ids, like=torch.empty(0))
    images = ODE.rollout(lambda x, sigma, step: model(x, sigma, digit), noise).images
    rewards = log_probs(reward_model, images)[np.arange(batch), digit]
    advantages = cg.advantages(rewards, GROUP)
    times = forward.times(batch, options.draws, seed=options.seed, sample_ids=ids, shift=3.0, least=0.01)
    old = copy.deepcopy(model).requires_grad_(False)

    # Every share has some samples of each prompt.
    for rows in np.random.default_rng([options.seed, iteration, 1]).permutation(batch).reshape(options.updates, -1):
        optimiser.zero_grad()

        def objective(d: forward.Distances[Tensor], t: Tensor) -> Any:
            if options.method == "nft":
                return forward.nft_loss(d, advantages[rows], times=t, kl=options.kl)
            awm = {"weighting": "generalised_huber", "clip": options.clip, "reference_kl": options.kl}
            return forward.awm_loss(d, advantages[rows], times=t, **awm)

        out = forward.streamed_backward(
            lambda x, t, j: model(x, t, digit[rows]),
            images[rows],
            times[rows],
            objective,
            seed=options.seed,
            sample_ids=ids[rows],
            old=lambda x, t, j: old(x, t, digit[rows]),
            reference=lambda x, t, j: frozen(x, t, digit[rows]),
            beta=options.beta if options.method == "nft" else None,
        )
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        average.update_parameters(model)
    return {"reward": float(rewards.mean()), "loss": out.loss.item(), "gradient_norm": norm.item()}


def evaluations(options: argparse.Namespace) -> int:
    """Runs of the model per iteration and sample: the rollout; old, reference, forward, backward (2) of each draw."""
    return ODE.schedule.steps + options.draws * 5


def scores(model: nn.Module, reward_model: Classifier, judge: Classifier, count: int = 500) -> dict[str, float]:
    """Of samples by the ODE, from the same noise every time: the share that shows the digit of its prompt; the spread,
    which is the standard deviation of a pixel over the right samples of a prompt."""
    digit = torch.arange(count) % 10
    noise = cg.initial_noise((count, *SHAPE), 2025, like=torch.empty(0))
    flat = ODE.rollout(lambda x, sigma, step: model(x, sigma, digit), noise).images.flatten(1).numpy()
    wanted = digit.numpy()
    shares = {name: (c.predict(flat) == wanted) for name, c in (("reward_model", reward_model), ("judge", judge))}
    right = [flat[shares["judge"] & (wanted == k)] for k in range(10)]
    spread = np.mean([samples.std(0).mean() for samples in right if len(samples) > 1] or [0.0])
    return {**{name: float(share.mean()) for name, share in shares.items()}, "spread": float(spread)}


def parse(arguments: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--method", choices=["nft", "awm"], default="nft", help="objective")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument("--width", type=int, default=64, help="of the network")
    parser.add_argument("--pretrain-steps", type=int, default=800, help="optimiser steps of flow matching")
    parser.add_argument("--iterations", type=int, default=30, help="of training by reward")
    parser.add_argument("--updates", type=int, default=5, help="optimiser steps per iteration")
    parser.add_argument("--draws", type=int, default=4, help="times and noises per sample")
    parser.add_argument("--learning-rate", type=float, default=3e-4, help="of training by reward")
    parser.add_argument("--beta", type=float, default=1.0, help="of NFT")
    parser.add_argument("--clip", type=float, default=1.0, help="of AWM's ratio")
    parser.add_argument("--kl", type=float, default=1e-3, help="weight of the velocity KL to the pretrained model")
    return parser.parse_args(arguments)


def main(arguments: Optional[Sequence[str]] = None) -> dict[str, Any]:
    options = parse(arguments)
    torch.manual_seed(options.seed)
    data = cast(Any, load_digits())  # a Bunch
    images = torch.tensor(data.images / 8 - 1, dtype=torch.float32)[:, None]
    digits = torch.tensor(data.target)
    reward_model, judge = classifiers(images, digits, options.seed)

    model = DiT(options.width)
    wrong = torch.rand(len(digits)) < 0.3
    prompts = torch.where(wrong, (digits + torch.randint(1, 10, digits.shape)) % 10, digits)
    pretrain(model, images, prompts, options.pretrain_steps, Silent())
    frozen = copy.deepcopy(model).requires_grad_(False)
    average = averaged(model, 0.9)
    optimiser = torch.optim.AdamW(model.parameters(), options.learning_rate, weight_decay=1e-4)

    before, rewards = scores(frozen, reward_model, judge), []
    bar = tqdm(range(options.iterations), options.method)
    for iteration in bar:
        figures = iterate(model, frozen, average, optimiser, reward_model, iteration, options)
        rewards.append(figures["reward"])
        bar.set_postfix(reward=f"{rewards[-1]:.3f}")
    after = scores(average, reward_model, judge)
    print(f"{options.method}, {evaluations(options)} model evaluations per sample\n                    before   after")
    for name in before:
        print(f"{name.replace('_', ' '):17}  {before[name]:.3f}   {after[name]:.3f}")
    return {"before": before, "after": after, "rewards": rewards}


if __name__ == "__main__":
    main()
