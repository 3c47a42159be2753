"""The command `chunkgrpo`. It lies outside of the package to say in one sentence why the package cannot be imported."""

import sys
from typing import Optional


def main(arguments: "Optional[list[str]]" = None) -> int:
    try:
        from chunkgrpo._cli import main as command
    except ImportError as error:
        print(f"chunkgrpo: {error}", file=sys.stderr)
        return 2
    return command(arguments)


if __name__ == "__main__":
    sys.exit(main())
