"""Packages that a module needs and `import chunkgrpo` does not."""

from __future__ import annotations

import importlib


def needed(package: str, module: str, extra: str) -> None:
    """Imports a package, or says how it is installed.

    module  that needs it
    extra   of ours that has it
    """
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name not in (None, package):
            raise
        raise ModuleNotFoundError(f"{module} needs {package}: pip install chunkgrpo[{extra}]", name=package) from None
