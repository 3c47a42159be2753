"""Options by name: keywords into the library's structs and back, by the tables of _generated.py."""

from __future__ import annotations

import ctypes
import dataclasses
import difflib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable, Iterable, Optional, TypeVar, cast

import numpy as np

from . import _arrays, _generated
from ._generated import Field
from ._library import new
from ._scalars import choice, flag, int32, integer, pair, real, seed_number
from .errors import InvalidArgument, WrongType

if TYPE_CHECKING:
    from typing_extensions import Unpack as Unpack
else:  # typing.get_type_hints looks for it
    try:
        from typing import Unpack
    except ImportError:  # before Python 3.11

        class Unpack:
            def __class_getitem__(cls, keywords: Any) -> Any:
                return keywords


_NUMBERS: dict[str, Callable[[Any, str], Any]] = {
    "float64": real,
    "int64": integer,
    "int32": int32,
    "uint64": seed_number,
    "flag": flag,
}
_ARRAYS: dict[str, Callable[[Any, str], Any]] = {
    "float64*": _arrays.doubles,
    "int64*": _arrays.int64s,
    "uint64*": _arrays.uint64s,
    "uint8*": lambda value, _: np.ascontiguousarray(value, np.uint8),
}


def fill(
    struct: Any,
    given: Mapping[str, Any],
    of: str,
    *,
    shapes: Optional[Mapping[str, Any]] = None,
    positive: Iterable[str] = (),
) -> Any:
    """A struct with the options that are given, and the library's defaults for the others.

    of        the function that takes them, for an option that it has not
    shapes    of the arrays whose length the library cannot know
    positive  options whose 0 stands for None in the library: here it is refused, like a negative one
    """
    filled = new(struct)
    for name, value in given.items():
        field = struct.keywords.get(name)
        if field is None:
            raise unknown(name, of, struct.keywords)
        if value is not None or not field.optional:
            _set(filled, field, name, value, None if shapes is None else shapes.get(name))
        if name in positive and value is not None and not getattr(filled, field.name) > 0:
            raise InvalidArgument(f"{name} is {value}; it must be positive, or None")
    return filled


def _set(struct: Any, field: Field, name: str, value: Any, shape: Any) -> None:
    if field.kind == "choice":
        setattr(struct, field.name, choice(value, cast(dict[str, int], field.choices), name))
    elif field.kind == "pair":
        for end, number in zip(("low", "high"), pair(value, name)):
            setattr(struct, f"{name}_{end}", number)
    elif field.kind in _NUMBERS:
        setattr(struct, field.name, _NUMBERS[field.kind](value, name))
    else:
        array = _ARRAYS[field.kind](value, name) if shape is None else _arrays.doubles(value, name, shape)
        if field.counted and not array.size:
            raise InvalidArgument(f"{name} is empty; leave it out, or give None")
        # An empty array is none, which null would not say.
        _arrays.point(struct, field.name, array if array.size else np.zeros(1, array.dtype))
        if field.counted:
            setattr(struct, field.counted, array.size)


def unknown(name: str, of: str, known: Iterable[str]) -> WrongType:
    """The error for a keyword that is none of those `known`."""
    near = difflib.get_close_matches(name, list(known), 1)
    hint = f". Did you mean {near[0]!r}?" if near else ""
    return WrongType(f"{of}() got an unexpected keyword argument {name!r}{hint}")


def read(struct: Any, sizes: Optional[Mapping[str, int]] = None) -> dict[str, Any]:
    """The options of a struct, as keywords. sizes: of the arrays that the struct does not count; the others are left
    out."""
    found = {}
    for name, field in struct.keywords.items():
        value = getattr(struct, f"{name}_low" if field.kind == "pair" else field.name)
        if field.kind == "choice":
            value = next((key for key, number in field.choices.items() if number == value), None)
        elif field.kind == "pair":
            value = value, getattr(struct, f"{name}_high")
        elif field.kind == "flag":
            value = bool(value)
        elif field.kind in _ARRAYS:
            size = getattr(struct, field.counted) if field.counted else (sizes or {}).get(name)
            if value and size is None:
                continue
            value = _array(value, size, field.kind[:-1]) if value else None
        elif field.optional and not value:
            value = None
        found[name] = value
    return found


def changed(struct: Any, sizes: Optional[Mapping[str, int]] = None) -> dict[str, Any]:
    """The options of a struct that are not the library's defaults."""
    defaults = read(new(type(struct)))
    return {name: value for name, value in read(struct, sizes).items() if value != defaults[name]}


def record(struct: Any) -> Any:
    """A struct that the library has filled, as the dataclass of its name."""
    kind = getattr(_generated, type(struct).__name__[: -len("Struct")])
    values = {field.name: getattr(struct, field.name) for field in dataclasses.fields(kind)}
    nested = {name: record(value) for name, value in values.items() if isinstance(value, ctypes.Structure)}
    return kind(**{**values, **nested})


def _array(address: int, size: Any, dtype: str) -> Any:
    kind = np.dtype(dtype)
    return np.frombuffer(ctypes.string_at(address, size * kind.itemsize), kind).tolist()


F = TypeVar("F", bound=Callable[..., Any])


def documented(struct: Any, **defaults: Any) -> Callable[[F], F]:
    """Shows `**options` to help() and inspect as the keywords that they are, with `defaults` or the library's."""

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = {parameter.name for parameter in own}
        keywords = getattr(_generated, struct.__name__.replace("Options", "Keywords"))
        types = {name: getattr(kind, "__forward_arg__", kind) for name, kind in keywords.__annotations__.items()}
        options = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=types[name])
            for name, default in {**read(new(struct)), **defaults}.items()
            if name not in names and name in types
        ]
        function.__signature__ = signature.replace(parameters=own + options)  # type: ignore[attr-defined]
        return function

    return decorate
