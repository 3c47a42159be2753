"""The forward-process methods by their published names, with the numbers of their authors' scripts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Optional

from . import _generated
from ._generated import FORWARD_OBJECTIVE, MATCHING_WEIGHTING
from ._library import lib, new
from ._options import changed, read
from .errors import InvalidArgument, check, text
from .schedule import Schedule


@dataclass(frozen=True)
class Method:
    """What a method's scripts set. `METHODS` has them by name; `print(method)` says it in lines.

    name           the published one
    source         repository and file
    steps          of the rollout, by an ODE
    group_size     samples per prompt
    draws          times and noises per sample
    learning_rate  of AdamW
    beta           of `distances`: NFT's v+ and v-; None for other methods
    shares_noise   whether the samples of a group, or of a pair, have one id: one noise, one set of times
    notes          sentences: what its scripts do beside
    """

    name: str
    source: str
    steps: int
    group_size: int
    draws: int
    learning_rate: float
    beta: Optional[float] = None
    shares_noise: bool = False
    notes: tuple[str, ...] = ()
    _loss: tuple[tuple[str, Any], ...] = ()
    _times: tuple[tuple[str, Any], ...] = ()
    _steps: Optional[tuple[int, int]] = None

    @property
    def loss(self) -> dict[str, Any]:
        """Keywords for the loss of the name: `nft_loss`, `awm_loss` (AWM, FPO), `dgpo_loss`, `crd_loss`, `dpo_loss`."""
        return dict(self._loss)

    def times(self, schedule: Schedule) -> dict[str, Any]:
        """Keywords for `times`, of a rollout by this schedule."""
        if self._steps is None:
            return dict(self._times)
        first, end = self._steps
        if end > schedule.steps:
            raise InvalidArgument(
                f"{self.name} draws the sigmas of steps {first} ... {end - 1}, but the schedule has {schedule.steps} "
                f"steps; make one of {self.steps}"
            )
        return {**dict(self._times), "values": schedule.sigmas[first:end].tolist()}

    def __str__(self) -> str:
        return _described(self.name)


_SHOWN = {
    "nft": ("advantage_clip", "kl"),
    "dgpo": ("beta", "group_size", "clip", "kl"),
    "crd": ("beta", "kl", "kl_least"),
    "dpo": ("beta",),
}


def _described(name: str) -> str:
    return text(lib.cgrpo_forward_method_describe, name.encode())


def _matching(c: Any) -> dict[str, Any]:
    """What AWM and FPO set."""
    weighting = next(word for word, number in MATCHING_WEIGHTING.items() if number == c.matching_weighting)
    found: dict[str, Any] = changed(c.chunk_loss)
    if weighting != "uniform":
        found["weighting"] = weighting
    if weighting == "generalised_huber":
        found["power"] = c.matching_power
    if c.draws_per_chunk > 1:
        found["plan"] = (c.draws_per_chunk,) * (c.draws // c.draws_per_chunk)
    if c.reference_kl:
        found["reference_kl"] = c.reference_kl
    return found


def _named(name: str) -> Method:
    c: Any = new(_generated.ForwardMethod)
    check(lib.cgrpo_forward_method_named(name.encode(), c))
    objective = next(word for word, number in FORWARD_OBJECTIVE.items() if number == c.objective)
    if objective == "matching":
        loss = _matching(c)
    else:
        options = getattr(c, objective)
        values = read(options)
        loss = {**{word: values[word] for word in _SHOWN[objective]}, **changed(options)}
    if objective == "nft":
        loss.pop("beta", None)  # the distances' own
    if objective == "crd":
        loss["adaptive"] = bool(c.crd_adaptive)
    first, *lines = _described(name).splitlines()
    return Method(
        name,
        first.split("(", 1)[1].rstrip(")"),
        *(c.steps, c.group_size, c.draws, c.learning_rate),
        beta=c.nft.beta if objective == "nft" else None,
        shares_noise=bool(c.share_noise),
        notes=tuple(re.sub(r"^ +note +", "", line) for line in lines if line.split()[0] == "note"),
        _loss=tuple(loss.items()),
        _times=tuple(changed(c.times).items()),
        _steps=(c.first_time_step, c.end_time_step) if c.end_time_step else None,
    )


METHODS = {name: _named(name) for name in ("nft", "awm", "fpo", "dgpo", "crd", "dpo")}
"""nft, awm, fpo, dgpo, crd, dpo."""
