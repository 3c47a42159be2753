"""Published recipes: every convention of a source in one value."""

from __future__ import annotations

import ctypes
from typing import Any, Optional

from numpy.typing import ArrayLike

from . import _abi
from ._arrays import AnyArray
from .chunks import ChunkPlan
from .errors import InvalidArgument, check, text
from .objective import advantages
from .sampler import Sampler
from .schedule import Schedule
from .window import SDEWindow

RECIPES = (
    "gcpo",
    "dancegrpo",
    "flow_grpo",
    "flow_grpo_fast",
    "mixgrpo",
    "mixgrpo_flash",
    "flow_factory",
    "grpo_guard",
    "flow_dppo",
)


def _key(table: dict[str, int], number: int) -> str:
    return next(name for name, value in table.items() if value == number)


class Recipe:
    """A recipe with the numbers of its source's own scripts. `print(recipe)` says what it sets, which quirks of the source
    are followed and which refused, and why.

    name  one of RECIPES
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise InvalidArgument(f"name is {name!r}; it must be one of {', '.join(RECIPES)}")
        self._struct: Any = _abi.Recipe(struct_size=ctypes.sizeof(_abi.Recipe))
        check(_abi.lib.cgrpo_recipe_named(name.encode(), ctypes.byref(self._struct)))
        self.name = name
        r = self._struct
        self.steps: int = r.steps
        """T, before Flash shortens it."""
        self.group_size: int = r.group_size
        """Samples a prompt."""
        self.share_noise: bool = bool(r.share_noise)
        """One initial noise a prompt."""
        self.truncated_timesteps: bool = bool(r.truncated_timesteps)
        """The model sees int(1000 sigma), while the step uses sigma: `schedule().timesteps(truncated=True)`."""
        self.chunk_fraction: float = r.chunk_fraction
        self.optimiser = {
            "learning_rate": r.learning_rate,
            "weight_decay": r.weight_decay,
            "max_grad_norm": r.max_grad_norm,
        }
        """AdamW's."""
        self.window: Optional[SDEWindow] = self._window() if r.has_window else None

    def _window(self) -> SDEWindow:
        w = self._struct.window
        return SDEWindow(
            w.size,
            w.end,
            first=w.first,
            stride=w.stride or None,
            strategy=_key(_abi.WINDOW_STRATEGY, w.strategy),
            at_end=_key(_abi.WINDOW_END, w.at_end),
            iterations=w.iterations,
            least=w.least,
            threshold=w.threshold,
            decay=w.decay,
            seed=w.seed,
        )

    def schedule(self, iteration: int = 0) -> Schedule:
        """The sigmas of an iteration; only Flash's depend on it."""
        r, o = self._struct, self._struct.schedule
        if r.flash_ratio < 1 and self.window is not None:
            kept = self.window[iteration][-1] + 1
            # At least one step is left to reach sigma = 0.
            return Schedule.flash(self.steps, o.shift, kept, max(r.flash_ratio, min(1.0, 2 / (self.steps + 1 - kept))))
        kind = _key(_abi.SCHEDULE_SHIFT, o.shift_kind)
        shift: dict[str, Any] = {"shift": o.shift} if kind == "static" else {"mu": o.mu}
        return Schedule.make(self.steps, base=_key(_abi.SCHEDULE_BASE, o.base), shift_kind=kind, **shift)

    def sampler(self, iteration: int = 0, *, threads: int = 1) -> Sampler:
        """The sampler of an iteration."""
        o = self._struct.sampler
        return Sampler(
            self.schedule(iteration),
            _key(_abi.DYNAMICS, o.dynamics),
            o.eta,
            log_prob=_key(_abi.LOG_PROB_FORM, o.log_prob_form),
            last_step=_key(_abi.LAST_STEP, o.last_step),
            threads=threads,
            window=None if self.window is None else self.window[iteration],
            outside=_key(_abi.DYNAMICS, o.outside),
            after=_key(_abi.DYNAMICS, o.after) if o.after else None,
            dpm_order=o.dpm_order,
        )

    def plan(self, iteration: int = 0) -> ChunkPlan:
        """Chunks over `sampler(iteration).stochastic_steps`."""
        count = self._struct.chunk_count
        if count:
            return ChunkPlan(self._struct.chunk_sizes[:count])
        return ChunkPlan.fixed(len(self.sampler(iteration).stochastic_steps), 1)

    def advantages(self, rewards: ArrayLike, *, groups: Any = None, weights: Optional[ArrayLike] = None) -> AnyArray:
        """(B,) advantages of rewards (B,) or (B, R), neighbours in groups of `group_size` unless `groups` names them."""
        o = self._struct.advantages
        return advantages(
            rewards,
            None if groups is not None else self.group_size,
            o.clamp,
            o.epsilon,
            groups=groups,
            baseline=_key(_abi.BASELINE, o.baseline),
            scale=_key(_abi.SCALE, o.scale),
            deviation=_key(_abi.DEVIATION, o.deviation),
            floor=o.floor,
            trim=o.trim,
            subtract_median=bool(o.subtract_median),
            weights=weights,
            mixing=_key(_abi.MIXING, o.mixing),
        )

    @property
    def loss(self) -> dict[str, Any]:
        """Keywords for `chunk_loss`."""
        o = self._struct.loss
        surrogate = _key(_abi.SURROGATE, o.surrogate)
        keywords: dict[str, Any] = {"surrogate": surrogate, "kl": o.kl}
        if surrogate in ("clipped", "log_clipped", "cispo"):
            keywords["clip"] = (o.clip_low, o.clip_high)
        return keywords

    def __repr__(self) -> str:
        return f"Recipe({self.name!r})"

    def __str__(self) -> str:
        return text(_abi.lib.cgrpo_recipe_describe, self.name.encode())
