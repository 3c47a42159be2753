"""chunkgrpo.plot draws the numbers that it is given, and says what it cannot draw."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

import chunkgrpo as cg
from chunkgrpo import plot
from chunkgrpo._drawing import smoothed

PLAN = cg.ChunkPlan([2, 3, 1])
CURVE = np.array([0.9, 0.8, 0.3, 0.25, 0.2, 0.05])


pytest.importorskip("matplotlib")


def heights(axis):
    return [patch.get_height() for patch in axis.patches if patch.get_width() < 0.9]


def texts(figure):
    return " ".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


def test_a_plan_is_drawn_over_its_curve_with_the_mean_of_each_chunk_and_its_step_weights():
    above, below = plot.plan(PLAN, CURVE, schedule=cg.Schedule.shifted(7, 3.0)).axes
    np.testing.assert_array_equal(above.lines[0].get_ydata(), CURVE)
    levels = [segment[0, 1] for lines in above.collections for segment in lines.get_segments()]
    np.testing.assert_allclose(levels, [0.85, 0.25, 0.05])
    np.testing.assert_allclose(heights(below), [1 / 6, 1 / 6, 1 / 9, 1 / 9, 1 / 9, 1 / 3])
    assert {"1/6", "1/9", "1/3"} <= {text.get_text() for text in below.texts}
    sigmas = cg.Schedule.shifted(7, 3.0).sigmas
    assert [label.get_text().split("\n")[1] for label in below.get_xticklabels()][:2] == [
        "1.00",
        f"{sigmas[1]:.2f}"[1:],
    ]


def test_a_fit_has_its_own_curve_and_a_batch_is_averaged():
    rows = np.stack([CURVE, 3 * CURVE])
    fit = cg.ChunkPlan.optimal(rows, 3)
    for figure in (plot.plan(fit), plot.plan(fit.plan, rows)):
        np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), 2 * CURVE, rtol=1e-6)
    assert len(plot.plan(PLAN).axes) == 1


def test_a_curve_of_zeros_is_drawn_without_a_logarithm():
    assert plot.plan(PLAN, np.zeros(6)).axes[0].get_yscale() == "linear"
    assert plot.plan(PLAN, CURVE).axes[0].get_yscale() == "log"


def test_a_trajectory_has_a_picture_for_each_step_of_each_sample():
    images = np.random.default_rng(0).normal(size=(2, 6, 4, 5))
    figure = plot.trajectory(images, PLAN, CURVE, labels=["one", "two"])
    for row, axis in zip(images, figure.axes):
        for image, drawn in zip(row, axis.images):
            np.testing.assert_array_equal(drawn.get_array(), image)
    assert len(figure.axes) == 4 and [axis.get_ylabel() for axis in figure.axes[:2]] == ["one", "two"]
    np.testing.assert_array_equal(figure.axes[2].lines[0].get_ydata(), CURVE)


def test_weights_of_several_plans_share_a_picture():
    (axis,) = plot.step_weights({"chunks": PLAN, "steps": cg.ChunkPlan.fixed(6, 1)}).axes
    for patch, plan in zip(axis.patches, (PLAN, cg.ChunkPlan.fixed(6, 1))):
        np.testing.assert_array_equal(patch.get_data().values, plan.step_weights)
    assert [text.get_text() for text in axis.get_legend().texts] == ["chunks", "steps"]


def stats(count):
    """Losses of a policy that moves away, and their metrics."""
    rng, old = np.random.default_rng(1), np.zeros((4, 6))
    adv = np.array([1.0, -1.0, 1.0, -1.0])
    return [
        cg.metrics(cg.chunk_loss(old + 1e-4 * i * rng.normal(size=(4, 6)), old, adv, PLAN), prefix="train/")
        for i in range(count)
    ]


def test_a_run_shows_reward_ratios_and_clip_fractions():
    lines = [{**line, "train/reward_mean": float(i)} for i, line in enumerate(stats(12))]
    reward, ratios, clips = plot.run(lines, window=3).axes
    np.testing.assert_array_equal(reward.lines[0].get_ydata(), np.arange(12.0))
    np.testing.assert_allclose(reward.lines[1].get_ydata(), [0.5, *range(1, 11), 10.5])
    np.testing.assert_array_equal(ratios.lines[0].get_ydata(), [line["train/ratio_mean"] for line in lines])
    top = clips.collections[1].get_paths()[0].vertices
    both = [line["train/clip_fraction_low"] + line["train/clip_fraction_high"] for line in lines]
    assert max(both) > 0 and top[:, 1].max() == pytest.approx(max(both))


def test_a_run_leaves_out_what_no_line_has_and_counts_as_the_lines_do():
    (axis,) = plot.run([{"iteration": 5, "reward": 1.0, "note": "x"}, {"iteration": 9, "reward": 2}], window=1).axes
    np.testing.assert_array_equal(axis.lines[0].get_xdata(), [5, 9])
    assert len(plot.run([{"clipped": 0.1}, {}]).axes) == 1
    assert len(plot.curve([1, 2, 3], "reward").axes) == 1


def test_a_report_of_the_trainer_is_a_line():
    trainer = cg.Trainer(4, 2, width=8, blocks=1, steps=7, chunk_sizes=[2, 3, 1], seed=1)
    lines = [cg.metrics(trainer.iterate(np.eye(2), lambda images, prompt: images[:, 0])) for _ in range(3)]
    reward, *_ = plot.run(lines).axes
    np.testing.assert_array_equal(reward.lines[0].get_ydata(), [line["reward_mean"] for line in lines])


@pytest.mark.parametrize("window", [1, 2, 5, 100])
def test_the_moving_mean_is_that_of_the_neighbours(window):
    values = np.random.default_rng(2).normal(size=20)
    values[7] = np.nan
    expected = [
        np.nanmean(values[max(0, i - window // 2) : i + window // 2 + 1]) if window > 1 or i != 7 else np.nan
        for i in range(20)
    ]
    np.testing.assert_allclose(smoothed(values, window), expected)


def test_grids_have_every_picture_and_tint_the_wrong_ones():
    grey = np.random.default_rng(3).integers(0, 256, (5, 4, 6)).astype(np.uint8)
    colour = np.random.default_rng(4).random((5, 4, 6, 3))
    wrong = [False, True, False, False, True]
    figure = plot.grids([("before", grey, wrong), ("after", colour, None)], list("abcde"), columns=3)
    before, after = figure.axes
    ink = np.array([0x26, 0x2A, 0x32]) / 255
    paper = grey[0][..., None] / 255
    np.testing.assert_allclose(before.images[0].get_array(), paper + ink * (1 - paper))
    red = before.images[1].get_array()
    assert (red[..., 0] > red[..., 2]).mean() > 0.9
    for drawn, picture in zip(after.images, colour):
        np.testing.assert_array_equal(drawn.get_array(), picture)
    assert [text.get_text() for text in after.texts] == list("abcde")
    assert before.get_title(loc="left") == "before" and "asked for" in texts(figure)
    places = {tuple(np.round(image.get_extent(), 6)) for image in before.images}
    assert len(places) == 5


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_a_picture_has_the_same_bytes_every_time(tmp_path, kind):
    files = []
    for name in "ab":
        plot.save(plot.plan(PLAN, CURVE), tmp_path / f"{name}.{kind}")
        files.append((tmp_path / f"{name}.{kind}").read_bytes())
    assert files[0] == files[1] and len(files[0]) > 5000
    assert not re.search(rb"20\d\d-\d\d-\d\d", files[0])


def test_pyplot_is_left_alone():
    code = (
        "import sys; from chunkgrpo import plot, ChunkPlan; assert 'matplotlib' not in sys.modules\n"
        "plot.plan(ChunkPlan([2, 3])); assert 'matplotlib' in sys.modules and 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT / "bindings" / "python", check=True)


def test_without_matplotlib_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=re.escape("pip install chunkgrpo[plot]")):
        plot.plan(PLAN)


@pytest.mark.parametrize(
    "call, error, sentence",
    [
        (lambda: plot.plan([2, 3]), cg.WrongType, "plan must be a ChunkPlan or a ChunkFit, not list"),
        (lambda: plot.plan(PLAN, CURVE[:4]), cg.InvalidArgument, r"curve has shape \(4,\)"),
        (lambda: plot.plan(PLAN, -CURVE), cg.InvalidArgument, r"curve\[0\] is -0.9"),
        (lambda: plot.plan(PLAN, CURVE * np.nan), cg.NonFinite, r"curve\[0\] is nan"),
        (
            lambda: plot.plan(PLAN, schedule=cg.Schedule.linear(3)),
            cg.InvalidArgument,
            "schedule has 3 steps; the plan has 6",
        ),
        (lambda: plot.plan(PLAN, schedule=[1, 0]), cg.WrongType, "schedule must be a chunkgrpo.Schedule, not list"),
        (lambda: plot.trajectory(np.zeros((1, 6, 2, 2)), PLAN), cg.InvalidArgument, "curve is None"),
        (
            lambda: plot.trajectory(np.zeros((1, 5, 2, 2)), PLAN, CURVE),
            cg.InvalidArgument,
            r"images has shape \(1, 5, 2, 2\)",
        ),
        (
            lambda: plot.trajectory(np.zeros((1, 6, 2, 2)), PLAN, CURVE, labels=[]),
            cg.InvalidArgument,
            "labels has 0 texts",
        ),
        (lambda: plot.step_weights([PLAN]), cg.WrongType, "plans must be a dict"),
        (lambda: plot.step_weights({"a": PLAN, "b": cg.ChunkPlan([2])}), cg.InvalidArgument, "plans have 2, 6 steps"),
        (lambda: plot.run([]), cg.InvalidArgument, "lines is empty"),
        (lambda: plot.run([{"loss": 1}]), cg.InvalidArgument, "lines have none of the names"),
        (lambda: plot.run([1]), cg.WrongType, r"lines\[0\] must be a dict"),
        (lambda: plot.run([{"reward": 1}], window=0), cg.InvalidArgument, "window is 0"),
        (lambda: plot.grids([]), cg.WrongType, "panels must be a list"),
        (
            lambda: plot.grids([("a", np.zeros((2, 3)), None)]),
            cg.InvalidArgument,
            r"panels\[0\] has pictures of shape \(2, 3\)",
        ),
        (
            lambda: plot.grids([("a", np.zeros((2, 3, 3)), None), ("b", np.zeros((3, 3, 3)), None)]),
            cg.InvalidArgument,
            r"panels\[1\] has 3 pictures; panels\[0\] has 2",
        ),
        (lambda: plot.grids([("a", np.zeros((2, 3, 3)), [True])]), cg.InvalidArgument, r"wrong has shape \(1,\)"),
        (lambda: plot.grids([("a", np.zeros((2, 3, 3)), None)], ["x"]), cg.InvalidArgument, "captions has 1 texts"),
        (lambda: plot.save(plot.plan(PLAN), "plan.gif"), cg.InvalidArgument, "it must end in .png, .svg or .pdf"),
    ],
)
def test_what_cannot_be_drawn_is_said(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call()
