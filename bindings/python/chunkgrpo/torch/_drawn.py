"""Dropout that both passes of a step draw alike."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import get_device_states, set_device_states


class Drawn:
    """Where the random numbers stood when a step drew from them first, those of the CPU and of a tensor's device."""

    def __init__(self, x: Tensor) -> None:
        self._x = x
        self._states: dict[int, list[Tensor]] = {}
        self._devices: list[int] = []

    def first(self, step: int) -> AbstractContextManager[None]:
        """Around the first run of a step. One that draws nothing, as most models do, leaves nothing to go back to."""
        return _First(self, step)

    def again(self, step: int) -> AbstractContextManager[None]:
        """Around the second one, which draws the same; after it the random numbers go on where they were. As in
        torch.utils.checkpoint."""
        return self._restored(*self._states[step]) if step in self._states else _NOTHING

    @contextlib.contextmanager
    def _restored(self, cpu: Tensor, *states: Tensor) -> Iterator[None]:
        kind = {} if self._x.is_cpu else {"device_type": self._x.device.type}
        with torch.random.fork_rng(self._devices, **kind):
            torch.set_rng_state(cpu)
            if states:
                set_device_states(self._devices, states, **kind)
            yield

    def _state(self) -> list[Tensor]:
        """Of the CPU and of the tensor's device."""
        cpu, device = torch.get_rng_state(), self._x.device
        if device.type == "cpu":
            return [cpu]
        if device.type == "cuda":  # as get_device_states does, which looks through all that it may be given
            self._devices = [device.index]
            return [cpu, torch.cuda.get_rng_state(device)]
        self._devices, states = get_device_states(self._x)
        return [cpu, *states]


class _First(AbstractContextManager[None]):
    def __init__(self, drawn: Drawn, step: int) -> None:
        self._drawn, self._step, self._before = drawn, step, drawn._state()

    def __exit__(self, *_: Any) -> None:
        if not all(map(torch.equal, self._before, self._drawn._state())):
            self._drawn._states[self._step] = self._before


_NOTHING = contextlib.nullcontext()
