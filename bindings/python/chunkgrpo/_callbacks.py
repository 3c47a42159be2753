"""Exceptions past the library: what a callback raises comes out of the call that ran it, traceback and all."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Callable, Optional

from .errors import CallbackFailed, check


class Guard:
    """Runs one library call that has a callback.

        with Guard() as guard:
            status = lib.cgrpo_rollout(..., guard.callback(VelocityFn, function), None)
        guard.check(status)

    `function` takes the callback's arguments without `user`; a true result stops the library.

    A signal that arrives while the library computes is handled by Python at the callback's very first instruction,
    before any `try` can stand; ctypes would print that KeyboardInterrupt, drop it and return a number that nobody
    chose. So SIGINT's handler is wrapped for the length of the call: at the door it waits until it is inside.
    """

    def __init__(self) -> None:
        self.calls = 0  # that came to their end
        self._error: Optional[BaseException] = None
        self._previous: Any = None
        self._waiting = False

    def callback(self, prototype: Any, function: Callable[..., Any]) -> Any:
        return lasting(prototype, function, lambda: self)

    def _enter(self, function: Callable[..., Any], arguments: tuple[Any, ...]) -> int:
        if self._waiting:
            self._handle_now()
        stop = function(*arguments)
        self.calls += 1
        return 1 if stop else 0

    def _keep(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error

    def check(self, status: int, calls: Optional[int] = None) -> None:
        """Raises the callback's first exception, or the library's error. `calls`: how many must have ended well."""
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        check(status)
        if calls is not None and self.calls != calls:  # an exception at the door that is not a signal's
            raise CallbackFailed("a callback could not be entered; what it left behind is to be thrown away")

    def __enter__(self) -> Guard:
        if threading.current_thread() is threading.main_thread():
            previous = signal.getsignal(signal.SIGINT)
            if callable(previous):
                self._previous = previous
                signal.signal(signal.SIGINT, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            if signal.getsignal(signal.SIGINT) == self._on_signal:
                signal.signal(signal.SIGINT, self._previous)
            if self._waiting:
                self._handle_now()

    def _on_signal(self, number: int, frame: Optional[FrameType]) -> None:
        if frame is not None and frame.f_code is _DOOR:
            self._waiting = True
        else:
            self._previous(number, frame)

    def _handle_now(self) -> None:
        self._waiting = False
        self._previous(signal.SIGINT, None)


def _door(function: Callable[..., Any], current: Callable[[], Guard]) -> Callable[..., int]:
    def door(user: Any, *arguments: Any) -> int:
        try:
            return current()._enter(function, arguments)
        except BaseException as error:
            current()._keep(error)
            return 1

    return door


_DOOR = _door(print, Guard).__code__


def lasting(prototype: Any, function: Callable[..., Any], current: Callable[[], Guard]) -> Any:
    """A callback that the library keeps from call to call; `current()` is the Guard of the call that it is in."""
    return prototype(_door(function, current))
