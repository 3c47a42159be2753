"""Statistics for a logger: flat dicts of floats, merged over minibatches as if one had had all. docs/statistics.md
explains each number."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from ctypes import byref
from typing import Any, Optional, TypeVar, Union

import numpy as np
from numpy.typing import ArrayLike

from . import _arrays
from ._arrays import AnyArray
from ._generated import ChunkStats, ChunkStatsStruct, ForwardStats, IterationReport
from ._groups import group_numbers
from ._library import lib, new
from ._options import record
from .credit import zero_std_groups
from .errors import InvalidArgument, NonFinite, WrongType, check

Result = Any
"""A ChunkLoss of chunkgrpo, chunkgrpo.torch or chunkgrpo.jax, a ForwardLoss or Streamed of the forward process, or the
statistics of one."""

Stats = TypeVar("Stats", ChunkStats, ForwardStats)


def merge_stats(stats: Iterable[Stats]) -> Stats:
    """The statistics of several losses, of minibatches or of ranks, as one: those of chunks are what one loss of them all
    has, up to rounding. Those of the forward process are means: give minibatches of one size."""
    parts: list[Any] = [stats] if _is_stats(stats) else list(stats)
    if not parts:
        raise InvalidArgument("stats is empty; give at least one ChunkStats or ForwardStats")
    for i, part in enumerate(parts):
        if not isinstance(part, (ChunkStats, ForwardStats)):
            raise WrongType(f"stats[{i}] must be a ChunkStats or a ForwardStats, not {type(part).__name__}")
        if type(part) is not type(parts[0]):
            kinds = f"{type(part).__name__} and stats[0] a {type(parts[0]).__name__}"
            raise WrongType(f"stats[{i}] is a {kinds}; they must be of one kind: merge each by itself")
    merged: Stats = _of_chunks(parts) if isinstance(parts[0], ChunkStats) else _means(parts)
    return merged


def _of_chunks(parts: list[Any]) -> Any:
    total = _struct(parts[0])
    for part in parts[1:]:
        check(lib.cgrpo_chunk_stats_merge(total, byref(_struct(part))))
    return record(total)


def _struct(stats: ChunkStats) -> Any:
    struct = new(ChunkStatsStruct)
    for field in dataclasses.fields(ChunkStats):
        value = getattr(stats, field.name)  # in chunkgrpo.jax an array
        setattr(struct, field.name, int(value) if field.name == "selected" else float(value))
    return struct


def _means(parts: list[Any]) -> Any:
    names = [field.name for field in dataclasses.fields(ForwardStats)]
    return ForwardStats(**{name: sum(float(getattr(part, name)) for part in parts) / len(parts) for name in names})


def metrics(results: Union[Result, Iterable[Result], IterationReport], *, prefix: str = "") -> dict[str, float]:
    """A flat dict for a logger: names that stay, and floats. docs/statistics.md says what each means, and which values are
    healthy. Not under a transform of JAX: results come out of it first.

    results  the result of a loss, or those of all minibatches of an iteration: their statistics are merged as
             `merge_stats` does, and `loss` is the mean over their chunks, or over results of the forward process. Or the
             report of `Trainer.iterate`
    prefix   of every name, such as "train/"

        logger.log(cg.metrics(outs), step=iteration)        # outs: what chunk_loss or streamed_backward returned
    """
    if isinstance(results, IterationReport):
        return _prefixed(prefix, _of_report(results))
    single = _is_result(results) or not isinstance(results, Iterable)
    parts: list[Any] = [results] if single else list(results)
    if not parts:
        raise InvalidArgument("results is empty; give at least one result")
    for i, part in enumerate(parts):
        _refuse_others(part, "results" if single else f"results[{i}]")
    own = [part if _is_stats(part) else part.stats for part in parts]
    stats = merge_stats(own)
    losses = [_number(part.loss) for part in parts if not _is_stats(part)]
    values: dict[str, float] = {}
    if len(losses) == len(parts):
        counts = [int(part.selected) if isinstance(part, ChunkStats) else 1 for part in own]
        values["loss"] = sum(loss * count for loss, count in zip(losses, counts)) / max(1, sum(counts))
    return _prefixed(prefix, {**values, **(_of_stats(stats) if isinstance(stats, ChunkStats) else _of_forward(stats))})


def _is_stats(value: Any) -> bool:
    return isinstance(value, (ChunkStats, ForwardStats))


def _is_result(value: Any) -> bool:
    return _is_stats(value) or _is_stats(getattr(value, "stats", None))


def _refuse_others(part: Any, name: str) -> None:
    if _is_result(part):
        return
    if hasattr(part, "loss") and getattr(part, "stats", 0) is None:
        raise InvalidArgument(
            f"{name} has no statistics, because its objective returned a tensor; let the objective return the ForwardLoss "
            "itself, not its .loss"
        )
    kinds = "a ChunkLoss, a ForwardLoss, or the statistics of one"
    raise WrongType(f"{name} must be {kinds}, not {type(part).__name__}")


def _number(loss: Any) -> float:
    return float(loss.detach() if hasattr(loss, "detach") else loss)


def _of_stats(stats: ChunkStats) -> dict[str, float]:
    values = {field.name: float(getattr(stats, field.name)) for field in dataclasses.fields(stats)}
    return {**values, "clip_fraction": values["clip_fraction_low"] + values["clip_fraction_high"]}


def _of_forward(stats: ForwardStats) -> dict[str, float]:
    """`reward_mean` is of the rewards, in `reward_metrics`."""
    values = {field.name: float(getattr(stats, field.name)) for field in dataclasses.fields(stats)}
    return {"implicit_reward_mean" if name == "reward_mean" else name: value for name, value in values.items()}


def _of_report(report: IterationReport) -> dict[str, float]:
    values = {field.name: getattr(report, field.name) for field in dataclasses.fields(report)}
    stats = values.pop("stats")
    return {**{name: float(value) for name, value in values.items()}, **_of_stats(stats)}


def _prefixed(prefix: str, values: dict[str, float]) -> dict[str, float]:
    if not isinstance(prefix, str):
        raise WrongType(f"prefix must be a str, not {type(prefix).__name__}")
    return {prefix + name: value for name, value in values.items()}


def reward_metrics(
    rewards: ArrayLike, group_size: Optional[int] = None, *, groups: Any = None, prefix: str = ""
) -> dict[str, float]:
    """The rewards (B,) of an iteration, of all minibatches and ranks: reward_mean, reward_std, reward_min, reward_max;
    reward_group_std, the mean of the groups' standard deviations; zero_std_ratio, the share of groups whose
    rewards are all equal, which teach nothing.

    group_size, groups  as in `advantages`
    prefix              of every name

    Standard deviations are the population's.
    """
    values = _arrays.vector(rewards, "rewards")
    if not values.size:
        raise InvalidArgument("rewards is empty; give at least one reward")
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
            "zero_std_ratio": zero_std_groups(values, group_size, groups=groups).ratio,
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
