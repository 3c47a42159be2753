"""Sigma schedules: T + 1 numbers that fall from 1 (noise) to 0 (image)."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _abi
from ._arrays import doubles, empty, integer, real
from ._handle import Handle
from .errors import InvalidArgument, check


class Schedule:
    """T + 1 sigmas, strictly falling within [0, 1].

    sigmas: your own, array-like (T + 1,), taken as float64.
    Raises InvalidArgument where they do not strictly fall within [0, 1].
    """

    def __init__(self, sigmas: ArrayLike) -> None:
        values = doubles(sigmas, "sigmas").copy()
        if values.ndim != 1:
            raise InvalidArgument(f"sigmas has shape {values.shape}; it must have one dimension")
        _check(values)
        values.flags.writeable = False
        self._sigmas = values

    @classmethod
    def linear(cls, steps: int) -> Schedule:
        """sigma_k = 1 - k/steps."""
        sigmas = _room(steps)
        check(_abi.lib.cgrpo_schedule_linear(len(sigmas) - 1, sigmas))
        return cls(sigmas)

    @classmethod
    def shifted(cls, steps: int, shift: float) -> Schedule:
        """shift t / (1 + (shift - 1) t) with t linear; shift > 0. SD3 and GCPO use 3."""
        sigmas = _room(steps)
        check(_abi.lib.cgrpo_schedule_shifted(len(sigmas) - 1, real(shift, "shift"), sigmas))
        return cls(sigmas)

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

    def __repr__(self) -> str:
        return f"Schedule({np.array2string(self._sigmas, precision=4, threshold=8, separator=', ')})"


def _room(steps: Any) -> NDArray[np.float64]:
    """For steps + 1 sigmas. The library says what is wrong with a number of steps that is out of its bounds."""
    steps = integer(steps, "steps")
    if not 1 <= steps <= 1_000_000:
        check(_abi.lib.cgrpo_schedule_linear(steps, np.empty(1)))
    return empty((steps + 1,))


def _check(sigmas: NDArray[np.float64]) -> None:
    """By the library's rules: those by which it makes a sampler."""
    options = _abi.new(_abi.SamplerOptions)
    options.dynamics = _abi.DYNAMICS["ode"]
    sampler = Handle(_abi.lib.cgrpo_sampler_destroy)
    check(_abi.lib.cgrpo_sampler_create(sigmas, len(sigmas), ctypes.byref(options), sampler.slot()))
