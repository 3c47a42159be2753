"""The PyTorch network of render_text.py, trained through chunkgrpo.torch. `TorchTrainer` is called like chunkgrpo.Trainer."""

import copy
import os
import time
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import chunkgrpo as cg
import chunkgrpo.torch as cgt


Array = NDArray[Any]


class VelocityNetwork(nn.Module):
    """Residual MLP; adaptive layer norm over time and condition (DiT's, arXiv 2212.09748)."""

    def __init__(self, latent_size: int, condition_size: int, width: int, blocks: int, embedding: int = 128) -> None:
        super().__init__()
        self.frequencies = 1000 * 10_000 ** -torch.linspace(0, 1, embedding // 2)
        self.time = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.condition = nn.Linear(condition_size, embedding)
        self.enter, self.leave = nn.Linear(latent_size, width), nn.Linear(width, latent_size)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width)) for _ in range(blocks)
        )
        self.modulation = nn.Linear(embedding, (3 * blocks + 2) * width)
        for layer in (self.modulation, self.leave):  # every block begins as the identity
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """x (..., D), sigma (...) and condition (..., C), which broadcast against each other's leading sizes."""
        angles = sigma[..., None] * self.frequencies
        context = self.time(torch.cat([angles.sin(), angles.cos()], -1)) + self.condition(condition)
        modulation = self.modulation(F.silu(context)).chunk(3 * len(self.blocks) + 2, -1)
        h = self.enter(x)
        for i, block in enumerate(self.blocks):
            shift, scale, gate = modulation[3 * i : 3 * i + 3]
            h = h + gate * block(normalised(h) * (1 + scale) + shift)
        shift, scale = modulation[-2:]
        return self.leave(normalised(h) * (1 + scale) + shift)


def normalised(h: Tensor) -> Tensor:
    return F.layer_norm(h, h.shape[-1:])


class TorchTrainer:
    def __init__(self, **options: Any) -> None:
        self.options = options
        torch.manual_seed(options["seed"])
        schedule = cg.Schedule.shifted(options["steps"], options["shift"])
        self.sampler = cg.Sampler(schedule, eta=options["eta"])
        self.ode = cg.Sampler(schedule, dynamics="ode")
        self.plan = cg.ChunkPlan(options["chunk_sizes"])
        self.model = VelocityNetwork(*(options[name] for name in ("latent_size", "condition_size", "width", "blocks")))
        self.reference = copy.deepcopy(self.model).requires_grad_(False)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(options["ema_decay"]))
        self.optimiser = torch.optim.AdamW(self.model.parameters(), options["learning_rate"], weight_decay=1e-4)
        self.iterations = self.samples_drawn = 0

    def pretrain(
        self,
        images: Array,
        conditions: Array,
        *,
        steps: int,
        progress: Callable[[int, int, float], None],
        batch_size: int = 256,
        learning_rate: float = 2e-3,
    ) -> None:
        """Flow matching: the velocity at x = (1 - sigma) x0 + sigma e is e - x0. Sigma is spread as the schedule's steps are."""
        shift = self.options["shift"]
        data, wanted = torch.from_numpy(images), torch.from_numpy(conditions)
        average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
        optimiser = torch.optim.AdamW(self.model.parameters(), learning_rate)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, learning_rate / 10)
        for step in range(1, steps + 1):
            rows = torch.randint(len(data), (batch_size,))
            x0, noise = data[rows], torch.randn(batch_size, data.shape[1])
            t = (torch.arange(batch_size) + torch.rand(batch_size)) / batch_size
            sigma = shift * t / (1 + (shift - 1) * t)
            x = torch.lerp(x0, noise, sigma[:, None])
            loss = F.mse_loss(self.model(x, sigma, wanted[rows]), noise - x0)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            optimiser.step()
            decay.step()
            average.update_parameters(self.model)
            if step % 10 == 0 or step == steps:
                progress(step, steps, loss.item())
        self.model.load_state_dict(average.module.state_dict())
        self.average.module.load_state_dict(average.module.state_dict())
        self.reference.load_state_dict(average.module.state_dict())

    def iterate(self, conditions: Array, reward: Callable[[Array, Array], Array]) -> cg.IterationReport:
        """One Chunk-GRPO iteration: group_size samples per prompt, their rewards, and a few optimiser steps."""
        options, plan, group = self.options, self.plan, self.options["group_size"]
        clock = [time.perf_counter()]
        batch = len(conditions) * group
        prompt = np.arange(len(conditions)).repeat(group)
        condition = torch.from_numpy(conditions)[prompt]

        ids = self.samples_drawn + np.arange(batch)
        noise: Tensor = cg.initial_noise(
            (batch, options["latent_size"]), options["seed"], group_size=group, sample_ids=ids, like=torch.empty(0)
        )
        trajectory = self.sampler.rollout(
            lambda x, sigma, step: self.model(x, torch.tensor(sigma), condition), noise, seed=options["seed"], sample_ids=ids
        )
        clock.append(time.perf_counter())
        rewards = np.asarray(reward(trajectory.images.numpy(), prompt))
        clock.append(time.perf_counter())
        advantages = cg.advantages(rewards, group)
        chosen = plan.select(batch, options["chunk_fraction"], seed=options["seed"], sample_ids=ids)

        sigmas = torch.tensor(self.sampler.schedule.sigmas, dtype=torch.float32)
        latents, losses, norms, drifts = trajectory.latents, [], [], []
        for prompts in np.array_split(np.arange(len(conditions)), options["updates_per_rollout"]):
            rows = slice(prompts[0] * group, (prompts[-1] + 1) * group)
            # All steps in one pass, since this network is small; for a large one, cgt.streamed_backward.
            velocities = self.model(latents[rows, : plan.steps], sigmas[: plan.steps], condition[rows, None])
            out = cgt.chunk_policy_loss(
                self.sampler,
                latents[rows, : plan.steps + 1],
                velocities,
                trajectory.log_probs[rows],
                advantages[rows],
                plan,
                selection=chosen[rows],
                clip=options["clip"],
                weights=options["chunk_weights"],
            )
            loss = out.loss
            if options["reference_kl"]:  # the mean over the trained steps, as in chunkgrpo.Trainer
                trained = torch.from_numpy(chosen[rows].repeat(plan.sizes, 1))
                frozen = self.reference(latents[rows, : plan.steps], sigmas[: plan.steps], condition[rows, None])
                apart = cgt.divergences(self.sampler, velocities, frozen, kind=options["reference_divergence"])
                loss = loss + options["reference_kl"] * apart[trained].mean()
            if options["reference_last_step"]:
                last = latents[rows, plan.steps], sigmas[plan.steps], condition[rows]
                drift = (self.model(*last) - self.reference(*last)).square().mean()
                loss = loss + options["reference_last_step"] * drift
                drifts.append(drift.item())
            self.optimiser.zero_grad()
            loss.backward()
            norms.append(nn.utils.clip_grad_norm_(self.model.parameters(), 1.0).item())
            self.optimiser.step()
            self.average.update_parameters(self.model)
            losses.append(loss.item())
        clock.append(time.perf_counter())
        self.iterations += 1
        self.samples_drawn += batch
        rollout_seconds, reward_seconds, update_seconds = np.diff(clock).tolist()
        return cg.IterationReport(
            iteration=self.iterations,
            reward_mean=float(rewards.mean()),
            reward_std=float(rewards.std()),
            loss=float(np.mean(losses)),
            grad_norm=float(np.mean(norms)),
            stats=out.stats,
            rollout_seconds=rollout_seconds,
            reward_seconds=reward_seconds,
            update_seconds=update_seconds,
            reference_divergence=0.0,
            last_step_divergence=float(np.mean(drifts)) if drifts else 0.0,
        )

    def sample(self, conditions: Array, *, eta: float, seed: int) -> Array:
        condition, sampler = torch.from_numpy(conditions), self.sampler if eta else self.ode
        noise = cg.initial_noise((len(condition), self.options["latent_size"]), seed, like=torch.empty(0))
        return sampler.rollout(
            lambda x, sigma, step: self.average(x, torch.tensor(sigma), condition), noise, seed=seed
        ).images.numpy()

    @torch.no_grad()
    def velocity(self, latents: Array, sigma: float, conditions: Array) -> Array:
        """Of the averaged network: (B, D)."""
        x, condition = torch.from_numpy(latents), torch.from_numpy(conditions)
        velocity: Array = self.average(x, torch.tensor(sigma), condition).numpy()
        return velocity

    def save(self, directory: Path) -> None:
        path = Path(directory, "policy.pt")
        path.parent.mkdir(parents=True, exist_ok=True)
        counts = {"iterations": self.iterations, "samples_drawn": self.samples_drawn}
        options = {**self.options, "chunk_sizes": self.plan.sizes.tolist()}
        states = {name: getattr(self, name).state_dict() for name in ("model", "reference", "average", "optimiser")}
        torch.save({"options": options, "counts": counts, "states": states}, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)

    @classmethod
    def load(cls, directory: Path) -> "TorchTrainer":
        saved = torch.load(Path(directory, "policy.pt"), weights_only=True)
        trainer = cls(**saved["options"])
        for name, state in saved["states"].items():
            getattr(trainer, name).load_state_dict(state)
        trainer.iterations, trainer.samples_drawn = saved["counts"].values()
        return trainer
