"""Published recipes: each runs from rollout to loss."""

from __future__ import annotations

import re
from typing import get_args

import numpy as np
import pytest

import chunkgrpo as cg


@pytest.mark.parametrize("name", cg.RECIPES)
def test_a_recipe_runs_from_rollout_to_loss(name):
    recipe = cg.Recipe(name)
    assert str(recipe).startswith(name) and "refuses" in str(recipe)
    said = re.search(r"\n  sampler +(\w+)", str(recipe))
    assert said and said[1] in get_args(cg._generated.Dynamics)
    assert recipe.loss["surrogate"] == "clipped" or recipe.loss["surrogate"] in str(recipe)
    for iteration in (0, 30):
        sampler = recipe.sampler(iteration)
        groups = 2
        batch = groups * recipe.group_size
        x = cg.initial_noise((batch, 3), seed=1, group_size=recipe.group_size if recipe.share_noise else None)
        traj = sampler.rollout(lambda x, sigma, step: np.float32(0.5) * x, x, seed=2)
        adv = recipe.advantages(traj.images[:, 0])
        trained = sampler.stochastic_steps
        logp = traj.log_probs[:, trained]
        plan = recipe.plan(iteration)
        chosen = plan.select(batch, fraction=recipe.chunk_fraction, seed=1)
        extra = {"divergence": np.zeros_like(logp)} if recipe.loss["surrogate"] == "divergence_mask" else {}
        out = cg.chunk_loss(logp, logp, adv, plan, selection=chosen, **recipe.loss, **extra)
        assert np.all(out.ratios == 1) and np.isfinite(out.loss)


def test_an_unknown_recipe_is_answered_with_those_there_are():
    with pytest.raises(cg.InvalidArgument, match="mixgrpo_flash"):
        cg.Recipe("ppo")


@pytest.mark.parametrize("name", cg.RECIPES)
def test_a_recipes_loss_leaves_the_defaults_to_the_caller(name):
    loss = cg.Recipe(name).loss
    clips = loss["surrogate"] != "divergence_mask"
    assert set(loss) == {"surrogate", "kl", *(["clip"] if clips else [])}
    rows = np.zeros((1, 2))
    extra = {} if clips else {"divergence": rows}
    assert cg.chunk_loss(rows, rows, [1.0], [2], average="sample", dual_clip=np.inf, **loss, **extra).loss == -1
