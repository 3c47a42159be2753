"""Rows of a trajectory: some of its samples, or those of several."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, Union

import numpy as np
from numpy.typing import NDArray

from . import _arrays
from .errors import InvalidArgument, WrongType

Rows = Union[slice, NDArray[np.int64]]
T = TypeVar("T")


def rows_of(index: Any, batch: int) -> Rows:
    """The samples that an index means: a number (a batch of one), a slice, a mask (B,) or numbers."""
    if isinstance(index, slice):
        return index
    if isinstance(index, tuple) or index is None or index is Ellipsis:
        raise WrongType(f"rows is {index!r}; a trajectory has rows alone: an integer, a slice, integers, or a mask (B,)")
    array = _arrays.plain(index, "rows")
    if array.dtype == np.bool_:
        if array.shape != (batch,):
            raise InvalidArgument(f"rows has shape {array.shape}; a mask of these samples must be {(batch,)}")
        return np.flatnonzero(array)
    if array.size == 0 and array.dtype == np.float64:  # []
        array = array.astype(np.int64)
    if not np.issubdtype(array.dtype, np.integer):
        raise WrongType(f"rows has element type {array.dtype}; it must be integers, or bool of shape {(batch,)}")
    if array.ndim > 1:
        raise InvalidArgument(f"rows has shape {array.shape}; it must have one dimension")
    found = np.atleast_1d(array).astype(np.int64)
    outside = (found < -batch) | (found >= batch)
    if outside.any():  # an IndexError, so that a loop over the samples ends
        raise RowError(f"rows has {found[outside][0]}; of {batch} samples it must be in -{batch} ... {batch - 1}")
    return np.where(found < 0, found + batch, found)


class RowError(InvalidArgument, IndexError):
    """A row that is not there."""


def taken(values: Sequence[Any], rows: Rows) -> list[Any]:
    """The items of a list."""
    return list(values[rows]) if isinstance(rows, slice) else [values[i] for i in rows]


def some(array: Any, rows: Rows) -> Any:
    """The rows of an array (B, ...) of any framework."""
    if isinstance(rows, slice) or isinstance(array, np.ndarray):
        return array[rows]
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(array, torch.Tensor):
        return array[torch.from_numpy(rows).to(array.device)]
    return array[_like(array, rows)]


def _like(array: Any, rows: NDArray[np.int64]) -> Any:
    """Indices that a framework takes."""
    package = type(array).__module__.partition(".")[0]
    return sys.modules["mlx.core"].array(rows) if package == "mlx" else rows


def joined(arrays: Sequence[Any], name: str) -> Any:
    """Arrays (B, ...) of one framework, one after the other."""
    kinds = {type(array) for array in arrays}
    shapes = {tuple(array.shape[1:]) for array in arrays}
    dtypes = {str(array.dtype) for array in arrays}
    for found, what in ((kinds, "types"), (shapes, "shapes but for the first size"), (dtypes, "element types")):
        if len(found) > 1:
            raise InvalidArgument(f"{name} of the trajectories have other {what}: {' and '.join(map(str, found))}")
    first = arrays[0]
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(first, torch.Tensor):
        return torch.cat(list(arrays))
    if isinstance(first, np.ndarray):
        return np.concatenate(arrays)
    package = type(first).__module__.partition(".")[0]
    module: Any = sys.modules["mlx.core"] if package == "mlx" else first.__array_namespace__()
    join = getattr(module, "concat", None) or module.concatenate
    return join(list(arrays), axis=0)


def alike(trajectories: Sequence[Any], *names: str) -> None:
    """That trajectories agree in what one can have only once."""
    for name in names:
        found = [getattr(trajectory, name) for trajectory in trajectories]
        for i, value in enumerate(found):
            if value != found[0]:
                other = "another schedule" if str(value) == str(found[0]) else f"{name} {value}"
                raise InvalidArgument(
                    f"trajectories[{i}] has {other}, and trajectories[0] has {found[0]}: one trajectory has one {name}"
                )


def concatenate(trajectories: Iterable[T]) -> T:
    """One trajectory of all samples of several, such as of one run per prompt: rows of the first, then of the second.

    trajectories  Trajectory, or RecordedTrajectory of `chunkgrpo.diffusers`, one or more: of equal samplers and element
                  types, with the same sizes per sample, at the same position

    Their noise should differ: give each run sample ids (or a seed) of its own. Trajectories that are still to go on need
    one seed.
    """
    items = list(trajectories)
    if not items:
        raise InvalidArgument("trajectories is empty; it must have one or more")
    kind = type(items[0])
    for i, item in enumerate(items):
        if not hasattr(item, "_joined"):
            raise WrongType(f"trajectories[{i}] must be a Trajectory or a RecordedTrajectory, not {type(item).__name__}")
        if type(item) is not kind:
            raise WrongType(f"trajectories[{i}] is a {type(item).__name__}, and trajectories[0] a {kind.__name__}")
    whole: Any = kind
    joined: T = items[0] if len(items) == 1 else whole._joined(items)
    return joined
