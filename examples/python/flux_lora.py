"""LoRA post-training of a FLUX- or SD3-class model by Chunk-GRPO: diffusers' pipeline, our scheduler, peft's adapter.

    python flux_lora.py --model tiny-flux --out runs/tiny      # random weights, no download: seconds on a laptop
    torchrun --nproc-per-node 8 flux_lora.py --model black-forest-labs/FLUX.1-dev --prompts prompts.txt \\
        --reward my_rewards:hpsv3 --iterations 300 --prompts-per-iteration 8 --fraction 0.5 --gradient-checkpointing \\
        --parallel fsdp2 --tensorboard --out runs/flux

Needs torch, diffusers, peft and matplotlib. A reward is a function of (PIL images, prompts) that returns one number per image:
`jpeg` (DDPO's compressibility: minus the size as JPEG in kB), `incompressible`, or `module:function` of yours. In
--out: metrics.csv, reward.png, pictures of the first prompts at each save, a checkpoint to --resume from, also on another
number of processes, and `adapter`, which `pipe.load_lora_weights` takes. Another flow pipeline needs a line in `encode`.
On a busy machine set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import random
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Optional

sys.path.append(str(Path(__file__).resolve().parents[2] / "bindings/python"))  # where chunkgrpo is not installed

import numpy as np
import torch
import torch.distributed as dist
from diffusers import DiffusionPipeline, StableDiffusion3Pipeline
from diffusers.training_utils import cast_training_params
from numpy.typing import NDArray
from peft import LoraConfig
from PIL import Image
from torch import Tensor

import chunkgrpo as cg
import chunkgrpo.distributed as cgd
import chunkgrpo.torch as cgt
from chunkgrpo.diffusers import FlowMatchSDEScheduler, PipelineVelocity, RecordedTrajectory, velocity_of
from lora_runs import Help, Log, Options, Row, begin, restore, save, whole, wrapped
from tiny_models import TINY, tiny_pipeline, tiny_prompts

Inputs = dict[str, dict[str, Tensor]]  # the embedding arguments of each prompt
Reward = Callable[[list[Image.Image], list[str]], Iterable[float]]

# ----------------------------------------------------------------------------------------------------------------------
# Models and rewards


def load_pipeline(args: Options) -> Any:
    if args.model in TINY:
        return tiny_pipeline(args.model, args.seed).to(args.device, args.storage)
    return DiffusionPipeline.from_pretrained(args.model, torch_dtype=args.storage).to(args.device)


@torch.no_grad()
def encode(pipe: Any, prompt: str, guidance: float) -> dict[str, Tensor]:
    """The pipeline's embedding arguments for one prompt; random ones for the tiny models, which encode no text."""
    if pipe.text_encoder is None:
        return tiny_prompts(pipe, [prompt])
    if isinstance(pipe, StableDiffusion3Pipeline):
        names = ["prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
        others: dict[str, Any] = {"prompt_2": None, "prompt_3": None}  # of the other encoders: the same
        found = pipe.encode_prompt(prompt, **others, do_classifier_free_guidance=guidance > 1)
        return {name: tensor for name, tensor in zip(names, found) if tensor is not None}
    prompt_embeds, pooled_prompt_embeds, _ = pipe.encode_prompt(prompt, None)
    return {"prompt_embeds": prompt_embeds, "pooled_prompt_embeds": pooled_prompt_embeds}


def jpeg_size(image: Image.Image) -> float:
    """In kB, at quality 95 (kvablack/ddpo-pytorch, rewards.py)."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=95)
    return buffer.tell() / 1000


REWARDS: dict[str, Reward] = {
    "jpeg": lambda images, prompts: [-jpeg_size(image) for image in images],
    "incompressible": lambda images, prompts: map(jpeg_size, images),
}


def load_reward(name: str) -> Reward:
    module, _, function = name.partition(":")
    return REWARDS[name] if name in REWARDS else getattr(importlib.import_module(module), function)


# ----------------------------------------------------------------------------------------------------------------------
# Training


def sampled(
    pipe: Any, args: Options, inputs: Inputs, prompts: Sequence[str], generator: list[torch.Generator]
) -> list[Image.Image]:
    """Images (PIL) of these prompts."""
    # float32: the latents take this type, and keep it under autocast
    given = {name: torch.cat([inputs[prompt][name] for prompt in prompts]).float() for name in inputs[prompts[0]]}
    size = {"height": args.height, "width": args.width, "num_inference_steps": args.steps}
    with args.autocast():
        return pipe(**given, **size, generator=generator, guidance_scale=args.guidance).images


def rollouts(
    pipe: Any, args: Options, inputs: Inputs, prompts: Sequence[str], seeds: Sequence[int], ids: NDArray[np.int64]
) -> tuple[list[RecordedTrajectory], list[Image.Image]]:
    """Runs of `batch` samples each: their records and images. The samples of a prompt start from one noise."""
    records: list[RecordedTrajectory] = []
    images: list[Image.Image] = []
    for first in range(0, len(ids), args.batch):
        run = slice(first, first + args.batch)
        pipe.scheduler.sample_ids = ids[run]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[run]]
        images += sampled(pipe, args, inputs, prompts[run], generators)
        records.append(pipe.scheduler.trajectory)
    return records, images


def pictures(pipe: Any, args: Options, inputs: Inputs) -> list[Image.Image]:
    """One of each of the first prompts, from the same noise at each time. All ranks sample, for sharded weights."""
    prompts = list(inputs)[: args.pictures]
    with pipe.scheduler.evaluation():
        generators = [torch.Generator().manual_seed(args.seed) for _ in prompts]
        return sampled(pipe, args, inputs, prompts, generators) if prompts else []


def backward(
    args: Options,
    ranks: cgd.Ranks,
    model: torch.nn.Module,
    velocity: PipelineVelocity,
    records: list[RecordedTrajectory],
    advantages: NDArray[np.float64],
    plan: cg.ChunkPlan,
    chosen: NDArray[np.bool_],
) -> tuple[float, cg.ChunkStats]:
    """The gradient of one loss of all samples, run by run: (loss, statistics)."""
    sharded = args.parallel == "fsdp2"  # which sums its gradients in every step
    sums = contextlib.nullcontext if sharded else cgt.no_sync(model)
    normaliser = ranks.normaliser(plan, selection=chosen)
    losses: list[float] = []
    stats: list[cg.ChunkStats] = []
    end = 0
    for i, record in enumerate(records):
        rows, end = slice(end, end + len(record)), end + len(record)
        with contextlib.nullcontext() if i + 1 == len(records) else sums():
            out = cgt.streamed_backward(
                velocity.of(record), record.sampler, record.latents, record.log_probs, advantages[rows], plan,
                selection=chosen[rows], clip=args.clip, kl=args.kl, normaliser=normaliser,
                every_step=ranks.needed_steps(plan, selection=chosen[rows]), no_sync=None if sharded else sums,
                on_policy=True,  # one update of each rollout
            )  # fmt: skip
        losses.append(float(out.loss))
        stats.append(out.stats)
    return ranks.mean(sum(losses)), ranks.merge_stats(stats)


def train(args: Options) -> tuple[Any, list[Row]]:
    ranks = begin(args)
    pipe = load_pipeline(args)
    pipe.set_progress_bar_config(disable=True)
    prompts = Path(args.prompts).read_text().split("\n") if args.prompts else ["a red cube", "a blue sphere"]
    prompts = [line.strip() for line in prompts if line.strip()]
    inputs = {prompt: encode(pipe, prompt, args.guidance) for prompt in dict.fromkeys(prompts)}
    pipe.register_modules(**{name: None for name in pipe.components if name.startswith("text_encoder")})  # done with

    net = pipe.transformer.requires_grad_(False)
    pipe.vae.requires_grad_(False)
    pipe.vae.enable_slicing()  # decodes one image at a time
    torch.manual_seed(args.seed)
    net.add_adapter(
        LoraConfig(r=args.rank, lora_alpha=args.rank, init_lora_weights="gaussian", target_modules=args.targets)
    )
    cast_training_params(net, torch.float32)
    if args.gradient_checkpointing:
        net.enable_gradient_checkpointing()
    model = wrapped(args, net)
    weights = [weight for weight in net.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=args.lr, weight_decay=args.weight_decay)

    pipe.scheduler = FlowMatchSDEScheduler.from_config(
        pipe.scheduler.config, dynamics=args.dynamics, eta=args.eta, seed=args.seed, threads=0
    )
    velocity = velocity_of(pipe, model)
    plan = cg.ChunkPlan(args.chunks)
    if plan.steps != args.steps - 1:
        raise SystemExit(f"--chunks has {plan.steps} steps; of --steps {args.steps}, {args.steps - 1} are trained")
    total = args.prompts_per_iteration * args.group
    if total % ranks.size:
        raise SystemExit(f"{total} samples (--prompts-per-iteration x --group) do not divide into {ranks.size} processes")
    reward = load_reward(args.reward)
    first, rows = restore(args, net, optimizer) if args.resume else (0, [])
    log = Log(args, ranks.rank)

    own = ranks.share(total)
    for iteration in log.progress(range(first, args.iterations)):
        draw = random.Random(f"{args.seed} {iteration}")  # the same on all ranks, and in a resumed run
        drawn = [(draw.choice(prompts), draw.getrandbits(63)) for _ in range(args.prompts_per_iteration)]
        groups = np.repeat(np.arange(len(drawn)), args.group)[own].tolist()
        ids = total * iteration + np.arange(total)[own]
        of_sample, seeds = zip(*(drawn[group] for group in groups))
        records, images = rollouts(pipe, args, inputs, of_sample, seeds, ids)
        with ranks.together("the reward"):
            rewards = np.array(list(map(float, reward(images, list(of_sample)))))
        advantages = ranks.advantages(rewards, groups=groups, sample_ids=ids)
        movement = plan.weights(torch.cat([record.relative_l1 for record in records]).cpu())
        chosen = plan.select(len(ids), args.fraction, movement, seed=args.seed, sample_ids=ids)
        loss, stats = backward(args, ranks, model, velocity, records, advantages, plan, np.asarray(chosen))
        norm = float(whole(torch.nn.utils.clip_grad_norm_(weights, args.max_grad_norm)))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        every = ranks.gather(rewards)
        mean, low, high = float(every.mean()), float(every.min()), float(every.max())
        rows.append([iteration, mean, low, high, float(loss), norm, stats.ratio_mean])
        log.line(rows[-1])
        if (iteration + 1) % args.save_every == 0 or iteration + 1 == args.iterations:
            save(args, ranks, pipe, optimizer, iteration + 1, rows)
            log.pictures(pictures(pipe, args, inputs), iteration + 1)
    return pipe, rows


# ----------------------------------------------------------------------------------------------------------------------
# Options


def arguments(argv: Optional[Sequence[str]] = None) -> Options:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    add = parser.add_argument
    add("--model", default="tiny-flux", help="tiny-flux, tiny-sd3, a directory or a hub id")
    add("--out", default="runs/flux_lora", help="folder for everything that is written")
    add("--resume", action="store_true", help="go on from the checkpoint in --out")
    add("--prompts", help="file, one per line; two of our own")
    add("--reward", default="jpeg", help="jpeg, incompressible or module:function")
    add("--iterations", type=int, default=40, help="updates of the weights")
    add("--prompts-per-iteration", type=int, default=2, help="of all processes together")
    add("--group", type=int, help="samples per prompt; 12, tiny: 24")
    add("--batch", type=int, help="samples that one process samples and trains at once; a group")
    add("--steps", type=int, help="of a run; 17, tiny: 4")
    add("--chunks", type=int, nargs="+", help="chunk sizes; their sum is steps - 1. GCPO: 2 3 4 7 for 17 steps")
    add("--fraction", type=float, default=1.0, help="share of the chunks that is trained, drawn by weight (GCPO 0.5)")
    add("--dynamics", default="flow_sde", choices=["flow_sde", "dance_sde", "cps"], help="how noise enters")
    add("--eta", type=float, default=0.7, help="noise scale")
    add("--guidance", type=float, default=3.5, help="scale of the pipeline")
    add("--height", type=int, help="in pixels; 720, tiny: 16")
    add("--width", type=int, help="in pixels; 720, tiny: 16")
    add("--clip", type=float, default=5e-5, help="how far a ratio may move from 1")
    add("--kl", type=float, default=0.0, help="weight of the KL to the policy that sampled")
    add("--rank", type=int, default=16, help="of the adapter")
    add("--targets", nargs="+", default=["to_q", "to_k", "to_v", "to_out.0", "proj_out"], help="layers with an adapter")
    add("--lr", type=float, help="learning rate; 1e-4, tiny: 3e-2")
    add("--weight-decay", type=float, default=1e-4, help="of AdamW")
    add("--max-grad-norm", type=float, default=1.0, help="longer gradients are cut to this")
    add("--gradient-checkpointing", action="store_true", help="less memory, more time")
    add("--parallel", default="ddp", choices=["ddp", "fsdp2", "accelerate"], help="of several processes: torchrun with "
        "whole or sharded weights, accelerate launch")  # fmt: skip
    add("--tensorboard", action="store_true", help="write events for TensorBoard into --out")
    add("--pictures", type=int, default=4, help="prompts that are drawn at each save; 0: none")
    add("--save-every", type=int, default=10, help="iterations")
    add("--seed", type=int, default=0, help="of everything that is drawn")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cuda or cpu")
    add("--dtype", choices=["float32", "bfloat16"], help="of the arithmetic; bfloat16 on a GPU, else float32")
    args = parser.parse_args(argv)
    tiny, names = args.model.startswith("tiny-"), ("group", "steps", "height", "width", "lr")
    for name, value in zip(names, (24, 4, 16, 16, 3e-2) if tiny else (12, 17, 720, 720, 1e-4)):
        setattr(args, name, value if getattr(args, name) is None else getattr(args, name))
    args.batch = args.batch or args.group
    args.chunks = args.chunks or ([2, 3, 4, 7] if args.steps == 17 else cg.ChunkPlan.fixed(args.steps - 1, 2).sizes)
    args.dtype = getattr(torch, args.dtype or ("float32" if args.device == "cpu" else "bfloat16"))
    # Shards have one type: FSDP2 keeps float32, and computes in the other.
    args.storage = torch.float32 if args.parallel == "fsdp2" else args.dtype
    kind = torch.device(args.device).type
    args.autocast = lambda: torch.autocast(kind, torch.bfloat16, enabled=args.dtype == torch.bfloat16)
    return args


if __name__ == "__main__":
    train(arguments())
    if dist.is_initialized():
        dist.destroy_process_group()
