"""The groups of samples: numbers for the names that callers have for them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from ._scalars import integer
from .errors import InvalidArgument, WrongType


def group_numbers(batch: int, group_size: Optional[int], groups: Any) -> NDArray[np.int64]:
    """(B,): the group of each sample, 0 ... G - 1. One of group_size and groups must be given."""
    if group_size is not None and groups is not None:
        raise InvalidArgument("groups and group_size exclude each other")
    if group_size is None and groups is None:
        raise InvalidArgument("group_size: give the number of samples per prompt, or groups=")
    if groups is not None:
        return group_ids(groups, batch)
    size = integer(group_size, "group_size", 1)
    if batch % size:
        raise InvalidArgument(f"group_size = {size} does not divide the {batch} rewards")
    return np.arange(batch) // size


def group_ids(
    groups: Any, batch: int, numbers: Optional[dict[Any, int]] = None, name: str = "groups"
) -> NDArray[np.int64]:
    """A number for each distinct group, in order of appearance."""
    names = groups.tolist() if hasattr(groups, "tolist") else list(groups) if isinstance(groups, Iterable) else groups
    if not isinstance(names, list):
        raise WrongType(f"{name} must hold one value for each sample, not {type(groups).__name__}")
    names = [_group_id(group, f"{name}[{i}]") for i, group in enumerate(names)]
    if len(names) != batch:
        raise InvalidArgument(f"{name} has {len(names)} entries; there are rewards for {batch} samples")
    known: dict[Any, int] = {} if numbers is None else numbers
    try:
        return np.array([known.setdefault(group, len(known)) for group in names], np.int64)
    except TypeError as error:
        raise WrongType(f"{name} must hold hashable values, such as strings or numbers: {error}") from None


def _group_id(group: Any, name: str) -> Any:
    """One that equals those of the same group: tensors are compared by identity, and a NaN equals nothing."""
    if hasattr(group, "ndim"):
        if group.ndim:
            raise WrongType(f"{name} is an array of shape {tuple(group.shape)}; groups must hold hashable values")
        group = group.item()
    if group != group:
        raise InvalidArgument(f"{name} is {group!r}, which no other group equals")
    return group
