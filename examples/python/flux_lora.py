"""LoRA post-training of a FLUX- or SD3-class model by Chunk-GRPO: diffusers' pipeline, our scheduler, peft's adapter.

    python flux_lora.py --model tiny-flux --out runs/tiny      # random weights, no download: seconds on a laptop
    python flux_lora.py --model black-forest-labs/FLUX.1-dev --prompts prompts.txt --reward my_rewards:hpsv3 \\
        --iterations 300 --fraction 0.5 --gradient-checkpointing --out runs/flux

Needs torch, diffusers and peft. A reward is a function of (PIL images, prompts) that returns one number per image:
`jpeg` (DDPO's compressibility: minus the size as JPEG in kB), `incompressible`, or `module:function` of yours. In
--out: metrics.csv, a checkpoint to --resume from, and `adapter`, which `pipe.load_lora_weights` takes. Another flow
pipeline that calls its transformer once a step needs a line in `encode`. On a busy machine set OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import importlib
import io
import os
import random
import sys
import zlib
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "bindings" / "python"))  # or: pip install chunkgrpo

import torch
from diffusers import AutoencoderKL, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, FluxPipeline
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, StableDiffusion3Pipeline
from diffusers.training_utils import cast_training_params
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict

import chunkgrpo as cg
import chunkgrpo.torch as cgt
from chunkgrpo.diffusers import FlowMatchSDEScheduler

# ----------------------------------------------------------------------------------------------------------------------
# Models


def tiny_vae(channels):
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    quant = {"use_quant_conv": False, "use_post_quant_conv": False, "shift_factor": 0.06, "scaling_factor": 1.5}
    return AutoencoderKL(**blocks, **quant, block_out_channels=(8, 8), latent_channels=channels, norm_num_groups=4)


def tiny_flux():
    size = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
    text = {"joint_attention_dim": 32, "pooled_projection_dim": 32}
    transformer = FluxTransformer2DModel(in_channels=16, axes_dims_rope=(4, 4, 8), guidance_embeds=True, **size, **text)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    return FluxPipeline(scheduler, tiny_vae(4), None, None, None, None, transformer)


def tiny_sd3():
    size = {"num_layers": 2, "attention_head_dim": 8, "num_attention_heads": 4, "sample_size": 16, "in_channels": 4}
    text = {"joint_attention_dim": 32, "caption_projection_dim": 32, "pooled_projection_dim": 32, "out_channels": 4}
    transformer = SD3Transformer2DModel(**size, **text)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return StableDiffusion3Pipeline(transformer, scheduler, tiny_vae(4), None, None, None, None, None, None)


def load_pipeline(args):
    torch.manual_seed(args.seed)
    tiny = {"tiny-flux": tiny_flux, "tiny-sd3": tiny_sd3}
    if args.model in tiny:
        return tiny[args.model]().to(args.device, args.dtype)
    return DiffusionPipeline.from_pretrained(args.model, torch_dtype=args.dtype).to(args.device)


@torch.no_grad()
def encode(pipe, prompt, guidance):
    """The pipeline's embedding arguments for one prompt; random ones for the tiny models, which encode no text."""
    if pipe.text_encoder is None:
        generator = torch.Generator().manual_seed(zlib.crc32(prompt.encode()))
        found = [torch.randn(shape, generator=generator) for shape in ((1, 6, 32), (1, 32), (1, 6, 32), (1, 32))]
        found = [t.to(pipe.device, pipe.dtype) for t in found]
        names = ["prompt_embeds", "pooled_prompt_embeds", "negative_prompt_embeds", "negative_pooled_prompt_embeds"]
        return dict(zip(names[: 4 if isinstance(pipe, StableDiffusion3Pipeline) else 2], found))
    if isinstance(pipe, StableDiffusion3Pipeline):
        names = ["prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"]
        found = pipe.encode_prompt(prompt, None, None, do_classifier_free_guidance=guidance > 1)
        return {name: tensor for name, tensor in zip(names, found) if tensor is not None}
    prompt_embeds, pooled_prompt_embeds, _ = pipe.encode_prompt(prompt, None)
    return {"prompt_embeds": prompt_embeds, "pooled_prompt_embeds": pooled_prompt_embeds}


# ----------------------------------------------------------------------------------------------------------------------
# Rewards


def jpeg_size(image):
    """In kB, at quality 95 (kvablack/ddpo-pytorch, rewards.py)."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=95)
    return buffer.tell() / 1000


REWARDS = {
    "jpeg": lambda images, prompts: [-jpeg_size(image) for image in images],
    "incompressible": lambda images, prompts: map(jpeg_size, images),
}


def load_reward(name):
    module, _, function = name.partition(":")
    return REWARDS[name] if name in REWARDS else getattr(importlib.import_module(module), function)


# ----------------------------------------------------------------------------------------------------------------------
# Rollout and training


@contextlib.contextmanager
def recorded_calls(transformer):
    """The pipeline's arguments to its transformer, call by call, without the latents: training repeats the calls."""
    calls = []

    def keep(_, args, kwargs):
        calls.append({name: value for name, value in kwargs.items() if name != "hidden_states"})

    hook = transformer.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()


def rollout(pipe, args, inputs, seed):
    """A group of samples of one prompt, which start from one noise: (trajectory, the transformer's calls, images)."""
    # float32: the latents take this type, and keep it under autocast
    inputs = {name: tensor.float().repeat_interleave(args.group, dim=0) for name, tensor in inputs.items()}
    same_noise = [torch.Generator().manual_seed(seed) for _ in range(args.group)]
    with recorded_calls(pipe.transformer) as calls, args.autocast():
        size = {"height": args.height, "width": args.width, "num_inference_steps": args.steps}
        images = pipe(**inputs, **size, generator=same_noise, guidance_scale=args.guidance).images
    if len(calls) != args.steps:
        raise SystemExit(f"the pipeline called its transformer {len(calls)} times in {args.steps} steps")
    return pipe.scheduler.trajectory, calls, images


def velocity_of(pipe, args, calls):
    """velocity(x, sigma, step): what the pipeline predicts, guided where it guides, as a function with a gradient."""

    def velocity(x, sigma, step):
        copies = len(calls[step]["timestep"]) // len(x)
        with args.autocast():
            out = pipe.transformer(hidden_states=torch.cat([x] * copies), **calls[step])[0]
        if copies == 2:
            unconditional, conditional = out.chunk(2)
            out = unconditional + args.guidance * (conditional - unconditional)
        return out

    return velocity


def train(args):
    torch.manual_seed(args.seed)
    pipe = load_pipeline(args)
    pipe.set_progress_bar_config(disable=True)
    prompts = Path(args.prompts).read_text().split("\n") if args.prompts else ["a red cube", "a blue sphere"]
    prompts = [line.strip() for line in prompts if line.strip()]
    inputs = {prompt: encode(pipe, prompt, args.guidance) for prompt in dict.fromkeys(prompts)}
    pipe.register_modules(**{name: None for name in pipe.components if name.startswith("text_encoder")})  # done with

    transformer = pipe.transformer.requires_grad_(False)
    pipe.vae.requires_grad_(False)
    pipe.vae.enable_slicing()  # decodes one image at a time
    transformer.add_adapter(
        LoraConfig(r=args.rank, lora_alpha=args.rank, init_lora_weights="gaussian", target_modules=args.targets)
    )
    cast_training_params(transformer, torch.float32)
    if args.gradient_checkpointing:
        transformer.enable_gradient_checkpointing()
    weights = [weight for weight in transformer.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=args.lr, weight_decay=args.weight_decay)

    pipe.scheduler = scheduler = FlowMatchSDEScheduler.from_config(
        pipe.scheduler.config, dynamics=args.dynamics, eta=args.eta, seed=args.seed, threads=0
    )
    plan = cg.ChunkPlan(args.chunks)
    if plan.steps != args.steps - 1:
        raise SystemExit(f"--chunks has {plan.steps} steps; of --steps {args.steps}, {args.steps - 1} are trained")
    reward = load_reward(args.reward)
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    first, rows = (restore(out, transformer, optimizer, scheduler) if args.resume else (0, []))

    for iteration in range(first, args.iterations):
        draw = random.Random(f"{args.seed} {iteration}")  # so that a resumed run draws what the first would have drawn
        runs, rewards = [], []
        for _ in range(args.prompts_per_iteration):
            prompt = draw.choice(prompts)
            trajectory, calls, images = rollout(pipe, args, inputs[prompt], seed=draw.getrandbits(63))
            rewards += map(float, reward(images, [prompt] * len(images)))
            runs.append((trajectory, calls))

        advantages = cg.advantages(rewards, group_size=args.group)
        ratios, losses = [], []
        for i, (trajectory, calls) in enumerate(runs):
            of_run = slice(i * args.group, (i + 1) * args.group)
            movement, ids = plan.weights(trajectory.relative_l1), trajectory.sample_ids
            chosen = plan.select(args.group, args.fraction, movement, seed=args.seed, sample_ids=ids)
            result = cgt.streamed_backward(
                velocity_of(pipe, args, calls),
                trajectory.sampler,
                trajectory.latents,
                trajectory.log_probs,
                advantages[of_run],
                plan,
                selection=chosen,
                clip=args.clip,
                kl=args.kl,
                normaliser=float(chosen.sum()) * len(runs),  # the mean over all chunks of the iteration
            )
            losses.append(float(result.loss))
            ratios.append(result.stats.ratio_mean)
        norm = torch.nn.utils.clip_grad_norm_(weights, args.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        mean = sum(rewards) / len(rewards)
        rows.append([iteration, mean, min(rewards), max(rewards), sum(losses), float(norm), sum(ratios) / len(ratios)])
        print(f"iteration {iteration:4d}  reward {mean:9.4f}  gradient norm {norm:.3g}", flush=True)
        if (iteration + 1) % args.save_every == 0 or iteration + 1 == args.iterations:
            save(out, pipe, optimizer, iteration + 1, rows)
    return pipe, rows


# ----------------------------------------------------------------------------------------------------------------------
# Checkpoints


def save(out, pipe, optimizer, iteration, rows):
    adapter = get_peft_model_state_dict(pipe.transformer)
    pipe.save_lora_weights(out / "adapter", transformer_lora_layers=adapter)
    state = {"adapter": adapter, "optimizer": optimizer.state_dict(), "iteration": iteration, "rows": rows}
    torch.save({**state, "next_sample_id": pipe.scheduler.next_sample_id}, out / "state.tmp")
    os.replace(out / "state.tmp", out / "state.pt")
    with open(out / "metrics.csv", "w", newline="") as file:
        names = ["iteration", "reward_mean", "reward_min", "reward_max", "loss", "grad_norm", "ratio_mean"]
        csv.writer(file).writerows([names, *rows])


def restore(out, transformer, optimizer, scheduler):
    state = torch.load(out / "state.pt", map_location=transformer.device, weights_only=True)
    set_peft_model_state_dict(transformer, state["adapter"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.next_sample_id = state["next_sample_id"]
    return state["iteration"], state["rows"]


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--model", default="tiny-flux", help="tiny-flux, tiny-sd3, a directory or a hub id")
    add("--out", default="runs/flux_lora")
    add("--resume", action="store_true", help="from the checkpoint in --out")
    add("--prompts", help="file, one per line")
    add("--reward", default="jpeg", help="jpeg, incompressible or module:function")
    add("--iterations", type=int, default=40)
    add("--prompts-per-iteration", type=int, default=2)
    add("--group", type=int, help="samples per prompt; 12, tiny: 24")
    add("--steps", type=int, help="17, tiny: 4")
    add("--chunks", type=int, nargs="+", help="chunk sizes; their sum is steps - 1. GCPO: 2 3 4 7 for 17 steps")
    add("--fraction", type=float, default=1.0, help="share of the chunks that is trained, drawn by weight (GCPO 0.5)")
    add("--dynamics", default="flow_sde", choices=["flow_sde", "dance_sde", "cps"])
    add("--eta", type=float, default=0.7)
    add("--guidance", type=float, default=3.5)
    add("--height", type=int, help="720, tiny: 16")
    add("--width", type=int, help="720, tiny: 16")
    add("--clip", type=float, default=5e-5)
    add("--kl", type=float, default=0.0)
    add("--rank", type=int, default=16)
    add("--targets", nargs="+", default=["to_q", "to_k", "to_v", "to_out.0", "proj_out"], help="layers with an adapter")
    add("--lr", type=float, help="1e-4, tiny: 3e-2")
    add("--weight-decay", type=float, default=1e-4)
    add("--max-grad-norm", type=float, default=1.0)
    add("--gradient-checkpointing", action="store_true")
    add("--save-every", type=int, default=10)
    add("--seed", type=int, default=0)
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--dtype", choices=["float32", "bfloat16"], help="default: bfloat16 on a GPU")
    args = parser.parse_args(argv)
    tiny, names = args.model.startswith("tiny-"), ("group", "steps", "height", "width", "lr")
    for name, value in zip(names, (24, 4, 16, 16, 3e-2) if tiny else (12, 17, 720, 720, 1e-4)):
        setattr(args, name, value if getattr(args, name) is None else getattr(args, name))
    args.chunks = args.chunks or ([2, 3, 4, 7] if args.steps == 17 else cg.ChunkPlan.fixed(args.steps - 1, 2).sizes)
    args.dtype = getattr(torch, args.dtype or ("float32" if args.device == "cpu" else "bfloat16"))
    kind = torch.device(args.device).type
    args.autocast = lambda: torch.autocast(kind, torch.bfloat16, enabled=args.dtype == torch.bfloat16)
    return args


if __name__ == "__main__":
    train(arguments())
