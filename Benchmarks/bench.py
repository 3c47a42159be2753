"""`make bench`: the library against what its users run today, and against what memory allows.

Builds its helpers into build/bench, runs the rows, prints two tables (the promises with their targets, then every
race) and writes build/bench/results.json. A ratio is of medians; those who race take turns within one process (the
trainers in two). README.md says what the contestants are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Callable, Iterator, Optional

TREE = Path(__file__).resolve().parents[1]
BUILD = TREE / "build/bench"
LIBRARY = TREE / "build/lib/libchunkgrpo.so"
MAIN, TINY = "12x2025x64", "12x64"

IN_PROCESS = ["step", "log_prob", "gradient", "forward", "noise", "bf16", "threads", "relative_l1"]
IN_PROCESS += ["callback", "growth", "swift"]
ROWS = ["trainer", *IN_PROCESS, "memory", "load", "size"]

# What eager PyTorch needs not to map and unmap every tensor; the library's Python binding has it too.
ENVIRONMENT = {
    **os.environ,
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "4294967296",
    "PYTHONPATH": f"{TREE}/bindings/python:{TREE}/Benchmarks",
    "LD_LIBRARY_PATH": str(TREE / "build/lib"),
    "TORCHINDUCTOR_CACHE_DIR": str(BUILD / "inductor"),
    "HF_HUB_OFFLINE": "1",
}

Race = dict[str, Any]


def output(*command: Any, **options: Any) -> str:
    """What a command prints; what it complains about is shown if it fails."""
    done = subprocess.run([str(c) for c in command], text=True, capture_output=True, **options)
    if done.returncode:
        raise SystemExit(f"{done.stdout}{done.stderr}\n{command[0]} failed with {done.returncode}")
    return done.stdout.strip()


# ----------------------------------------------------------------------------------------------------------------------
# The machine


def machine() -> dict[str, Any]:
    cpu = Path("/proc/cpuinfo").read_text()
    field = lambda name: next((line.split(":")[1].strip() for line in cpu.splitlines() if line.startswith(name)), "?")
    caches = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        read = lambda name: (index / name).read_text().strip()
        if read("type") != "Instruction":
            caches[f"L{read('level')}"] = read("size")
    flags = set(field("flags").split())
    return {
        "cpu": f"{field('model name')} (family {field('cpu family')}, model {field('model')})",
        "cores": len(os.sched_getaffinity(0)),
        "caches": caches,
        "vectors": [f for f in ("avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_fp16") if f in flags],
        "memory_gib": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "load_before": os.getloadavg()[0],
        "system": platform.platform(),
    }


def versions() -> dict[str, str]:
    code = (
        "import json, torch, numpy, jax, chunkgrpo as cg; print(json.dumps(dict(torch=torch.__version__, "
        "numpy=numpy.__version__, jax=jax.__version__, chunkgrpo=cg.__version__, "
        "instruction_set=cg.instruction_set())))"
    )
    found: dict[str, str] = json.loads(output(sys.executable, "-c", code, env=ENVIRONMENT))
    found["python"] = platform.python_version()
    for name, command in (("swift", ["swift", "--version"]), ("cc", ["cc", "--version"])):
        if shutil.which(command[0]):
            found[name] = output(*command).splitlines()[0]
    try:
        found["commit"] = output("git", "-C", TREE, "rev-parse", "--short", "HEAD")
    except (OSError, SystemExit):
        pass
    found["openblas"] = openblas().get("OPENBLAS_CORETYPE", "its own choice")
    return found


def openblas() -> dict[str, str]:
    """OPENBLAS_CORETYPE where OpenBLAS is older than the processor."""
    setting = output(TREE / "scripts/openblas-core")
    return dict([setting.split("=", 1)]) if setting else {}


# ----------------------------------------------------------------------------------------------------------------------
# Rows


def build(rows: list[str]) -> None:
    """measure.c and the probes; the Swift program too where Swift is here."""
    BUILD.mkdir(parents=True, exist_ok=True)
    found = {**os.environ, "PKG_CONFIG_PATH": str(TREE / "build/lib/pkgconfig")}
    flags = output("pkg-config", "--cflags", "--libs", "chunkgrpo", env=found).split()
    cc = ["cc", "-O3", "-march=native", "-fopenmp", "-Wall", "-Wextra"]
    output(*cc, "-shared", "-fPIC", TREE / "Benchmarks/measure.c", "-o", BUILD / "libmeasure.so", *flags)
    output(*cc, TREE / "Benchmarks/probe.c", "-o", BUILD / "probe", *flags)
    output(*cc, TREE / "Benchmarks/load.c", "-o", BUILD / "load", "-ldl")
    if "swift" in rows and shutil.which("swift"):
        say("building the Swift program …")
        swift = ["swift", "build", "-c", "release", "--package-path", TREE / "Benchmarks/swift"]
        swift += ["--scratch-path", TREE / ".build"]  # where the tests have the library compiled
        output(*swift, env={**os.environ, "CHUNKGRPO_DISPATCH": "1"})
        shutil.copy(Path(output(*swift, "--show-bin-path")) / "kernels", BUILD / "kernels")


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def in_process(rows: list[str], threads: int, options: argparse.Namespace) -> Iterator[Race]:
    """kernels.py with a number of threads. With one it has one core, so that JAX's and PyTorch's pools have no more."""
    arguments = {"rows": rows, "threads": threads, "repetitions": options.repetitions, "quick": options.quick}
    command = [sys.executable, str(TREE / "Benchmarks/kernels.py"), json.dumps(arguments)]
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}
    core = [max(os.sched_getaffinity(0))] if threads == 1 else os.sched_getaffinity(0)
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.sched_setaffinity(0, core)
    )
    assert process.stdout
    for line in process.stdout:
        yield json.loads(line)
    if process.wait() != 0:
        raise SystemExit(f"kernels.py failed with {process.returncode}")


def trainer(threads: int, options: argparse.Namespace) -> Iterator[Race]:
    """Two processes that take turns."""
    script = TREE / "Benchmarks/trainer.py"
    environment = {**ENVIRONMENT, **openblas(), "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads)}
    with tempfile.TemporaryDirectory() as folder:
        difference = output(sys.executable, script, "check", 1, folder, env={**environment, "OMP_NUM_THREADS": "1"})
        sides = {}
        for side in ("library", "torch"):
            sides[side] = subprocess.Popen(
                [sys.executable, script, side, str(threads), folder],
                env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )  # fmt: skip
        times: dict[str, list[float]] = {side: [] for side in sides}
        for turn in range(options.repetitions + 5):
            for side, process in sides.items():
                assert process.stdin and process.stdout
                time.sleep(0.1)  # until the other's threads sleep
                for _ in range(3):  # the last one counts: the processors take a while to wake up
                    process.stdin.write("\n")
                    process.stdin.flush()
                    nanoseconds = float(process.stdout.readline())
                if turn >= 5:
                    times[side].append(nanoseconds)
        for process in sides.values():
            process.communicate()
    race = {"row": "trainer", "shape": "8 prompts x 12, T 17", "type": "f32", "threads": threads, "times": times}
    yield {**race, "difference": float(difference)}


def memory(options: argparse.Namespace) -> Iterator[Race]:
    """What loss and gradient allocate, for D and ten times D. Bytes, not nanoseconds."""
    batch, steps = 4, 16
    for elements in (1 << 14, 10 << 14):
        lines = output(BUILD / "probe", batch, steps, elements, env=ENVIRONMENT).splitlines()
        calls = {}
        for line in lines:
            name, turn, most, count, resident = line.split()
            calls[f"{name}, {turn}"] = {"bytes": int(most), "allocations": int(count), "resident": int(resident)}
        yield {"row": "memory", "shape": f"{batch}x{steps}x{elements}", "type": "f32", "threads": 1, "calls": calls}


def load(options: argparse.Namespace) -> Iterator[Race]:
    imports = "import numpy, time; start = time.perf_counter_ns(); import {}; print(time.perf_counter_ns() - start)"
    contestants: dict[str, Callable[[], float]] = {
        "dlopen": lambda: float(output(BUILD / "load", LIBRARY)),
        "import chunkgrpo": lambda: float(output(sys.executable, "-c", imports.format("chunkgrpo"), env=ENVIRONMENT)),
        "import torch": lambda: float(output(sys.executable, "-c", imports.format("torch"), env=ENVIRONMENT)),
    }
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(options.repetitions + 1):
        for name, contestant in contestants.items():
            nanoseconds = contestant()
            if turn:
                times[name].append(nanoseconds)
    yield {"row": "load", "shape": "", "type": "", "threads": 1, "times": times}


def size() -> Iterator[Race]:
    stripped = BUILD / "stripped.so"
    output("strip", "-o", stripped, LIBRARY)
    sizes = {"library": LIBRARY.stat().st_size, "library, stripped": stripped.stat().st_size}
    yield {"row": "size", "shape": "", "type": "", "threads": 1, "bytes": sizes}


# ----------------------------------------------------------------------------------------------------------------------
# Tables


class Results:
    def __init__(self, races: list[Race]) -> None:
        self.races = races

    def find(
        self, row: str, threads: int = 1, shape: Optional[str] = None, type_name: Optional[str] = None
    ) -> Optional[Race]:
        for race in self.races:
            if race["row"] == row and race["threads"] == threads:
                if shape in (None, race["shape"]) and type_name in (None, race["type"]):
                    return race
        return None


def median(race: Race, name: str) -> float:
    return statistics.median(race["times"][name])


Promise = tuple[str, str, Optional[float], bool, str]  # what, target, value, met, note


def promises(results: Results) -> Iterator[Promise]:
    """The table of targets: 12x2025x64, f32, one thread each unless said."""

    def at_least(what: str, bound: float, value: Optional[float], unit: str = " x", note: str = "") -> Promise:
        return what, f">= {bound:g}{unit}", value, value is not None and value >= bound, note

    def at_most(what: str, bound: float, value: Optional[float], unit: str = " x", note: str = "") -> Promise:
        return what, f"<= {bound:g}{unit}", value, value is not None and value <= bound, note

    def against(row: str, title: str, eager: float, compiled: float) -> Iterator[Promise]:
        race = results.find(row, shape=MAIN, type_name="f32")
        if race:
            for peer, bound in (("eager", eager), ("compiled", compiled)):
                names = [name for name in race["times"] if name.startswith(peer)]
                best = min(median(race, name) for name in names)
                note = f"called from Python {best / median(race, 'Python'):.1f}"
                if "Python, autograd" in race["times"]:
                    note += f", through autograd {best / median(race, 'Python, autograd'):.1f}"
                yield at_least(f"{title} vs {peer}", bound, best / median(race, "C"), note=note)

    yield from against("step", "step with library noise and log-probability", 6, 4)
    yield from against("log_prob", "log-probability", 10, 2.5)
    yield from against("gradient", "log-probability and gradient", 14, 4)

    race = results.find("gradient", shape=MAIN, type_name="f32")
    if race:
        limits = {name: median(race, name) for name in race["times"] if name.startswith("limit")}
        name = min((n for n in limits if limits[n] > 0), key=lambda n: limits[n])
        share = 100 * limits[name] / median(race, "C")
        note = ", ".join(f"{100 * time / median(race, 'C'):.0f} % of the {name}" for name, time in limits.items())
        yield at_least("log-probability and gradient, share of the limit of memory", 80, share, " %", note)
    for row, title in (("forward", "forward distance"), ("forward_gradient", "forward distance and gradient")):
        race = results.find(row, shape=MAIN, type_name="f32")
        if race:
            limits = [median(race, name) for name in race["times"] if name.startswith("limit")]
            share = 100 * min(limit for limit in limits if limit > 0) / median(race, "C")
            note = f"eager {median(race, 'eager') / median(race, 'C'):.1f} times as long"
            yield at_least(f"{title}, share of the limit of memory", 80, share, " %", note)
    race = results.find("noise")
    if race:
        ours, theirs = (median(race, name) / race["elements"] for name in ("C", "torch"))
        note = f"{ours:.2f} ns a normal (or: <= 1.2), torch.randn {theirs:.2f}"
        what, target, value, met, _ = at_least("library noise vs torch.randn", 4, theirs / ours)
        yield what, target, value, met or ours <= 1.2, note
    for row in ("step", "log_prob", "gradient"):
        race = results.find(f"types {row}")
        if race:
            yield at_most(f"bf16 vs f32, {row}", 0.65, median(race, "bf16") / median(race, "f32"))
            if row != "step" and "f32+bf16" in race["times"]:  # a step is mostly noise
                mixed = median(race, "f32+bf16") / median(race, "f32")
                yield at_most(f"bf16 velocities beside f32 latents vs f32, {row}", 0.85, mixed)
    for race in results.races:
        if race["row"].startswith("threads "):
            value, limits = median(race, "1") / median(race, "2"), ""
            if "limit 1" in race["times"]:
                limits = f"the limit's own: {median(race, 'limit 1') / median(race, 'limit 2'):.2f}"
            yield at_least(f"two threads vs one, {race['row'][8:]}, {race['shape']}", 1.8, value, note=limits)
    for row in ("step", "log_prob", "gradient"):
        race = results.find(row, shape=MAIN, type_name="f32")
        if race:
            note = f"numpy arrays {median(race, 'Python, numpy') / median(race, 'C'):.3f}"
            yield at_most(f"Python (tensors) vs C, {row}", 1.03, median(race, "Python") / median(race, "C"), note=note)
    race = results.find("log_prob", shape=TINY, type_name="f32")
    if race:
        for name in ("Python, numpy", "Python"):
            note = f"from C {median(race, 'C') / 1e3:.2f}"
            yield at_most(f"a tiny log-probability from {name}", 5, median(race, name) / 1e3, " us", note)
    for row, title in (("step", "step"), ("log_prob", "log-probability")):
        race = results.find(row, shape=TINY, type_name="f32")
        if race:
            ours, theirs = (median(race, name) / 1e3 for name in ("Python", "eager"))
            note = f"host time of a call: {ours:.1f} us, eager {theirs:.1f}"
            yield at_least(f"a tiny {title} from Python vs eager", 1.5, theirs / ours, note=note)
    race = results.find("gradient", shape=TINY, type_name="f32")
    if race:
        ours, theirs = (median(race, name) / 1e3 for name in ("Python, autograd", "eager"))
        note = f"host time of both passes: {ours:.1f} us, eager {theirs:.1f}, log_prob_vjp {median(race, 'Python') / 1e3:.1f}"
        yield "a tiny gradient by autograd vs eager", "", theirs / ours, True, note
    race = results.find("trainer", 2)
    if race:
        value, note = median(race, "torch") / median(race, "library"), f"they differ by {race['difference']:.0e}"
        yield at_least("embedded trainer vs PyTorch eager, two threads", 2, value, note=note)
    for row in ("growth loss_gradient", "growth rollout"):
        race = results.find(row)
        if race:
            for name in ("B", "D", "T"):
                value, note = median(race, name) / median(race, "base"), ""
                if "limit" in race["times"]:
                    note = f"the limit's own: {median(race, 'limit x 10') / median(race, 'limit'):.2f}"
                yield at_most(f"{row[7:].replace('_', ' and ')}, {name} x 10", 10.5, value, note=note)
    if probes := [race for race in results.races if race["row"] == "memory"]:
        few, many = (race["calls"]["loss_gradient, later"]["bytes"] for race in probes)
        note = f"{many} bytes beyond inputs and outputs, B S doubles are {8 * 4 * 16}"
        yield at_most("memory of loss and gradient, D x 10", 1, many / few, note=note)
    if race := results.find("relative_l1"):
        yield "step with relative L1 vs without", "", median(race, "with") / median(race, "without"), True, ""
    if race := results.find("callback"):
        each = {name: median(race, name) / race["steps"] / 1e3 for name in race["times"]}
        yield "a step of a tiny rollout, its model in Python, us", "", each["Python"], True, f"in C {each['C']:.2f}"
    if race := results.find("load"):
        ours, theirs = (median(race, f"import {name}") / 1e6 for name in ("chunkgrpo", "torch"))
        note = f"import chunkgrpo {ours:.0f}, import torch {theirs:.0f}"
        yield "loading the library, ms", "", median(race, "dlopen") / 1e6, True, note
    if race := results.find("size"):
        yield "size of the library, stripped, MB", "", race["bytes"]["library, stripped"] / 1e6, True, ""


def print_promises(lines: list[Promise]) -> None:
    if not lines:
        return
    print("12x2025x64, f32, one thread each unless said; called from C, the peers from Python\n")
    width = max(len(line[0]) for line in lines)
    for what, target, value, met, note in lines:
        number = "-" if value is None else f"{value:.2f}"
        verdict = "" if not target else "met" if met else "MISSED"
        print(f"{what:<{width}}  {target:>9}  {number:>7}  {verdict:6}  {note}".rstrip())


def print_races(results: Results) -> None:
    print("\nMedians in microseconds; in brackets, how many times as long as the first")
    for race in results.races:
        threads = f"{race['threads']} thread" + "s" * (race["threads"] > 1)
        print(f"\n{race['row']}: " + ", ".join(part for part in (race["shape"], race["type"], threads) if part))
        if "calls" in race:
            for name, call in race["calls"].items():
                print(f"    {name:24}{call['bytes']:>12} bytes at most, {call['allocations']} allocations")
        elif "bytes" in race:
            for name, count in race["bytes"].items():
                print(f"    {name:24}{count:>12} bytes")
        else:
            first = next(iter(race["times"]))
            for name in race["times"]:
                value = median(race, name)
                if value > 0:
                    print(f"    {name:24}{value / 1e3:>12.1f}  ({value / median(race, first):.2f})")


# ----------------------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rows", help="some of " + ",".join(ROWS), default=",".join(ROWS))
    parser.add_argument("--quick", action="store_true", help="fewer shapes and peers, 5 repetitions: a look, no result")
    parser.add_argument("--repetitions", type=int, help="of each contestant; 15, with --quick 5")
    parser.add_argument("--threads", default="1,2", help="1,2")
    options = parser.parse_args()
    options.repetitions = options.repetitions or (5 if options.quick else 15)
    rows = options.rows.split(",")
    if unknown := set(rows) - set(ROWS):
        parser.error(f"no row is called {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    threads = [n for n in map(int, options.threads.split(",")) if n <= len(os.sched_getaffinity(0))]

    build(rows)
    report = {"machine": machine(), "versions": versions(), "repetitions": options.repetitions, "quick": options.quick}
    for name, values in list(report["machine"].items()) + list(report["versions"].items()):
        print(f"{name:16}{values}")
    if report["machine"]["load_before"] > 0.5:
        say("The machine is busy: its load is above 0.5. Two threads will suffer most.")

    races: list[Race] = []
    results = Results(races)

    def take(some: Iterator[Race]) -> None:
        for race in some:
            say(f"  {race['row']} {race['shape']} {race['type']}, {race['threads']} thread(s)")
            races.append(race)

    for n in threads:
        if "trainer" in rows:
            take(trainer(n, options))
        if kernels := [row for row in IN_PROCESS if row in rows]:
            take(in_process(kernels, n, options))
    if "memory" in rows:
        take(memory(options))
    if "load" in rows:
        take(load(options))
    if "size" in rows:
        take(size())

    report["load_after"] = os.getloadavg()[0]
    lines = list(promises(results))
    report["promises"] = [dict(zip(("what", "target", "value", "met", "note"), line)) for line in lines]
    report["races"] = races
    (BUILD / "results.json").write_text(json.dumps(report, indent=1) + "\n")
    print()
    print_promises(lines)
    print_races(results)
    print("\nbuild/bench/results.json has every time.")


if __name__ == "__main__":
    main()
