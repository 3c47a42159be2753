"""Which chunks an engine's micro-batch trains: `ChunkPlan.select` by what is the same on every rank."""

from __future__ import annotations

import hashlib
from typing import Any, Callable, Optional

import numpy as np
from numpy.typing import NDArray

from ._generated import SelectOptions
from ._options import fill
from ._scalars import flag, seed_number
from .chunks import ChunkPlan
from .errors import InvalidArgument


class Draw:
    """A draw for each sample, or one for all.

    fraction      in (0, 1]: of K chunks, floor(K fraction) are drawn
    chunks        or the numbers of the chunks that every sample trains
    weighting     of `by_movement`: "normalised" or "softmax"
    by_movement   chunks are drawn by the relative L1 of their steps; else all are alike
    shared        one draw for all samples: the model runs the steps of these chunks alone
    seed          0 ... 2^64 - 1, of the draws
    plan          the ChunkPlan that they are checked by
    """

    def __init__(
        self, fraction: Any, chunks: Any, weighting: Any, by_movement: Any, shared: Any, seed: Any, plan: ChunkPlan
    ) -> None:
        self.shared, self.by_movement = flag(shared, "shared"), flag(by_movement, "by_movement")
        self.options = {"fraction": fraction, "weighting": weighting, "chunks": chunks}
        filled = fill(SelectOptions, self.options, "a draw of chunks")
        self.seed, self.fraction = seed_number(seed), filled.fraction
        self.same = self.shared or chunks is not None
        """Whether every sample trains the same chunks."""
        if chunks is not None and (self.shared or self.by_movement):
            raise InvalidArgument("chunks names those of every sample; leave out shared and by_movement")
        if self.by_movement and (self.shared or self.fraction == 1):
            why = "shared draws once for all samples" if self.shared else f"a fraction of {self.fraction:g} takes all"
            raise InvalidArgument(f"by_movement is True: it draws for each sample by its own steps, but {why}")
        if self.shared and self.fraction == 1:
            raise InvalidArgument("shared is True, but a fraction of 1 takes every chunk; leave shared out")
        if weighting != "normalised" and not self.by_movement:
            raise InvalidArgument(f"weighting is {weighting!r}: it is of by_movement=True, which draws by weights")
        if self.seed and (chunks is not None or self.fraction == 1):
            why = "chunks names those of every sample" if chunks is not None else "a fraction of 1 takes every chunk"
            raise InvalidArgument(f"seed is {self.seed}, but nothing is drawn: {why}; leave seed out")
        drawn: Any = {} if chunks is not None else {"seed": 0}
        plan.select(1, **self.options, **drawn)

    @property
    def everything(self) -> bool:
        """Whether every sample trains every chunk."""
        return self.fraction == 1 and self.options["chunks"] is None

    def uneven(self, plan: ChunkPlan) -> bool:
        """Whether samples may train other numbers of steps."""
        return len(set(plan.sizes.tolist())) > 1 and not (self.everything or self.same)

    def __call__(
        self,
        plan: ChunkPlan,
        batch: int,
        moment: str,
        keys: Callable[[], NDArray[np.uint64]],
        movement: Callable[[], NDArray[np.float64]],
        chunks: Optional[list[int]] = None,
    ) -> NDArray[np.bool_]:
        """(B, K) bool.

        moment    of the run, the same on every rank: each has its own draws
        keys      of the samples, wherever they are
        movement  the relative L1 (B, S) of their steps
        chunks    instead of the option's: its numbers in this plan
        """
        options = dict(self.options, chunks=self.options["chunks"] if chunks is None else chunks)
        if options["chunks"] is not None:
            return np.asarray(plan.select(batch, **options))
        if self.everything:
            return np.ones((batch, len(plan)), np.bool_)
        seed = int(digests([f"{self.seed} {moment}".encode()])[0])
        if self.shared:
            return np.repeat(np.asarray(plan.select(1, seed=seed, **options)), batch, 0)
        weights = plan.weights(movement()) if self.by_movement else None
        return np.asarray(plan.select(batch, weights=weights, seed=seed, sample_ids=keys(), **options))


def digests(texts: Any) -> NDArray[np.uint64]:
    """64 bits of each."""
    found = [hashlib.blake2b(text, digest_size=8).digest() for text in texts]
    return np.frombuffer(b"".join(found), "<u8").astype(np.uint64)
