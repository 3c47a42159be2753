"""A stand-in of what chunkgrpo.flow_factory builds on, after Flow-Factory's documentation: the tests run without its
repository. With CHUNKGRPO_FLOW_FACTORY=/path/to/Flow-Factory/src they run on it, and compare with its trainer."""

from __future__ import annotations

import dataclasses
import inspect
import os
import sys
import types
import zlib
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

ROOT = os.environ.get("CHUNKGRPO_FLOW_FACTORY")
SCHEDULERS: dict[str, str] = {}


@dataclasses.dataclass
class GRPOTrainingArguments:
    trainer_type: str = "grpo"
    per_device_batch_size: int = 1
    gradient_accumulation_steps: Any = "auto"
    num_inner_epochs: int = 1
    num_inference_steps: int = 10
    guidance_scale: float = 3.5
    seed: int = 42
    max_grad_norm: float = 1.0
    global_std: bool = True
    advantage_aggregation: str = "gdpo"
    clip_range: Any = (-1e-4, 1e-4)
    adv_clip_range: Any = (-5.0, 5.0)
    kl_type: str = "x-based"
    kl_beta: float = 0
    latent_storage_dtype: str = "fp32"
    extra_kwargs: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self._manual_gradient_accumulation_steps = self.gradient_accumulation_steps != "auto"
        if not self._manual_gradient_accumulation_steps:
            self.gradient_accumulation_steps = 1
        for name in ("clip_range", "adv_clip_range"):
            value = getattr(self, name)
            setattr(self, name, tuple(value) if isinstance(value, (tuple, list)) else (-abs(value), abs(value)))

    def keys(self):
        return [f.name for f in dataclasses.fields(self) if f.name != "extra_kwargs"] + list(self.extra_kwargs)

    def __getitem__(self, key):
        return self.extra_kwargs[key] if key in self.extra_kwargs else getattr(self, key)


class FlowMatchEulerDiscreteSDEScheduler(FlowMatchEulerDiscreteScheduler):
    def __init__(
        self, noise_level=0.7, sde_steps=None, num_sde_steps=None, seed=42, dynamics_type="Flow-SDE", **options
    ):
        super().__init__(**options)
        self.noise_level, self._sde_steps, self._count = noise_level, sde_steps, num_sde_steps
        self.seed, self.dynamics_type, self.is_eval = seed, dynamics_type, False

    @property
    def sde_steps(self):
        return torch.arange(len(self.timesteps) - 1) if self._sde_steps is None else torch.tensor(self._sde_steps)

    @property
    def num_sde_steps(self):
        return len(self.sde_steps) if self._count is None else self._count

    @property
    def train_timesteps(self):
        order = torch.randperm(len(self.sde_steps), generator=torch.Generator().manual_seed(self.seed))
        every = self.num_sde_steps >= len(self.sde_steps)
        return self.sde_steps if every else self.sde_steps[order[: self.num_sde_steps]]

    def train(self, mode=True):
        self.is_eval = not mode

    rollout = train

    def get_noise_level_for_sigma(self, sigma):
        places = (sigma.unsqueeze(-1) == self.sigmas.unsqueeze(0)).int().argmax(-1)
        return torch.where(torch.isin(places, self.train_timesteps), self.noise_level, 0.0)

    def step(
        self, noise_pred, timestep, latents, next_latents=None, timestep_next=None, generator=None, noise_level=None,
        compute_log_prob=True, return_dict=True, return_kwargs=(), dynamics_type=None, sigma_max=None,
    ):
        raise NotImplementedError


@dataclasses.dataclass
class SDESchedulerOutput:
    next_latents: Any = None
    next_latents_mean: Any = None
    std_dev_t: Any = None
    dt: Any = None
    log_prob: Any = None
    noise_pred: Any = None


@dataclasses.dataclass
class BaseSample:
    timesteps: Any = None
    all_latents: Any = None
    latent_index_map: Any = None
    log_probs: Any = None
    log_prob_index_map: Any = None
    prompt: Any = None
    prompt_embeds: Any = None
    extra_kwargs: dict = dataclasses.field(default_factory=dict)

    @property
    def unique_id(self):
        return zlib.crc32(self.prompt.encode())  # the same in every process

    def to(self, device):
        return self

    @classmethod
    def stack(cls, samples):
        names = [f.name for f in dataclasses.fields(cls) if f.name != "extra_kwargs"]
        rows = [{**{name: getattr(s, name) for name in names}, **s.extra_kwargs} for s in samples]
        stack = lambda values: torch.stack(values) if isinstance(values[0], torch.Tensor) else values  # noqa: E731
        shared = ("latent_index_map", "log_prob_index_map")
        return {k: rows[0][k] if k in shared else stack([row[k] for row in rows]) for k in rows[0]}


class GRPOTrainer:
    def __init__(self, accelerator, config, adapter):
        self.accelerator, self.config, self.adapter = accelerator, config, adapter
        self.training_args, self.epoch, self.step = config.training_args, 0, 0

    def start(self): ...

    def sample(self): ...

    def prepare_feedback(self, samples): ...

    def optimize(self, samples): ...

    def log_data(self, data, step): ...

    def compute_advantages(self, samples, rewards, store_to_samples=True, aggregation_func=None):
        return aggregation_func(self.advantage_processor, samples, rewards, store_to_samples)


class GRPOGuardTrainer(GRPOTrainer): ...


def create_generator(*keys):
    return torch.Generator().manual_seed(hash(keys) % 2**32)


def filter_kwargs(function, **given):
    known = inspect.signature(function).parameters
    return {name: value for name, value in given.items() if name in known}


def reduce_loss_info(accelerator, info):
    flat = {}
    for name, values in info.items():
        if values[0].dim():
            whole = torch.cat(values)
            flat.update({f"{name}_mean": whole.mean(), f"{name}_min": whole.min(), f"{name}_max": whole.max()})
        else:
            flat[name] = accelerator.reduce(torch.stack(values).mean(), "mean")
    return flat


def _install() -> None:
    layout: dict[str, dict[str, Any]] = {
        "flow_factory": {},
        "flow_factory.hparams": {"GRPOTrainingArguments": GRPOTrainingArguments},
        "flow_factory.samples": {"BaseSample": BaseSample},
        "flow_factory.scheduler": {
            "FlowMatchEulerDiscreteSDEScheduler": FlowMatchEulerDiscreteSDEScheduler,
            "SDESchedulerOutput": SDESchedulerOutput,
            "register_scheduler": SCHEDULERS.__setitem__,
        },
        "flow_factory.trainers": {},
        "flow_factory.trainers.grpo": {"GRPOTrainer": GRPOTrainer, "GRPOGuardTrainer": GRPOGuardTrainer},
        "flow_factory.utils": {},
        "flow_factory.utils.base": {"create_generator": create_generator, "filter_kwargs": filter_kwargs},
        "flow_factory.utils.dist": {"reduce_loss_info": reduce_loss_info},
    }
    for name, members in layout.items():
        sys.modules[name] = module = types.ModuleType(name)
        vars(module).update(members)


if ROOT:
    sys.path.insert(0, ROOT)
else:
    _install()
