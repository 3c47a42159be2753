"""Copies between the memory of a device and the CPU's, by PyTorch."""

from __future__ import annotations

from typing import Any, Optional

from . import _status


class Staging:
    """Copies between a device of PyTorch's and pinned memory of the CPU, asynchronous on the device's current stream."""

    def __init__(self, torch: Any, device: Any) -> None:
        self.torch, self.device, self._cuda = torch, device, device.type == "cuda"
        self._events: dict[Any, Any] = {}
        self._word: Any = None

    def empty(self, shape: Any, dtype: Any) -> Any:
        return self.torch.empty(shape, dtype=dtype, device="cpu", pin_memory=self._cuda)

    def down(self, tensor: Any) -> Any:
        """A tensor of the CPU that has the elements after `wait`."""
        host = self.empty(tensor.shape, tensor.dtype)
        host.copy_(tensor, non_blocking=self._cuda)
        self._look()
        self._record()
        return host

    def up(self, host: Any) -> Any:
        """The same elements on the device. `host` must not change before `wait`."""
        tensor = host.to(self.device, non_blocking=self._cuda)
        self._record()
        return tensor

    def send(self, host: Any) -> Any:
        """The same elements on the device; `host` may change at once, and nothing is waited for."""
        return host.pin_memory().to(self.device, non_blocking=True) if self._cuda else host.to(self.device)

    def _look(self) -> None:
        """Copies the word that tells what was not finite (_status.py), so that it is known after `wait`."""
        word = _status.of("torch", self.device.index) if self._cuda and _status.words else None
        if word is not None and self._word is None:
            self._word = self.empty(1, word.dtype)
            self._word.copy_(word, non_blocking=True)

    def _record(self) -> None:
        if self._cuda:
            stream = self.torch.cuda.current_stream(self.device)
            event = self._events.get(stream) or self.torch.cuda.Event()
            event.record(stream)  # again: the last copy of a stream is the last to pass
            self._events[stream] = event

    def wait(self) -> None:
        """Until the copies are made; what the device does after them goes on."""
        while self._events:
            self._events.popitem()[1].synchronize()
        word, self._word = self._word, None
        if word is not None:
            _status.check(int(word), "torch", self.device.index)


def staging(torch: Any, device: Any) -> Optional[Staging]:
    """How to reach a device, None where the library can read its memory."""
    return None if device.type == "cpu" else Staging(torch, device)
