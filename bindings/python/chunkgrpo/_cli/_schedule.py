"""Print the sigmas of a schedule, and what a step with a sampler does at each.

A step is x' = a x + b v + s e, with latents x, velocity v and noise e. Samplers of second order add c h."""

from __future__ import annotations

import argparse

from ._common import add_sampler, add_schedule, emit, plainly, sampler_of, schedule_of, table

EXAMPLE = "chunkgrpo schedule --steps 28 --flux 1024x1024 --eta 0.7"


def arguments(parser: argparse.ArgumentParser) -> None:
    add_schedule(parser)
    add_sampler(parser)


def run(options: argparse.Namespace) -> int:
    schedule = schedule_of(options)
    sampler = sampler_of(options, schedule)
    steps = [sampler.coefficients(k) for k in range(schedule.steps)]
    if options.json:
        columns = {name: [getattr(one, name) for one in steps] for name in ("a", "b", "s", "c")}
        times = {"sigmas": schedule.sigmas, "timesteps": schedule.timesteps()}
        return emit({"steps": schedule.steps, "sampler": repr(sampler), **times, **columns})
    second = any(one.c for one in steps)
    rows = []
    for k, one in enumerate(steps):
        numbers = [one.a, one.b, one.s, *([one.c] if second else [])]
        rows.append(
            [str(k), f"{schedule.sigmas[k]:.6f}", f"{schedule.timesteps()[k]:.2f}", *(f"{n:.6f}" for n in numbers)]
        )
    rows.append([str(schedule.steps), f"{schedule.sigmas[-1]:.6f}", *[""] * (len(rows[0]) - 2)])
    head = ["step", "sigma", "timestep", "a", "b", "s", *(["c"] if second else [])]
    print(plainly(f"{sampler!r}\n\n{table(head, rows)}\n\nsigma, before the step; the last one is what remains"))
    return 0
