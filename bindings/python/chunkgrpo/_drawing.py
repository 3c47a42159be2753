"""What chunkgrpo.plot draws with: style, bands of chunks, axes of each kind, and what the arguments hold."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable, Optional, TypeVar, Union, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _arrays
from ._extras import needed
from ._scalars import integer
from .chunks import ChunkFit, ChunkPlan
from .errors import InvalidArgument, NonFinite, WrongType
from .schedule import Schedule

INK, GREY, BLUE, SKY, RED = "#262a32", "#c4c8ce", "#245cc8", "#a0bef0", "#cc342c"
_BANDS = ("#eef3fc", "#fdf3e7")
STYLE = {
    **{"font.size": 9, "axes.edgecolor": GREY, "axes.labelcolor": INK, "text.color": INK, "xtick.color": INK},
    **{"ytick.color": INK, "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "chunkgrpo"},
}


Draw = TypeVar("Draw", bound=Callable[..., Any])


def library() -> Any:
    needed("matplotlib", "chunkgrpo.plot", "plot")
    import matplotlib.figure

    return matplotlib


def styled(draw: Draw) -> Draw:
    """Axes and texts take their style when they are made."""

    @functools.wraps(draw)
    def inside(*arguments: Any, **options: Any) -> Any:
        with library().rc_context(STYLE):
            return draw(*arguments, **options)

    return cast(Draw, inside)


def new_figure(width: float, height: float) -> Any:
    return library().figure.Figure(figsize=(width, height), layout="constrained", facecolor="white")


def of_curve(
    plan: Union[ChunkPlan, ChunkFit], curve: Optional[ArrayLike]
) -> tuple[ChunkPlan, Optional[NDArray[np.float64]]]:
    """The plan, and the curve (S,) where there is one."""
    if isinstance(plan, ChunkFit):
        curve = plan.curve if curve is None else curve
        plan = plan.plan
    if not isinstance(plan, ChunkPlan):
        raise WrongType(f"plan must be a ChunkPlan or a ChunkFit, not {type(plan).__name__}")
    if curve is None:
        return plan, None
    rows = _arrays.doubles(curve, "curve")
    if rows.ndim not in (1, 2) or rows.shape[-1] != plan.steps or not rows.size:
        raise InvalidArgument(
            f"curve has shape {rows.shape}; the plan's steps ask for ({plan.steps},) or (B, {plan.steps})"
        )
    for index in np.argwhere(~(np.isfinite(rows) & (rows >= 0)))[:1]:
        value, where = rows[tuple(index)], "".join(f"[{i}]" for i in index)
        kind = InvalidArgument if np.isfinite(value) else NonFinite
        raise kind(f"curve{where} is {value}; relative L1 is finite and >= 0")
    return plan, rows if rows.ndim == 1 else rows.mean(0)


def one_each(name: str, texts: Optional[Sequence[str]], count: int) -> None:
    if texts is not None and len(texts) != count:
        raise InvalidArgument(f"{name} has {len(texts)} texts; it must have {count}, one each")


def bands(axis: Any, plan: ChunkPlan) -> None:
    for j, (first, end) in enumerate(zip(plan.boundaries, plan.boundaries[1:])):
        axis.axvspan(first - 0.5, end - 0.5, color=_BANDS[j % 2], zorder=0, linewidth=0)
    axis.set_xlim(-0.5, plan.steps - 0.5)


def draw_curve(axis: Any, plan: ChunkPlan, values: NDArray[np.float64]) -> None:
    bands(axis, plan)
    axis.plot(values, color=BLUE, marker="o", markersize=3.5, linewidth=1.5)
    for j, steps in enumerate(plan.slices):
        axis.hlines(values[steps].mean(), steps.start - 0.5, steps.stop - 0.5, color=RED, linewidth=1.2)
        middle = (steps.start + steps.stop - 1) / 2
        axis.annotate(f"C$_{{{j + 1}}}$", (middle, 0.97), xycoords=("data", "axes fraction"), ha="center", va="top")
    if values.min() > 0:
        axis.set_yscale("log")
    axis.margins(y=0.15)
    axis.set_ylabel("relative L1")


def draw_weights(axis: Any, plan: ChunkPlan, schedule: Optional[Schedule]) -> None:
    bands(axis, plan)
    axis.bar(np.arange(plan.steps), plan.step_weights, color=SKY, edgecolor=BLUE, linewidth=0.6, width=0.8)
    for steps in plan.slices:
        middle, weight = (steps.start + steps.stop - 1) / 2, plan.step_weights[steps.start]
        axis.annotate(
            f"1/{len(plan) * (steps.stop - steps.start)}", (middle, weight), ha="center", va="bottom", fontsize=8
        )
    axis.margins(y=0.25)
    axis.set_ylabel("weight")
    label_steps(axis, plan.steps, schedule)


def label_steps(axis: Any, count: int, schedule: Optional[Schedule]) -> None:
    every = max(1, -(-count // 20))
    ticks = np.arange(0, count, every)
    if schedule is None:
        axis.set_xticks(ticks, [str(step) for step in ticks])
        axis.set_xlabel("step")
        return
    if not isinstance(schedule, Schedule):
        raise WrongType(f"schedule must be a chunkgrpo.Schedule, not {type(schedule).__name__}")
    if schedule.steps < count:
        raise InvalidArgument(f"schedule has {schedule.steps} steps; the plan has {count}")
    labels = [f"{step}\n{schedule.sigmas[step]:.2f}".replace("\n0.", "\n.") for step in ticks]
    axis.set_xticks(ticks, labels)
    axis.set_xlabel("step, and its σ below")


def draw_frames(axis: Any, plan: ChunkPlan, row: NDArray[np.float64], low: float, high: float) -> None:
    bands(axis, plan)
    tall, wide = row.shape[1:]
    axis.set_ylim(-0.46 * tall / wide, 0.46 * tall / wide)
    for step, image in enumerate(row):
        place = (step - 0.44, step + 0.44, -0.44 * tall / wide, 0.44 * tall / wide)
        axis.imshow(image, cmap="gray_r", vmin=low, vmax=high, extent=place, interpolation="nearest", aspect="auto")
    axis.set_xlim(-0.5, plan.steps - 0.5)
    axis.set_xticks([]), axis.set_yticks([])
    for side in axis.spines.values():
        side.set_visible(False)


def table_of(lines: Iterable[Mapping[str, Any]]) -> dict[str, NDArray[np.float64]]:
    """(iterations,) of each name without its prefix; NaN where a line lacks it."""
    rows: list[dict[str, float]] = []
    for i, line in enumerate(lines):
        if not isinstance(line, Mapping):
            raise WrongType(f"lines[{i}] must be a dict, as chunkgrpo.metrics returns, not {type(line).__name__}")
        numbers = {name.rsplit("/", 1)[-1]: value for name, value in line.items()}
        rows.append({n: float(v) for n, v in numbers.items() if isinstance(v, (int, float, np.number))})
    if not rows:
        raise InvalidArgument("lines is empty; give at least one dict")
    table = {name: np.array([row.get(name, np.nan) for row in rows]) for row in rows for name in row}
    counted = table.get("iteration")
    table["iteration"] = (
        counted if counted is not None and np.isfinite(counted).all() else np.arange(1.0, len(rows) + 1)
    )
    return table


def smoothed(values: ArrayLike, window: int = 9) -> NDArray[np.float64]:
    """(N,) the mean of the up to `window` values around each; NaN is left out."""
    numbers = _arrays.vector(values, "values")
    reach = integer(window, "window", 1) // 2
    parts = [numbers[max(0, i - reach) : i + reach + 1] for i in range(len(numbers))]
    return np.array([part[np.isfinite(part)].mean() if np.isfinite(part).any() else np.nan for part in parts])


def _draw_reward(axis: Any, table: dict[str, NDArray[np.float64]], window: int) -> None:
    values = table["reward" if "reward" in table else "reward_mean"]
    axis.plot(table["iteration"], values, color=SKY if window > 1 else BLUE, linewidth=1)
    if window > 1:
        axis.plot(table["iteration"], smoothed(values, window), color=BLUE, linewidth=1.8)
    axis.set_ylabel("reward")


def _draw_ratios(axis: Any, table: dict[str, NDArray[np.float64]], window: int) -> None:
    at = table["iteration"]
    middle = table.get("ratio_mean", np.ones(len(at)))
    if "ratio_min" in table and "ratio_max" in table:
        axis.fill_between(at, table["ratio_min"], table["ratio_max"], color=_BANDS[0], linewidth=0, label="min … max")
    if "ratio_std" in table:
        around = middle - table["ratio_std"], middle + table["ratio_std"]
        axis.fill_between(at, *around, color=SKY, linewidth=0, label="mean ± std")
    axis.plot(at, middle, color=BLUE, linewidth=1.2)
    axis.axhline(1, color=GREY, linewidth=0.8)
    axis.set_ylabel("ratio ρ")
    if axis.get_legend_handles_labels()[0]:
        axis.legend(frameon=False, fontsize=8)


def _draw_clips(axis: Any, table: dict[str, NDArray[np.float64]], window: int) -> None:
    at = table["iteration"]
    if "clip_fraction_low" in table and "clip_fraction_high" in table:
        parts = table["clip_fraction_low"], table["clip_fraction_high"]
        axis.stackplot(at, *parts, colors=[SKY, BLUE], labels=["below 1 − low", "above 1 + high"])
        axis.legend(frameon=False, fontsize=8)
    else:
        axis.plot(at, table.get("clip_fraction", table.get("clipped")), color=BLUE, linewidth=1.2)
    axis.axhspan(0.05, 0.3, color=_BANDS[1], zorder=0, linewidth=0)
    axis.set_ylim(bottom=0)
    axis.set_ylabel("clip fraction")


PANELS = (
    (_draw_reward, ("reward", "reward_mean")),
    (_draw_ratios, ("ratio_std", "ratio_mean")),
    (_draw_clips, ("clip_fraction_high", "clip_fraction", "clipped")),
)


def pictures_of(pictures: ArrayLike, panel: int) -> NDArray[np.float64]:
    """(B, H, W) or (B, H, W, 3) in [0, 1]."""
    values = np.asarray(_arrays.plain(pictures, f"panels[{panel}]"))
    if values.ndim not in (3, 4) or 0 in values.shape or values.ndim == 4 and values.shape[3] != 3:
        raise InvalidArgument(
            f"panels[{panel}] has pictures of shape {values.shape}; they must be (B, H, W) or (B, H, W, 3)"
        )
    return np.clip(values / 255 if values.dtype == np.uint8 else values.astype(np.float64), 0, 1)


def inked(picture: NDArray[np.float64], wrong: bool) -> NDArray[np.float64]:
    """Grey pictures as paper and ink; of colours, the tint of the wrong ones."""
    ink = np.array([int((RED if wrong else INK)[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    if picture.ndim == 2:
        return picture[..., None] + ink * (1 - picture[..., None])
    return 0.6 * picture + 0.4 * ink if wrong else picture
