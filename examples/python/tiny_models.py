"""Pipelines of diffusers with small random weights and no text encoders: nothing is downloaded, and a run takes seconds."""

# pyright: reportArgumentType=false
# diffusers' hints know neither None for a text encoder nor UniPC for Wan.

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, FluxPipeline
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel


def tiny_vae(channels: int) -> AutoencoderKL:
    blocks: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2
    }
    quant: dict[str, Any] = {
        "use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.06, "scaling_factor": 1.5
    }
    return AutoencoderKL(**blocks, **quant, block_out_channels=(8, 8), latent_channels=channels, norm_num_groups=4)


def tiny_flux() -> FluxPipeline:
    size: dict[str, Any] = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
    text: dict[str, Any] = {"joint_attention_dim": 32, "pooled_projection_dim": 32}
    transformer = FluxTransformer2DModel(in_channels=16, axes_dims_rope=(4, 4, 8), guidance_embeds=True, **size, **text)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return FluxPipeline(scheduler, tiny_vae(4), None, None, None, None, transformer)


def tiny_sd3() -> StableDiffusion3Pipeline:
    size: dict[str, Any] = {
        "num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4, "sample_size": 16, "in_channels": 4
    }
    text: dict[str, Any] = {
        "joint_attention_dim": 32, "caption_projection_dim": 32, "pooled_projection_dim": 32, "out_channels": 4
    }
    transformer = SD3Transformer2DModel(**size, **text)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return StableDiffusion3Pipeline(transformer, scheduler, tiny_vae(4), None, None, None, None, None, None)


def tiny_wan() -> WanPipeline:
    layers: dict[str, Any] = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 2, 2], "num_res_blocks": 1}
    vae = AutoencoderKLWan(**layers, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    size: dict[str, Any] = {
        "num_layers": 2, "attention_head_dim": 12, "num_attention_heads": 2, "ffn_dim": 32, "freq_dim": 32
    }
    transformer = WanTransformer3DModel(in_channels=4, out_channels=4, text_dim=32, rope_max_seq_len=32, **size)
    flow: dict[str, Any] = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    return WanPipeline(None, None, vae, UniPCMultistepScheduler(**flow), transformer)


TINY: dict[str, Callable[[], Any]] = {"tiny-flux": tiny_flux, "tiny-sd3": tiny_sd3, "tiny-wan": tiny_wan}


def tiny_pipeline(name: str, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return TINY[name]()


def tiny_prompts(pipe: Any, prompts: Sequence[str], guided: bool = True) -> dict[str, torch.Tensor]:
    """In place of text encoders: the pipeline's arguments for prompts, random and always the same for one prompt."""
    found: dict[str, list[torch.Tensor]] = {"prompt_embeds": [], "pooled_prompt_embeds": []}
    for prompt in prompts:
        generator = torch.Generator().manual_seed(zlib.crc32(prompt.encode()))
        found["prompt_embeds"].append(torch.randn(6, 32, generator=generator))
        found["pooled_prompt_embeds"].append(torch.randn(32, generator=generator))
    given = {name: torch.stack(rows).to(pipe.device, pipe.dtype) for name, rows in found.items()}
    if isinstance(pipe, WanPipeline):
        del given["pooled_prompt_embeds"]
    if guided and not isinstance(pipe, FluxPipeline):  # whose guidance is distilled
        given.update({f"negative_{name}": torch.zeros_like(rows) for name, rows in given.items()})
    return given
