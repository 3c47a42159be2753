"""Arrays of JAX and others on a CUDA device, lent to PyTorch by DLPack, which makes the streams of both wait for each
other. Nothing is copied, and the host waits for nothing."""

from __future__ import annotations

import sys
from typing import Any, Callable

from numpy.typing import NDArray

from ._cuda import TorchCuda
from ._family import Family
from ._on_device import OnDevice

_CUDA = 2  # dlpack.h


def on_cuda(value: Any) -> bool:
    """Whether an array lies on a CUDA device that PyTorch reaches too."""
    torch: Any = sys.modules.get("torch")
    asked = getattr(value, "__dlpack_device__", None)
    return asked is not None and torch is not None and asked()[0] == _CUDA and torch.cuda.is_available()


def jax_of(tensor: Any) -> Any:
    jax: Any = sys.modules["jax"]
    if tensor.dtype == sys.modules["torch"].float64 and not jax.config.jax_enable_x64:
        tensor = tensor.float()
    return jax.numpy.from_dlpack(tensor)


class Bridged(TorchCuda):
    """back: makes the user's array of a tensor. copied: the family for what is copied to the CPU."""

    rollouts = False

    def __init__(self, value: Any, back: Callable[[Any], Any], copied: Family) -> None:
        super().__init__(self._lent(value).device)
        self._back, self.copied = back, copied

    @staticmethod
    def _lent(value: Any) -> Any:
        torch: Any = sys.modules["torch"]
        exported = not isinstance(value, torch.Tensor) and hasattr(value, "__dlpack__")
        return torch.from_dlpack(value) if exported else value

    def read(self, value: Any, name: str, target: Any = None) -> NDArray[Any]:
        return super().read(self._lent(value), name, target)

    def lent(self, value: Any, leading: int) -> None:
        """None of its arrays is PyTorch's own."""

    def borrow(self, value: Any, name: str, leading: int) -> OnDevice:
        return super().borrow(self._lent(value), name, leading)

    def as_doubles(self, value: Any, name: str) -> Any:
        return super().as_doubles(self._lent(value) if on_cuda(value) else value, name)

    def shown(self, native: Any) -> Any:
        return self._back(native)

    def give(self, array: NDArray[Any]) -> Any:
        return self._back(super().give(array))
