"""Statistics for a logger: flat dicts of floats, merged over minibatches as if one had had all. docs/statistics.md
explains each number."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from ctypes import byref
from typing import Any, Optional, Union

import numpy as np
from numpy.typing import ArrayLike

from . import _arrays
from ._arrays import AnyArray
from ._generated import ChunkStats, ChunkStatsStruct, IterationReport
from ._groups import group_numbers
from ._library import lib, new
from ._options import record
from .credit import zero_std_groups
from .errors import InvalidArgument, NonFinite, WrongType, check

Result = Any
"""A ChunkLoss of chunkgrpo, chunkgrpo.torch or chunkgrpo.jax, or a ChunkStats."""


def merge_stats(stats: Iterable[ChunkStats]) -> ChunkStats:
    """The statistics of all chunks of several losses, of minibatches or of ranks: those that one loss of them all has,
    up to rounding."""
    parts = list(stats)
    if not parts:
        raise InvalidArgument("stats is empty; give at least one ChunkStats")
    total = _struct(parts[0], 0)
    for i, part in enumerate(parts[1:], 1):
        check(lib.cgrpo_chunk_stats_merge(total, byref(_struct(part, i))))
    merged: ChunkStats = record(total)
    return merged


def _struct(stats: Any, index: int) -> Any:
    if not isinstance(stats, ChunkStats):
        raise WrongType(f"stats[{index}] must be a ChunkStats, not {type(stats).__name__}")
    struct = new(ChunkStatsStruct)
    for field in dataclasses.fields(ChunkStats):
        value = getattr(stats, field.name)  # in chunkgrpo.jax an array
        setattr(struct, field.name, int(value) if field.name == "selected" else float(value))
    return struct


def metrics(results: Union[Result, Iterable[Result], IterationReport], *, prefix: str = "") -> dict[str, float]:
    """A flat dict for a logger: names that stay, and floats. Not under a transform of JAX: results come out of it first.

    results  the result of a loss, or those of all minibatches of an iteration: their statistics are merged as
             `merge_stats` does, and `loss` is the mean over their chunks. Or the report of `Trainer.iterate`
    prefix   of every name, such as "train/"

        logger.log(cg.metrics(outs), step=iteration)        # outs: what chunk_loss or streamed_backward returned
    """
    if isinstance(results, IterationReport):
        return _prefixed(prefix, _of_report(results))
    if not _is_result(results) and not isinstance(results, Iterable):
        raise WrongType(f"results must be a ChunkLoss, a ChunkStats or several, not {type(results).__name__}")
    parts: list[Any] = [results] if _is_result(results) else list(results)
    if not parts:
        raise InvalidArgument("results is empty; give at least one result")
    for i, part in enumerate(parts):
        if not _is_result(part):
            raise WrongType(f"results[{i}] must be a ChunkLoss or a ChunkStats, not {type(part).__name__}")
    stats = merge_stats(part if isinstance(part, ChunkStats) else part.stats for part in parts)
    losses = [(_number(part.loss), int(part.stats.selected)) for part in parts if not isinstance(part, ChunkStats)]
    values: dict[str, float] = {}
    if len(losses) == len(parts):
        values["loss"] = sum(loss * count for loss, count in losses) / max(1, stats.selected)
    return _prefixed(prefix, {**values, **_of_stats(stats)})


def _is_result(value: Any) -> bool:
    return isinstance(value, ChunkStats) or isinstance(getattr(value, "stats", None), ChunkStats)


def _number(loss: Any) -> float:
    return float(loss.detach() if hasattr(loss, "detach") else loss)


def _of_stats(stats: ChunkStats) -> dict[str, float]:
    values = {field.name: float(getattr(stats, field.name)) for field in dataclasses.fields(stats)}
    return {**values, "clip_fraction": values["clip_fraction_low"] + values["clip_fraction_high"]}


def _of_report(report: IterationReport) -> dict[str, float]:
    values = {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}
    stats = values.pop("stats")
    return {**{name: float(value) for name, value in values.items()}, **_of_stats(stats)}


def _prefixed(prefix: str, values: dict[str, float]) -> dict[str, float]:
    return {prefix + name: value for name, value in values.items()}


def reward_metrics(
    rewards: ArrayLike, group_size: Optional[int] = None, *, groups: Any = None, prefix: str = ""
) -> dict[str, float]:
    """The rewards (B,) of an iteration, of all minibatches and ranks: reward_mean, reward_std, reward_min, reward_max;
    reward_group_std, the mean of the groups' standard deviations; zero_variance_fraction, the share of groups whose
    rewards are all equal, which teach nothing.

    group_size, groups  as in `advantages`
    prefix              of every name

    Standard deviations are the population's.
    """
    values = _arrays.vector(rewards, "rewards")
    if not np.isfinite(values).all():
        i = int(np.flatnonzero(~np.isfinite(values))[0])
        raise NonFinite(f"rewards[{i}] = {values[i]} is not finite")
    of_group = group_numbers(len(values), group_size, groups)
    own = [values[of_group == group] for group in range(int(of_group.max()) + 1)]
    return _prefixed(
        prefix,
        {
            "reward_mean": float(values.mean()),
            "reward_std": float(values.std()),
            "reward_min": float(values.min()),
            "reward_max": float(values.max()),
            "reward_group_std": float(np.mean([group.std() for group in own])),
            "zero_variance_fraction": zero_std_groups(values, group_size, groups=groups).ratio,
        },
    )


def image_metrics(images: AnyArray, *, prefix: str = "image_") -> dict[str, float]:
    """How images look, on average, to be followed over a training: rewards are hacked by brightness, contrast, colour
    and speckle. Of any framework, (B, C, H, W) with 1 or 3 channels; bytes are divided by 255.

    mean            of all numbers
    contrast        standard deviation over the pixels of the grey image, which is the mean of the channels
    saturation      the largest channel of a pixel minus its smallest; 0 for one channel
    high_frequency  mean square of the difference of neighbours, over twice the variance, of the grey image: near 0
                    where it is smooth, 1 for white noise, 2 for a chequerboard; 0 where it is flat

    Each is of an image, and then the mean over the images. prefix: of every name.
    """
    array = _arrays.plain(images, "images")
    if array.ndim != 4 or array.shape[1] not in (1, 3) or 0 in array.shape or max(array.shape[2:]) < 2:
        raise InvalidArgument(f"images has shape {array.shape}; it must be (B, C, H, W) with C of 1 or 3")
    pixels = array / 255 if array.dtype == np.uint8 else np.asarray(_arrays.doubles(array, "images"))
    for i in np.flatnonzero(~np.isfinite(pixels).all(axis=(1, 2, 3)))[:1]:
        raise NonFinite(f"images[{i}] is not finite")
    grey = pixels.mean(1)
    variance = grey.var(axis=(1, 2))
    squares = [np.square(np.diff(grey, axis=axis)).reshape(len(grey), -1) for axis in (1, 2)]
    roughness = np.concatenate(squares, axis=1).mean(1)
    rough = np.divide(roughness, 2 * variance, out=np.zeros(len(grey)), where=variance > 0)
    values = {
        "mean": pixels.mean(),
        "contrast": np.sqrt(variance).mean(),
        "saturation": (pixels.max(1) - pixels.min(1)).mean(),
        "high_frequency": rough.mean(),
    }
    return _prefixed(prefix, {name: float(value) for name, value in values.items()})
