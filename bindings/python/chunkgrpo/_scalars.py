"""Numbers, names and functions that callers give, checked as ctypes would not."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from typing import Any

from .errors import InvalidArgument, WrongType


def integer(value: Any, name: str, low: int = -(2**63), high: int = 2**63 - 1) -> int:
    """An int within [low, high]. The library knows the narrower bounds; these are those of its C type."""
    if type(value) is int and low <= value <= high:
        return value
    if isinstance(value, bool):  # which Python counts as 0 and 1
        raise WrongType(f"{name} must be an integer, not bool")
    try:
        number = operator.index(value)
    except TypeError:
        raise WrongType(f"{name} must be an integer, not {type(value).__name__}") from None
    if not low <= number <= high:
        if -(2**63) <= number < 2**63 and high == 2**63 - 1:
            raise InvalidArgument(f"{name} is {number}; it must be at least {low}")
        raise InvalidArgument(f"{name} is {number}; it must be in {low} ... {high}")
    return number


def seed_number(value: Any, name: str = "seed") -> int:
    return integer(value, name, 0, 2**64 - 1)


def int32(value: Any, name: str) -> int:
    return integer(value, name, -(2**31), 2**31 - 1)


def flag(value: Any, name: str) -> bool:
    """True or False, or 1 or 0; not what Python takes for true."""
    value = value.item() if getattr(value, "shape", None) == () else value
    if isinstance(value, (bool, int)) and value in (0, 1):
        return bool(value)
    raise WrongType(f"{name} is {value!r}; it must be True or False")


def real(value: Any, name: str) -> float:
    if isinstance(value, (str, bytes, bool)):
        raise WrongType(f"{name} must be a real number, not {type(value).__name__}")
    try:
        return float(value)
    except TypeError:
        raise WrongType(f"{name} must be a real number, not {type(value).__name__}") from None
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(f"{name} is no number that fits a double: {error}") from None


def pair(value: Any, name: str) -> tuple[float, float]:
    """(low, high) from two numbers, or from one for both."""
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise InvalidArgument(f"{name} has {len(value)} numbers; it must be one number or (low, high)")
        return real(value[0], f"{name}[0]"), real(value[1], f"{name}[1]")
    both = real(value, name)
    return both, both


def function(value: Any, name: str) -> Any:
    if not callable(value):
        raise WrongType(f"{name} must be callable, not {type(value).__name__}")
    return value


def choice(value: Any, names: Mapping[str, int], name: str) -> int:
    if not isinstance(value, str) or value not in names:
        raise InvalidArgument(f"{name} is {value!r}; it must be one of {', '.join(map(repr, names))}")
    return names[value]


def sizes(shape: Any, name: str = "shape") -> tuple[int, ...]:
    """A shape (B, ...) from an int or a sequence of ints."""
    items = tuple(shape) if isinstance(shape, Iterable) else (shape,)
    if not items:
        raise InvalidArgument(f"{name} is (); it must be (B, ...)")
    return tuple(integer(size, f"{name}[{i}]", 1) for i, size in enumerate(items))


def bare(value: Any, name: str, pair: str = "of a pair (conditional, unconditional) the guided velocity") -> None:
    """That a callback returned an array, and not what models wrap theirs in. name: such as "the velocity returned"."""
    if hasattr(value, "shape"):
        return
    kind = type(value).__name__
    if value is None:
        raise WrongType(f"{name} None; it must return an array: is a `return` missing?")
    if hasattr(value, "sample"):
        raise WrongType(f"{name} a {kind}; return its .sample")
    if isinstance(value, Mapping):
        raise WrongType(f"{name} a {kind}; return the array in it")
    if isinstance(value, (tuple, list)) and any(getattr(item, "ndim", 0) or hasattr(item, "sample") for item in value):
        raise WrongType(f"{name} a {kind} of {len(value)}; return its [0]" + (f", or {pair}" if len(value) > 1 else ""))
    if isinstance(value, (bool, int, float, complex, str, bytes)):
        raise WrongType(f"{name} a {kind}; it must return an array")
