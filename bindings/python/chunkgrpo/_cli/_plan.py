"""Cut the trained steps into chunks, and show the weight of each step.

Without a curve the chunks are GCPO's 2-3-4-7 of T = 17, carried to your schedule: each boundary goes to
the step with the nearest sigma. With the relative L1 of your own rollouts they follow your model:
np.save("curve.npy", traj.relative_l1).

A plan is also a weighting: each step of chunk j has the weight 1/(K |C_j|) in the loss, with K chunks of
|C_j| steps."""

from __future__ import annotations

import argparse
from typing import Any, Optional

import numpy as np

from ..chunks import ChunkFit, ChunkPlan
from ..schedule import Schedule
from ._common import Failure, add_schedule, bar, curve_of, emit, plainly, schedule_of, table

EXAMPLE = "chunkgrpo plan --curve curve.npy --count 4 --output plan.svg"


def arguments(parser: argparse.ArgumentParser) -> None:
    chunks = parser.add_argument_group("chunks")
    how = chunks.add_mutually_exclusive_group()
    how.add_argument("--chunks", type=int, nargs="+", metavar="N", help="steps in each chunk")
    how.add_argument("--size", type=int, metavar="N", help="chunks of N steps; 1 is step-level GRPO")
    how.add_argument("--curve", metavar="FILE", help="relative L1 (B, S): .npy, .json or rows of numbers, such as .csv")
    chunks.add_argument("--method", choices=("optimal", "adaptive"), default="optimal", help="how the curve is cut")
    chunks.add_argument("--count", type=int, metavar="K", help="chunks, of the method optimal (default: found)")
    chunks.add_argument("--min-size", type=int, metavar="N", help="steps in a chunk, at least (default: the method's)")
    chunks.add_argument("--max-size", type=int, metavar="N", help="steps in a chunk, at most (default: the method's)")
    chunks.add_argument(
        "--carry", type=int, metavar="T", help="carry the plan to as many sampling steps, of the same kind"
    )
    add_schedule(parser)
    parser.add_argument("--output", metavar="FILE", help="draw the plan: .png, .svg or .pdf; needs matplotlib")


def run(options: argparse.Namespace) -> int:
    fit, schedule = _fit(options)
    plan = fit.plan if isinstance(fit, ChunkFit) else fit
    if options.carry is not None:
        if options.sigmas is not None:
            raise Failure("--carry needs a schedule that has a kind, and --sigmas has none")
        target = schedule_of(argparse.Namespace(**{**vars(options), "steps": options.carry}))
        plan, schedule = plan.carried(schedule, target), target
        fit = plan
    if plan.steps != schedule.steps - 1:
        raise Failure(
            f"{plan.steps} trained steps ask for {plan.steps + 1} sampling steps, and the schedule has {schedule.steps}"
        )
    if options.output is not None:
        from .. import plot

        plot.save(plot.plan(fit, schedule=schedule), options.output)
    if options.json:
        return emit(_values(fit, plan, schedule))
    print(plainly(_text(fit, plan, schedule)))
    return 0


def _fit(options: argparse.Namespace) -> tuple[Any, Schedule]:
    """A ChunkPlan, or a ChunkFit of the curve."""
    bounds = {"min_size": options.min_size, "max_size": options.max_size}
    bounds = {name: value for name, value in bounds.items() if value is not None}
    if options.curve is None:
        if unused := [f"--{name.replace('_', '-')}" for name in [*bounds, *["count"] * (options.count is not None)]]:
            raise Failure(
                f"{', '.join(unused)}: of a plan that follows a curve; give --curve, or --chunks or --size alone"
            )
        if options.chunks is not None:
            plan = ChunkPlan(options.chunks)
            return plan, schedule_of(options, plan.steps + 1)
        schedule = schedule_of(options)
        if options.size is not None:
            return ChunkPlan.fixed(schedule.steps - 1, options.size), schedule
        return carried(schedule), schedule
    curve = curve_of(options.curve)
    schedule = schedule_of(options, curve.shape[1] + 1)
    if options.method == "optimal":
        return ChunkPlan.optimal(curve, options.count, **bounds), schedule
    if options.count is not None:
        raise Failure("--count is of --method optimal; adaptive finds the number of chunks")
    plan, mean = ChunkPlan.adaptive(curve, **bounds), curve.mean(0)
    return ChunkFit(
        plan, mean, np.array([mean[steps].mean() for steps in plan.slices]), explained(plan, mean)
    ), schedule


def carried(schedule: Schedule) -> ChunkPlan:
    """GCPO's plan on another schedule. One of few steps has fewer chunks: a boundary each."""
    known = Schedule.shifted(17, 3.0)
    if schedule.steps < 2:
        raise Failure(f"a schedule of {schedule.steps} step has no trained one: the last step is never trained")
    if schedule.steps - 1 < 4:
        return ChunkPlan.fixed(schedule.steps - 1, 1)
    return ChunkPlan([2, 3, 4, 7]).carried(known, schedule)


def explained(plan: ChunkPlan, curve: Any) -> float:
    """The share of the variance of log(curve) that lies between the chunks."""
    logs = np.log(np.maximum(curve, np.finfo(np.float64).tiny))
    total = logs.var()
    within = sum(((logs[steps] - logs[steps].mean()) ** 2).sum() for steps in plan.slices) / len(logs)
    return 1.0 if total == 0 else float(1 - within / total)


def _values(fit: Any, plan: ChunkPlan, schedule: Schedule) -> dict[str, Any]:
    of_curve = (
        {"curve": fit.curve, "levels": fit.levels, "explained": fit.explained} if isinstance(fit, ChunkFit) else {}
    )
    return {
        **{"sizes": plan.sizes, "boundaries": plan.boundaries, "trained_steps": plan.steps},
        **{"sampling_steps": schedule.steps, "step_weights": plan.step_weights, "sigmas": schedule.sigmas},
        **of_curve,
    }


def _text(fit: Any, plan: ChunkPlan, schedule: Schedule) -> str:
    curve: Optional[Any] = fit.curve if isinstance(fit, ChunkFit) else None
    shown = plan.step_weights if curve is None else _logarithmic(curve)
    head = ["chunk", "step", "sigma", "weight", *(["relative L1"] if curve is not None else [])]
    rows = []
    for j, steps in enumerate(plan.slices):
        for k in range(steps.start, steps.stop):
            cells = [
                str(j + 1) if k == steps.start else "",
                str(k),
                f"{schedule.sigmas[k]:.4f}",
                f"{plan.step_weights[k]:.4f}",
            ]
            rows.append([*cells, *([f"{curve[k]:.4g}"] if curve is not None else [])])
    lines = table(head, rows).splitlines()
    longest = max(map(len, lines))
    drawn = [f"{line.ljust(longest)}  {bar(share, 32)}".rstrip() for line, share in zip(lines[1:], shown / shown.max())]
    ends = {edge - 1 for edge in plan.boundaries[1:-1].tolist()}
    body = [f"{line}\n{'-' * longest}" if k in ends else line for k, line in enumerate(drawn)]
    said = "bars: the weight of a step" if curve is None else "bars: relative L1, logarithmic"
    return "\n".join([str(fit), "", lines[0], *body, "", said, f"--chunks {' '.join(map(str, plan.sizes))}"])


def _logarithmic(curve: Any) -> Any:
    """In (0, 1], with a tenth for the least."""
    logs = np.log(np.maximum(curve, np.finfo(np.float64).tiny))
    span = logs.max() - logs.min()
    return np.ones(len(logs)) if span == 0 else 0.1 + 0.9 * (logs - logs.min()) / span
