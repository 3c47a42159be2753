"""The self-check of the first iteration: at the policy that sampled every ratio is 1, and where it is not there is a
cause that can often be found."""

from __future__ import annotations

import warnings
import weakref
from dataclasses import dataclass
from typing import Any, Callable, Optional

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _arrays
from ._causes import SIXTEEN_BITS, Case, Values, causes
from ._scalars import function, integer
from ._steps import kept
from .errors import InvalidArgument
from .sampler import Sampler


class RatioWarning(UserWarning):
    """The first loss of a sampler has ratios that are not 1. Silence it with `check=False`, or by the class."""


@dataclass(frozen=True, eq=False)
class OnPolicyReport:
    """What `check_on_policy` found.

    ok         whether all judged steps are found again
    changes    (S,): max |new - old| of each step's log-probabilities, in nats per element; NaN where a step was not judged
    tolerance  the largest change that is taken for rounding, in the same unit
    causes     sentences: what explains the change, the surest first; empty where all is well
    """

    ok: bool
    changes: Values
    tolerance: float
    causes: tuple[str, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OnPolicyReport) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> Any:
        return self.ok, self.changes.tobytes(), self.tolerance, self.causes

    def __str__(self) -> str:
        judged = np.flatnonzero(np.isfinite(self.changes))
        if self.ok:
            return f"the ratios of {len(judged)} steps are 1, within {self.tolerance:g}"
        each = ", ".join(f"{step}: {self.changes[step]:.2g}" for step in judged)
        return (
            "the ratios of a fresh rollout are not 1: its log-probabilities are not found again.\n"
            f"Cause: {'; or '.join(self.causes)}.\nmax |new - old| of each step: {each}"
        )


def check_on_policy(
    sampler: Sampler,
    trajectory: Any,
    velocity: Optional[Callable[..., Any]] = None,
    *,
    new_log_probs: Optional[ArrayLike] = None,
    guidance: float = 1.0,
    first_step: int = 0,
    tolerance: Optional[float] = None,
) -> OnPolicyReport:
    """Whether the policy that is about to be trained finds the log-probabilities of a fresh rollout again: all its
    ratios are 1 before the first update. Print the report; where it is not `ok`, it names the cause that it can find.

    trajectory     with `latents` (B, S + 1, ...), or more steps, and `log_probs` (B, S): a rollout, or a pipeline's
                   record
    velocity       velocity(latents, sigma, step) as it is trained; or the pair (conditional, unconditional). It is run
                   once for each step that has a log-probability, and some times more where a cause is looked for; or
    new_log_probs  (B, S), of the policy that is trained: then fewer causes can be found
    guidance       of a pair that `velocity` returns
    first_step     that latents[:, 0] takes
    tolerance      of |new - old|; None = 5e-6, a tenth of the default clip range, or 5e-5 for latents of 16 bits

    Causes: a model that draws random numbers (dropout); frames that are shifted by one; another guidance, of a pair;
    timesteps that were truncated or cast; another first_step, sampler or schedule; latents that were cast or edited; else another
    velocity: weights that have changed.
    """
    old = np.array(_arrays.matrix(trajectory.log_probs, "log_probs"))
    case = Case(kept(sampler), trajectory.latents, old, integer(first_step, "first_step", 0), velocity, guidance)
    stochastic = set(sampler.stochastic_steps)
    columns = [j for j in range(old.shape[1]) if case.first_step + j in stochastic and np.isfinite(old[:, j]).all()]
    if (velocity is None) == (new_log_probs is None):
        raise InvalidArgument("velocity and new_log_probs: give one of them")
    if not columns:
        raise InvalidArgument("the trajectory has no step with a log-probability")
    if new_log_probs is not None:
        new = _arrays.doubles(new_log_probs, "new_log_probs", old.shape)
    else:
        function(velocity, "velocity")
        new = old.copy()
        for j in columns:
            new[:, j] = case.log_prob(j, case.run(j))
    judged = np.zeros(old.shape, np.bool_)
    judged[:, columns] = True
    return _report(case, new, judged, tolerance)


# By identity: samplers of equal options are equal, but each makes rollouts of its own.
_checked: weakref.WeakValueDictionary[int, Sampler] = weakref.WeakValueDictionary()


def is_first(sampler: Sampler) -> bool:
    """Whether the next loss is a sampler's first one, which `warn` looks at."""
    return id(sampler) not in _checked


def warn(
    sampler: Sampler,
    latents: Any,
    old: Any,
    new: Any,
    judged: NDArray[np.bool_],
    *,
    first_step: Any = 0,
    velocity: Optional[Callable[..., Any]] = None,
    velocities: Any = None,
    guidance: Any = 1.0,
) -> None:
    """A RatioWarning where the ratios of a sampler's first loss are not 1."""
    if not is_first(sampler):
        return
    _checked[id(sampler)] = sampler
    known, found = (np.array(_arrays.matrix(rows, "log_probs")) for rows in (old, new))
    case = Case(sampler, latents, known, first_step, velocity, guidance, velocities)
    report = _report(case, found, judged, None)
    if not report.ok:
        hint = "" if velocity else "\nchunkgrpo.check_on_policy(sampler, trajectory, velocity) tries the model, too"
        warnings.warn(f"{report}{hint}", RatioWarning, stacklevel=4)


def _report(case: Case, new: Values, judged: NDArray[np.bool_], tolerance: Optional[float]) -> OnPolicyReport:
    limit = tolerance if tolerance is not None else 5e-5 if case.type in SIXTEEN_BITS else 5e-6
    differences = np.where(judged, np.abs(new - case.old), np.nan)
    some = judged.any(0)
    changes = np.full(judged.shape[1], np.nan)
    changes[some] = np.nanmax(differences[:, some], axis=0)
    if (changes[some] <= limit).all():
        return OnPolicyReport(True, changes, limit)
    case.new, case.steps = new, [int(j) for j in np.flatnonzero(changes > limit)]
    if _arrays.per_sample(case.first_step) or _arrays.per_sample(case.guidance):
        return OnPolicyReport(False, changes, limit, ("not looked for: steps or guidance are of each sample's own",))
    return OnPolicyReport(False, changes, limit, causes(case, [int(j) for j in np.flatnonzero(some)]))
