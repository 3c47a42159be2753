"""`python -m chunkgrpo.flow_factory config.yaml`: checks a configuration, then starts Flow-Factory's own launcher."""

from __future__ import annotations

import sys
from typing import Any

from .._options import unknown

# Of Flow-Factory's own launcher, beside the sections and the fields of its Arguments.
_LAUNCHER = ("num_machines", "machine_rank", "main_process_ip", "main_process_port")


def check(path: str) -> Any:
    """The Arguments of a file whose sections are all known."""
    import yaml  # type: ignore[import-untyped, unused-ignore]
    from flow_factory.hparams import Arguments  # type: ignore[import-not-found, unused-ignore]

    with open(path, encoding="utf-8") as file:
        sections: Any = yaml.safe_load(file)
    arguments = Arguments.from_dict(sections)
    fields = set(arguments.to_dict()) - set(arguments.extra_kwargs)
    known = fields | set(_LAUNCHER) | {"data", "model", "scheduler", "train", "eval", "log", "rewards", "eval_rewards"}
    for name in arguments.extra_kwargs:
        if name not in known:
            raise unknown(name, path, known)
    return arguments


def main() -> None:
    if len(sys.argv) < 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m chunkgrpo.flow_factory config.yaml [options of ff-train]")
    check(sys.argv[1])
    from flow_factory.cli import train_cli  # type: ignore[import-not-found, unused-ignore]

    train_cli()


if __name__ == "__main__":
    main()
