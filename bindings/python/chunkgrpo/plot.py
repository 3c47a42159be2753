"""Pictures of plans, runs and samples, by matplotlib: `pip install chunkgrpo[plot]`.

    from chunkgrpo import plot

    fit = cg.ChunkPlan.optimal(traj.relative_l1)
    plot.save(plot.plan(fit, schedule=schedule), "plan.svg")        # the plan over its curve, and its step weights
    plot.save(plot.run(lines), "run.png")                           # lines: what cg.metrics returned, of each iteration

Every function returns a matplotlib Figure of its own; pyplot and its global state are left alone. A notebook shows a
figure that a cell returns after `%matplotlib inline`. `save` writes PNG, SVG or PDF, the same bytes for the same
numbers and version of matplotlib.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional, Union

import numpy as np
from numpy.typing import ArrayLike

from . import _arrays
from ._drawing import BLUE, PANELS, STYLE, draw_curve, draw_frames, draw_weights, inked, label_steps, library
from ._drawing import new_figure, of_curve, one_each, pictures_of, styled, table_of
from ._scalars import integer
from .chunks import ChunkFit, ChunkPlan
from .errors import InvalidArgument, WrongType
from .schedule import Schedule


@styled
def plan(
    plan: Union[ChunkPlan, ChunkFit],
    curve: Optional[ArrayLike] = None,
    *,
    schedule: Optional[Schedule] = None,
    title: Optional[str] = None,
) -> Any:
    """A plan over its relative-L1 curve, with the mean of each chunk, and the weight 1/(K |C_j|) of each step below.
    Without a curve the weights alone.

    plan      a ChunkPlan, or the ChunkFit of `ChunkPlan.optimal`, which has its curve
    curve     relative L1 (B, S), or its mean over the batch (S,)
    schedule  of S + 1 steps: sigma stands under each step
    title     of the picture; None = the plan in words
    """
    sizes, values = of_curve(plan, curve)
    panels, figure = 1 if values is None else 2, new_figure(7.2, 2.2 if values is None else 4.4)
    axes = figure.subplots(panels, 1, sharex=True, squeeze=False, height_ratios=[2, 1][-panels:])[:, 0]
    if values is not None:
        draw_curve(axes[0], sizes, values)
    draw_weights(axes[-1], sizes, schedule)
    axes[0].set_title(str(sizes) if title is None else title, loc="left")
    return figure


@styled
def trajectory(
    images: ArrayLike,
    plan: Union[ChunkPlan, ChunkFit],
    curve: Optional[ArrayLike] = None,
    *,
    schedule: Optional[Schedule] = None,
    labels: Optional[Sequence[str]] = None,
    title: Optional[str] = None,
) -> Any:
    """Denoising, step by step, over its relative-L1 curve cut into chunks.

    images    (N, S, H, W): N rows of grey images, one for each trained step, such as the latents that it makes,
              `traj.latents[:N, 1:-1]`; white is the least number of the last column, black the greatest
    labels    (N,) of the rows
    plan, curve, schedule, title  as in `plan`; a curve is needed
    """
    sizes, values = of_curve(plan, curve)
    if values is None:
        raise InvalidArgument("curve is None, and a ChunkPlan has none; give relative L1 (B, S), or a ChunkFit")
    rows = _arrays.doubles(images, "images")
    if rows.ndim != 4 or rows.shape[1] != sizes.steps or 0 in rows.shape:
        raise InvalidArgument(f"images has shape {rows.shape}; it must be (N, {sizes.steps}, H, W): one for each step")
    one_each("labels", labels, len(rows))
    figure = new_figure(9.6, 3.2 + 0.55 * len(rows))
    axes = figure.subplots(len(rows) + 2, 1, height_ratios=[0.55] * len(rows) + [1.9, 0.8])
    low, high = rows[:, -1].min(), rows[:, -1].max()
    for i, (axis, row) in enumerate(zip(axes, rows)):
        draw_frames(axis, sizes, row, float(low), float(high))
        if labels is not None:
            axis.set_ylabel(labels[i], rotation=0, ha="right", va="center", fontsize=8)
    draw_curve(axes[-2], sizes, values)
    axes[-2].tick_params(labelbottom=False)
    draw_weights(axes[-1], sizes, schedule)
    axes[0].set_title("From noise to image, in chunks" if title is None else title, loc="left")
    return figure


@styled
def step_weights(plans: Mapping[str, Union[ChunkPlan, ChunkFit]], *, schedule: Optional[Schedule] = None) -> Any:
    """The weight 1/(K |C_j|) of each step under several plans of one length, by name: a plan is also a weighting."""
    if not isinstance(plans, Mapping) or not plans:
        raise WrongType("plans must be a dict of at least one name and plan")
    figure = new_figure(7.2, 3.0)
    axis = figure.subplots()
    sizes = {name: of_curve(one, None)[0] for name, one in plans.items()}
    steps = {one.steps for one in sizes.values()}
    if len(steps) > 1:
        raise InvalidArgument(
            f"plans have {', '.join(map(str, sorted(steps)))} steps; they must have one number of steps"
        )
    for name, one in sizes.items():
        axis.stairs(one.step_weights, np.arange(one.steps + 1) - 0.5, label=name, linewidth=1.8)
    label_steps(axis, steps.pop(), schedule)
    axis.set_ylabel("weight of a step")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)
    return figure


@styled
def run(lines: Iterable[Mapping[str, Any]], *, window: int = 9, title: Optional[str] = None) -> Any:
    """A training: reward, ratios and clip fractions over the iterations. A panel is left out where no line has its
    numbers.

    lines   one dict for each iteration, as `metrics` makes, or as a file of JSON lines holds. Read are `reward` or
            `reward_mean`; `ratio_mean`, `ratio_std`, `ratio_min` and `ratio_max`; `clip_fraction_low` and
            `clip_fraction_high`, or `clip_fraction` or `clipped`; each with any prefix that ends in "/"
    window  iterations of the moving mean of rewards; 1 = none
    """
    table = table_of(lines)
    panels = [draw for draw, names in PANELS if any(name in table for name in names)]
    if not panels:
        raise InvalidArgument(
            "lines have none of the names reward, reward_mean, ratio_std, clip_fraction: nothing to draw"
        )
    figure = new_figure(7.2, 0.4 + 1.9 * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, draw in zip(axes, panels):
        draw(axis, table, integer(window, "window", 1))
    axes[-1].set_xlabel("iteration")
    if title is not None:
        axes[0].set_title(title, loc="left")
    return figure


def curve(values: ArrayLike, title: Optional[str] = None, *, window: int = 9) -> Any:
    """One number for each iteration, such as the reward, and its moving mean."""
    return run([{"reward": value} for value in _arrays.vector(values, "values").tolist()], window=window, title=title)


@styled
def grids(
    panels: Sequence[tuple[str, ArrayLike, Optional[ArrayLike]]],
    captions: Optional[Sequence[str]] = None,
    *,
    columns: int = 8,
    note: Optional[str] = "blue: asked for      red: the judge reads something else",
) -> Any:
    """Grids of pictures side by side, such as those before and after a training.

    panels    (title, pictures, wrong) each. pictures: (B, H, W) or (B, H, W, 3), bytes, or numbers in [0, 1]. wrong:
              (B,) bool, whose ink is drawn in red; None = none
    captions  (B,) texts below the pictures, the same for all panels
    columns   pictures in a row
    note      below all; None = none
    """
    if isinstance(panels, (str, bytes)) or not panels:
        raise WrongType("panels must be a list of at least one (title, pictures, wrong)")
    drawn = [(str(name), pictures_of(pictures, i), wrong) for i, (name, pictures, wrong) in enumerate(panels)]
    for i, (_, pictures, _) in enumerate(drawn):
        if len(pictures) != len(drawn[0][1]):
            raise InvalidArgument(f"panels[{i}] has {len(pictures)} pictures; panels[0] has {len(drawn[0][1])}")
    one_each("captions", captions, len(drawn[0][1]))
    (count, tall, wide), columns = drawn[0][1].shape[:3], integer(columns, "columns", 1)
    height = tall / wide + (0.32 if captions is not None else 0.1)  # of a cell, of width 1
    rows, side = -(-count // columns), 0.6 * max(1.0, (wide / tall) ** 0.5)
    figure = new_figure(len(drawn) * (columns * side + 0.2), rows * height * side + 0.6)
    for axis, (name, pictures, wrong) in zip(figure.subplots(1, len(drawn), squeeze=False)[0], drawn):
        red = np.zeros(count, np.bool_) if wrong is None else _arrays.flags(wrong, "wrong", (count,))
        for i, picture in enumerate(pictures):
            x, y = i % columns, (i // columns) * height
            place = (x + 0.04, x + 0.96, y + 0.94 * tall / wide, y + 0.02)
            axis.imshow(inked(picture, bool(red[i])), interpolation="nearest", extent=place)
            if captions is not None:
                axis.text(x + 0.5, y + tall / wide, str(captions[i]), color=BLUE, size=7, ha="center", va="top")
        axis.set(xlim=(0, columns), ylim=(rows * height, 0), aspect="equal")
        axis.set_axis_off()
        axis.set_title(name, loc="left")
    if note is not None:
        figure.supxlabel(note, fontsize=8, x=0.02, ha="left")
    return figure


def save(figure: Any, path: Union[str, os.PathLike[str]]) -> None:
    """Writes a figure of this module as .png, .svg or .pdf, without the date."""
    kind = os.path.splitext(os.fspath(path))[1].lower()
    if kind not in (".png", ".svg", ".pdf"):
        raise InvalidArgument(f"path is {os.fspath(path)!r}; it must end in .png, .svg or .pdf")
    date = {".png": "Creation Time", ".svg": "Date", ".pdf": "CreationDate"}[kind]
    with library().rc_context(STYLE):  # of it the salt of the SVG's names
        figure.savefig(path, dpi=150, metadata={date: None})
