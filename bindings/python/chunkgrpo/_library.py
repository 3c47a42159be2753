"""Finds libchunkgrpo, checks that it fits the header, and declares its functions (_generated.py) to ctypes."""

from __future__ import annotations

import ctypes
import os
import sys
from ctypes import POINTER, c_double, c_int32, c_int64, c_uint32, c_uint64
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import _generated
from ._generated import ABI_VERSION, FUNCTIONS

_NAME = "libchunkgrpo.dylib" if sys.platform == "darwin" else "libchunkgrpo.so"


_bytes: Any = ctypes.c_char.from_buffer
_addressof, _pointer = ctypes.addressof, ctypes.c_void_p


def address(array: NDArray[Any]) -> int:
    """Where the elements lie. numpy's own `ctypes.data` takes seven times as long."""
    try:
        return _addressof(_bytes(array))
    except (TypeError, ValueError, BufferError):  # read-only, with gaps, empty, or of a type that buffers cannot name
        return array.ctypes.data


class _Numbers:
    """An argument type: a contiguous numpy array of one dtype, None for a null pointer, or `byref` of a number."""

    def __init__(self, name: str) -> None:
        self._dtype = np.dtype(name)

    def from_param(self, value: Any) -> Any:
        if not isinstance(value, np.ndarray):
            return value
        if value.dtype is not self._dtype and value.dtype != self._dtype or not value.flags.c_contiguous:
            raise TypeError(f"internal: expected a contiguous {self._dtype} array")
        return _pointer(address(value))


_TYPES: dict[str, Any] = {  # of results and arguments, by the words of _generated.FUNCTIONS
    "nothing": None,
    "text": ctypes.c_char_p,
    "pointer": ctypes.c_void_p,
    "handle": ctypes.c_void_p,
    "handle*": POINTER(ctypes.c_void_p),
    "float64**": POINTER(ctypes.c_void_p),
    "size": ctypes.c_size_t,
    "size*": POINTER(ctypes.c_size_t),
    **{"int32": c_int32, "int64": c_int64, "uint32": c_uint32, "uint64": c_uint64, "float64": c_double},
    **{f"{name}*": _Numbers(name) for name in ("uint8", "int64", "uint64", "float64")},
}


def _type(word: str) -> Any:
    if word in _TYPES:
        return _TYPES[word]
    known = getattr(_generated, word.rstrip("*"))
    return POINTER(known) if word.endswith("*") else known


def _candidates() -> list[Path]:
    """Where the library may be, best first. CHUNKGRPO_LIBRARY, where set, is the only place."""
    chosen = os.environ.get("CHUNKGRPO_LIBRARY")
    if chosen:
        return [Path(chosen)]
    package = Path(__file__).resolve().parent
    tree = package.parents[2]  # bindings/python/chunkgrpo -> the repository
    return [package / _NAME, tree / "build" / "lib" / _NAME]


def _load() -> ctypes.CDLL:
    tried = []
    for path in _candidates():
        if not path.is_file():
            tried.append(f"  {path}: no such file")
            continue
        try:
            return _declare(ctypes.CDLL(str(path)), path)
        except OSError as error:
            tried.append(f"  {path}: {error}")
    raise ImportError(
        "chunkgrpo could not load its library. Tried:\n"
        + "\n".join(tried)
        + "\nBuild it with `make lib` in the repository, or set CHUNKGRPO_LIBRARY to its path."
    )


def _declare(library: ctypes.CDLL, path: Path) -> ctypes.CDLL:
    try:
        library.cgrpo_abi_version.restype = c_uint32
        found = library.cgrpo_abi_version()
        if found != ABI_VERSION:
            raise ImportError(
                f"{path} has version {found} of the binary interface, this package needs {ABI_VERSION}. "
                "Build the library again with `make lib`."
            )
        for name, words in FUNCTIONS.items():
            function = getattr(library, name)
            function.restype, *function.argtypes = map(_type, words.split())
    except AttributeError as error:
        raise ImportError(f"{path} is not a whole libchunkgrpo ({error}). Build it again with `make lib`.") from None
    return library


lib: Any = _load()

_defaults: dict[Any, Any] = {}


def new(struct: Any) -> Any:
    """A struct with its size and every default set by the library. A result, which has none, gets its size."""
    if struct not in _defaults:
        value = struct(struct_size=ctypes.sizeof(struct))
        if hasattr(struct, "init"):
            getattr(lib, struct.init)(ctypes.byref(value), ctypes.sizeof(struct))
        _defaults[struct] = value
    return struct.from_buffer_copy(_defaults[struct])
