"""Of all commands: the parser, tables and bars, schedules and samplers from arguments, curves from files."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, Optional

import numpy as np
from numpy.typing import NDArray

from .._generated import DYNAMICS
from ..sampler import Sampler
from ..schedule import Schedule


class Failure(Exception):
    """What cannot be done, in a sentence."""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Every option with its default."""

    def __init__(self, prog: str, **options: Any) -> None:
        width = min(120, shutil.get_terminal_size().columns) - 2
        super().__init__(prog, **{"max_help_position": 30, "width": width, **options})

    def _get_help_string(self, action: argparse.Action) -> Optional[str]:
        said = action.help or ""
        if action.default in (None, False, argparse.SUPPRESS) or "default" in said:
            return said
        return f"{said} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """Errors are one sentence; options are not abbreviated."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": _Help, "allow_abbrev": False, **options})

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help lists what there is\n")


def add_schedule(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("schedule")
    group.add_argument("--steps", type=int, metavar="T", help="sampling steps (default: 17)")
    kind = group.add_mutually_exclusive_group()
    kind.add_argument("--shift", type=float, metavar="S", help="static shift; 1 is linear (default: 3)")
    kind.add_argument("--flux", type=extent, metavar="WxH", help="FLUX's, for an image of so many pixels")
    kind.add_argument("--sigmas", type=float, nargs="+", metavar="σ", help="your own: T + 1 that fall from 1 to 0")
    group.add_argument("--base", choices=("linear", "diffusers"), default="linear", help="points before the shift")
    spacings = ("shifted", "karras", "exponential", "beta")
    group.add_argument("--spacing", choices=spacings, default="shifted", help="of the sigmas")
    group.add_argument("--terminal", type=float, metavar="σ", help="what the last sigma before 0 is stretched to")


def schedule_of(options: argparse.Namespace, steps: Optional[int] = None) -> Schedule:
    """The schedule that the arguments ask for, of `steps` where they do not say."""
    made = {"base": options.base, "spacing": options.spacing, "terminal": options.terminal}
    given = {name: value for name, value in made.items() if value not in (None, "linear", "shifted")}
    if options.sigmas is not None:
        if given or options.steps is not None:
            names = ", ".join(f"--{name}" for name in [*given, *["steps"] * (options.steps is not None)])
            raise Failure(f"--sigmas is a whole schedule: leave {names} out")
        return Schedule(options.sigmas)
    count = options.steps if options.steps is not None else steps if steps is not None else 17
    if options.flux is not None:
        if given:
            raise Failure(f"--flux is a whole schedule: leave {', '.join(f'--{name}' for name in given)} out")
        return Schedule.flux(count, *options.flux)
    return Schedule.make(count, shift=3.0 if options.shift is None else options.shift, **given)


def add_sampler(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampler")
    group.add_argument("--dynamics", choices=tuple(DYNAMICS), default="flow_sde", help="how a step is taken")
    group.add_argument("--eta", type=float, help="noise scale, of dynamics that have one (default: 0.7)")


def sampler_of(options: argparse.Namespace, schedule: Schedule) -> Sampler:
    own = {} if options.eta is None else {"eta": options.eta}
    return Sampler(schedule, options.dynamics, **own)


def extent(text: str) -> tuple[int, int]:
    """Such as 1024x768."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} must be WIDTHxHEIGHT, such as 1024x768")
    return int(found[1]), int(found[2])


def curve_of(name: str) -> NDArray[np.float64]:
    """Relative L1 (B, S) from a file: .npy; .json, the numbers or {"relative_l1": …}; else rows of numbers: CSV."""
    path = Path(name)
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        elif path.suffix == ".json":
            held = json.loads(path.read_text())
            values = np.array(held["relative_l1"] if isinstance(held, dict) else held, np.float64)
        else:
            lines = path.read_text().replace(",", " ").replace(";", " ").splitlines()
            rows = [line.split("#")[0].split() for line in lines]
            values = np.array([[float(word) for word in row] for row in rows if row])
            values = values.T if values.ndim == 2 and values.shape[1] == 1 else values  # a column
        values = np.asarray(values, np.float64)
    except FileNotFoundError:
        raise Failure(f"there is no file {name}") from None
    except KeyError:
        raise Failure(
            f'{name} has no "relative_l1"; it must hold numbers (B, S), or {{"relative_l1": numbers}}'
        ) from None
    except (ValueError, TypeError, EOFError) as error:
        raise Failure(f"{name} does not hold numbers (B, S), S for each sample: {error}") from None
    if values.ndim not in (1, 2) or not values.size:
        raise Failure(f"{name} has numbers of shape {values.shape}; it must be (S,) or (B, S)")
    return np.atleast_2d(values)


def emit(value: Any) -> int:
    """JSON, with arrays as lists."""
    print(json.dumps(value, indent=2, default=lambda array: array.tolist()))
    return 0


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns to the right; one that begins with a letter in its first row, to the left."""
    lines = [list(head), *map(list, rows)]
    wide = [max(map(len, column)) for column in zip(*lines)]
    left = [bool(rows) and rows[0][i][:1].isalpha() for i in range(len(head))]
    put = ((cell.ljust if side else cell.rjust)(size) for line in lines for cell, size, side in zip(line, wide, left))
    cells = list(put)
    return "\n".join("  ".join(cells[i : i + len(head)]).rstrip() for i in range(0, len(cells), len(head)))


def bar(share: float, width: int) -> str:
    """A line of blocks, of eighths where the terminal can show them."""
    eighths = round(max(0.0, min(1.0, share)) * width * 8)
    if not shows("█▏"):
        return "#" * round(eighths / 8)
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def shows(text: str) -> bool:
    """Whether standard output has these characters."""
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def plainly(text: str) -> str:
    """The text as standard output can show it."""
    if shows(text):
        return text
    for sign, word in {
        "σ": "sigma",
        "…": "...",
        "ρ": "ratio",
        "√": "sqrt ",
        "−": "-",
        "·": "*",
        "|": "|",
        "×": "x",
    }.items():
        text = text.replace(sign, word)
    return text.encode("ascii", "replace").decode()
