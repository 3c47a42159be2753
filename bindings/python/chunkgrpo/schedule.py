"""Sigma schedules: T + 1 numbers that fall from 1 (noise) to 0 (image)."""

from __future__ import annotations

import ctypes
from typing import Any, Optional

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._arrays import empty, vector
from ._generated import SCHEDULE_SHIFT, ScheduleKeywords, ScheduleOptions
from ._library import lib
from ._options import Unpack, documented, fill
from ._scalars import flag, integer, real
from .errors import InvalidArgument, check


class Schedule:
    """T + 1 sigmas, strictly falling within [0, 1].

    sigmas: your own, array-like (T + 1,), taken as float64. A first one closer to 1 than 1e-6, which float32 leaves of
    1, is 1.
    Raises InvalidArgument where they do not strictly fall within [0, 1].
    """

    def __init__(self, sigmas: ArrayLike) -> None:
        values = vector(sigmas, "sigmas").copy()
        # By the library's rules: those by which it makes a sampler.
        check(lib.cgrpo_timesteps(values.copy(), len(values), 1.0, 0, values))
        values.flags.writeable = False
        self._sigmas = values

    @classmethod
    def linear(cls, steps: int) -> Schedule:
        """sigma_k = 1 - k/steps."""
        return cls.make(steps)

    @classmethod
    def shifted(cls, steps: int, shift: float) -> Schedule:
        """shift t / (1 + (shift - 1) t) with t linear; shift > 0. SD3 and GCPO use 3."""
        return cls.make(steps, shift=shift)

    @classmethod
    @documented(ScheduleOptions)
    def make(cls, steps: int, *, mu: Optional[float] = None, **options: Unpack[ScheduleKeywords]) -> Schedule:
        """Any schedule of diffusers' FlowMatchEulerDiscreteScheduler (0.42): base points, shift, terminal stretch,
        spacing, a final 0.

        base        "linear": t_k = 1 - k/steps; "diffusers": what `set_timesteps(n)` takes when it is given no sigmas,
                    so that a static shift is applied twice (its issue 13243; Flow-GRPO on SD3); "unipc": those of its
                    UniPCMultistepScheduler with use_flow_sigmas, 1 - k/steps (1 - 1/1000) (Wan)
        shift_kind  "static": shift t / (shift t + 1 - t); "exponential": e^mu / (e^mu + 1/t - 1), FLUX's;
                    "linear": mu / (mu + 1/t - 1)
        shift       > 0, of the static kind
        mu          of the two others; `flux_mu` gives FLUX's
        terminal    None, or the value in (0, 1) that the last sigma before the final 0 is stretched to
        spacing     "shifted", "karras" (rho 7), "exponential" or "beta" (quantiles of Beta(0.6, 0.6))
        """
        struct = fill(ScheduleOptions, {**options}, "Schedule.make", positive=["terminal"])
        if (mu is None) != (struct.shift_kind == SCHEDULE_SHIFT["static"]):
            raise InvalidArgument(f"mu is {mu}; the shift kinds exponential and linear need it, static has none")
        if mu is not None:
            struct.mu = real(mu, "mu")
        sigmas = _room(steps)
        check(lib.cgrpo_schedule_make(len(sigmas) - 1, struct, sigmas))
        return cls(sigmas)

    @classmethod
    def flux(cls, steps: int, width: int, height: int) -> Schedule:
        """FLUX's for an image of width x height pixels: exponential shift with `flux_mu(width * height)`.

        Sides are rounded down to multiples of 16 first, as the pipelines do: a token is 16 x 16 pixels.
        """
        wide, high = (integer(side, name, 16) // 16 * 16 for side, name in [(width, "width"), (height, "height")])
        return cls.make(steps, shift_kind="exponential", mu=flux_mu(wide * high))

    @classmethod
    def flash(cls, steps: int, shift: float, kept: int, ratio: float) -> Schedule:
        """MixGRPO-Flash's: the first `kept` of `steps` shifted steps (the end of the SDE window), then fewer to 0.

        kept   1 ... steps - 1
        ratio  in (0, 1]: floor((steps + 1 - kept) ratio) evenly spaced times, shifted, are left for the rest. Refused
               where that is no step, where MixGRPO would stop short of sigma = 0
        """
        sigmas, count = _room(steps), ctypes.c_int64()
        numbers = (len(sigmas) - 1, real(shift, "shift"), integer(kept, "kept"), real(ratio, "ratio"))
        check(lib.cgrpo_schedule_flash(*numbers, sigmas, len(sigmas), ctypes.byref(count)))
        return cls(sigmas[: count.value])

    def timesteps(self, scale: float = 1000.0, *, truncated: bool = False) -> NDArray[np.float64]:
        """(T,) float64: scale sigma_k, as a model wants it. truncated: whole numbers, int(scale sigma), which GCPO,
        DanceGRPO and MixGRPO feed their model while the step itself uses sigma."""
        out = np.empty(self.steps)
        numbers = (self._sigmas, len(self._sigmas), real(scale, "scale"), int(flag(truncated, "truncated")))
        check(lib.cgrpo_timesteps(*numbers, out))
        return out

    @property
    def sigmas(self) -> NDArray[np.float64]:
        """(T + 1,) float64, read-only."""
        return self._sigmas

    @property
    def steps(self) -> int:
        """T, the number of sampling steps."""
        return len(self._sigmas) - 1

    def __len__(self) -> int:
        return self.steps

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and np.array_equal(self._sigmas, other._sigmas)

    def __hash__(self) -> int:
        return hash(self._sigmas.tobytes())

    def __reduce__(self) -> Any:
        return type(self), (np.array(self._sigmas),)

    def __repr__(self) -> str:
        return f"Schedule({np.array2string(self._sigmas, precision=4, threshold=8, separator=', ')})"


def flux_mu(pixels: float, base_shift: float = 0.5, max_shift: float = 1.15) -> float:
    """FLUX's mu for an image of `pixels` = width x height, sides that are multiples of 16: linear in the sequence length
    pixels / 16^2, from base_shift at 256 tokens to max_shift at 4,096."""
    mu = ctypes.c_double()
    numbers = real(pixels, "pixels"), real(base_shift, "base_shift"), real(max_shift, "max_shift")
    check(lib.cgrpo_flux_mu(*numbers, ctypes.byref(mu)))
    return mu.value


def _room(steps: Any) -> NDArray[np.float64]:
    """For steps + 1 sigmas. The library says what is wrong with a number of steps that is out of its bounds."""
    steps = integer(steps, "steps")
    if not 1 <= steps <= 1_000_000:
        check(lib.cgrpo_schedule_make(steps, None, np.empty(1)))
    return empty((steps + 1,))
