"""Windows: which steps are stochastic, iteration by iteration."""

from __future__ import annotations

import ctypes
from typing import Any, Optional

import numpy as np

from . import _abi, _arrays
from .errors import check


class SDEWindow:
    """A window of stochastic steps that moves along the trajectory (MixGRPO, arXiv 2507.21802; Flow-GRPO-Fast).

    size      steps a window has; fewer where `end` cuts it
    end       windows cover the steps first ... end - 1. MixGRPO: T - 2
    strategy  "fixed"; "random": a start drawn anew each iteration; "subset": `size` single steps drawn anew;
              "progressive": `iterations` a window, then `stride` steps further; "linear_decay": the same with
              floor(iterations (1 - t/end) + least t/end) of them at start t; "exponential_decay":
              ceil(iterations e^(-decay max(0, t - threshold)))
    stride    None = size; less than size lets windows overlap
    at_end    after the last window: "wrap" to the first, "stop" with an error, "stay". Never a window without a step,
              which MixGRPO's own has
    seed      of the drawn ones, 0 ... 2^64 - 1

    `window[iteration]` are the steps, for `Sampler(window=...)`: a function of the iteration alone.
    """

    def __init__(
        self,
        size: int,
        end: int,
        *,
        first: int = 0,
        stride: Optional[int] = None,
        strategy: str = "progressive",
        at_end: str = "wrap",
        iterations: int = 25,
        least: int = 1,
        threshold: int = 13,
        decay: float = 0.1,
        seed: int = 0,
    ) -> None:
        options = _abi.new(_abi.WindowOptions)
        options.size = _arrays.integer(size, "size")
        options.end = _arrays.integer(end, "end")
        options.first = _arrays.integer(first, "first")
        options.stride = 0 if stride is None else _arrays.integer(stride, "stride", 1)
        options.strategy = _arrays.choice(strategy, _abi.WINDOW_STRATEGY, "strategy")
        options.at_end = _arrays.choice(at_end, _abi.WINDOW_END, "at_end")
        options.iterations = _arrays.integer(iterations, "iterations")
        options.least = _arrays.integer(least, "least")
        options.threshold = _arrays.integer(threshold, "threshold")
        options.decay = _arrays.real(decay, "decay")
        options.seed = _arrays.seed_number(seed)
        self._options: Any = options
        self[0]  # says what is wrong with the options

    def __getitem__(self, iteration: int) -> list[int]:
        """The stochastic steps of an iteration, counted from 0, in rising order."""
        number = _arrays.integer(iteration, "iteration", 0)
        steps, count = np.empty(max(1, min(self._options.size, 1_000_000)), np.int64), ctypes.c_int64()
        check(
            _abi.lib.cgrpo_window_steps(
                ctypes.byref(self._options), number, steps, len(steps), ctypes.byref(count)
            )
        )
        return [int(step) for step in steps[: count.value]]
