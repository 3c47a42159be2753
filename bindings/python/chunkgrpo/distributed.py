"""A batch that is spread over ranks: the numbers of one process that has all of it.

    import chunkgrpo.distributed as cgd

    ranks = cgd.of_torch()                            # or of_accelerate(accelerator), of_mpi(comm); Ranks() is alone
    own = ranks.share(48)                             # of 48 samples: this rank's
    ids = 48 * iteration + np.arange(48)[own]         # so that it draws the noise that one process would
    traj = sampler.rollout(velocity, x_init, seed=1, sample_ids=ids)
    with ranks.together("the reward"):                # an error of one rank is an error of all
        rewards = reward(traj.images)
    adv = ranks.advantages(rewards, groups=prompts[own], sample_ids=ids)
    out = cgt.streamed_backward(
        velocity, sampler, traj.latents, traj.log_probs, adv, plan, selection=chosen,
        normaliser=ranks.normaliser(plan, selection=chosen), every_step=ranks.needed_steps(plan, selection=chosen))
    loss, stats = ranks.mean(out.loss), ranks.merge_stats(out.stats)

docs/distributed.md has the whole program. No latents leave their rank: messages are numbers per sample or step, or of a
rank, on the CPU. Sums are taken in the order of the ranks, so that all ranks have the same bits.

A method that exchanges something must be called by all ranks, in the same order. Where it raises on one, the others raise
a RankFailed that says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Callable, Optional

import numpy as np
from numpy.typing import NDArray

from . import _arrays, _exchange
from ._exchange import Exchange, Gather, RankFailed, Reduce, seconds
from ._generated import AVERAGE, AdvantageKeywords, AdvantageOptions, Average
from ._groups import group_ids
from ._metrics import merge_stats
from ._options import Unpack, documented
from ._scalars import choice, integer, seed_number
from ._steps import loss_count, plan_of, selected_steps
from .chunks import ChunkPlan
from .errors import InvalidArgument, NonFinite, WrongType
from .objective import advantages, rewards_of

__all__ = ["RankFailed", "Ranks", "of_accelerate", "of_mpi", "of_torch"]


class Ranks:
    """The ranks of a job, each with its part of the batch; this process is one of them.

    rank     0 ... size - 1
    size     number of ranks
    gather   gather(values, seconds): (size, n) uint8, the values (n,) of all ranks, in their order, on each of them. It
             raises where a rank has not answered within so many seconds. `of_torch` and its like have one; None if alone
    reduce   reduce(values, seconds): replaces values, (n,) float32 or float64, by their sums over the ranks, with the same
             bits on each; raises as `gather`. None: `all_reduce` gathers, which takes the memory of all ranks' values
    timeout  seconds > 0 that the ranks wait for the last one in an exchange: more than one is ever ahead of another
    grace    seconds > 0 that a rank that failed waits for the others to hear of it, before it raises
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        gather: Optional[Gather] = None,
        *,
        timeout: float = 600.0,
        grace: float = 30.0,
        reduce: Optional[Reduce] = None,
    ) -> None:
        self._exchange = Exchange(rank, size, gather, timeout, grace, reduce)

    @property
    def rank(self) -> int:
        """The number of this rank, from 0 on."""
        return self._exchange.rank

    @property
    def size(self) -> int:
        """The number of ranks."""
        return self._exchange.size

    def __repr__(self) -> str:
        return f"<rank {self.rank} of {self.size}>"

    def __reduce__(self) -> Any:
        raise WrongType("Ranks are of a process and cannot be copied or pickled: make them again")

    # ------------------------------------------------------------------------------------------------------------------
    # Samples

    def share(self, total: int) -> slice:
        """This rank's part of `total` things, such as the samples of an iteration: neighbours, as many as on the other
        ranks or one more. total >= size. Nothing is exchanged."""
        count = integer(total, "total", self.size)
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def seed(self, seed: int) -> int:
        """A seed of this rank's own, 0 ... 2^63 - 1, for what the library does not draw: dropout, augmentation, the order
        of data. The library's noise takes one seed on all ranks, and each sample's id. Nothing is exchanged."""
        sequence = np.random.SeedSequence(seed_number(seed), spawn_key=(self.rank,))
        return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))

    def sample_ids(self, batch: int, first: int = 0) -> NDArray[np.int64]:
        """(B,) ids of this rank's batch: no other sample of any rank has them. In the order of the ranks, whose batches may
        differ.

        first  the number of samples that all ranks together have drawn before; the same on all
        """
        rows = self._exchange("sample_ids", lambda: (integer(batch, "batch", 0), integer(first, "first", 0)))
        if len({start for _, start in rows}) > 1:
            raise InvalidArgument(f"first is {[start for _, start in rows]} on the ranks; it must be the same on all")
        before = sum(count for count, _ in rows[: self.rank])
        ids: NDArray[np.int64] = np.arange(rows[self.rank][0], dtype=np.int64) + (rows[0][1] + before)
        return ids

    def gather(self, values: Any) -> NDArray[Any]:
        """(B of all ranks, ...) of numpy: the rows (B, ...) of all ranks, in their order. For what needs the whole batch,
        such as `reward_metrics`, `best_of_n` or `RewardHistory`; `scatter` takes a result back."""
        return np.concatenate(_alike("gather", self._exchange("gather", lambda: _rows(values)), 1))

    def scatter(self, values: Any, batch: int) -> Any:
        """The rows (B, ...) of this rank, of those of all ranks in the order of `gather`.

        batch  B, the number of rows of this rank
        """
        counts = self._exchange("scatter", lambda: integer(batch, "batch", 0))
        if len(values) != sum(counts):
            raise InvalidArgument(f"values has {len(values)} rows; the ranks have {sum(counts)}")
        before = sum(counts[: self.rank])
        return values[before : before + counts[self.rank]]

    @documented(AdvantageOptions)
    def advantages(
        self,
        rewards: Any,
        group_size: Optional[int] = None,
        *,
        sample_ids: Any = None,
        **options: Unpack[AdvantageKeywords],
    ) -> Any:
        """(B,) float64: `chunkgrpo.advantages` of the rewards of all ranks, of which these are this rank's.

        rewards     (B,) or (B, R), of this rank
        group_size  samples per prompt. They are neighbours by their ids, or else in the order of the ranks
        groups      (B,) of this rank, instead of group_size: names, such as prompts, that mean the same on every rank
        sample_ids  (B,) of this rank: rewards are taken in the order of the ids, so that the result has the bits of one
                    process. Two samples with one id are refused, for they would have the same noise. None: in the order
                    of the ranks
        present     as `rewards`, of this rank
        options     the others of `chunkgrpo.advantages`, the same on all ranks
        """
        given: dict[str, Any] = {**options}

        def own() -> dict[str, Any]:
            values = rewards_of(rewards)
            rows: dict[str, Any] = {"rewards": values}
            if sample_ids is not None:
                rows["sample_ids"] = _arrays.sample_ids(sample_ids, len(values))
            if given.get("present") is not None:
                rows["present"] = _arrays.flags(given["present"], "present", values.shape)
            if given.get("groups") is not None:
                names: dict[Any, int] = {}
                numbers = group_ids(given["groups"], len(values), names)
                rows["groups"] = _objects([list(names)[number] for number in numbers])
            _refuse_nan(values, rows.get("present"))
            return rows

        parts = self._exchange("advantages", own)
        if len({tuple(part) for part in parts}) > 1:
            raise InvalidArgument(f"ranks give {' or '.join(sorted({', '.join(part) for part in parts}))}; give the same")
        whole = {name: np.concatenate(_alike(name, [part[name] for part in parts], 1)) for name in parts[0]}
        values, order = whole.pop("rewards"), _order(whole.pop("sample_ids", None), parts)
        given.update({name: rows[order].tolist() if name == "groups" else rows[order] for name, rows in whole.items()})
        found = np.empty(len(values))
        found[order] = advantages(values[order], group_size, **given)
        start = sum(len(part["rewards"]) for part in parts[: self.rank])
        return _arrays.given_back(found[start : start + len(parts[self.rank]["rewards"])].copy(), rewards)

    # ------------------------------------------------------------------------------------------------------------------
    # The loss

    def normaliser(
        self,
        plan: ChunkPlan,
        *,
        selection: Any = None,
        mask: Any = None,
        batch: Optional[int] = None,
        average: Average = "chunk",
        reduction: str = "mean",
    ) -> float:
        """The `normaliser` for this rank's loss that makes the gradient that of one loss of all samples, also where ranks
        have selected other numbers of chunks: the number of chunks of all ranks over the number of ranks.

        selection, mask  of this rank, as in `chunk_loss`. With gradient accumulation of all micro-batches of an update,
                         whose losses then take scale=1
        batch            B, where neither is given
        average          of the loss: what it counts
        reduction        of the ranks' gradients: "mean" (DDP, FSDP, DeepSpeed), or "sum", which leaves the number whole

        The loss of all samples is the `mean` ("sum": the `total`) of the losses.
        """

        def own() -> float:
            choice(average, AVERAGE, "average")
            choice(reduction, {"mean": 0, "sum": 1}, "reduction")
            chunks = plan_of(plan)
            return loss_count(chunks, _own_steps(chunks, selection, mask, batch), average)

        count: float = sum(self._exchange(f"normaliser({average!r})", own))
        if not count:
            raise InvalidArgument("selection: no step is selected in any sample of any rank")
        return count / self.size if reduction == "mean" else count

    def needed_steps(
        self, plan: ChunkPlan, *, selection: Any = None, mask: Any = None, batch: Optional[int] = None
    ) -> NDArray[np.bool_]:
        """(S,): whether some sample of some rank needs the step. For the `every_step` of `streamed_backward`: with sharded
        parameters all ranks must run the same steps. The arguments are those of `normaliser`."""
        parts = self._exchange("needed_steps", lambda: _own_steps(plan_of(plan), selection, mask, batch).any(0))
        found: NDArray[np.bool_] = np.logical_or.reduce(_alike("plan", parts))
        return found

    def total(self, values: Any) -> Any:
        """The sum over the ranks of a number, or of an array of one shape: float, or float64 of numpy. In the order of the
        ranks."""
        own = lambda: np.array(_arrays.doubles(_detached(values), "values"))  # noqa: E731
        total, *parts = _alike("values", self._exchange("total", own))
        for part in parts:
            total = total + part
        return total if total.ndim else float(total)

    def all_reduce(self, values: NDArray[Any]) -> None:
        """Replaces `values`, a contiguous array of numpy's of float32 or float64, by its sum over the ranks, in their order or
        in that of `reduce`. What `Trainer.set_replica` sums gradients with."""
        if not isinstance(values, np.ndarray) or values.dtype not in (np.float32, np.float64):
            raise WrongType("values must be an array of numpy's of float32 or float64")
        if not (values.flags.c_contiguous and values.flags.writeable):
            raise InvalidArgument("values must be contiguous and writeable: it is replaced by the sum")
        self._exchange.add(values)

    def mean(self, values: Any) -> Any:
        """`total` over the number of ranks."""
        return self.total(values) / self.size

    def merge_stats(self, stats: Any) -> Any:
        """`chunkgrpo.merge_stats` of the statistics of all ranks, one or several of each."""
        parts: list[Any] = self._exchange("merge_stats", lambda: merge_stats(stats))
        return merge_stats(parts)

    # ------------------------------------------------------------------------------------------------------------------
    # Errors

    @contextlib.contextmanager
    def together(self, part: str = "a part of the program") -> Iterator[None]:
        """`with ranks.together("the reward"):` at its end the ranks wait for each other. What one of them raised within
        comes out of it there; the others raise a RankFailed with part, rank and error. So they do where a rank is gone, or
        does not come within `timeout`.

        Where the others wait within the part, in a backward pass that sums gradients, they cannot hear of it. The rank that
        failed raises after `grace`; end its process, and they fail too (torchrun ends them).
        """
        try:
            yield
        except Exception as error:
            if isinstance(error, RankFailed) or error is self._exchange.told:
                raise
            self._exchange(part, _raising(error))
        else:
            self._exchange(part, lambda: None)


# ----------------------------------------------------------------------------------------------------------------------
# Ready ones


def of_torch(group: Any = None, *, timeout: float = 600.0, grace: float = 30.0) -> Ranks:
    """The ranks of torch.distributed; alone where it is not initialised. All of them must call it.

    group    the process group of ranks that have other samples, such as mesh["dp"].get_group(); None = all. Ranks that work
             on the same samples (tensor, context, pipeline parallel) must not be counted twice
    timeout, grace  as in `Ranks`

    Messages go through a gloo group of their own, whatever the gradients take.
    """
    import torch.distributed as dist

    limits: dict[str, Any] = {"timeout": timeout, "grace": grace}
    if not (dist.is_available() and dist.is_initialized()):
        return Ranks(**limits)
    limit = max(seconds(value, name) for name, value in limits.items())
    rank, size, gather, reduce = _exchange.of_torch(dist, group, limit)
    return Ranks(rank, size, gather, reduce=reduce, **limits)


def of_accelerate(accelerator: Any, *, timeout: float = 600.0, grace: float = 30.0) -> Ranks:
    """The ranks of an accelerate.Accelerator, otherwise as `of_torch`."""
    count = getattr(accelerator, "num_processes", None)
    if count is None:
        raise WrongType(f"accelerator must be an accelerate.Accelerator, not {type(accelerator).__name__}")
    ranks = of_torch(timeout=timeout, grace=grace)
    if ranks.size != count:
        raise InvalidArgument(f"accelerator has {count} processes; torch.distributed has {ranks.size}")
    return ranks


def of_mpi(comm: Any, *, timeout: float = 600.0, grace: float = 30.0) -> Ranks:
    """The ranks of a communicator of mpi4py, such as MPI.COMM_WORLD. All of them must call it.

    timeout, grace  as in `Ranks`

    Messages go through a duplicate of it.
    """
    if not hasattr(comm, "Iallgather"):
        raise WrongType(f"comm must be a communicator of mpi4py, such as MPI.COMM_WORLD, not {type(comm).__name__}")
    rank, size, gather, reduce = _exchange.of_mpi(comm)
    return Ranks(rank, size, gather, reduce=reduce, timeout=timeout, grace=grace)


# ----------------------------------------------------------------------------------------------------------------------
# Parts


def _own_steps(plan: ChunkPlan, selection: Any, mask: Any, batch: Optional[int]) -> NDArray[np.bool_]:
    """(B, S): selected and present."""
    if selection is None and mask is None and batch is None:
        raise InvalidArgument("batch: give the number of samples of this rank, or its selection or mask")
    count = len(mask if selection is None else selection) if batch is None else integer(batch, "batch", 0)
    return selected_steps(plan, count, {"selection": selection, "mask": mask})


def _order(ids: Any, parts: Sequence[dict[str, Any]]) -> NDArray[np.int64]:
    """Of the samples of all ranks, by their ids, no two of which are the same."""
    ranks = np.concatenate([np.full(len(part["rewards"]), i) for i, part in enumerate(parts)])
    if ids is None:
        return np.arange(len(ranks))
    order = np.argsort(ids, kind="stable")
    for i in np.flatnonzero(np.diff(ids[order].astype(object)) == 0)[:1]:
        first, second = order[i], order[i + 1]
        raise InvalidArgument(
            f"sample_ids: {ids[first]} is that of a sample of rank {ranks[first]} and of one of rank {ranks[second]}, which "
            "so have the same noise; give each its own, such as those of sample_ids()"
        )
    return order


def _refuse_nan(rewards: NDArray[np.float64], present: Any) -> None:
    """Before the ranks' rewards are put together, so that the index is the rank's own."""
    absent = False if present is None else ~present
    for index in np.argwhere(~(np.isfinite(rewards) | absent))[:1]:
        where = "".join(f"[{i}]" for i in index)
        raise NonFinite(f"rewards{where} = {rewards[tuple(index)]} is not finite")


def _rows(values: Any) -> NDArray[Any]:
    array = _arrays.plain(_detached(values), "values")
    if not array.ndim:
        raise InvalidArgument("values is a number; it must have a row for each sample")
    return array


def _detached(values: Any) -> Any:
    """A loss may still have its graph."""
    return values.detach() if hasattr(values, "detach") else values


def _objects(items: list[Any]) -> NDArray[Any]:
    """(n,), whatever they are: numpy would make rows of tuples."""
    array = np.empty(len(items), object)
    array[:] = items
    return array


def _alike(name: str, parts: list[Any], rows: int = 0) -> list[Any]:
    """The arrays of all ranks, if they have the same type, and shape but for so many leading sizes."""
    if len({(part.dtype, part.ndim, part.shape[rows:]) for part in parts}) > 1:
        kinds = ", ".join(f"{part.dtype} {part.shape}" for part in parts)
        raise InvalidArgument(f"{name} is on the ranks {kinds}; types and shapes must be the same")
    return parts


def _raising(error: Exception) -> Callable[[], Any]:
    def own() -> Any:
        raise error

    return own
