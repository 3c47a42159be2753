"""Shards of samples that several processes share, and samples of unequal length."""

from __future__ import annotations

from typing import Any, Callable, Optional

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _generated
from ._arrays import integers, point
from ._borrowed import Borrowed
from ._library import address, new
from ._scalars import function, integer
from .errors import InvalidArgument, WrongType, check

AllReduce = Callable[[Any], object]
BLOCK = 1024
"""Elements with a sum of their own."""


class Part:
    """Which elements of its samples latents are, and which of them count: for `Sampler.with_part`, `normal`,
    `relative_l1` and `chunkgrpo.forward`.

    first_element   where in its sample the first element of a shard lies; samples are flattened after the batch
    total_elements  D, the elements of a whole sample; None = those of the latents
    lengths         (B,) integers, 1 ... D: how many elements of each sample count, from its start on; None = all. For
                    latents (B, frames, channels): frames x channels. Beyond them next latents are the latents, normals
                    and gradients are 0, and means are over those that count
    all_reduce      adds up a float64 array of numpy over all shards, in place: with PyTorch `lambda sums:
                    torch.distributed.all_reduce(torch.from_numpy(sums))`, with mpi4py `lambda sums:
                    comm.Allreduce(MPI.IN_PLACE, sums)`. Every shard must make the same calls. Not needed for gradients
                    and noise

    The noise of a shard is that of the whole, to the bit, wherever the cut is. Numbers, such as log-probabilities, are
    those of the whole, on every rank: to the bit where the cuts are multiples of 1,024 elements, else to the rounding of
    the blocks that are cut. Parts of the same values are equal.
    """

    __slots__ = ("_first", "_total", "_lengths", "_all_reduce")
    _first: int
    _total: Optional[int]
    _lengths: Optional[NDArray[np.int64]]
    _all_reduce: Optional[AllReduce]

    def __init__(
        self,
        first_element: int = 0,
        total_elements: Optional[int] = None,
        *,
        lengths: Optional[ArrayLike] = None,
        all_reduce: Optional[AllReduce] = None,
    ) -> None:
        put = object.__setattr__
        put(self, "_first", integer(first_element, "first_element", 0, 2**40))
        total = None if total_elements is None else integer(total_elements, "total_elements", 1, 2**40)
        put(self, "_total", total)
        put(self, "_lengths", None)
        if lengths is not None:
            each = integers(lengths, "lengths", np.int64, 1, 2**40)
            each.flags.writeable = False
            put(self, "_lengths", each)
        if all_reduce is not None:
            function(all_reduce, "all_reduce")
        put(self, "_all_reduce", all_reduce)

    @property
    def first_element(self) -> int:
        """Where in its sample the first element lies."""
        return self._first

    @property
    def total_elements(self) -> Optional[int]:
        """D, or None for that of the latents."""
        return self._total

    @property
    def lengths(self) -> Optional[NDArray[np.int64]]:
        """(B,) int64, read-only, or None."""
        return self._lengths

    @property
    def all_reduce(self) -> Optional[AllReduce]:
        """What adds up sums over the shards."""
        return self._all_reduce

    @property
    def _key(self) -> Any:
        lengths = None if self._lengths is None else tuple(self._lengths.tolist())
        return self._first, self._total, lengths, self._all_reduce

    def __setattr__(self, name: str, value: Any) -> None:
        raise WrongType(f"a Part cannot be changed: make another one with another {name}")

    def __delattr__(self, name: str) -> None:
        raise WrongType(f"a Part cannot be changed: it keeps its {name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Part) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __reduce__(self) -> Any:
        return _again, (self._first, self._total, self._lengths, self._all_reduce)

    def __repr__(self) -> str:
        given = {"lengths": None if self._lengths is None else self._lengths.tolist(), "all_reduce": self._all_reduce}
        shown = [f"{self._first}", f"{self._total}", *[f"{k}={v!r}" for k, v in given.items() if v is not None]]
        return f"Part({', '.join(shown)})"


def _again(first: int, total: Optional[int], lengths: Any, all_reduce: Any) -> Part:
    return Part(first, total, lengths=lengths, all_reduce=all_reduce)


def of_part(make: Any, part: Part) -> Any:
    """A sampler with a part: a copy, or from a pickle."""
    return make().with_part(part)


class Taken:
    """The part of one call's arrays: the library's struct, and the sums behind it."""

    def __init__(self, part: Part, batch: int, held: int) -> None:
        self.struct, self._part, self._batch = new(_generated.Part), part, batch
        self.struct.first_element = part.first_element
        self._total = held if part.total_elements is None else part.total_elements
        self.struct.total_elements = self._total
        if part.first_element + held > self._total:
            raise InvalidArgument(
                f"part has first_element {part.first_element} and total_elements {self._total}, which leaves no room for "
                f"the {held} elements of each sample"
            )
        self.is_whole = held == self._total
        if part.lengths is not None:
            if part.lengths.size != batch:
                raise InvalidArgument(f"part has {part.lengths.size} lengths; the batch has {batch} samples")
            if part.lengths.max() > self._total:
                i = int(part.lengths.argmax())
                raise InvalidArgument(
                    f"part has lengths[{i}] = {part.lengths[i]}; a sample has {self._total} elements"
                )
            point(self.struct, "lengths", part.lengths)

    def numbers(self, count: int, call: Callable[[bool], Any]) -> None:
        """Makes a call that gives numbers: at once, or of a shard in two parts. `count`: sums of each block. `call` is
        told whether the numbers are known."""
        if self.is_whole:
            check(call(True))
            return
        all_reduce = self._part.all_reduce
        if all_reduce is None:
            raise InvalidArgument(
                f"part holds {self.struct.first_element} ... of {self._total} elements, and numbers need the sums of all "
                "shards; give Part(..., all_reduce=...)"
            )
        sums = np.zeros(count * self._batch * -(-self._total // BLOCK))
        self.struct.sums, self.struct.reduced = address(sums), 0
        check(call(False))
        all_reduce(sums)
        self.struct.reduced = 1
        check(call(True))
        self.struct.sums, self.struct.reduced = None, 0


def take(part: Optional[Part], x: Borrowed, leading: int = 1) -> Borrowed:
    """The array that a call begins with, as a part of its samples; those like it are the same."""
    if part is not None:
        if not isinstance(part, Part):
            raise WrongType(f"part must be a chunkgrpo.Part, not {type(part).__name__}")
        if x.on_device:
            raise WrongType("part: arrays on a CUDA device hold whole samples; copy them to the CPU")
        shape = x.shape
        x.part = Taken(part, shape[0], int(np.prod(shape[leading:])))
    return x


def numbers(x: Borrowed, count: int, function: Any, inputs: tuple[Any, ...], *outputs: Any) -> None:
    """As `Taken.numbers`, of an array that may be whole, with a function of the library's whose first output is numbers,
    or null where they are not known yet."""
    if x.part is None:
        check(function(*inputs, *outputs))
    else:
        x.part.numbers(count, lambda known: function(*inputs, outputs[0] if known else None, *outputs[1:]))
