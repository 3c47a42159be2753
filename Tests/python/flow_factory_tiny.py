"""A tiny Stable Diffusion 3 of random weights behind Flow-Factory's own adapter, and a reward, for runs on the CPU."""

from __future__ import annotations

import zlib

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from flow_factory.models.stable_diffusion.sd3_5 import SD3_5Adapter
from flow_factory.rewards.abc import PointwiseRewardModel, RewardModelOutput

SIZE = 16


class Adapter(SD3_5Adapter):
    tokenizer = None

    def load_pipeline(self):
        torch.manual_seed(0)
        transformer = SD3Transformer2DModel(
            sample_size=8, patch_size=1, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8,
            num_attention_heads=2, joint_attention_dim=SIZE, caption_projection_dim=16, pooled_projection_dim=SIZE,
            pos_embed_max_size=96,
        )
        vae = AutoencoderKL(
            latent_channels=4, block_out_channels=(8,), norm_num_groups=4, sample_size=16, shift_factor=0.0,
            scaling_factor=1.0,
        )
        return StableDiffusion3Pipeline(
            transformer=transformer, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), text_encoder=None,
            tokenizer=None, text_encoder_2=None, tokenizer_2=None, text_encoder_3=None, tokenizer_3=None,
        )

    preprocessing_modules = property(lambda self: [])

    def encode_prompt(self, prompt, guidance_scale=1.0, **_):
        """Noise that the prompt seeds."""
        rows = [torch.randn(4, SIZE, generator=torch.Generator().manual_seed(zlib.crc32(p.encode()))) for p in prompt]
        embeds = torch.stack(rows)
        ids = (embeds[:, 0] * 1000).long()
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": embeds.mean(1), "prompt_ids": ids}


class Redness(PointwiseRewardModel):
    """Mean of red less that of the others."""

    required_fields = ("prompt", "image")

    def __call__(self, prompt, image=None, **_):
        import numpy as np

        values = [np.asarray(picture, np.float32).reshape(-1, 3).mean(0) / 255 for picture in image]
        return RewardModelOutput(rewards=torch.tensor([float(v[0] - v[1:].mean()) for v in values]))
