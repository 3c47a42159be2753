"""docs/settings.md says what each door does that is given nothing."""

from __future__ import annotations

import re

import numpy as np
import pytest
from conftest import ROOT

import chunkgrpo as cg
from chunkgrpo import _generated
from chunkgrpo._library import new

PAGE = (ROOT / "docs/settings.md").read_text()
LAST_STEP, CLIP = PAGE.split("## The clip")
SCHEDULE = cg.Schedule.shifted(5, 3.0)


def default(page, door):
    """The second column of the row that names a door."""
    rows = [row.split("|") for row in page.splitlines() if row.startswith("|")]
    found = [cells[2].strip().strip("`") for cells in rows if re.search(rf"\b{re.escape(door)}\b", cells[1])]
    assert len(found) == 1, f"{door} has {len(found)} rows"
    return found[0]


def test_the_last_step_of_every_door_is_the_pages():
    assert cg.Sampler(SCHEDULE).options["last_step"] == default(LAST_STEP, "Sampler")
    for name in cg.RECIPES:
        assert cg.Recipe(name).sampler().options["last_step"] == default(LAST_STEP, name)
    diffusers = pytest.importorskip("chunkgrpo.diffusers")
    assert diffusers.FlowMatchSDEScheduler().config.last_step == default(LAST_STEP, "FlowMatchSDEScheduler")


def test_a_trainers_images_are_those_of_the_pages_last_step():
    trainer = cg.Trainer(3, 2, width=8, blocks=1, steps=5, shift=3.0, chunk_sizes=[2, 2], eta=0.7, seed=4)
    conditions = np.eye(2, dtype=np.float32)
    found = trainer.sample(conditions, seed=9)
    sampler = cg.Sampler(SCHEDULE, eta=0.7, last_step=default(LAST_STEP, "Trainer"))
    model = lambda x, sigma, step: trainer.velocity(x, sigma, conditions)  # noqa: E731
    expected = sampler.rollout(model, cg.initial_noise((2, 3), 9), seed=9).images
    other = cg.Sampler(SCHEDULE, eta=0.7).rollout(model, cg.initial_noise((2, 3), 9), seed=9).images
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.abs(found - other).max() > 0.05


def test_the_last_step_changes_no_trained_step():
    x = cg.initial_noise((4, 6), 1)
    both = [
        cg.Sampler(SCHEDULE, last_step=how).rollout(lambda x, *_: 0.5 * x, x, seed=2) for how in ("ode", "as_others")
    ]
    np.testing.assert_array_equal(*(one.log_probs for one in both))
    np.testing.assert_array_equal(*(one.latents[:, :5] for one in both))


def test_the_clip_of_every_door_is_the_pages():
    options = new(_generated.ChunkLossOptions)
    assert options.clip_low == options.clip_high == float(default(CLIP, "chunk_loss"))
    assert cg.Trainer(3, 2, width=8, blocks=1).options["clip"] == (float(default(CLIP, "Trainer")),) * 2
    least, most, guard = (float(number) for number in re.findall(r"\d+e-\d", default(CLIP, "recipes")))
    clips = {name: cg.Recipe(name).loss.get("clip") for name in cg.RECIPES}
    assert set(clips.pop("grpo_guard")) == {guard}
    ends = [end for clip in clips.values() if clip is not None for end in clip]
    assert (min(ends), max(ends)) == (least, most)
    block = (ROOT / "README.md").read_text().split("streamed_backward(")[1].split(")\n")[0]
    assert float(re.search(r"clip=([\de.-]+)", block)[1]) == float(default(CLIP, "README's PyTorch block"))
    first = (ROOT / "examples/python/first.py").read_text()
    assert float(re.search(r"clip=([\de.-]+)", first)[1]) == float(default(CLIP, "examples/python/first.py"))


def test_the_clips_of_the_pages_table_are_those_that_the_command_recommends():
    from chunkgrpo._cli import _recommend

    table = [
        row.split("|")[1:-1] for row in CLIP.splitlines() if re.match(r"\| (D|chunks 2-3-4-7|single steps) \|", row)
    ]
    sizes = [int(cell.replace(",", "")) for cell in table[0][1:]]
    for row, plan in zip(table[1:], (cg.ChunkPlan([2, 3, 4, 7]), cg.ChunkPlan.fixed(16, 1)), strict=True):
        assert [float(cell) for cell in row[1:]] == [_recommend.recommended(plan, D, 2, "full")["clip"] for D in sizes]
    assert f"δ = {100 * _recommend.change_at_clip():.1f} %" in CLIP
