"""NFT and AWM for collapse.py: the embedded trainer's network in PyTorch, from its checkpoint, with the same prompts, group
size, optimiser and average. Rollouts are the ODE's; training is at noised images (docs/forward-process.md)."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import nn
from torch_trainer import VelocityNetwork
from trainer import parameters

import chunkgrpo as cg
from chunkgrpo.torch import forward

STEPS, SHIFT, GROUP, UPDATES = 17, 3.0, 12, 2
ODE = cg.Sampler(cg.Schedule.shifted(STEPS, SHIFT), dynamics="ode")


class ForwardTrainer:
    """`iterate` and `sample` of chunkgrpo.Trainer, by NFT or AWM.

    folder         a checkpoint of the embedded trainer, pretrained
    draws          times and noises per sample
    kl             weight of the velocity KL to the pretrained network
    learning_rate  of AdamW; the other options are those of the loss
    """

    def __init__(self, folder: Any, method: str, *, seed: int, draws: int = 6, kl: float = 0.0,
                 learning_rate: float = 3e-4, ema_decay: float = 0.95, **loss: Any) -> None:  # fmt: skip
        torch.set_num_threads(1)
        weights = parameters(folder)
        self.network = VelocityNetwork(64, 10)
        self.network.load_state_dict(weights)
        self.frozen, self.average = (copy.deepcopy(self.network).requires_grad_(False) for _ in range(2))
        self.optimiser = torch.optim.AdamW(self.network.parameters(), learning_rate, weight_decay=1e-4, fused=True)
        self.method, self.seed, self.draws, self.kl, self.ema_decay, self.loss = method, seed, draws, kl, ema_decay, loss
        self.iterations = 0

    @property
    def evaluations(self) -> int:
        """Runs of the model per iteration and sample, a backward pass counted as two: the rollout; of each draw v_old, v
        with its backward pass, and v_ref."""
        return STEPS + self.draws * (4 + (self.kl > 0))

    @torch.no_grad()
    def roll_out(self, network: VelocityNetwork, conditions: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        def velocity(x: torch.Tensor, sigma: float, step: int) -> torch.Tensor:
            sigmas = torch.full((len(conditions),), sigma, dtype=torch.float64)
            table = network.contexts(sigmas, conditions)[:, None]
            return network(x.view(len(conditions), -1, 64), table).view_as(x)

        return ODE.rollout(velocity, noise).images

    def iterate(self, conditions: np.ndarray, reward: Any) -> float:
        """One iteration of GROUP samples per condition; the mean reward."""
        prompt = np.arange(len(conditions)).repeat(GROUP)
        ids = self.iterations * len(prompt) + np.arange(len(prompt))
        noise = cg.initial_noise((len(prompt), 64), self.seed, sample_ids=ids, like=torch.empty(0))
        images = self.roll_out(self.network, torch.from_numpy(conditions), noise)
        rewards = reward(images.numpy(), prompt)
        advantages = cg.advantages(rewards, GROUP)
        old = copy.deepcopy(self.network).requires_grad_(False)
        # All draws of a sample in one pass, since this network is small: each a row with an id of its own.
        rows = np.arange(len(prompt)).repeat(self.draws)
        row_ids = ids[rows] * self.draws + np.tile(np.arange(self.draws), len(prompt))
        times = forward.times(len(rows), 1, seed=self.seed, sample_ids=row_ids, shift=SHIFT, least=0.01)
        for part in np.array_split(np.arange(len(rows)), UPDATES):
            self.update(images[rows[part]], torch.from_numpy(conditions)[prompt[rows[part]]], advantages[rows[part]],
                        times[part], row_ids[part], old)  # fmt: skip
        self.iterations += 1
        return float(np.mean(rewards))

    def update(self, images, conditions, advantages, times, ids, old) -> None:
        def at(network):
            return lambda x, t, j: network(x, network.contexts(torch.as_tensor(t, dtype=torch.float64), conditions))

        def objective(d, t):
            if self.method == "nft":
                return forward.nft_loss(d, advantages, times=t, kl=self.kl, **self.loss)
            return forward.awm_loss(d, advantages, times=t, reference_kl=self.kl, **self.loss)

        self.optimiser.zero_grad()
        forward.streamed_backward(
            at(self.network), images, times, objective, seed=self.seed, sample_ids=ids, old=at(old),
            reference=at(self.frozen) if self.kl else None, beta=1.0 if self.method == "nft" else None,
        )  # fmt: skip
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.network.parameters()):
                mean.lerp_(value, 1 - self.ema_decay)

    def sample(self, conditions: np.ndarray, *, eta: float, seed: int) -> np.ndarray:
        """Images by the ODE and the averaged network, from the noise of chunkgrpo.Trainer.sample. Conditions take turns."""
        turn = len(np.unique(conditions, axis=0))
        noise = cg.initial_noise((len(conditions), 64), seed, like=torch.empty(0)).view(-1, turn, 64)
        first = noise.transpose(0, 1).reshape(-1, 64)  # the samples of a condition side by side
        images = self.roll_out(self.average, torch.from_numpy(conditions[:turn]), first)
        return images.view(turn, -1, 64).transpose(0, 1).reshape(-1, 64).numpy()
