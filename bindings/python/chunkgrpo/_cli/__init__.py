"""The command `chunkgrpo`, and `python -m chunkgrpo`: docs/cli.md. One module for each word after it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Optional

from .. import __version__
from ..errors import Error
from . import _bench, _doctor, _plan, _recipe, _recommend, _schedule
from ._common import Failure, Parser

_COMMANDS = (_plan, _schedule, _recipe, _recommend, _doctor, _bench)


def parser() -> Parser:
    """Of the whole command."""
    whole = Parser(
        prog="chunkgrpo",
        description="Look at chunks, schedules, recipes and this installation. None of it needs a model.",
        epilog="example: chunkgrpo plan --steps 28",
    )
    whole.add_argument("--version", action="version", version=f"chunkgrpo {__version__}")
    words = whole.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        name, (first, *_) = command.__name__.rsplit("_", 1)[1], (command.__doc__ or "").strip().splitlines()
        one = words.add_parser(name, help=first, description=command.__doc__, epilog=f"example: {command.EXAMPLE}")
        one.add_argument("--json", action="store_true", help="print JSON, for a script")
        command.arguments(one)
        one.set_defaults(run=command.run, name=name)
    return whole


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs a command and returns its exit status: 0; 1 where doctor finds a failure; 2 for what cannot be done."""
    options = parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # of `chunkgrpo … | head`; the interpreter would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Error, Failure, ImportError, OSError) as error:
        print(f"chunkgrpo {options.name}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
