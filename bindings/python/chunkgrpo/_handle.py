"""Ownership of the library's objects: freed once, whoever holds a copy of the Python object."""

from __future__ import annotations

import ctypes
from typing import Any, Callable

from .errors import WrongType


class Handle:
    """An opaque pointer and the function that frees it. Pass it to the library where its pointer is expected, and
    `slot()` where a `_create` function writes it."""

    def __init__(self, destroy: Callable[[Any], None]) -> None:
        self._as_parameter_ = ctypes.c_void_p()
        self._destroy = destroy

    def slot(self) -> Any:
        return ctypes.byref(self._as_parameter_)

    @property
    def is_open(self) -> bool:
        return bool(self._as_parameter_)

    def close(self) -> None:
        pointer, self._as_parameter_ = self._as_parameter_, ctypes.c_void_p()
        if pointer:
            self._destroy(pointer)

    def __del__(self) -> None:
        if "_as_parameter_" in self.__dict__:  # not where `__init__` has not run
            self.close()

    def __reduce__(self) -> Any:
        raise WrongType("an object of the library cannot be copied or pickled: save it, or make it again")
