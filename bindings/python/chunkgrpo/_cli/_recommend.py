"""Recommend chunks, clip and learning rate for a model, with the reason of each.

They are where to begin, not where to end: `metrics` says after the first iterations what to change."""

from __future__ import annotations

import argparse
import math
import re
from typing import Any

import numpy as np

from ..chunks import ChunkPlan
from ..recipes import Recipe
from ._common import Failure, add_schedule, emit, plainly, schedule_of
from ._plan import carried

EXAMPLE = "chunkgrpo recommend --latents 16x128x128 --steps 28 --updates 4 --train lora"

GCPO_ELEMENTS = 16 * 90 * 90
"""FLUX's latents at 720 x 720: xingzhejun/GCPO@ea6cc4d scripts/finetune/finetune_hpsv3_chunk.sh."""

SOURCE_UPDATES = 2
"""Per rollout: GCPO's script has 24 samples and accumulates 12; yifan123/flow_grpo@31c71b9 config/grpo.py says it."""

_RATES = {  # of AdamW, and whose
    "full": (1e-5, "that of GCPO, DanceGRPO and MixGRPO, which train all weights of FLUX"),
    "lora": (3e-4, "that of Flow-GRPO, which trains a LoRA of SD3"),
    "small": (3e-4, "that of chunkgrpo.Trainer, which trains a network of some 10^5 weights"),
}


def arguments(parser: argparse.ArgumentParser) -> None:
    size = parser.add_mutually_exclusive_group(required=True)
    size.add_argument("--elements", type=int, metavar="D", help="numbers in the latents of a sample")
    size.add_argument("--latents", type=shape, metavar="CxHxW", help="their shape, such as 16x128x128")
    parser.add_argument("--updates", type=int, metavar="N", default=2, help="optimiser steps per rollout")
    parser.add_argument(
        "--train", choices=tuple(_RATES), default="full", help="which weights: all, a LoRA, a small network"
    )
    parser.add_argument("--chunks", type=int, nargs="+", metavar="N", help="your plan (default: GCPO's, carried to T)")
    add_schedule(parser)


def shape(text: str) -> int:
    """The number of elements of CxHxW."""
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text):
        raise argparse.ArgumentTypeError(f"{text!r} must be sizes, such as 16x128x128")
    return math.prod(map(int, text.split("x")))


def run(options: argparse.Namespace) -> int:
    elements = options.latents or options.elements
    if elements < 1:
        raise Failure(f"--elements is {elements}; a sample has at least one")
    if options.updates < 1:
        raise Failure(f"--updates is {options.updates}; a rollout has at least one optimiser step")
    schedule = schedule_of(options)
    plan = carried(schedule) if options.chunks is None else ChunkPlan(options.chunks)
    if plan.steps != schedule.steps - 1:
        raise Failure(
            f"--chunks has {plan.steps} steps, and a schedule of {schedule.steps} trains {schedule.steps - 1}"
        )
    found = recommended(plan, elements, options.updates, options.train)
    if options.json:
        return emit(found)
    print(plainly(_text(found, options.chunks is not None)))
    return 0


def moved(plan: ChunkPlan, elements: int, change: float) -> tuple[float, float]:
    """Spread and fall of a chunk's log-ratio, where the velocity has changed by a share of its size.

    A step's log-ratio is mean(e b d)/s - mean((b d)^2)/(2 s^2), for a change d of the velocity and its noise e. With d
    of variance change^2, the first term has the deviation |b| change/(s sqrt(D)), and a chunk the mean over its steps:
    the spread, the root of the mean square over the chunks. The second term is the fall. (b/s)^2 is the mean over
    GCPO's chunks.
    """
    gcpo = Recipe("gcpo")
    steps = [gcpo.sampler().coefficients(k) for k in range(gcpo.plan().steps)]
    size = float(gcpo.plan().step_weights @ np.array([(one.b / one.s) ** 2 for one in steps]))
    return change * math.sqrt(size * np.mean(1 / plan.sizes) / elements), size * change**2 / 2


def change_at_clip() -> float:
    """The share of its size by which the velocity has changed where spread and fall make GCPO's clip."""
    gcpo = Recipe("gcpo")
    clip: Any = gcpo.loss.get("clip")
    spread, fall = moved(gcpo.plan(), GCPO_ELEMENTS, 1.0)
    return (math.sqrt(spread**2 + 4 * fall * clip[0]) - spread) / (2 * fall)


def recommended(plan: ChunkPlan, elements: int, updates: int, train: str) -> dict[str, Any]:
    rate, _ = _RATES[train]
    change = change_at_clip()
    spread, fall = moved(plan, elements, change)
    return {
        **{"elements": elements, "trained_steps": plan.steps, "updates": updates, "train": train},
        **{"sizes": plan.sizes, "chunk_fraction": Recipe("gcpo").chunk_fraction},
        **{"clip": _rounded(spread + fall), "velocity_change_at_clip": change, "spread": spread, "fall": fall},
        "learning_rate": _rounded(rate * min(1.0, SOURCE_UPDATES / updates)),
    }


def _rounded(value: float) -> float:
    """To two digits."""
    return float(f"{value:.1e}")


def _text(found: dict[str, Any], given: bool) -> str:
    updates, train, change = found["updates"], found["train"], 100 * found["velocity_change_at_clip"]
    rate, whose = _RATES[train]
    chunks = [
        "GCPO's 2 3 4 7 of T = 17, each boundary carried to the step of the nearest sigma.",
        "Those of your own model: np.save('curve.npy', traj.relative_l1), then `chunkgrpo plan --curve curve.npy`.",
    ]
    clip = [
        f"GCPO's 5e-05 is for {GCPO_ELEMENTS} elements. It takes hold where velocities changed by {change:.1f} %.",
        f"There your ratios spread by {found['spread']:.1e}, which goes with 1/sqrt(D), and fall by {found['fall']:.1e}.",
        *(["One update per rollout: every ratio is 1, and the clip does nothing."] if updates == 1 else []),
    ]
    fewer = f"Sources take {SOURCE_UPDATES} updates per rollout, and you {updates}: rate times updates is kept."
    reasons = {
        f"chunks         {' '.join(map(str, found['sizes']))}": ["Yours."] if given else chunks,
        f"clip           {found['clip']:g}": clip,
        f"learning rate  {found['learning_rate']:g}": [
            f"AdamW's. {rate:g} is {whose}.",
            *([fewer] if updates > SOURCE_UPDATES else []),
        ],
    }
    lines = [f"D = {found['elements']}, {found['trained_steps']} trained steps, {updates} updates per rollout, {train}"]
    for setting, reason in reasons.items():
        lines += ["", setting, *(f"               {line}" for line in reason)]
    return "\n".join([*lines, "", *_THEN])


_THEN = (
    "Then look at clip_fraction of cg.metrics(out), in the last update of an iteration. 0.05 to 0.3: keep all three.",
    "0 throughout: a smaller clip. Above 0.5: a smaller learning rate, fewer updates, or a larger clip.",
)
