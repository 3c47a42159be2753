"""Why ratios are not 1 where they should be: what is tried, one cause after the other, until the old log-probabilities
come out again."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace
from typing import Any, Callable, Optional

import numpy as np
from numpy.typing import NDArray

from . import _arrays, _frameworks, _storage
from ._generated import DYNAMICS
from .errors import Error
from .sampler import Sampler

Values = NDArray[np.float64]

SIXTEEN_BITS = ("bfloat16", "float16")


@dataclass
class Case:
    """Log-probabilities that should be equal, and what made them. Column j is step first_step + j."""

    sampler: Sampler
    latents: Any
    old: Values
    first_step: Any
    velocity: Optional[Callable[..., Any]]
    guidance: Any
    velocities: Any = None
    new: Values = field(default_factory=lambda: np.empty((0, 0)))
    steps: list[int] = field(default_factory=list)
    """The columns that have changed."""

    @property
    def type(self) -> str:
        return _arrays.borrow(self.latents[:, :1], "latents").storage.name

    @property
    def frames(self) -> int:
        return int(self.latents.shape[1])

    @property
    def probes(self) -> list[int]:
        """At most three of the columns, so that a search stays short."""
        return sorted({self.steps[0], self.steps[len(self.steps) // 2], self.steps[-1]})

    def sigma(self, j: int) -> float:
        return float(self.sampler.schedule.sigmas[self.first_step + j])

    def numbers(self, j: int) -> Values:
        """A frame in float64."""
        borrowed = _arrays.borrow(self.latents[:, j], "latents", on_host=True).ready()
        return np.array(_storage.floats(borrowed.array), np.float64)

    def run(self, j: int, sigma: Optional[float] = None, frame: Optional[int] = None) -> tuple[Any, Any]:
        """(v, u or None) of the model in column j, rounded to the latents' type, in float64."""
        x = self.latents[:, j if frame is None else frame]
        lent = x.clone() if hasattr(x, "clone") else x.copy() if hasattr(x, "copy") else x
        family, model = _frameworks.of(lent, "latents"), self.velocity
        assert model is not None
        value = family.run(model, lent, self.sigma(j) if sigma is None else sigma, self.first_step + j)
        v, u = value if isinstance(value, tuple) and len(value) == 2 else (value, None)
        return self._stored(v, x), None if u is None else self._stored(u, x)

    def _stored(self, value: Any, like: Any) -> Values:
        target = np.empty_like(_arrays.borrow(like, "latents", on_host=True).ready().array)
        _arrays.assign(target, value, "the velocity returned")
        return np.array(_storage.floats(target), np.float64)

    def given(self, j: int) -> tuple[Any, Any]:
        """The velocity of a column: of the model, or as it was given."""
        if self.velocity is not None:
            return self.run(j)
        return self._stored(self.velocities[:, j], self.latents[:, 0]), None

    def log_prob(
        self, j: int, pair: tuple[Any, Any], frame: Optional[int] = None, guidance: Optional[float] = None
    ) -> Values:
        """(B,) of step first_step + j with the frames `frame` and the one after."""
        at, (v, u) = j if frame is None else frame, pair
        scale = self.guidance if guidance is None else guidance
        extras: Any = {} if u is None else {"unconditional": u, "guidance": scale}
        ends = self.numbers(at), v, self.numbers(at + 1)
        return np.asarray(self.sampler.log_prob(self.first_step + j, *ends, **extras))

    def explains(self, value: Callable[[int], Any], probes: Optional[list[int]] = None, share: float = 0.05) -> bool:
        """Whether other log-probabilities are the old ones, all but a small share of the change."""
        columns = self.probes if probes is None else probes
        if not columns:
            return False
        left = [np.abs(value(j) - self.old[:, j]).mean() for j in columns]
        changed = [np.abs(self.new[:, j] - self.old[:, j]).mean() for j in columns]
        return all(rest <= share * change for rest, change in zip(left, changed))


def causes(case: Case, judged: list[int]) -> tuple[str, ...]:
    """Those that give the old log-probabilities again are sure, and looked for first."""
    able = case.velocity is not None or case.velocities is not None
    if case.velocity is not None and (found := _tried(_random, case)):
        return (found,)
    for cause in (_shifted, _later, _guidance, _timesteps, _other_sampler) if able else ():
        if found := _tried(cause, case):
            return (found,)
    likely = [found for cause in (_cast, _noise_level) if (found := _tried(cause, case))]
    if not likely and len(case.steps) < len(judged):
        columns = ", ".join(str(case.first_step + j) for j in case.steps)
        likely = [f"latents edited: the steps {columns} have changed and the others are as they were"]
    if not likely and case.type in SIXTEEN_BITS:
        likely = [f"latents cast: they are {case.type}, if they were sampled in another type"]
    other = "another velocity: weights changed since the rollout, or other guidance, prompt or precision (autocast)"
    return tuple(likely) or (other,)


def _tried(cause: Callable[[Case], Optional[str]], case: Case) -> Optional[str]:
    """A cause, or None: a model may not like what is tried with it, which is no error of the training."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return cause(case)
    except Exception:
        return None


def _random(case: Case) -> Optional[str]:
    j = case.probes[0]
    first, again = case.run(j)[0], case.run(j)[0]
    if np.array_equal(first, again):
        return None
    return "dropout on: two runs of the model on the same latents differ; call model.eval(), or take the dropout out"


def _shifted(case: Case) -> Optional[str]:
    for shift in (-1, 1):
        probes = [j for j in case.steps if 0 <= j + shift and j + shift + 1 < case.frames]
        if case.velocity is None:
            probes = [j for j in probes if j + shift < case.velocities.shape[1]]
        probes = sorted({probes[0], probes[-1]}) if probes else []
        if case.explains(lambda j: case.log_prob(j, _of_frame(case, j, j + shift), j + shift), probes, _share(case)):
            moved = "late" if shift < 0 else "early"
            return f"frames shifted by one: latents[:, 0] is one step too {moved} for the log-probabilities"
    return None


def _later(case: Case) -> Optional[str]:
    """The steps after first_step, where the rollout began or was cut."""
    for first in range(case.sampler.schedule.steps - case.old.shape[1] + 1):
        tried = replace(case, first_step=first)
        try:
            if first != case.first_step and tried.explains(lambda j: tried.log_prob(j, tried.given(j))):
                return f"another first_step: latents[:, 0] is what step {first} takes, and this is {case.first_step}"
        except Error:  # a step without noise
            continue
    return None


def _of_frame(case: Case, j: int, frame: int) -> tuple[Any, Any]:
    return case.run(j, frame=frame) if case.velocity is not None else case.given(frame)


def _share(case: Case) -> float:
    """A given velocity of the neighbouring frame had that step's sigma, which leaves some of the change."""
    return 0.05 if case.velocity is not None else 0.3


def _guidance(case: Case) -> Optional[str]:
    """The log-probability is quadratic in the guidance: so is solved for the one that gives the old."""
    pairs = {j: case.given(j) for j in case.probes}
    if any(u is None for _, u in pairs.values()):
        return None
    j = case.probes[0]
    at = [case.log_prob(j, pairs[j], guidance=scale)[0] for scale in (0.0, 1.0, 2.0)]
    second = (at[2] - 2 * at[1] + at[0]) / 2
    first = at[1] - at[0] - second
    root = math.sqrt(max(first**2 - 4 * second * (at[0] - case.old[0, j]), 0.0))
    for scale in ((-first - root) / (2 * second), (-first + root) / (2 * second)):
        if case.explains(lambda k: case.log_prob(k, pairs[k], guidance=scale)):
            return f"other guidance: the rollout had {scale:.4g}, and this is {case.guidance:.4g}"
    return None


def _bfloat16(value: float) -> float:
    bits = np.array([value], np.float32).view(np.uint32)
    return float(((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)[0])


_ROUNDED: dict[str, Callable[[float], float]] = {  # the coarser first: what cannot tell them cannot tell the finer ones
    "cast, a bfloat16 timestep": lambda sigma: _bfloat16(1000 * sigma) / 1000,
    "cast, a bfloat16 sigma": _bfloat16,
    "truncated, int(1000 sigma)": lambda sigma: math.floor(1000 * sigma) / 1000,
    "rounded, round(1000 sigma)": lambda sigma: round(1000 * sigma) / 1000,
    "cast, a float16 timestep": lambda sigma: float(np.float16(1000 * sigma)) / 1000,
    "cast, a float16 sigma": lambda sigma: float(np.float16(sigma)),
}


def _timesteps(case: Case) -> Optional[str]:
    if case.velocity is None:
        return None
    for how, rounded in _ROUNDED.items():
        probes = [j for j in case.steps if abs(rounded(case.sigma(j)) - case.sigma(j)) > 1e-5][:6]
        if case.explains(lambda j: case.log_prob(j, case.run(j, rounded(case.sigma(j)))), probes):
            return f"timesteps {how}, in the rollout and not here"
        if probes and all(_blind(case, j, rounded(case.sigma(j))) for j in probes):
            return f"timesteps {how}, here and not in the rollout"
    return None


def _blind(case: Case, j: int, sigma: float) -> bool:
    """Whether the model does not tell a sigma from its own, but one further off."""
    here = case.run(j)[0]
    near, far = case.run(j, sigma)[0], case.run(j, 0.9 * case.sigma(j))[0]
    return np.array_equal(here, near) and not np.array_equal(here, far)


def _other_sampler(case: Case) -> Optional[str]:
    options = {name: value for name, value in case.sampler.options.items() if name not in ("etas", "dynamics", "eta")}
    pairs = {j: case.given(j) for j in case.probes}
    etas = sorted({case.sampler.eta, 0.25, 0.75, *(n / 10 for n in range(1, 16))})
    for dynamics in DYNAMICS:
        for eta in etas:
            try:
                other = Sampler(case.sampler.schedule, dynamics, eta, **options)  # type: ignore[arg-type]
                tried = replace(case, sampler=other)
                if tried.explains(lambda j: tried.log_prob(j, pairs[j])):
                    was = f"the rollout's was {dynamics!r} with eta={eta:g}"
                    return f"another sampler: {was}, and this is {case.sampler!r}"
            except Error:  # which takes no such eta, or has no noise there
                continue
    return None


def _cast(case: Case) -> Optional[str]:
    if case.type in SIXTEEN_BITS:
        return None
    numbers = np.stack([case.numbers(j) for j in range(min(case.frames, 3))])
    with np.errstate(over="ignore"):
        half = numbers.astype(np.float16).astype(np.float64)
    single = numbers.astype(np.float32)
    short = not (single.view(np.uint32) & 0xFFFF).any() and np.array_equal(single, numbers)
    for name, same in (("bfloat16", short), ("float16", np.array_equal(half, numbers))):
        if same:
            return f"latents cast: they are {case.type}, but hold numbers of {name} alone"
    return None


def _noise_level(case: Case) -> Optional[str]:
    """A Gaussian log-probability is -log s - log(2 pi) / 2 - mean(e^2) / 2, and the last is 1/2 within its spread."""
    if case.sampler.options.get("log_prob") == "squared_error":
        return None
    for j in case.probes:
        s = case.sampler.coefficients(case.first_step + j).s
        found = math.exp(-case.old[:, j].mean() - 0.5 * math.log(2 * math.pi) - 0.5)
        if abs(math.log(found / s)) > 6 / math.sqrt(2 * case.numbers(j).size):
            return (
                f"another sampler or schedule: the rollout's noise in step {case.first_step + j} was about "
                f"{found:.3g}, and this sampler's is {s:.3g}"
            )
    return None
