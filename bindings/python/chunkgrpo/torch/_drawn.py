"""Dropout that both passes of a step draw alike."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import get_device_states, set_device_states


class Drawn:
    """Where the random numbers stood when a step drew from them first, those of the CPU and of a tensor's device."""

    def __init__(self, x: Tensor) -> None:
        self._x = x
        self._states: dict[int, Any] = {}

    @contextlib.contextmanager
    def first(self, step: int) -> Iterator[None]:
        """Around the first run of a step. One that draws nothing, as most models do, leaves nothing to go back to."""
        before = self._state()
        yield
        if not all(torch.equal(a, b) for a, b in zip(_flat(before), _flat(self._state()))):
            self._states[step] = before

    @contextlib.contextmanager
    def again(self, step: int) -> Iterator[None]:
        """Around the second one, which draws the same; after it the random numbers go on where they were. As in
        torch.utils.checkpoint."""
        if step not in self._states:
            yield
            return
        cpu, (devices, states) = self._states[step]
        kind = {} if self._x.is_cpu else {"device_type": self._x.device.type}
        with torch.random.fork_rng(devices, **kind):
            torch.set_rng_state(cpu)
            if devices:
                set_device_states(devices, states, **kind)
            yield

    def _state(self) -> Any:
        return torch.get_rng_state(), ([], []) if self._x.is_cpu else get_device_states(self._x)


def _flat(state: Any) -> list[Tensor]:
    cpu, (_, states) = state
    return [cpu, *states]
