"""List the published recipes, or print one: every number of its source's own scripts, and its quirks.

In Python: cg.Recipe("gcpo") has schedule(), sampler(), plan(), advantages() and loss; chunkgrpo.forward.METHODS has the
methods of the forward process."""

from __future__ import annotations

import argparse
from typing import Any

from .._methods import METHODS, Method
from ..recipes import RECIPES, Recipe
from ._common import emit, plainly, table

NAMES = (*RECIPES, *METHODS)
EXAMPLE = "chunkgrpo recipe gcpo"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "recipe", nargs="?", choices=NAMES, metavar="NAME", help=f"one of {', '.join(NAMES)}; none lists them"
    )


def run(options: argparse.Namespace) -> int:
    if options.recipe in METHODS:
        method = METHODS[options.recipe]
        if options.json:
            return emit(of_method(method))
        print(plainly(str(method)))
        return 0
    if options.recipe is not None:
        recipe = Recipe(options.recipe)
        if options.json:
            return emit(values(recipe))
        print(plainly(f"{recipe}\n\niteration 0: {recipe.plan()}"))
        return 0
    recipes = [Recipe(name) for name in RECIPES]
    if options.json:
        methods = {name: of_method(method) for name, method in METHODS.items()}
        return emit({**{recipe.name: values(recipe) for recipe in recipes}, **methods})
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
    head = ["forward process", "T", "samples per prompt", "draws", "learning rate"]
    rows = [
        [m.name, str(m.steps), str(m.group_size), str(m.draws), f"{m.learning_rate:g}"] for m in METHODS.values()
    ]
    print("\n" + plainly(table(head, rows)))
    return 0


def of_method(method: Method) -> dict[str, Any]:
    """Everything that a method of the forward process says."""
    return {
        **{"name": method.name, "source": method.source, "steps": method.steps, "group_size": method.group_size},
        **{"draws": method.draws, "beta": method.beta, "shares_noise": method.shares_noise, "loss": method.loss},
        **{"learning_rate": method.learning_rate, "notes": method.notes},
    }


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
