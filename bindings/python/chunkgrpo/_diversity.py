"""How varied the samples of a group are."""

from __future__ import annotations

from typing import Any, Optional, overload

from . import _arrays
from ._arrays import A, Doubles, Numbers
from ._frameworks import not_compiled
from ._library import lib
from ._scalars import int32, integer
from .errors import InvalidArgument, check


@overload
def diversity(features: Numbers, group_size: Optional[int] = None, *, threads: int = 1) -> Doubles: ...


@overload
def diversity(features: A, group_size: Optional[int] = None, *, threads: int = 1) -> A: ...


@not_compiled
def diversity(features: Any, group_size: Optional[int] = None, *, threads: int = 1) -> Any:
    """(B,) float64: the mean Euclidean distance of each sample's features from those of the others of its group. A
    reward against collapse; its mean over a group, that over the group's pairs, is a statistic.

    features    (B, ...): the images, or any embedding of them, finite. Scaled to length 1, their distances are those of
                cosines: |f - g|^2 = 2 - 2 cos
    group_size  samples per prompt, >= 2; they are neighbours, and it must divide B. None = all are one group
    threads     0 = one per core; the results are the same for any number
    """
    x = _arrays.borrow(features, "features", 1, on_host=True)
    size = 0 if group_size is None else integer(group_size, "group_size")
    if group_size is not None and size < 1:
        raise InvalidArgument(f"group_size = {size}: a group has at least two samples, or there is no pair")
    out = _arrays.empty((x.shape[0],))
    check(lib.cgrpo_diversity(x.tensor(1), size, int32(threads, "threads"), out))
    return x.give(out)
