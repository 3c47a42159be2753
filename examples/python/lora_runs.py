"""What the LoRA examples have beside the training: the processes, the lines and pictures of a run, its checkpoints."""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch
import torch.distributed as dist
from matplotlib.figure import Figure  # here: where it is missing, no training begins
from peft import get_peft_model_state_dict
from PIL import Image
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_state_dict, set_state_dict
from tqdm.auto import tqdm

import chunkgrpo.distributed as cgd
from chunkgrpo import plot

Options = argparse.Namespace  # what `arguments` of an example returns
Row = list[float]  # of metrics.csv


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """With the defaults, but for those that the text names."""

    def _get_help_string(self, action: argparse.Action) -> Optional[str]:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


# ----------------------------------------------------------------------------------------------------------------------
# Processes


def begin(args: Options) -> cgd.Ranks:
    """The ranks of torchrun or `accelerate launch`; one without them. `args.device` becomes this process's."""
    if "RANK" not in os.environ:
        return cgd.Ranks()
    if args.device.startswith("cuda"):
        args.device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(args.device)
    if args.parallel == "accelerate":
        from accelerate import Accelerator

        args.accelerator = Accelerator(cpu=args.device == "cpu")
        return cgd.of_accelerate(args.accelerator)
    if not dist.is_initialized():
        dist.init_process_group("gloo" if args.device == "cpu" else "nccl")
    return cgd.of_torch()


def wrapped(args: Options, net: torch.nn.Module) -> torch.nn.Module:
    """What training calls: the transformer, or its wrapper."""
    if not dist.is_initialized():
        return net
    if args.parallel == "accelerate":
        return args.accelerator.prepare(net)
    if args.parallel == "ddp":
        return torch.nn.parallel.DistributedDataParallel(net)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=None if args.dtype == torch.float32 else args.dtype)
    mesh = init_device_mesh(torch.device(args.device).type, (dist.get_world_size(),))
    layers = [layer for part in net.children() if isinstance(part, torch.nn.ModuleList) for layer in part]
    for module in (*layers, net):
        fully_shard(module, mesh=mesh, mp_policy=policy)
    return net


def whole(tensor: Any) -> Tensor:
    """Of all its shards."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


# ----------------------------------------------------------------------------------------------------------------------
# Progress and checkpoints

NAMES = ["iteration", "reward_mean", "reward_min", "reward_max", "loss", "grad_norm", "ratio_mean"]


class Log:
    """Of the first rank: lines, a bar on a terminal, pictures, TensorBoard."""

    def __init__(self, args: Options, rank: int) -> None:
        self.args, self.first = args, rank == 0
        self.board: Any = None
        Path(args.out).mkdir(parents=True, exist_ok=True)
        if args.tensorboard and self.first:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(args.out)

    def progress(self, iterations: range) -> Iterable[int]:
        return tqdm(iterations, disable=not (self.first and sys.stderr.isatty()), unit="iteration")

    def line(self, row: Row) -> None:
        if not self.first:
            return
        numbers = dict(zip(NAMES, row))
        tqdm.write(f"iteration {row[0]:4d}  reward {row[1]:9.4f}  gradient norm {numbers['grad_norm']:.3g}")
        sys.stdout.flush()
        for name in NAMES[1:] if self.board else ():
            self.board.add_scalar(name, numbers[name], row[0])

    def pictures(self, images: Sequence[Image.Image], iteration: int) -> None:
        if not self.first or not images:
            return
        sheet = tiled(images)
        sheet.save(Path(self.args.out) / f"samples-{iteration:05d}.png")
        if self.board:
            self.board.add_image("samples", np.asarray(sheet), iteration, dataformats="HWC")
            self.board.flush()


def tiled(images: Sequence[Image.Image], columns: int = 8) -> Image.Image:
    """One picture of several of PIL, of one size."""
    width, height = images[0].size
    columns = min(columns, len(images))
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    for i, image in enumerate(images):
        sheet.paste(image, (i % columns * width, i // columns * height))
    return sheet


def save(
    args: Options, ranks: cgd.Ranks, pipe: Any, optimizer: torch.optim.Optimizer, iteration: int, rows: list[Row]
) -> None:
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    weights, moments = get_state_dict(pipe.transformer, optimizer, options=options)
    if ranks.rank:
        return
    out = Path(args.out)
    adapter = get_peft_model_state_dict(pipe.transformer, weights)
    pipe.save_lora_weights(out / "adapter", transformer_lora_layers=adapter)
    torch.save({"weights": weights, "optimizer": moments, "iteration": iteration, "rows": rows}, out / "state.tmp")
    os.replace(out / "state.tmp", out / "state.pt")
    with open(out / "metrics.csv", "w", newline="") as file:
        csv.writer(file).writerows([NAMES, *rows])
    curve: Figure = plot.curve([row[1] for row in rows], f"mean reward of {args.model}")
    plot.save(curve, out / "reward.png")


def restore(args: Options, net: torch.nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, list[Row]]:
    state = torch.load(Path(args.out) / "state.pt", weights_only=True)
    options = StateDictOptions(full_state_dict=True, strict=False)
    given = {"model_state_dict": state["weights"], "optim_state_dict": state["optimizer"]}
    set_state_dict(net, optimizer, **given, options=options)
    return state["iteration"], state["rows"]
