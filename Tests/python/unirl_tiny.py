"""A tiny SD3 of random weights, as UniRL's own stage runs it: for test_unirl.py, in this process and in Ray's workers."""

from __future__ import annotations

import types

import torch
from diffusers import SD3Transformer2DModel
from unirl.distributed.group.remote import Remote
from unirl.models.sd3.conditions import SD3Conditions
from unirl.models.sd3.diffusion import SD3DiffusionStage, SD3DiffusionStep
from unirl.sde.kernels import FlowSDEStrategy
from unirl.sde.runtime import get_sigma_schedule
from unirl.types.conditions import TextEmbedCondition
from unirl.types.sample import Part
from unirl.types.sampling import DiffusionSamplingParams

STEPS = 6


def one_thread():
    """Many small operations, which PyTorch's threads would slow down."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def transformer(seed=0):
    torch.manual_seed(seed)
    sizes = {"num_layers": 1, "attention_head_dim": 8, "num_attention_heads": 2, "pos_embed_max_size": 8}
    text = {"joint_attention_dim": 16, "caption_projection_dim": 16, "pooled_projection_dim": 8}
    return SD3Transformer2DModel(sample_size=4, patch_size=1, in_channels=4, out_channels=4, **sizes, **text)


def stage(net, strategy=None, **options):
    bundle = types.SimpleNamespace(transformer=net, device=torch.device("cpu"))
    precision = {"autocast_precision": "fp32", "trajectory_precision": "fp32"}
    strategy = FlowSDEStrategy() if strategy is None else strategy
    step = SD3DiffusionStep()
    return SD3DiffusionStage(model=bundle, step=step, strategy=strategy, latent_channels=4, **precision, **options)


def conditions(batch):
    generator = torch.Generator().manual_seed(1)
    embeds, pooled = (torch.randn(batch, *shape, generator=generator) for shape in ((3, 16), (8,)))
    return SD3Conditions(text=TextEmbedCondition(embeds=embeds, pooled=pooled))


def params(sde_indices=(0, 1, 2, 3, 4), eta=0.7):
    sizes = {"num_inference_steps": STEPS, "guidance_scale": 1.0, "height": 32, "width": 32}
    return DiffusionSamplingParams(eta=eta, seed=1, sde_indices=list(sde_indices), **sizes)


def segment(of, batch, sampling):
    """A rollout by UniRL's own loop."""
    torch.manual_seed(2)
    return of.diffuse(conditions(batch), schedule=get_sigma_schedule(STEPS, 3.0), params=sampling)


def moved(net, by=0.02):
    """The policy after an update: other weights than sampled."""
    torch.manual_seed(3)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(by * torch.randn_like(p))


def part(rollout, advantages):
    """A rollout as UniRL's trainer hands it to its train stack."""
    ids = [f"prompt{i // 2}/{i % 2}" for i in range(len(advantages))]
    given = {"segment": rollout, "conditions": conditions(len(ids)).to_dict(), "advantages": advantages}
    return Part(sample_ids=ids, **given)


class Bundle(Remote):
    """What FSDPBackend takes the model from."""

    def __init__(self):
        super().__init__()
        self.transformer, self.device = transformer(), torch.device("cpu")
        moved(self.transformer)


class Pipeline(Remote):
    """What an algorithm takes its stage from."""

    def __init__(self, bundle):
        super().__init__()
        self.diffusion = stage(bundle.transformer)
        self.diffusion.model = bundle
