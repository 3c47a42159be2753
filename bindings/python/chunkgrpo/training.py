"""The embedded policy: a velocity network of the library's own, pretrained by flow matching, trained by Chunk-GRPO.

No model of yours is needed here; the rest of the package is for when you have one.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import threading
from contextlib import contextmanager
from ctypes import byref
from dataclasses import dataclass
from typing import Any, Callable, Iterator, Optional, Union

import numpy as np
from numpy.typing import ArrayLike

from . import _abi, _arrays
from ._arrays import Array
from ._callbacks import Guard
from ._handle import Handle
from .chunks import ChunkPlan
from .errors import Error, InvalidArgument, WrongType, check
from .objective import ChunkStats, clip_range

Reward = Callable[[Array, Array], ArrayLike]
"""reward(images, prompt): one finite number for each image. images (B, D) float32; prompt (B,) int64: the row of the
conditions that each image was made for. Both are fresh arrays."""

Progress = Callable[[int, int, float], Optional[bool]]
"""progress(done, total, loss): a true result stops."""


@dataclass(frozen=True)
class IterationReport:
    """What one `Trainer.iterate` did."""

    iteration: int
    """Counted from 1."""
    reward_mean: float
    reward_std: float
    loss: float
    """Mean over the optimiser steps, as is grad_norm."""
    grad_norm: float
    """Before clipping."""
    stats: ChunkStats
    """Of the last optimiser step."""
    rollout_seconds: float
    reward_seconds: float
    update_seconds: float


class Trainer:
    """A velocity network (residual MLP, adaptive layer norm over time and condition) and its Chunk-GRPO training.

    Network
        latent_size, condition_size   D and C: elements of an image and of a condition vector
        width, blocks, embedding_size hidden size, residual blocks, size of the time and condition embeddings
    Sampling
        steps, shift                  T and the schedule's static shift
        dynamics, eta                 as in `Sampler`
        share_noise                   one initial noise a group
    Objective
        chunk_sizes                   None: 2, 3, 4, 7 where T = 17, else chunks of 4
        group_size                    samples a prompt, >= 2
        chunk_fraction                of the chunks of each sample that are trained, in (0, 1]
        weighted_selection            chunks drawn by relative L1
        advantage_clamp, clip, kl     as in `advantages` and `chunk_loss`
    Optimiser (AdamW)
        updates_per_rollout           optimiser steps: the prompts of a rollout are dealt out to them
        learning_rate, beta1, beta2, adam_epsilon, weight_decay
        max_grad_norm                 float("inf") for none
        ema_decay                     of the averaged weights, an optimiser step
        seed                          of the weights and of every draw
    threads                           0 = one a core; results are the same for any number

    It holds memory outside Python: leave it to the garbage collector, call `close`, or use it in a `with` block.
    One call at a time.
    """

    def __init__(
        self,
        latent_size: int,
        condition_size: int,
        *,
        width: int = 256,
        blocks: int = 3,
        embedding_size: int = 128,
        steps: int = 17,
        shift: float = 3.0,
        dynamics: str = "flow_sde",
        eta: float = 0.7,
        share_noise: bool = True,
        chunk_sizes: Optional[ArrayLike] = None,
        group_size: int = 12,
        chunk_fraction: float = 0.5,
        weighted_selection: bool = False,
        advantage_clamp: float = 5.0,
        clip: Union[float, tuple[float, float]] = (1e-3, 1e-3),
        kl: float = 0.0,
        updates_per_rollout: int = 2,
        learning_rate: float = 3e-4,
        beta1: float = 0.9,
        beta2: float = 0.999,
        adam_epsilon: float = 1e-8,
        weight_decay: float = 1e-4,
        max_grad_norm: float = 1.0,
        ema_decay: float = 0.9,
        seed: int = 0,
        threads: int = 0,
    ) -> None:
        options = _abi.new(_abi.TrainerOptions)
        integers = {
            "latent_size": latent_size,
            "condition_size": condition_size,
            "width": width,
            "blocks": blocks,
            "embedding_size": embedding_size,
            "steps": steps,
            "group_size": group_size,
            "updates_per_rollout": updates_per_rollout,
        }
        reals = {
            "shift": shift,
            "eta": eta,
            "chunk_fraction": chunk_fraction,
            "advantage_clamp": advantage_clamp,
            "kl": kl,
            "learning_rate": learning_rate,
            "beta1": beta1,
            "beta2": beta2,
            "adam_epsilon": adam_epsilon,
            "weight_decay": weight_decay,
            "max_grad_norm": max_grad_norm,
            "ema_decay": ema_decay,
        }
        for name, count in integers.items():
            setattr(options, name, _arrays.integer(count, name))
        for name, number in reals.items():
            setattr(options, name, _arrays.real(number, name))
        options.dynamics = _arrays.choice(dynamics, _abi.DYNAMICS, "dynamics")
        options.share_noise = bool(share_noise)
        options.weighted_selection = bool(weighted_selection)
        options.clip_low, options.clip_high = clip_range(clip)
        options.threads = _arrays.thread_count(threads)
        options.seed = _arrays.seed_number(seed)
        if chunk_sizes is not None:
            sizes = ChunkPlan(chunk_sizes).sizes
            _arrays.point(options, "chunk_sizes", sizes)
            options.chunk_count = len(sizes)
        handle = Handle(_abi.lib.cgrpo_trainer_destroy)
        check(_abi.lib.cgrpo_trainer_create(byref(options), handle.slot()))
        self._own(handle, int(options.latent_size), float(options.eta))

    @classmethod
    def load(cls, directory: Union[str, os.PathLike[str]]) -> Trainer:
        """The trainer that `save` wrote; it goes on as if it had never been interrupted.

        Raises IOFailure where the directory does not hold a whole checkpoint.
        """
        handle = Handle(_abi.lib.cgrpo_trainer_destroy)
        check(_abi.lib.cgrpo_trainer_load(_path(directory), handle.slot()))
        trainer = cls.__new__(cls)
        with open(os.path.join(directory, "state.json"), encoding="utf-8") as file:
            options = json.load(file)["options"]
        trainer._own(handle, options["latent_size"], options["eta"])
        return trainer

    def save(self, directory: Union[str, os.PathLike[str]]) -> None:
        """Writes a checkpoint: state.json and the .safetensors files that it names. The directory is made if missing;
        whenever the machine stops, it holds a whole checkpoint."""
        path = _path(directory)
        with self._use() as handle:
            check(_abi.lib.cgrpo_trainer_save(handle, path))

    def pretrain(
        self,
        images: ArrayLike,
        conditions: ArrayLike,
        *,
        steps: int = 2000,
        batch_size: int = 256,
        learning_rate: float = 2e-3,
        ema_decay: float = 0.99,
        progress: Optional[Progress] = None,
    ) -> None:
        """Flow matching on pairs of images (N, D) and conditions (N, C), taken as float32.

        steps          optimiser steps
        learning_rate  decays along a cosine to a tenth
        progress       `progress(done, total, loss)` is called now and then

        If `progress` raises, that comes out of this call; if it returns a true value, CallbackFailed does. Either way
        the trainer is as it was before.
        """
        pictures, vectors = _arrays.float_matrix(images, "images"), _arrays.float_matrix(conditions, "conditions")
        if progress is not None:
            _arrays.function(progress, "progress")
        options = _abi.new(_abi.PretrainOptions)
        options.steps = _arrays.integer(steps, "steps")
        options.batch_size = _arrays.integer(batch_size, "batch_size")
        options.learning_rate = _arrays.real(learning_rate, "learning_rate")
        options.ema_decay = _arrays.real(ema_decay, "ema_decay")
        with self._use() as handle, Guard() as guard:
            # With no progress to report there still is a callback, for Ctrl-C to come through.
            callback = guard.callback(_abi.ProgressFn, progress or (lambda *_: None))
            status = _abi.lib.cgrpo_trainer_pretrain(
                handle, _borrow(pictures), _borrow(vectors), byref(options), callback, None
            )
        guard.check(status)

    def iterate(self, conditions: ArrayLike, reward: Reward) -> IterationReport:
        """One Chunk-GRPO iteration: group_size samples for each row of conditions (P, C), rewards, optimiser steps.

        reward  `reward(images, prompt)`: images (B, D) float32 and prompt (B,) int64, the row of `conditions` of each;
                returns B finite numbers

        If the reward raises, or is not finite, the trainer is as it was before.
        """
        vectors = _arrays.float_matrix(conditions, "conditions")
        _arrays.function(reward, "reward")
        report = _abi.new(_abi.IterationReport)

        def call(images: Any, prompt: Any, rewards: Any) -> None:
            pictures = _arrays.view(images.contents, np.dtype(np.float32)).copy()
            rows = np.ctypeslib.as_array(prompt, (len(pictures),)).astype(np.int64)
            target = np.ctypeslib.as_array(rewards, (len(pictures),))
            _arrays.assign(target, reward(pictures, rows), "the reward returned")

        with self._use() as handle, Guard() as guard:
            callback = guard.callback(_abi.RewardFn, call)
            status = _abi.lib.cgrpo_trainer_iterate(handle, _borrow(vectors), callback, None, byref(report))
        guard.check(status, calls=1)
        numbers = {field.name: getattr(report, field.name) for field in dataclasses.fields(IterationReport)}
        return IterationReport(**{**numbers, "stats": ChunkStats._of(report.stats)})

    def sample(
        self, conditions: ArrayLike, *, weights: str = "averaged", eta: Optional[float] = None, seed: int = 0
    ) -> Array:
        """Images (B, D) float32 for conditions (B, C), by the trainer's schedule. Sample i has the noise of id i.

        weights  "averaged" (their exponential moving average) or "trained"
        eta      noise scale; 0 = the ODE, None = the trainer's
        seed     0 ... 2^64 - 1
        """
        vectors = _arrays.float_matrix(conditions, "conditions")
        kind = _arrays.choice(weights, _abi.WEIGHTS, "weights")
        scale = self._eta if eta is None else _arrays.real(eta, "eta")
        number = _arrays.seed_number(seed)
        images = _arrays.empty((len(vectors), self.latent_size), np.float32)
        with self._use() as handle:
            check(_abi.lib.cgrpo_trainer_sample(handle, _borrow(vectors), kind, scale, number, _borrow(images)))
        return images

    def velocity(self, latents: ArrayLike, sigma: float, conditions: ArrayLike, *, weights: str = "averaged") -> Array:
        """The network alone, for a rollout of your own: velocity (B, D) float32 at latents (B, D) and sigma, for
        conditions (B, C)."""
        points, vectors = _arrays.float_matrix(latents, "latents"), _arrays.float_matrix(conditions, "conditions")
        kind = _arrays.choice(weights, _abi.WEIGHTS, "weights")
        level = _arrays.real(sigma, "sigma")
        out = np.empty(points.shape, np.float32)
        with self._use() as handle:
            check(_abi.lib.cgrpo_trainer_velocity(handle, kind, _borrow(points), level, _borrow(vectors), _borrow(out)))
        return out

    @property
    def parameter_count(self) -> int:
        """Number of weights of the network."""
        return self._info()[0]

    @property
    def iterations(self) -> int:
        """Chunk-GRPO iterations done so far."""
        return self._info()[1]

    # ------------------------------------------------------------------------------------------------------------------
    # The handle

    def close(self) -> None:
        """Frees the network. Every later call is an error; closing again is not."""
        if self._handle.is_open:
            with self._use() as handle:
                handle.close()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _own(self, handle: Handle, latent_size: int, eta: float) -> None:
        self.latent_size = latent_size
        self._eta = eta
        self._handle = handle
        self._lock = threading.Lock()

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

    def _info(self) -> tuple[int, int]:
        parameters, iterations = ctypes.c_int64(), ctypes.c_int64()
        with self._use() as handle:
            check(_abi.lib.cgrpo_trainer_info(handle, byref(parameters), byref(iterations)))
        return parameters.value, iterations.value


def _borrow(array: Array) -> Any:
    return byref(_arrays.tensor(array))


def _path(directory: Any) -> bytes:
    try:
        path = os.fsencode(directory)
    except TypeError:
        raise WrongType(f"directory must be a path, not {type(directory).__name__}") from None
    if b"\0" in path or not path:
        raise InvalidArgument(f"directory is {directory!r}, which is no path")
    return path
