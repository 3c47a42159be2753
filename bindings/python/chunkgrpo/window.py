"""Windows: which steps are stochastic, iteration by iteration."""

from __future__ import annotations

import ctypes
from ctypes import byref
from functools import partial
from typing import Any

import numpy as np

from ._generated import WindowKeywords, WindowOptions
from ._library import lib
from ._options import Unpack, documented, fill, read
from ._scalars import integer
from .errors import check


class SDEWindow:
    """A window of stochastic steps that moves along the trajectory (MixGRPO, arXiv 2507.21802; Flow-GRPO-Fast).

    size      steps per window; fewer where `end` cuts it
    end       windows cover the steps first ... end - 1. MixGRPO: T - 2; at most T - 1 where each of their steps is to be
              trained, for the last of T steps is not
    strategy  "fixed"; "random": a start drawn anew each iteration; "subset": `size` single steps drawn anew;
              "progressive": `iterations` per window, then `stride` steps further; "linear_decay": the same with
              floor(iterations (1 - t/end) + least t/end) of them at start t; "exponential_decay":
              ceil(iterations e^(-decay max(0, t - threshold)))
    stride    None = size; less than size lets windows overlap
    at_end    after the last window: "wrap" to the first, "stop" with an error, "stay". Never a window without a step,
              which MixGRPO's own has
    seed      of the drawn ones, 0 ... 2^64 - 1

    `window[iteration]` are the steps, for `Sampler(window=...)`: a function of the iteration alone.
    """

    @documented(WindowOptions)
    def __init__(self, size: int, end: int, **options: Unpack[WindowKeywords]) -> None:
        self._given: Any = {"size": size, "end": end, **options}
        self._options = fill(WindowOptions, self._given, "SDEWindow", positive=["stride"])
        self[0]  # says what is wrong with the options

    def __getitem__(self, iteration: int) -> list[int]:
        """The stochastic steps of an iteration, counted from 0, in rising order."""
        number = integer(iteration, "iteration", 0)
        steps, count = np.empty(max(1, min(self._options.size, 1_000_000)), np.int64), ctypes.c_int64()
        check(lib.cgrpo_window_steps(self._options, number, steps, len(steps), byref(count)))
        return [int(step) for step in steps[: count.value]]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SDEWindow) and read(self._options) == read(other._options)

    def __hash__(self) -> int:
        return hash(tuple(read(self._options).items()))

    def __reduce__(self) -> Any:
        return partial(type(self), **self._given), ()

    def __repr__(self) -> str:
        return f"SDEWindow({', '.join(f'{name}={value!r}' for name, value in self._given.items())})"
