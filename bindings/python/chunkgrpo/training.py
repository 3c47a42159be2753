"""The embedded policy: a velocity network of the library's own, pretrained by flow matching, trained by Chunk-GRPO.

No model of yours is needed here; the rest of the package is for when you have one.
"""

from __future__ import annotations

import ctypes
import os
import tempfile
import threading
from contextlib import contextmanager, nullcontext
from ctypes import byref
from pathlib import Path
from typing import Any, Callable, ContextManager, Iterator, Optional, Protocol, Union

import numpy as np
from numpy.typing import ArrayLike

from . import _arrays
from ._arrays import Array
from ._callbacks import Guard, lasting
from ._generated import (
    PARAMETERS,
    TYPE,
    AllReduceFn,
    IterationReport,
    IterationReportStruct,
    Parameters,
    PretrainKeywords,
    PretrainOptions,
    ProgressFn,
    RewardFn,
    TrainerKeywords,
    TrainerOptions,
)
from ._handle import Handle
from ._library import lib, new
from ._options import Unpack, documented, fill, read, record
from ._scalars import choice, function, real, seed_number
from .chunks import ChunkPlan
from .objective import distances
from .errors import Error, InvalidArgument, WrongType, check

Reward = Callable[[Array, Array], ArrayLike]
"""reward(images, prompt): one finite number for each image. images (B, D) float32; prompt (B,) int64: the row of the
conditions that each image was made for. Both are fresh arrays."""

Progress = Callable[[int, int, float], Optional[bool]]
"""progress(done, total, loss): a true result stops."""


class RanksLike(Protocol):
    """What `Trainer.set_replica` uses of `chunkgrpo.distributed.Ranks`."""

    @property
    def rank(self) -> int: ...

    @property
    def size(self) -> int: ...

    def all_reduce(self, values: Array) -> None: ...

    def together(self, part: str = ...) -> ContextManager[None]: ...


class Trainer:
    """A velocity network (residual MLP, adaptive layer norm over time and condition) and its Chunk-GRPO training.

    Network
        latent_size, condition_size   D and C: elements of an image and of a condition vector
        width, blocks, embedding_size hidden size, residual blocks, size of the time and condition embeddings
    Sampling
        steps, shift                  T and the schedule's static shift; the last step takes no noise
        dynamics, eta                 as in `Sampler`
        share_noise                   one initial noise per group
    Objective
        chunk_sizes                   None: 2, 3, 4, 7 where T = 17, else chunks of 4
        group_size                    samples per prompt, >= 2
        chunk_weights                 None: 1; >= 0 for each chunk, of the policy terms: `weights` of `chunk_loss`
        chunk_fraction                of the chunks of each sample that are trained, in (0, 1]
        weighted_selection            chunks drawn by relative L1
        advantage_clamp, clip, kl     as in `advantages` and `chunk_loss`; the default clip is for small images. A sample has
                                      one advantage: those of chunks or steps are for a loop of your own, with `chunk_loss`
        reference_kl                  weight of the mean divergence of the trained steps from the network as pretraining
                                      left it; against collapse
        reference_divergence          "velocity", "gaussian", "gaussian_per_time" or "mean", as in `Sampler.divergence`
        reference_last_step           weight of the mean of (v - v_ref)^2 at the last step, which takes no noise: no chunk
                                      trains it and `reference_kl` does not see it
    Optimiser (AdamW)
        updates_per_rollout           optimiser steps: the prompts of a rollout are dealt out to them
        learning_rate, beta1, beta2, adam_epsilon, weight_decay
        max_grad_norm                 float("inf") for none
        ema_decay                     of the averaged parameters, per optimiser step
        seed                          of the parameters and of every draw
    threads                           0 = one per core; results are the same for any number

    It holds memory outside Python: leave it to the garbage collector, call `close`, or use it in a `with` block.
    One call at a time. Copies and pickles go on as it would, alone: they have no replica.
    """

    _ranks: Optional[RanksLike]
    _all_reduce: Any  # the library calls it

    @documented(TrainerOptions)
    def __init__(self, latent_size: int, condition_size: int, **options: Unpack[TrainerKeywords]) -> None:
        given: dict[str, Any] = {"latent_size": latent_size, "condition_size": condition_size, **options}
        if given.get("chunk_sizes") is not None:
            given["chunk_sizes"] = ChunkPlan(given["chunk_sizes"]).sizes
        distances(given.get("clip"))
        handle = Handle(lib.cgrpo_trainer_destroy)
        check(lib.cgrpo_trainer_create(fill(TrainerOptions, given, "Trainer"), handle.slot()))
        self._own(handle)

    @classmethod
    def load(cls, directory: Union[str, os.PathLike[str]]) -> Trainer:
        """The trainer that `save` wrote; it goes on as if it had never been interrupted.

        Raises IOFailure where the directory does not hold a whole checkpoint.
        """
        handle = Handle(lib.cgrpo_trainer_destroy)
        check(lib.cgrpo_trainer_load(_path(directory), handle.slot()))
        trainer = cls.__new__(cls)
        trainer._own(handle)
        return trainer

    def save(self, directory: Union[str, os.PathLike[str]]) -> None:
        """Writes a checkpoint, model.safetensors, into the directory, which is made if missing. Whenever the machine
        stops, it holds a whole checkpoint."""
        path = _path(directory)
        with self._use() as handle:
            check(lib.cgrpo_trainer_save(handle, path))

    def __reduce__(self) -> Any:
        """For pickle and copy: by way of a checkpoint."""
        with tempfile.TemporaryDirectory() as directory:
            self.save(directory)
            files = {path.name: path.read_bytes() for path in Path(directory).iterdir()}
        return _restored, (type(self), files)

    @documented(PretrainOptions)
    def pretrain(
        self,
        images: ArrayLike,
        conditions: ArrayLike,
        *,
        progress: Optional[Progress] = None,
        **options: Unpack[PretrainKeywords],
    ) -> None:
        """Flow matching on pairs of images (N, D) and conditions (N, C), taken as float32.

        steps          optimiser steps
        learning_rate  decays along a cosine to a tenth
        progress       `progress(done, total, loss)` is called about 200 times

        If `progress` raises, that comes out of this call; if it returns a true value, CallbackFailed does. Either way
        the trainer is as it was before.
        """
        with self._together("the arguments of Trainer.pretrain"):
            pictures = _arrays.matrix(images, "images", np.float32)
            vectors = _arrays.matrix(conditions, "conditions", np.float32)
            if progress is not None:
                function(progress, "progress")
            struct = fill(PretrainOptions, {**options}, "Trainer.pretrain")
        with self._use() as handle, self._guard() as guard:
            # With no progress to report there still is a callback, for Ctrl-C to come through.
            callback = guard.callback(ProgressFn, progress or (lambda *_: None))
            pairs = _arrays.tensor(pictures), _arrays.tensor(vectors)
            status = lib.cgrpo_trainer_pretrain(handle, *pairs, struct, callback, None)
        guard.check(status)

    def iterate(self, conditions: ArrayLike, reward: Reward) -> IterationReport:
        """One Chunk-GRPO iteration: group_size samples for each row of conditions (P, C), rewards, optimiser steps.

        reward  `reward(images, prompt)`: images (B, D) float32 and prompt (B,) int64, the row of `conditions` of each;
                returns B finite numbers

        If the reward raises, or is not finite, the trainer is as it was before.
        """
        with self._together("the arguments of Trainer.iterate"):
            vectors = _arrays.matrix(conditions, "conditions", np.float32)
            function(reward, "reward")
        report = new(IterationReportStruct)

        def call(images: Any, prompt: Any, rewards: Any) -> None:
            pictures = _arrays.view(images.contents, np.dtype(np.float32)).copy()
            rows = np.ctypeslib.as_array(prompt, (len(pictures),)).astype(np.int64)
            target = np.ctypeslib.as_array(rewards, (len(pictures),))
            _arrays.assign(target, reward(pictures, rows), "the reward returned")

        with self._use() as handle, self._guard() as guard:
            callback = guard.callback(RewardFn, call)
            status = lib.cgrpo_trainer_iterate(handle, _arrays.tensor(vectors), callback, None, report)
        guard.check(status, calls=1 if self._ranks is None else None)
        done: IterationReport = record(report)
        return done

    def set_replica(self, ranks: Optional[RanksLike]) -> None:
        """Makes the trainer one of several, in as many processes, that train one policy: `pretrain` and `iterate` are then
        called on all of them and end with the same parameters and report on each, those of one trainer that has all prompts,
        up to the order of sums.

        ranks  `of_torch()`, `of_mpi(comm)` or another `chunkgrpo.distributed.Ranks`; None: the trainer is alone again

        All ranks call this, with trainers of the same options (`threads` apart) and seed, or of one checkpoint. Each gives
        `iterate` its prompts, `conditions[ranks.rank :: ranks.size]` of all, and `pretrain` all pairs. Where a call raises on
        one rank, it raises on all, and all trainers are as they were. After a RankFailed the replica must be set again. A
        checkpoint of any rank is that of all, and serves any number of ranks.
        """
        if ranks is not None and not all(hasattr(ranks, name) for name in ("rank", "size", "all_reduce", "together")):
            raise WrongType(f"ranks must be Ranks of chunkgrpo.distributed, not {type(ranks).__name__}")
        callback = ranks and lasting(AllReduceFn, _adding(ranks), lambda: self._current)
        with self._use() as handle, self._guard() as guard:
            if ranks is None:
                status = lib.cgrpo_trainer_set_replica(handle, 0, 1, AllReduceFn(), None)
            else:
                status = lib.cgrpo_trainer_set_replica(handle, ranks.rank, ranks.size, callback, None)
        guard.check(status)
        self._ranks, self._all_reduce = ranks, callback

    def sample(
        self, conditions: ArrayLike, *, parameters: Parameters = "averaged", eta: Optional[float] = None, seed: int = 0
    ) -> Array:
        """Images (B, D) float32 for conditions (B, C), by the trainer's schedule. Sample i has the noise of id i.

        parameters  "averaged" (their exponential moving average) or "trained"
        eta         noise scale; 0 = the ODE, None = the trainer's
        seed        0 ... 2^64 - 1
        """
        vectors = _arrays.matrix(conditions, "conditions", np.float32)
        kind = choice(parameters, PARAMETERS, "parameters")
        numbers = self._options["eta"] if eta is None else real(eta, "eta"), seed_number(seed)
        images = _arrays.empty((len(vectors), self.latent_size), np.float32)
        with self._use() as handle:
            check(lib.cgrpo_trainer_sample(handle, _arrays.tensor(vectors), kind, *numbers, _arrays.tensor(images)))
        return images

    def velocity(
        self, latents: ArrayLike, sigma: float, conditions: ArrayLike, *, parameters: Parameters = "averaged"
    ) -> Array:
        """The network alone, for a rollout of your own: velocity (B, D) float32 at latents (B, D) and sigma, for
        conditions (B, C)."""
        points = _arrays.matrix(latents, "latents", np.float32)
        vectors = _arrays.matrix(conditions, "conditions", np.float32)
        kind, level = choice(parameters, PARAMETERS, "parameters"), real(sigma, "sigma")
        out = np.empty(points.shape, np.float32)
        x, c, v = map(_arrays.tensor, (points, vectors, out))
        with self._use() as handle:
            check(lib.cgrpo_trainer_velocity(handle, kind, x, level, c, v))
        return out

    @property
    def options(self) -> dict[str, Any]:
        """The options that the trainer was made of: `Trainer(**trainer.options)` begins as it began."""
        return dict(self._options)

    @property
    def parameter_count(self) -> int:
        """How many numbers the network learns."""
        return self._counts()[0]

    @property
    def iterations(self) -> int:
        """Chunk-GRPO iterations done so far."""
        return self._counts()[1]

    # ------------------------------------------------------------------------------------------------------------------
    # The handle

    def close(self) -> None:
        """Frees the network. Every later call is an error; closing again is not."""
        if self._handle.is_open:
            with self._use() as handle:
                handle.close()

    def __repr__(self) -> str:
        sizes = self._options["latent_size"], self._options["condition_size"]
        return "<Trainer of images of {} numbers, conditions of {}>".format(*sizes)

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _own(self, handle: Handle) -> None:
        self._handle = handle
        self._lock = threading.Lock()
        self._ranks = self._all_reduce = None
        self._current = Guard()
        struct = new(TrainerOptions)
        check(lib.cgrpo_trainer_info(handle, struct, None, None))
        self._options = read(struct)
        self.latent_size: int = struct.latent_size

    @contextmanager
    def _use(self) -> Iterator[Handle]:
        """The handle, for one call. A callback that calls its own trainer would find it half-way, or freed."""
        if not self._lock.acquire(blocking=False):
            raise Error("the trainer is in a call; it takes one at a time, and none from its own callbacks")
        try:
            if not self._handle.is_open:
                raise Error("the trainer is closed")
            yield self._handle
        finally:
            self._lock.release()

    @contextmanager
    def _guard(self) -> Iterator[Guard]:
        """Of a call that may sum over the ranks."""
        with Guard() as guard:
            self._current = guard
            yield guard

    def _together(self, part: str) -> ContextManager[None]:
        """Tells the other ranks what is raised before the library hears of the call."""
        return nullcontext() if self._ranks is None else self._ranks.together(part)

    def _counts(self) -> tuple[int, int]:
        parameters, iterations = ctypes.c_int64(), ctypes.c_int64()
        with self._use() as handle:
            check(lib.cgrpo_trainer_info(handle, None, byref(parameters), byref(iterations)))
        return parameters.value, iterations.value


def _adding(ranks: RanksLike) -> Callable[[int, int, int], None]:
    def add(values: int, kind: int, count: int) -> None:
        number: Any = ctypes.c_double if kind == TYPE["f64"] else ctypes.c_float
        ranks.all_reduce(np.ctypeslib.as_array(ctypes.cast(values, ctypes.POINTER(number)), (count,)))

    return add


def _restored(kind: type[Trainer], files: dict[str, bytes]) -> Trainer:
    with tempfile.TemporaryDirectory() as directory:
        for name, content in files.items():
            Path(directory, name).write_bytes(content)
        return kind.load(directory)


def _path(directory: Any) -> bytes:
    try:
        path = os.fsencode(directory)
    except TypeError:
        raise WrongType(f"directory must be a path, not {type(directory).__name__}") from None
    if b"\0" in path or not path:
        raise InvalidArgument(f"directory is {directory!r}, which is no path")
    return path
