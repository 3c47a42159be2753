"""Tiny transformers of diffusers whose parameters are of the library's noise, so that no framework's generator decides:
the trained policy, the old one and the reference of the forward-process tests, and what they are trained on."""

from __future__ import annotations

import math

import numpy as np
import torch

import chunkgrpo as cg

BATCH = 4
TIMES = np.array([0.9, 0.15, 0.5, 0.75])
ADVANTAGES = np.array([1.25, -0.75, 0.5, -1.0])
GROUPS = np.array([0, 0, 1, 1])
SHAPES = {"flux": (BATCH, 6, 8), "sd3": (BATCH, 4, 4, 4)}


def drawn(shape, seed, step):
    """Normals of `seed` and `step` as one sample: a float32 tensor."""
    return torch.from_numpy(cg.normal((1, math.prod(shape)), seed, step)).reshape(shape)


def model(kind):
    from diffusers import FluxTransformer2DModel, SD3Transformer2DModel

    if kind == "flux":
        layers = {"in_channels": 8, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16}
        text = {"num_attention_heads": 2, "joint_attention_dim": 8, "pooled_projection_dim": 4}
        return FluxTransformer2DModel(**layers, **text, axes_dims_rope=(4, 6, 6))
    image = {"sample_size": 4, "patch_size": 1, "in_channels": 4, "out_channels": 4, "num_layers": 2}
    layers = {"attention_head_dim": 8, "num_attention_heads": 4, "caption_projection_dim": 32}
    return SD3Transformer2DModel(
        **image, **layers, joint_attention_dim=8, pooled_projection_dim=4, pos_embed_max_size=8
    )


class Policy:
    """velocity(x_t, t): the trained policy, or one whose parameters are `away` from its."""

    def __init__(self, kind, away=0.0, seed=1):
        self.kind, self.model = kind, model(kind)
        with torch.no_grad():
            for i, weight in enumerate(self.model.parameters()):
                scale = 0.3 / math.sqrt(max(weight.shape[-1], 4))
                weight.copy_(scale * (drawn(weight.shape, 1, i) + away * drawn(weight.shape, seed, i)))
        self.prompts, self.pooled = drawn((BATCH, 5, 8), 2, 0), drawn((BATCH, 4), 2, 1)

    def __call__(self, x, t, rows=slice(None)):
        text = {"encoder_hidden_states": self.prompts[rows], "pooled_projections": self.pooled[rows]}
        t = torch.as_tensor(t, dtype=torch.float32)
        if self.kind == "flux":
            places = torch.tensor([[0.0, i, j] for i in range(2) for j in range(3)])
            return self.model(hidden_states=x, timestep=t, txt_ids=torch.zeros(5, 3), img_ids=places, **text).sample
        return self.model(hidden_states=x, timestep=1000 * t, **text).sample

    def gradients(self):
        """Of each parameter, which are taken away: its norm, and its projection on a direction."""
        found = {}
        for i, (name, weight) in enumerate(self.model.named_parameters()):
            if weight.grad is not None:
                direction = drawn(weight.shape, 3, i).double()
                grad, weight.grad = weight.grad.double(), None
                found[name] = [float(grad.norm()), float((grad * direction).sum() / direction.norm())]
        return found


def policies(kind):
    """Trained, old, reference."""
    return Policy(kind), Policy(kind, 0.1, 5), Policy(kind, 0.2, 6)


def data(kind, shared=False):
    """Clean latents and noise, which the samples of a group share if so asked: float32 tensors."""
    noise = drawn(SHAPES[kind], 4, 1)
    return drawn(SHAPES[kind], 4, 0), noise[[0, 0, 2, 2]] if shared else noise


CASES = {
    "nft": {"beta": 0.5, "kl_beta": 0.1},
    "awm": {"weighting": "t", "clip_range": 0.05, "kl_beta": 0.1},
    "dgpo": {"beta": 10.0, "clip_range": 0.05, "kl_beta": 0.1},
    "crd": {"beta": 2.0, "weight_temp": 0.5, "kl_beta": 0.1},
    "dpo": {"beta": 5.0},
}
