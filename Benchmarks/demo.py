"""The demo's numbers and README's picture of it, from runs of the demo in Swift with its default settings, a run per seed.

    make demo && python3 Benchmarks/demo.py

builds nothing: it runs the program that `make demo` built, and keeps the runs that build/demo-seeds has. It writes
Benchmarks/results/demo.json, copies the pictures of the first seed to examples/images/digits.png, and prints README's table.
A run takes a minute on two cores.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

TREE = Path(__file__).resolve().parents[1]
RESULTS, PICTURE = TREE / "Benchmarks/results/demo.json", TREE / "examples/images/digits.png"


def environment():
    """`make demo`'s: an OpenBLAS that is older than the processor is told which it is."""
    setting = subprocess.run([TREE / "scripts/openblas-core"], capture_output=True, text=True, check=True).stdout
    return {**os.environ, **dict(line.split("=", 1) for line in setting.split())}


def run(program, seed, folder):
    """The phases of one run that are measured once: real, before, after; and how many iterations lie between."""
    metrics = folder / "metrics.jsonl"
    if not (metrics.exists() and '"after"' in metrics.read_text()):
        command = [program, "--seed", str(seed), "--output", folder]
        subprocess.run(command, check=True, cwd=TREE, env=environment())
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    phases = {line.pop("phase"): line for line in lines}  # the last of each
    found = {name: {key: round(value, 5) for key, value in phases[name].items()} for name in ("real", "before", "after")}
    return {"iterations": phases["chunk_grpo"]["iteration"], **found}


def rounded(value, places):
    """As the demo prints it: halves away from zero, and one of 2,000 pictures is half of a place."""
    return str(Decimal(f"{value:.5f}").quantize(Decimal(1).scaleb(-places), ROUND_HALF_UP))


def row(seed, run):
    """A row of README's table."""
    before, after = run["before"], run["after"]
    right = f"{rounded(100 * before['judge'], 1)} → {rounded(100 * after['judge'], 1)} %"
    spread = f"{rounded(before['spread'], 3)} → {rounded(after['spread'], 3)}"
    return f"| {seed} | {right} | {spread} | {rounded(before['frechet'], 2)} → {rounded(after['frechet'], 2)} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--program", type=Path, default=TREE / ".build/release/digits", help="(default: %(default)s)")
    parser.add_argument("--output", type=Path, default=TREE / "build/demo-seeds", help="folder (default: %(default)s)")
    options = parser.parse_args()
    if not options.program.exists():
        parser.error(f"{options.program} is not there; `make demo` builds it")
    options.output.mkdir(parents=True, exist_ok=True)
    runs = {str(seed): run(options.program, seed, options.output / str(seed)) for seed in options.seeds}
    shutil.copy(options.output / str(options.seeds[0]) / "samples.png", PICTURE)
    version = re.search(r'CGRPO_VERSION "(.*)"', (TREE / "include/chunkgrpo.h").read_text())[1]
    picture = {"seed": options.seeds[0], "sha256": hashlib.sha256(PICTURE.read_bytes()).hexdigest()}
    RESULTS.write_text(json.dumps({"version": version, "picture": picture, "seeds": runs}, indent=1) + "\n")
    for seed, one in runs.items():
        print(row(seed, one))


if __name__ == "__main__":
    main()
