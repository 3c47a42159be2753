"""The gradient of an objective of the forward process, one draw at a time."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace
from typing import Any, Callable, Optional, Union

import numpy as np
import torch
from torch import Tensor

from .. import _arrays
from .._distances import GRADIENTS, NUMBERS, Distances, noised
from .._metrics import merge_stats
from .._part import Part
from .._scalars import flag, function, integer
from ..errors import InvalidArgument, WrongType
from ._drawn import Drawn
from ._forward import distances
from ._parallel import refuse_wrong, sharded
from ._tensors import constant, floating
from .autograd import eager

Velocity = Callable[[Tensor, Tensor, int], Tensor]
Objective = Callable[[Distances[Tensor], Tensor], Any]


@dataclass(frozen=True)
class Streamed:
    """The result of `streamed_backward`.

    loss       0-dim, float64, without a graph
    distances  `Distances` (B, N), detached
    stats      the statistics of the draws together, where the objective returned a ForwardLoss; else None
    """

    loss: Tensor
    distances: Distances[Tensor]
    stats: Any = None


@eager
def streamed_backward(
    velocity: Velocity,
    clean: Tensor,
    times: Any,
    objective: Objective,
    *,
    noise: Optional[Tensor] = None,
    seed: Optional[int] = None,
    sample_ids: Any = None,
    first_draw: int = 0,
    old: Union[Velocity, Tensor, None] = None,
    reference: Union[Velocity, Tensor, None] = None,
    beta: Optional[float] = None,
    joint: bool = False,
    scale: float = 1.0,
    scaler: Any = None,
    no_sync: Optional[Callable[[], Any]] = None,
    preserve_rng_state: bool = True,
    threads: int = 1,
    part: Optional[Part] = None,
) -> Streamed:
    """The gradient of an objective over N draws of times and noise, added to the parameters' `.grad`, holding the
    activations of one draw.

    velocity    velocity(x_t, t, j): the model, with its graph, at the noised latents (B, ...) and times (B,) of draw j
    clean       (B, ...): x0
    times       (B, N), in (0, 1]
    objective   objective(distances, t): a 0-dim tensor, or a ForwardLoss, of distances (B, n) and t (B, n). It is a
                mean over the n draws, as the losses here are
    noise       (B, N, ...): e; or
    seed        with sample_ids (B,): the library's, of draws first_draw ... first_draw + N - 1
    old         old(x_t, t, j): the policy that sampled, called without a graph; or its velocities (B, N, ...)
    reference   the same, of a frozen one
    beta        of NFT's v+ and v-
    joint       False: the objective is asked for each draw, n = 1, and the model run once. True: for all draws at once,
                n = N, where draws share a ratio (AWM with chunks, FPO): each draw is run once without a graph, and again
                with one where its gradient is not zero
    scale       factor of the gradient: 1 / (number of micro-batches) where they are accumulated
    scaler      a torch.amp.GradScaler, whose scale is a factor too
    no_sync     of a model that several processes train, as in no_sync=cgt.no_sync(model): all draws but the last run
                inside it. A DeepSpeed engine needs it, and with joint DistributedDataParallel does; static graphs are
                refused. Give all processes as many draws
    preserve_rng_state  with joint: both runs of a draw have the same dropout
    part        which elements of their samples clean, noise and velocities are

    An error leaves the gradients of the draws before it in `.grad`: zero them before the batch is tried again.
    """
    if torch.is_inference_mode_enabled():
        raise InvalidArgument("streamed_backward cannot run under torch.inference_mode")
    every = sharded(velocity)
    refuse_wrong(velocity, no_sync, every or not joint, "draws")
    draws = _Draws(
        function(velocity, "velocity"), constant(clean, "clean"), times, noise, seed, sample_ids, first_draw,
        old, reference, beta, threads, part,
    )  # fmt: skip
    factor = torch.full((), float(scale), dtype=torch.float64, device=clean.device)
    factor = factor if scaler is None else scaler.scale(factor)
    objective, sync = function(objective, "objective"), no_sync or contextlib.nullcontext
    same_random = flag(preserve_rng_state, "preserve_rng_state")
    if flag(joint, "joint"):
        return _joint(draws, objective, factor, sync, same_random, every)
    total, seen, stats = torch.zeros((), dtype=torch.float64, device=clean.device), [], []
    for j in range(draws.count):
        with contextlib.nullcontext() if j + 1 == draws.count else sync(), torch.enable_grad():
            d = draws.distances(j)
            value = objective(Distances.stack([d]), draws.t[:, j : j + 1])
            loss = _scalar(value) / draws.count
            torch.autograd.backward(loss, factor.to(loss.dtype))
        stats.append(getattr(value, "stats", None))
        total += loss.detach()
        seen.append(_detached(d))
    return Streamed(total, Distances.stack(seen), _together(stats))


def _joint(
    draws: _Draws, objective: Objective, factor: Tensor, sync: Callable[[], Any], same_random: bool, every: bool
) -> Streamed:
    """every: draws are run again where nothing is left to learn, too."""
    drawn, seen = Drawn(draws.clean), []
    with torch.no_grad():
        for j in range(draws.count):
            with drawn.first(j):
                seen.append(draws.distances(j))
    torch.clear_autocast_cache()  # which remembers the weights that it has cast, here without their graph
    stacked = Distances.stack(seen)
    leaves = {name: getattr(stacked, name) for name in GRADIENTS if getattr(stacked, name) is not None}
    for leaf in leaves.values():
        leaf.requires_grad_(True)
    with torch.enable_grad():
        value = objective(stacked, draws.t)
        loss = _scalar(value)
        slopes = torch.autograd.grad(loss, list(leaves.values()), factor.to(loss.dtype), allow_unused=True)
    grads = {name: slope for name, slope in zip(leaves, slopes) if slope is not None}
    found = [np.asarray(slope) for slope in _arrays.fetched(**grads)]
    moving = [j for j in range(draws.count) if every or any(slope[:, j].any() for slope in found)] or [draws.count - 1]
    for j in moving:
        with contextlib.nullcontext() if j == moving[-1] else sync(), torch.enable_grad():
            with drawn.again(j) if same_random else contextlib.nullcontext():
                d = draws.distances(j)
            torch.autograd.backward([getattr(d, name) for name in grads], [g[:, j] for g in grads.values()])
    return Streamed(loss.detach(), _detached(stacked), getattr(value, "stats", None))


def _together(stats: list[Any]) -> Any:
    """Of draws of the same samples."""
    return None if any(part is None for part in stats) else merge_stats(stats)


def _detached(d: Distances[Tensor]) -> Distances[Tensor]:
    values = {name: getattr(d, name) for name in NUMBERS}
    return replace(d, **{name: None if value is None else value.detach() for name, value in values.items()})


def _scalar(value: Any) -> Tensor:
    value = getattr(value, "loss", value)
    if not isinstance(value, Tensor):
        raise WrongType(f"the objective returned must be a 0-dim torch.Tensor, not {type(value).__name__}")
    if value.ndim:
        raise InvalidArgument(f"the objective returned has shape {tuple(value.shape)}; it must be 0-dim: take its mean")
    return value


@dataclass
class _Draws:
    """N draws of times and noise for a batch, and the policies that are asked at them."""

    velocity: Velocity
    clean: Tensor
    times: Any
    noise: Optional[Tensor]
    seed: Optional[int]
    sample_ids: Any
    first_draw: int
    old: Any
    reference: Any
    beta: Optional[float]
    threads: int
    part: Optional[Part]

    def __post_init__(self) -> None:
        values = _arrays.doubles(self.times, "times")
        if values.ndim != 2 or values.shape[0] != len(self.clean) or not values.shape[1]:
            raise InvalidArgument(
                f"times has shape {values.shape}; for clean {tuple(self.clean.shape)} it must be ({len(self.clean)}, N)"
            )
        self.times, self.count = values, values.shape[1]
        self.t = _arrays.given_back(values, self.clean)
        self.first_draw = integer(self.first_draw, "first_draw", 0)
        given = {"noise": self.noise, "old": self.old, "reference": self.reference}
        wanted = (len(self.clean), self.count, *self.clean.shape[1:])
        for name, value in given.items():
            if isinstance(value, Tensor) and value.shape != wanted:
                raise InvalidArgument(f"{name} has shape {tuple(value.shape)}; it must be {wanted}, (B, N, ...)")
            if name != "noise" and value is not None and not isinstance(value, Tensor):
                function(value, name)

    def distances(self, j: int) -> Distances[Tensor]:
        """Those of draw j, with the graph of the trained policy."""
        noise = None if self.noise is None else constant(self.noise, "noise")[:, j].to(self.clean.dtype)
        at = {"noise": noise, "seed": self.seed, "sample_ids": self.sample_ids, "draw": self.first_draw + j}
        drawn: dict[str, Any] = {**at, "threads": self.threads, "part": self.part}
        x, t = noised(self.clean, self.times[:, j].copy(), **drawn), self.t[:, j].float()
        with torch.no_grad():
            others: dict[str, Any] = {
                "old_velocity": self._given(self.old, x, t, j, "old"),
                "reference_velocity": self._given(self.reference, x, t, j, "reference"),
            }
        v = self._checked(self.velocity(x, t, j), "velocity")
        if torch.is_grad_enabled() and not v.requires_grad:
            raise InvalidArgument(f"the velocity returned for draw {j} has no graph to go back through")
        return distances(self.clean, v, beta=self.beta, **drawn, **others)

    def _given(self, source: Any, x: Tensor, t: Tensor, j: int, name: str) -> Optional[Tensor]:
        if source is None or isinstance(source, Tensor):
            return None if source is None else source[:, j]
        return self._checked(source(x, t, j), name)

    def _checked(self, value: Any, name: str) -> Tensor:
        v = floating(value, f"what {name} returned")
        if v.shape != self.clean.shape:
            raise InvalidArgument(
                f"what {name} returned has shape {tuple(v.shape)}; clean has {tuple(self.clean.shape)}"
            )
        return v
