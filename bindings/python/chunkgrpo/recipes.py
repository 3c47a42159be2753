"""Published recipes: every convention of a source in one value."""

from __future__ import annotations

from typing import Any, Optional, cast, overload

from numpy.typing import ArrayLike

from . import _generated
from ._arrays import A, Doubles, Numbers
from ._generated import ChunkLossKeywords
from ._library import lib, new
from ._options import changed, read
from .chunks import ChunkPlan
from .errors import InvalidArgument, check, text
from .objective import advantages
from .sampler import Sampler
from .schedule import Schedule
from .window import SDEWindow

RECIPES = tuple(
    "gcpo dancegrpo flow_grpo flow_grpo_fast mixgrpo mixgrpo_flash flow_factory grpo_guard flow_dppo".split()
)

_UNCLIPPED = ("unclipped", "divergence_mask")


class Recipe:
    """A recipe with the numbers of its source's own scripts. `print(recipe)` says what it sets, which quirks of the
    source are followed and which refused, and why.

    name  one of RECIPES
    """

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):
            raise InvalidArgument(f"name is {name!r}; it must be one of {', '.join(RECIPES)}")
        self._struct = r = new(_generated.Recipe)
        check(lib.cgrpo_recipe_named(name.encode(), r))
        self.name = name
        self.steps: int = r.steps
        """T, before Flash shortens it."""
        self.group_size: int = r.group_size
        """Samples per prompt."""
        self.share_noise: bool = bool(r.share_noise)
        """One initial noise per prompt."""
        self.truncated_timesteps: bool = bool(r.truncated_timesteps)
        """The model sees int(1000 sigma), while the step uses sigma: `schedule().timesteps(truncated=True)`."""
        self.chunk_fraction: float = r.chunk_fraction
        self.optimiser = {
            "learning_rate": r.learning_rate,
            "weight_decay": r.weight_decay,
            "max_grad_norm": r.max_grad_norm,
        }
        """AdamW's."""
        self.window: Optional[SDEWindow] = SDEWindow(**read(r.window)) if r.has_window else None

    def schedule(self, iteration: int = 0) -> Schedule:
        """The sigmas of an iteration; only Flash's depend on it."""
        r, options = self._struct, read(self._struct.schedule)
        if r.flash_ratio < 1 and self.window is not None:
            kept = self.window[iteration][-1] + 1
            # At least one step is left to reach sigma = 0.
            ratio = max(r.flash_ratio, min(1.0, 2 / (self.steps + 1 - kept)))
            return Schedule.flash(self.steps, options["shift"], kept, ratio)
        if options["shift_kind"] == "static":
            options["mu"] = None
        return Schedule.make(self.steps, **options)

    def sampler(self, iteration: int = 0, *, threads: int = 1) -> Sampler:
        """The sampler of an iteration."""
        options = read(self._struct.sampler)
        options.update(threads=threads, window=None if self.window is None else self.window[iteration])
        return Sampler(self.schedule(iteration), **options)

    def plan(self, iteration: int = 0) -> ChunkPlan:
        """Chunks over `sampler(iteration).stochastic_steps`."""
        count = self._struct.chunk_count
        if count:
            return ChunkPlan(self._struct.chunk_sizes[:count])
        return ChunkPlan.fixed(len(self.sampler(iteration).stochastic_steps), 1)

    @overload
    def advantages(
        self, rewards: Numbers, *, groups: Any = None, weights: Optional[ArrayLike] = None
    ) -> Doubles: ...

    @overload
    def advantages(self, rewards: A, *, groups: Any = None, weights: Optional[ArrayLike] = None) -> A: ...

    def advantages(self, rewards: Any, *, groups: Any = None, weights: Optional[ArrayLike] = None) -> Any:
        """(B,) advantages of rewards (B,) or (B, R), neighbours in groups of `group_size` unless `groups` names
        them."""
        options = read(self._struct.advantages)
        options.update(groups=groups, weights=weights, group_size=None if groups is not None else self.group_size)
        return advantages(rewards, **options)

    @property
    def loss(self) -> ChunkLossKeywords:
        """Keywords for `chunk_loss`: the options that are not its defaults, and always surrogate, kl and, where it
        clips, clip."""
        options = read(self._struct.loss)
        shown = ["surrogate", "kl"] if options["surrogate"] in _UNCLIPPED else ["surrogate", "kl", "clip"]
        return cast(ChunkLossKeywords, {**{name: options[name] for name in shown}, **changed(self._struct.loss)})

    def _own(self) -> dict[str, Any]:
        """What the attributes say now."""
        return {name: value for name, value in self.__dict__.items() if name != "_struct"}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Recipe) and self._own() == other._own()

    def __hash__(self) -> int:
        return hash(self.name)

    def __reduce__(self) -> Any:
        return type(self), (self.name,), self._own()

    def __repr__(self) -> str:
        return f"Recipe({self.name!r})"

    def __str__(self) -> str:
        return text(lib.cgrpo_recipe_describe, self.name.encode())
