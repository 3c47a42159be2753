"""List the published recipes, or print one: every number of its source's own scripts, and its quirks.

In Python: cg.Recipe("gcpo") has schedule(), sampler(), plan(), advantages() and loss."""

from __future__ import annotations

import argparse
from typing import Any

from ..recipes import RECIPES, Recipe
from ._common import emit, plainly, table

EXAMPLE = "chunkgrpo recipe gcpo"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", nargs="?", choices=RECIPES, metavar="NAME", help=f"one of {', '.join(RECIPES)}; none lists them"
    )


def run(options: argparse.Namespace) -> int:
    if options.recipe is not None:
        recipe = Recipe(options.recipe)
        if options.json:
            return emit(values(recipe))
        print(plainly(f"{recipe}\n\niteration 0: {recipe.plan()}"))
        return 0
    recipes = [Recipe(name) for name in RECIPES]
    if options.json:
        return emit({recipe.name: values(recipe) for recipe in recipes})
    head = ["recipe", "dynamics", "T", "samples per prompt", "chunks", "clip", "learning rate"]
    rows = []
    for recipe in recipes:
        clip: Any = recipe.loss.get("clip")
        bound = "-" if clip is None else f"{clip[0]:g}" if clip[0] == clip[1] else f"{clip[0]:g}, {clip[1]:g}"
        plan, sampler = recipe.plan(), recipe.sampler()
        chunks = "steps" if plan.sizes.max() == 1 else " ".join(map(str, plan.sizes))
        numbers = [str(recipe.steps), str(recipe.group_size), chunks, bound, f"{recipe.optimiser['learning_rate']:g}"]
        rows.append([recipe.name, sampler.dynamics, *numbers])
    print(plainly(table(head, rows)))
    return 0


def values(recipe: Recipe) -> dict[str, Any]:
    """Everything that a recipe says, of iteration 0."""
    sampler = recipe.sampler()
    return {
        **{"name": recipe.name, "steps": recipe.steps, "group_size": recipe.group_size},
        **{"share_noise": recipe.share_noise, "truncated_timesteps": recipe.truncated_timesteps},
        **{"chunk_fraction": recipe.chunk_fraction, "optimiser": recipe.optimiser, "loss": recipe.loss},
        **{"sampler": sampler.options, "sigmas": sampler.schedule.sigmas},
        **{"stochastic_steps": list(sampler.stochastic_steps), "sizes": recipe.plan().sizes},
    }
