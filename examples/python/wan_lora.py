"""LoRA post-training of a Wan video model by Chunk-GRPO. The reward is a steady picture: minus the mean change between frames.

    python wan_lora.py --out runs/wan                                  # random weights, no download: seconds on a laptop
    torchrun --nproc-per-node 8 wan_lora.py --model Wan-AI/Wan2.1-T2V-1.3B-Diffusers --height 480 --width 832 --frames 33

Needs torch, diffusers, peft and matplotlib. In --out: before.gif and after.gif, of the same noise without the adapter and with it, and
`adapter`, which `pipe.load_lora_weights` takes. Checkpoints, pictures and sharded weights are in flux_lora.py.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

sys.path.append(str(Path(__file__).resolve().parents[2] / "bindings/python"))  # where chunkgrpo is not installed

import numpy as np
import torch
import torch.distributed as dist
from diffusers import WanPipeline
from diffusers.training_utils import cast_training_params
from peft import LoraConfig, get_peft_model_state_dict
from PIL import Image
from torch import Tensor

import chunkgrpo as cg
import chunkgrpo.distributed as cgd
import chunkgrpo.torch as cgt
from chunkgrpo.diffusers import FlowMatchSDEScheduler, velocity_of
from lora_runs import Help, Options, begin, wrapped
from tiny_models import tiny_pipeline, tiny_prompts


def steadiness(videos: Tensor) -> Tensor:
    """(B,) of videos (B, frames, 3, height, width) in 0 ... 1."""
    return -(videos[:, 1:] - videos[:, :-1]).abs().float().mean((1, 2, 3, 4))


def encode(pipe: Any, prompts: Sequence[str]) -> dict[str, Tensor]:
    """The pipeline's embedding arguments; random ones for the tiny model, which encodes no text."""
    if pipe.text_encoder is None:
        return tiny_prompts(pipe, prompts)
    words, no_words = pipe.encode_prompt(prompts, negative_prompt="", device=pipe.device)
    return {"prompt_embeds": words, "negative_prompt_embeds": no_words}


def save_gif(path: Path, video: Tensor) -> None:
    frames = (255 * video.movedim(1, -1).float().clamp(0, 1)).byte().cpu().numpy()
    images = [Image.fromarray(frame).resize((4 * frame.shape[1], 4 * frame.shape[0])) for frame in frames]
    images[0].save(path, save_all=True, append_images=images[1:], duration=125, loop=0)


def sampled(pipe: Any, args: Options, prompts: Sequence[str], **options: Any) -> Tensor:
    size = {"height": args.height, "width": args.width, "num_frames": args.frames, "num_inference_steps": args.steps}
    with torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=args.device != "cpu"):
        given = {name: rows.float() for name, rows in encode(pipe, prompts).items()}
        return pipe(**given, **size, guidance_scale=args.guidance, output_type="pt", **options).frames


def prepared(args: Options) -> tuple[Any, cgd.Ranks, torch.nn.Module]:
    """(pipeline, ranks, model): the transformer has an adapter, and on several processes a wrapper."""
    ranks = begin(args)
    kind = torch.float32 if args.device == "cpu" else torch.bfloat16
    tiny = args.model == "tiny-wan"
    pipe = tiny_pipeline(args.model) if tiny else WanPipeline.from_pretrained(args.model, torch_dtype=kind)
    pipe.to(args.device).set_progress_bar_config(disable=True)
    net = pipe.transformer.requires_grad_(False)
    torch.manual_seed(0)
    net.add_adapter(LoraConfig(r=16, lora_alpha=16, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    cast_training_params(net, torch.float32)
    if not tiny:
        net.enable_gradient_checkpointing()
    # Wan's pipelines have UniPC, of which the shift is taken over.
    pipe.scheduler = FlowMatchSDEScheduler.from_config(pipe.scheduler.config, dynamics="flow_sde", eta=args.eta, seed=1)
    return pipe, ranks, wrapped(args, net)


def train(args: Options) -> list[float]:
    pipe, ranks, model = prepared(args)
    velocity, plan = velocity_of(pipe, model), cg.ChunkPlan.fixed(args.steps - 1, 2)
    weights = [weight for weight in pipe.transformer.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=args.lr)
    total = len(args.prompts) * args.group
    rewards_of_all: list[float] = []
    own = ranks.share(total)
    prompts = np.repeat(args.prompts, args.group)[own].tolist()
    for iteration in range(args.iterations):
        ids = pipe.scheduler.sample_ids = total * iteration + np.arange(total)[own]
        noise = [torch.Generator().manual_seed(int(i)) for i in ids]  # of the first latents
        videos = sampled(pipe, args, prompts, generator=noise)
        record = pipe.scheduler.trajectory
        with ranks.together("the reward"):
            rewards = steadiness(videos).cpu()
        advantages = ranks.advantages(rewards, groups=prompts, sample_ids=ids)
        chosen = plan.select(len(ids), args.fraction, plan.weights(record.relative_l1.cpu()), seed=iteration, sample_ids=ids)
        cgt.streamed_backward(
            velocity, record.sampler, record.latents, record.log_probs, advantages, plan, selection=chosen, clip=args.clip,
            no_sync=cgt.no_sync(model), normaliser=ranks.normaliser(plan, selection=chosen), on_policy=True,
        )  # fmt: skip
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        rewards_of_all.append(ranks.total(rewards.sum()) / total)
        if ranks.rank == 0:
            print(f"iteration {iteration:3d}  reward {rewards_of_all[-1]:.5f}", flush=True)
    if ranks.rank == 0:
        save(args, pipe)
    return rewards_of_all


def save(args: Options, pipe: Any) -> None:
    """The adapter, and one prompt without and with it; nothing of it moves the training."""
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    pipe.save_lora_weights(out / "adapter", transformer_lora_layers=get_peft_model_state_dict(pipe.transformer))
    with pipe.scheduler.evaluation():
        for name, switch in (("before", "disable_adapters"), ("after", "enable_adapters")):
            getattr(pipe.transformer, switch)()
            video = sampled(pipe, args, args.prompts[:1], generator=torch.Generator().manual_seed(0))[0]
            save_gif(out / f"{name}.gif", video)
            print(f"{name}: reward {float(steadiness(video[None])):.5f}")


def arguments(argv: Optional[Sequence[str]] = None) -> Options:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    add = parser.add_argument
    add("--model", default="tiny-wan", help="tiny-wan, a directory or a hub id")
    add("--out", default="runs/wan_lora", help="folder for everything that is written")
    add("--prompts", nargs="+", default=["a cat that sleeps", "a quiet lake"], help="sampled in every iteration")
    add("--iterations", type=int, default=30, help="updates of the weights")
    add("--group", type=int, default=12, help="samples per prompt, of all processes together")
    add("--steps", type=int, default=5, help="of a run; all but the last are trained, in chunks of two")
    add("--fraction", type=float, default=1.0, help="share of the chunks that is trained")
    add("--eta", type=float, default=0.7, help="noise scale")
    add("--guidance", type=float, default=3.0, help="scale of the pipeline")
    add("--frames", type=int, default=5, help="1 more than a multiple of 4")
    add("--height", type=int, default=16, help="in pixels")
    add("--width", type=int, default=16, help="in pixels")
    add("--clip", type=float, default=1e-3, help="how far a ratio may move from 1")
    add("--lr", type=float, default=3e-2, help="learning rate; 1e-4 for a model that is not tiny")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda or cpu")
    parser.set_defaults(parallel="ddp")
    return parser.parse_args(argv)


if __name__ == "__main__":
    train(arguments())
    if dist.is_initialized():
        dist.destroy_process_group()
