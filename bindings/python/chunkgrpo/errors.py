"""Exceptions: one class for each status of the library, each also the built-in class that Python users expect.

Errors that this package finds by itself use the same classes.
"""

from __future__ import annotations

import ctypes
import re
from typing import Any

from ._generated import STATUS
from ._library import lib


class Error(Exception):
    """Base of all errors of chunkgrpo. `status` is the library's number."""

    status: int = -1


class InvalidArgument(Error, ValueError):
    """Missing, out of bounds, of the wrong shape, or contradictory."""

    status = STATUS["invalid_argument"]


class WrongType(Error, TypeError):
    """An element type that the call does not take, or a mix of types."""

    status = STATUS["wrong_type"]


class NonFinite(Error, ArithmeticError):
    """NaN or infinity in latents, velocity, reward, log-probability or ratio."""

    status = STATUS["non_finite"]


class OutOfMemory(Error, MemoryError):
    """Not enough memory for the call."""

    status = STATUS["out_of_memory"]


class CallbackFailed(Error, RuntimeError):
    """A callback stopped the call without raising (what it raises comes through as it is)."""

    status = STATUS["callback_failed"]


class IOFailure(Error, OSError):
    """A file could not be read or written, or is not what it should be."""

    status = STATUS["io_error"]


class DeviceFailed(Error, RuntimeError):
    """There is no CUDA driver, or it refused a call."""

    status = STATUS["device_failed"]


_CLASSES = {
    kind.status: kind
    for kind in (InvalidArgument, WrongType, NonFinite, OutOfMemory, CallbackFailed, IOFailure, DeviceFailed)
}


# Arguments of the library that have another name here.
_NAMES = {
    "first_steps": "first_step",
    "group_ids": "groups",
    "guidances": "guidance",
    "nft_beta": "beta",
    "other_velocity": "other",
}


def check(status: int, **names: str) -> None:
    """Raises what the latest call of this thread failed with, if it did. names: of arguments that the library calls
    otherwise."""
    if status:
        message = lib.cgrpo_last_error().decode("utf-8", "replace")
        own = {**_NAMES, **names}
        message = re.sub(r"\b[a-z_]+\b", lambda word: own.get(word[0], word[0]), message)
        error = _CLASSES.get(status, Error)(message or f"status {status}")
        error.status = status
        raise error


def text(function: Any, *arguments: Any) -> str:
    """The text that a function of the library writes into (text, capacity, length), its last arguments."""
    length = ctypes.c_size_t()
    check(function(*arguments, None, 0, ctypes.byref(length)))
    buffer = ctypes.create_string_buffer(length.value + 1)
    check(function(*arguments, buffer, len(buffer), ctypes.byref(length)))
    return buffer.value.decode()
