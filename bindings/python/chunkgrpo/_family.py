"""What the arrays of a framework are asked for, and numpy's answers; _frameworks.py has the others."""

from __future__ import annotations

from typing import Any, Callable, Optional

import numpy as np
from numpy.typing import NDArray

from . import _layouts, _storage
from ._borrowed import Borrowed
from ._storage import Storage
from .errors import InvalidArgument, OutOfMemory, WrongType


class Family:
    """numpy, and the interface of the others. Arrays of numpy are carried ones (_storage.py) here."""

    device: str = "cpu"
    on_device = False
    """Whether the library's kernels run where the arrays lie, in the memory of a device."""

    def read(self, value: Any, name: str, target: Optional[Storage] = None) -> NDArray[Any]:
        """Where the array lies if the CPU can read it there, else a copy that is complete after `ready`.

        target: of what a callback returned, the element type that it is wanted in: the framework may convert it.
        """
        if type(value) is not np.ndarray:
            refuse_arrays(value, name)
        try:
            return _storage.carried(np.asarray(value))
        except (TypeError, ValueError, RuntimeError) as error:  # the last of PyTorch's, in a list
            raise InvalidArgument(f"{name} cannot be read as an array: {error}") from None

    def lent(self, value: Any, leading: int) -> Optional[Borrowed]:
        """An array of this family where it lies, if a short look finds nothing to copy or to refuse; else None. leading:
        as in `_arrays.borrow`."""
        return None

    def storage(self, value: Any, name: str) -> Storage:
        """The element type of an array, whatever else it is."""
        return _storage.of(self.read(value, name), name)

    def ready(self) -> None:
        """Waits for the copies that `read` and `result` have queued."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[NDArray[Any], Any]:
        """Fresh memory for a result, and what `result` needs to know of it."""
        try:
            return np.empty(shape, dtype), None
        except MemoryError as error:
            raise OutOfMemory(f"no memory for an array of shape {shape}: {error}") from None
        except ValueError as error:
            raise InvalidArgument(f"no array can have shape {shape}: {error}") from None

    def result(self, array: NDArray[Any], native: Any) -> Any:
        """The user's array, of `array` that `empty` made: that memory itself (numpy, tensors of the CPU), or a copy."""
        return _storage.shown(array)

    def give(self, array: NDArray[Any]) -> Any:
        """The user's array of a fresh one of numpy."""
        return self.result(array, None)

    def run(self, velocity: Callable[..., Any], latents: Any, *arguments: Any) -> Any:
        """Calls the model on a trajectory's own latents."""
        if isinstance(latents, np.ndarray):
            latents.flags.writeable = False
        return velocity(latents, *arguments)


class Numpy(Family):
    def lent(self, value: Any, leading: int) -> Optional[Borrowed]:
        if type(value) is not np.ndarray or not value.flags.aligned:
            return None
        layout = _layouts.lent(value.shape, value.strides, value.dtype, leading)
        return None if layout is None else Borrowed(value, self, None, layout)


def refuse_arrays(value: Any, name: str) -> None:
    """A list of arrays does not say which of its dimensions is which, and elements that are masked are not there."""
    if np.ma.is_masked(value):
        raise WrongType(f"{name} has masked elements, and the mask would be lost; give its filled(...) or compressed()")
    if not isinstance(value, (list, tuple)):
        return
    for item in value:
        if isinstance(item, (list, tuple)):
            refuse_arrays(item, name)
        elif getattr(item, "ndim", 0):
            kind, shape = type(value).__name__, tuple(item.shape)
            stack = "torch.stack({}, dim={})" if type(item).__module__ == "torch" else "np.stack({}, axis={})"
            raise InvalidArgument(
                f"{name} is a {kind} of {len(value)} arrays of shape {shape}, which may be steps or samples; stack "
                f"them: {stack.format(name, 1)} where each is one step of the batch, "
                f"{stack.format(name, 0)} where each is one sample"
            )
