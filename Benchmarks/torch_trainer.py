"""The embedded trainer's iteration in eager PyTorch: the same network and algorithm, as a careful author would write it.

`VelocityNetwork` has the parameter names of the library's checkpoints and loads them. `Trainer.iterate` is one iteration
of `chunkgrpo.Trainer` with its defaults. What is drawn (noise, chunks) can be handed in, so that both can be compared
number by number (`trainer.py check`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.output = nn.Linear(width, width)


class VelocityNetwork(nn.Module):
    """A residual MLP with adaptive layer norm (adaLN-Zero). Rows that share (sigma, condition) share one context."""

    def __init__(self, latent_size: int, condition_size: int, width: int = 256, blocks: int = 3, embedding: int = 128):
        super().__init__()
        self.width = width
        self.input = nn.Linear(latent_size, width)
        self.time = nn.ModuleDict({name: nn.Linear(embedding, embedding) for name in ("hidden", "output")})
        self.condition = nn.Linear(condition_size, embedding, bias=False)
        self.modulation = nn.Linear(embedding, (3 * blocks + 2) * width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.output = nn.Linear(width, latent_size)
        half = embedding // 2
        frequencies = torch.exp(-math.log(10_000) * torch.arange(half, dtype=torch.float64) / half)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def contexts(self, sigmas: Tensor, conditions: Tensor) -> Tensor:
        """The modulation (contexts, 3 blocks + 2, width) of sigmas (contexts,) float64 and conditions (contexts, C)."""
        angles = 1000 * sigmas[:, None] * self.frequencies
        wave = torch.cat([angles.cos(), angles.sin()], 1).float()
        time = self.time["output"](F.silu(self.time["hidden"](wave)))
        return self.modulation(F.silu(time + self.condition(conditions))).unflatten(1, (-1, self.width))

    def forward(self, x: Tensor, modulation: Tensor) -> Tensor:
        """Velocity like x (..., D); modulation (..., 3 blocks + 2, width), of each row or broadcast over rows."""
        parts = modulation.unbind(-2)
        h = self.input(x)
        for b, block in enumerate(self.blocks):
            shift, scale, gate = parts[3 * b : 3 * b + 3]
            n = F.layer_norm(h, (self.width,), eps=1e-6)
            n = torch.addcmul(shift, n, 1 + scale)
            h = torch.addcmul(h, gate, block.output(F.silu(block.hidden(n))))
        shift, scale = parts[-2:]
        return self.output(torch.addcmul(shift, F.layer_norm(h, (self.width,), eps=1e-6), 1 + scale))


class Trainer:
    """`chunkgrpo.Trainer` with its defaults: T 17, shift 3, Flow-SDE 0.7, chunks 2-3-4-7 of which half are trained."""

    sizes = [2, 3, 4, 7]
    group = 12
    fraction = 0.5
    clip = 1e-3
    updates = 2
    eta = 0.7
    ema_decay = 0.9

    def __init__(self, latent_size: int, condition_size: int, steps: int = 17, shift: float = 3.0) -> None:
        self.network = VelocityNetwork(latent_size, condition_size)
        self.steps, self.trained = steps, steps - 1
        t = 1 - torch.arange(steps + 1, dtype=torch.float64) / steps
        s = self.sigmas = shift * t / (1 + (shift - 1) * t)
        s0, d = s[:-1], s[:-1] - s[1:]
        g = self.eta * torch.sqrt(s0 / (1 - torch.where(s0 == 1, s[1], s0)))
        self.a = (1 - g**2 * d / (2 * s0)).float()
        self.b = (-d * (1 + g**2 * (1 - s0) / (2 * s0))).float()
        self.s = (g * d.sqrt()).float()
        self.a[-1], self.b[-1], self.s[-1] = 1, -d[-1], 0  # the last step is the ODE's
        self.lists = [c.tolist() for c in (self.a, self.b, self.s)]  # as scalars, for the rollout
        self.chunk_of_step = torch.repeat_interleave(torch.arange(len(self.sizes)), torch.tensor(self.sizes))
        self.first = torch.tensor(self.sizes).cumsum(0) - torch.tensor(self.sizes)
        self.lengths = torch.tensor(self.sizes, dtype=torch.float32)
        self.start()

    def start(self) -> None:
        """A fresh optimiser and average, from the present weights."""
        self.parameters = list(self.network.parameters())
        self.average = [p.detach().clone() for p in self.parameters]
        self.optimiser = torch.optim.AdamW(self.parameters, lr=3e-4, weight_decay=1e-4, fused=True)

    @torch.no_grad()
    def roll_out(self, conditions: Tensor, initial: Tensor, noise) -> tuple[Tensor, Tensor]:
        """latents (T + 1, B, D) and log-probabilities (B, S) of `group` samples for each of the conditions (P, C)."""
        prompts, batch = len(conditions), len(initial)
        latents = torch.empty((self.steps + 1, batch, initial.shape[1]))
        log_probs = torch.empty((self.trained, batch))
        latents[0] = initial
        # All contexts of the rollout at once: (T, P, 1, parts, width).
        table = self.network.contexts(
            self.sigmas[:-1].repeat_interleave(prompts), conditions.repeat(self.steps, 1)
        ).unflatten(0, (self.steps, prompts, 1))
        for k in range(self.steps):
            x = latents[k]
            v = self.network(x.view(prompts, self.group, -1), table[k]).view_as(x)
            a, b, s = (c[k] for c in self.lists)
            mean = (a * x).add_(v, alpha=b)
            if k == self.trained:
                latents[k + 1] = mean
            else:
                torch.add(mean, noise(k), alpha=s, out=latents[k + 1])
                log_probs[k] = (latents[k + 1] - mean).square_().mean(1).mul_(-0.5 / s**2).sub_(
                    math.log(s) + 0.5 * math.log(2 * math.pi)
                )
        return latents, log_probs.T.contiguous()

    def advantages(self, rewards: Tensor) -> Tensor:
        r = rewards.view(-1, self.group)
        return ((r - r.mean(1, keepdim=True)) / (r.std(1, keepdim=True) + 1e-8)).clamp_(-5, 5).flatten()

    def loss(self, conditions, latents, old, advantages, selection, samples: slice) -> Tensor:
        """The chunk loss of the selected chunks of `samples`; selection (B, K) bool."""
        chosen = selection[samples]
        step, sample = chosen[:, self.chunk_of_step].T.nonzero(as_tuple=True)  # rows ordered by step
        row = sample + samples.start
        prompt = row // self.group
        # One context for each (step, prompt).
        pair, context = torch.unique(step * len(conditions) + prompt, return_inverse=True)
        table = self.network.contexts(
            self.sigmas[torch.div(pair, len(conditions), rounding_mode="floor")], conditions[pair % len(conditions)]
        )
        x, next_x = latents[step, row], latents[step + 1, row]
        v = self.network(x, table.index_select(0, context))
        a, b, s = (c[step] for c in (self.a, self.b, self.s))
        mean = a[:, None] * x + b[:, None] * v
        new = -(next_x - mean).square().mean(1) / (2 * s * s) - s.log() - 0.5 * math.log(2 * math.pi)
        # Chunk log ratios: the mean over the steps of each selected (sample, chunk).
        chunk = sample * len(self.sizes) + self.chunk_of_step[step]
        total = torch.zeros(chosen.numel()).index_add(0, chunk, new - old[row, step])
        ratio = torch.exp(total.view_as(chosen) / self.lengths)[chosen]
        adv = advantages[samples, None].expand_as(chosen)[chosen]
        return torch.maximum(-adv * ratio, -adv * ratio.clamp(1 - self.clip, 1 + self.clip)).mean()

    def update(self, loss: Tensor) -> Tensor:
        """One step of the optimiser; the gradient's norm before clipping."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0, foreach=True)
        self.optimiser.step()
        torch._foreach_lerp_(self.average, self.parameters, 1 - self.ema_decay)
        return norm

    def iterate(self, conditions: Tensor, reward, initial=None, noise=None, selection=None) -> tuple[float, float]:
        """One iteration: the mean loss and gradient norm of its optimiser steps."""
        batch, size = len(conditions) * self.group, self.network.input.in_features
        if initial is None:
            initial = torch.randn(len(conditions), size).repeat_interleave(self.group, 0)
        latents, old = self.roll_out(conditions, initial, noise or (lambda k: torch.randn(batch, size)))
        advantages = self.advantages(reward(latents[-1]))
        if selection is None:
            order = torch.rand(batch, len(self.sizes)).argsort(1)
            selection = order < int(len(self.sizes) * self.fraction)
        losses, norms = [], []
        for u in range(self.updates):
            part = slice(*(len(conditions) * i // self.updates * self.group for i in (u, u + 1)))
            loss = self.loss(conditions, latents, old, advantages, selection, part)
            norms.append(self.update(loss))
            losses.append(loss.detach())
        return float(sum(losses)) / self.updates, float(sum(norms)) / self.updates
