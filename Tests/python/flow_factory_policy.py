"""A policy behind the interface of Flow-Factory's adapters, its rollouts, and what the trainer should find for them."""

from __future__ import annotations

import contextlib
import copy
import types

import accelerate
import numpy as np
import torch
from flow_factory_stand_in import ROOT, SCHEDULERS  # noqa: F401  (the stand-in, or the path to the real one)

import chunkgrpo as cg
import chunkgrpo.flow_factory as cff
import chunkgrpo.torch as cgt
from flow_factory.samples import BaseSample  # isort: skip

T, SHAPE = 8, (3, 4, 4)


class Adapter:
    """The interface of Flow-Factory's adapters, of a network of 81 weights."""

    def __init__(self, scheduler, dtype=torch.float32):
        torch.manual_seed(0)
        self.scheduler, self.dtype = scheduler, dtype
        self.net = torch.nn.Conv2d(3, 3, 3, padding=1)
        with torch.no_grad():
            self.net.weight *= 0.3
        self.kept = copy.deepcopy(self.net)
        self.calls = 0
        self.schedule = {"sigmas": np.linspace(1, 1 / T, T)}

    trainable_components = property(lambda self: [self.net])

    def get_trainable_parameters(self):
        return list(self.net.parameters())

    def train(self, mode=True):
        self.net.train(mode)
        self.scheduler.train(mode)

    @contextlib.contextmanager
    def use_ref_parameters(self):
        self.net, own = self.kept, self.net
        yield
        self.net = own

    def forward(
        self, t, latents, prompt_embeds, t_next=None, next_latents=None, noise_level=None, compute_log_prob=True,
        return_kwargs=("next_latents", "log_prob"), guidance_scale=1.0,
    ):
        self.calls += 1
        velocity = self.net(latents.float()) * (0.5 + t.reshape(-1, 1, 1, 1) / 1000)
        return self.scheduler.step(
            noise_pred=velocity + prompt_embeds.reshape(-1, 1, 1, 1), timestep=t, latents=latents, timestep_next=t_next,
            next_latents=next_latents, compute_log_prob=compute_log_prob, return_dict=True,
            return_kwargs=list(return_kwargs), noise_level=noise_level,
        )

    def inference(self, prompt, prompt_embeds, means=False):
        """One sample per prompt, of the trained steps."""
        names = ["next_latents", "log_prob"] + ["next_latents_mean"] * means
        self.scheduler.set_timesteps(**self.schedule, device="cpu")
        times, steps = self.scheduler.timesteps, self.scheduler.train_timesteps.tolist()
        x, frames, logs, kept = torch.randn(len(prompt), *SHAPE).to(self.dtype), [], [], []
        for i, t in enumerate(times):
            frames.append(x)
            level = self.scheduler.noise_level if i in steps else 0.0
            following = times[i + 1] if i + 1 < T else torch.tensor(0)
            with torch.no_grad():
                out = self.forward(
                    t, x, prompt_embeds, following, noise_level=level, compute_log_prob=level > 0, return_kwargs=names
                )
            logs.append(out.log_prob if level > 0 else torch.zeros(len(x)))
            kept.append(out.next_latents_mean if means else None)
            x = out.next_latents.to(self.dtype)
        extra = [{} for _ in prompt]
        if means:
            rows = torch.stack(kept, 1)
            extra = [{"next_latents_mean": row, "callback_index_map": torch.arange(T)} for row in rows]
        frames, logs = torch.stack([*frames, x], 1), torch.stack(logs, 1)
        places = {"latent_index_map": torch.arange(T + 1), "log_prob_index_map": torch.arange(T)}
        return [
            BaseSample(
                timesteps=times, all_latents=frames[b], log_probs=logs[b], prompt=prompt[b],
                prompt_embeds=prompt_embeds[b], extra_kwargs=extra[b], **places,
            )
            for b in range(len(x))
        ]


def scheduler(**options):
    return cff.ChunkSDEScheduler(**{"noise_level": 0.7, "sde_steps": [1, 2, 3, 4, 5, 6], "num_sde_steps": 6, **options})


def trainer_of(kind, arguments, adapter, accumulate=1):
    """A trainer as Flow-Factory's loader leaves it, of a model that stands here."""
    trainer = object.__new__(kind)
    steps = adapter.scheduler.num_sde_steps
    acc = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=accumulate * steps)
    logged = []
    vars(trainer).update(
        accelerator=acc, training_args=arguments, adapter=adapter, epoch=0, step=0, autocast=contextlib.nullcontext,
        optimizer=torch.optim.SGD(adapter.get_trainable_parameters(), lr=0.0), logged=logged,
        log_args=types.SimpleNamespace(verbose=False), log_data=lambda data, step: logged.append(data),
    )
    trainer.optimizer.zero_grad = lambda: None  # so that a test sees the gradient
    return trainer


def arguments(**options):
    given = {"per_device_batch_size": 4, "max_grad_norm": 1e9, "guidance_scale": 1.0, "gradient_accumulation_steps": 6}
    return cff.ChunkGRPO(**{**given, **options})


def rollouts(adapter, count=4, means=False, moved=0.02):
    """Samples with advantages, and a policy that has moved since."""
    torch.manual_seed(1)
    prompts = [f"prompt {i // 2}" for i in range(count)]
    samples = adapter.inference(prompts, torch.linspace(-0.2, 0.3, count), means)
    for sample, advantage in zip(samples, torch.linspace(-1.5, 1.0, count)):
        sample.extra_kwargs["advantage"] = advantage
    with torch.no_grad():
        for parameter in adapter.get_trainable_parameters():
            parameter += moved * torch.randn_like(parameter)
    adapter.calls = 0
    return samples


def gradient(adapter):
    return torch.cat([p.grad.flatten() for p in adapter.get_trainable_parameters()]).double()


def frames(samples, i):
    """(B, ...): their latents before step i."""
    return torch.stack([sample.all_latents[i] for sample in samples])


def log_probs_of(adapter, samples, steps):
    """(B, S) with a graph."""
    rows = []
    for i in steps:
        x = frames(samples, i), frames(samples, i + 1)
        times = samples[0].timesteps
        embeds = torch.stack([s.prompt_embeds for s in samples])
        following = times[i + 1] if i + 1 < T else torch.tensor(0)
        out = adapter.forward(times[i], x[0], embeds, following, x[1], 0.7, return_kwargs=["log_prob"])
        rows.append(out.log_prob)
    return torch.stack(rows, 1)


def expected(adapter, samples, plan, steps=range(1, 7), **options):
    """The chunk loss by autograd, all graphs at once."""
    new = log_probs_of(adapter, samples, steps)
    old = torch.stack([s.log_probs[list(steps)] for s in samples])
    advantage = torch.stack([s.extra_kwargs["advantage"] for s in samples])
    out = cgt.chunk_loss(new, old, advantage, plan, **options)
    grads = torch.autograd.grad(out.loss, adapter.get_trainable_parameters())
    return out.loss.item(), torch.cat([g.flatten() for g in grads]).double()


def trained(options, *, count=4, means=False, dtype=torch.float32, moved=0.02, accumulate=1, **scheduling):
    adapter = Adapter(scheduler(**scheduling), dtype)
    samples = rollouts(adapter, count, means, moved)
    trainer = trainer_of(cff.ChunkGRPOTrainer, arguments(**options), adapter, accumulate)
    trainer.optimize(samples)
    return trainer, adapter, samples
