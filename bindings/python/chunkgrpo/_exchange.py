"""What the ranks of a job tell each other: values, or the error that one of them has met."""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Callable, Optional

import numpy as np
from numpy.typing import NDArray

from ._scalars import function, integer, real
from .errors import Error, InvalidArgument

Bytes = NDArray[np.uint8]
Gather = Callable[[Bytes, float], Any]
Reduce = Callable[[NDArray[Any], float], Any]

FRAME = 1024
"""Bytes that each rank sends at first: their number, then the message. A longer one takes a second exchange."""


class RankFailed(Error, RuntimeError):
    """Another rank has raised an error, is gone, has not answered in time, or makes other calls. `rank` is its number,
    where that is known."""

    def __init__(self, message: str, rank: Optional[int] = None) -> None:
        super().__init__(message, rank)
        self.rank = rank

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass
class Message:
    number: int
    what: str
    ok: bool
    value: Any


class Exchange:
    """Messages between `size` ranks, in the same order on all of them."""

    def __init__(
        self, rank: Any, size: Any, gather: Optional[Gather], timeout: Any, grace: Any, reduce: Optional[Reduce] = None
    ) -> None:
        self.size = integer(size, "size", 1)
        self.rank = integer(rank, "rank", 0, self.size - 1)
        if gather is None and self.size > 1:
            raise InvalidArgument(f"gather is missing; {self.size} ranks need one, such as that of of_torch()")
        self._gather = None if gather is None else function(gather, "gather")
        self._reduce = None if reduce is None else function(reduce, "reduce")
        self._timeout, self._grace = seconds(timeout, "timeout"), seconds(grace, "grace")
        self._count = 0
        self.told: Optional[BaseException] = None
        """The latest error of this rank that the others have heard of."""

    def __call__(self, what: str, own: Callable[[], Any]) -> list[Any]:
        """What `own` returns on each rank. Where it raises on one, all raise."""
        self._count += 1
        message, failure = Message(self._count, what, True, None), None
        try:
            message.value = own()
            data = pickle.dumps(message, 4)
        except Exception as error:
            failure = self.told = error
            message.ok, message.value = False, f"{type(error).__name__}: {error}"
            data = pickle.dumps(message, 4)
        try:
            messages = self._messages(data, self._timeout if failure is None else self._grace)
        except InvalidArgument:
            raise
        except Exception as error:
            if failure is not None:
                raise failure from None
            raise self._late(what, error) from error
        if failure is not None:
            raise failure
        return self._agreed(messages, message)

    def add(self, values: NDArray[Any]) -> None:
        """`values`, contiguous, becomes the sum over the ranks. Without a `reduce`, in their order."""
        try:
            if self._reduce is not None:
                self._reduce(values, self._timeout)
            elif self.size > 1:
                rows = self._gathered(values.tobytes(), values.nbytes, self._timeout)
                parts = [np.frombuffer(row, values.dtype).reshape(values.shape) for row in rows]
                values[...] = parts[0]
                for part in parts[1:]:
                    values += part
        except InvalidArgument:
            raise
        except Exception as error:
            raise self._late("all_reduce", error) from error

    def _late(self, what: str, error: Exception) -> RankFailed:
        late = f"a rank is gone, or has not answered within {self._timeout:g} s"
        return RankFailed(f"{what}: {late}: {type(error).__name__}: {error}")

    def _messages(self, data: bytes, limit: float) -> list[Message]:
        if self._gather is None:
            return [pickle.loads(data)]
        frames = self._gathered(len(data).to_bytes(8, "little") + data[: FRAME - 8], FRAME, limit)
        lengths = [int.from_bytes(frame[:8], "little") for frame in frames]
        bodies = [frame[8:] for frame in frames]
        rest = max(lengths) - (FRAME - 8)
        if rest > 0:
            bodies = [a + b for a, b in zip(bodies, self._gathered(data[FRAME - 8 :], rest, limit))]
        return [pickle.loads(body[:length]) for body, length in zip(bodies, lengths)]

    def _gathered(self, data: bytes, count: int, limit: float) -> list[bytes]:
        """Of each rank so many bytes."""
        gather: Any = self._gather
        values = np.zeros(count, np.uint8)
        values[: len(data)] = np.frombuffer(data, np.uint8)
        rows = np.asarray(gather(values, limit))
        if rows.dtype != np.uint8 or rows.shape != (self.size, count):
            raise InvalidArgument(
                f"gather returned {rows.dtype} of shape {rows.shape}; for uint8 ({count},) of each of {self.size} ranks it "
                f"must be uint8 {(self.size, count)}"
            )
        if not np.array_equal(rows[self.rank], values):
            raise InvalidArgument(f"gather returned in row {self.rank} what this rank has not given; is rank right?")
        return [row.tobytes() for row in rows]

    def _agreed(self, messages: Sequence[Message], own: Message) -> list[Any]:
        """Their values, if all ranks are well and at the same place."""
        for i, message in enumerate(messages):
            if not message.ok:
                raise RankFailed(f"rank {i} failed in {message.what}: {message.value}", i)
        for i, message in enumerate(messages):
            if (message.number, message.what) != (own.number, own.what):
                raise RankFailed(
                    f"rank {i} is in {message.what}, its exchange {message.number}, and rank {self.rank} in {own.what}, its "
                    f"exchange {own.number}; all ranks must make the same calls in the same order",
                    i,
                )
        return [message.value for message in messages]


def seconds(value: Any, name: str) -> float:
    number = real(value, name)
    if not 0 < number < 1e9:
        raise InvalidArgument(f"{name} is {number}; it must be a number of seconds > 0")
    return number


# ----------------------------------------------------------------------------------------------------------------------
# Ready ones


def of_torch(dist: Any, group: Any, limit: float) -> tuple[int, int, Gather, Reduce]:
    """(rank, size, gather, reduce) over a gloo group of its own: messages are on the CPU, whatever the gradients take, cannot be
    mistaken for those, and have their own time limit."""
    import torch

    members = None if group is None else dist.get_process_group_ranks(group)
    how = {} if members is None else {"use_local_synchronization": True}
    own = dist.new_group(members, timedelta(seconds=limit), "gloo", **how)
    size = dist.get_world_size(own)

    def gather(values: Bytes, limit: float) -> Any:
        rows = torch.empty(size, len(values), dtype=torch.uint8)
        work = dist.all_gather(list(rows.unbind()), torch.from_numpy(values), group=own, async_op=True)
        work.wait(timedelta(seconds=limit))
        return rows.numpy()

    def reduce(values: NDArray[Any], limit: float) -> None:
        dist.all_reduce(torch.from_numpy(values), group=own, async_op=True).wait(timedelta(seconds=limit))

    return dist.get_rank(own), size, gather, reduce


def of_mpi(comm: Any) -> tuple[int, int, Gather, Reduce]:
    """(rank, size, gather, reduce) over a communicator of its own."""
    own = comm.Dup()
    size, pending = own.Get_size(), []

    def wait(request: Any, limit: float, *memory: Any) -> None:
        end, pause = time.monotonic() + limit, 1e-5
        while not request.Test():
            if time.monotonic() > end:
                pending.append((request, memory))  # MPI may still write to it
                raise TimeoutError("MPI has not ended")
            time.sleep(pause)
            pause = min(2 * pause, 1e-2)

    def gather(values: Bytes, limit: float) -> Any:
        rows = np.empty((size, len(values)), np.uint8)
        wait(own.Iallgather(values, rows), limit, values, rows)
        return rows

    def reduce(values: NDArray[Any], limit: float) -> None:
        own_part, total = values.copy(), np.empty_like(values)  # outlive the call where it comes too late
        wait(own.Iallreduce(own_part, total), limit, own_part, total)
        values[...] = total

    return own.Get_rank(), size, gather, reduce
