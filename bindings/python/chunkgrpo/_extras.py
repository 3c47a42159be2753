"""What a module of ours needs beside numpy, and the extra of chunkgrpo that brings it."""

from __future__ import annotations

from importlib import import_module


def needed(package: str, module: str, extra: str) -> None:
    """Says in one sentence what to install, where `module` is imported and `package` is not there."""
    try:
        import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ModuleNotFoundError(f"{module} needs {package}: pip install chunkgrpo[{extra}]", name=package) from None
