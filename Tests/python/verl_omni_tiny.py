"""verl-omni's own engine, scheduler, adapter and losses around a tiny SD3 of random weights, for test_verl_omni.py.

Its packages import vLLM-Omni and its trainers, which need GPUs. So their __init__ is left out, and the modules below are
loaded from the checkout as they are."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import types
from pathlib import Path

import torch
from diffusers import SD3Transformer2DModel

CHECKOUT = os.environ.get("CHUNKGRPO_VERL_OMNI", "")
BARE = ("", "pipelines", "pipelines.sd3_flow_grpo", "trainer", "trainer.omni", "workers.engine", "workers.engine.fsdp")


def load():
    """The package, without what its folders import by themselves."""
    root = Path(CHECKOUT) / "verl_omni"
    for name in BARE:
        package = types.ModuleType(f"verl_omni.{name}".rstrip("."))
        package.__path__ = [str(root.joinpath(*name.split(".")))] if name else [str(root)]
        sys.modules[package.__name__] = package
    sys.modules["verl_omni"].__version__ = (root / "version" / "version").read_text().strip()
    importlib.import_module("verl_omni.pipelines.sd3_flow_grpo.diffusers_training_adapter")
    engines = importlib.import_module("verl_omni.workers.engine.fsdp.diffusers_impl")
    engines.get_device_id, engines.device_name = lambda: "cpu", "cpu"


def transformer():
    torch.manual_seed(0)
    sizes = {"num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2, "pos_embed_max_size": 8}
    text = {"joint_attention_dim": 16, "caption_projection_dim": 16, "pooled_projection_dim": 8}
    return SD3Transformer2DModel(sample_size=4, patch_size=1, in_channels=4, out_channels=4, **sizes, **text)


def moved(net, by=0.02):
    torch.manual_seed(3)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(by * torch.randn_like(p))


def engine(kind, net, steps=6):
    """An engine of one process; its constructor shards the model over GPUs."""
    from verl_omni.pipelines.schedulers.flow_match_sde import FlowMatchSDEDiscreteScheduler

    made = object.__new__(kind)
    made.module, made.scheduler = net, FlowMatchSDEDiscreteScheduler(shift=3.0)
    made.scheduler.set_timesteps(steps)
    settings = types.SimpleNamespace(
        architecture="StableDiffusion3Pipeline", algorithm="flow_grpo", external_lib=None,
        pipeline=types.SimpleNamespace(guidance_scale=None), algo=types.SimpleNamespace(noise_level=0.7, sde_type="sde"),
    )  # fmt: skip
    made.model_config, made.ulysses_device_mesh = settings, None
    made.use_ulysses_sp, made.ulysses_sequence_parallel_size = False, 1
    return made


def rollout(made, batch, steps):
    """A batch as verl-omni's trainer hands it to the actor: latents by its scheduler, the old policy by its engine."""
    from verl.utils import tensordict_utils as tu

    torch.manual_seed(1)
    x = torch.randn(batch, 4, 4, 4)
    prompt = {"prompt_embeds": torch.randn(batch, 3, 16), "pooled_prompt_embeds": torch.randn(batch, 8)}
    latents, times = [x], made.scheduler.timesteps[:steps].expand(batch, steps)
    with torch.no_grad():
        for step in range(steps):
            v = made.module(
                hidden_states=x, encoder_hidden_states=prompt["prompt_embeds"], timestep=times[:, step],
                pooled_projections=prompt["pooled_prompt_embeds"], return_dict=False,
            )[0]  # fmt: skip
            x = made.scheduler.sample_previous_step(
                sample=x, model_output=v, timestep=times[:, step], noise_level=0.7, return_sqrt_dt=True
            )[0]
            latents.append(x)
    data = tu.get_tensordict({"all_latents": torch.stack(latents, 1), "all_timesteps": times, **prompt})
    tu.assign_non_tensor(data, micro_batch_size_per_gpu=batch)
    found = made.forward_backward_batch(data, None, forward_only=True)["model_output"]
    data["old_log_probs"] = found["log_probs"].float()
    data["old_prev_sample_mean"] = found["prev_sample_mean"].float()
    return data, found


def actor(loss, **options):
    """An actor's configuration, and verl-omni's loss function with it."""
    from verl_omni.workers.config.diffusion.actor import DiffusionActorConfig
    from verl_omni.workers.utils.losses import diffusion_loss

    given = {"strategy": "fsdp2", "rollout_n": 2, "ppo_micro_batch_size_per_gpu": 4, "diffusion_loss": loss}
    return functools.partial(diffusion_loss, config=DiffusionActorConfig(**{**given, **options}))
