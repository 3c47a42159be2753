"""The command `chunkgrpo`: what it prints are the library's numbers; errors are one sentence and status 2."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

import chunkgrpo as cg
from chunkgrpo import _cli
from chunkgrpo._cli import _bits, _doctor, _machine, _plan, _recommend
from chunkgrpo.forward import METHODS

PAGE = (ROOT / "docs" / "cli.md").read_text()
COMMANDS = ("plan", "schedule", "recipe", "recommend", "doctor", "bench")
GCPO = cg.ChunkPlan([2, 3, 4, 7]), cg.Schedule.shifted(17, 3.0)


@pytest.fixture
def said(capsys):
    """Runs the command in this process: what it prints."""

    def run(*words, status=0):
        assert _cli.main([str(word) for word in words]) == status
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(capsys):
    """Runs a command that fails: the sentence."""

    def run(*words):
        try:
            status = _cli.main([str(word) for word in words])
        except SystemExit as exit:
            status = exit.code
        out, error = capsys.readouterr()
        assert (status, out, error.count("\n")) == (2, "", 1), error
        return error.strip()

    return run


def process(*words, program=("-m", "chunkgrpo"), **environment):
    paths = {"PYTHONPATH": str(ROOT / "bindings" / "python"), **environment}
    command = [sys.executable, *program, *map(str, words)]
    return subprocess.run(command, env={**os.environ, **paths}, capture_output=True, text=True, encoding="utf-8")


@pytest.fixture
def curve():
    """Relative L1 (3, 16) with jumps after the steps 3 and 8."""
    levels = np.repeat([0.8, 0.08, 0.008], [4, 5, 7])
    return levels * np.random.default_rng(0).uniform(0.9, 1.1, (3, 16))


# ---- plan ----


@pytest.mark.parametrize("steps", [17, 28, 50, 10])
def test_the_plan_of_a_number_of_steps_is_gcpos_carried(said, steps):
    schedule = cg.Schedule.shifted(steps, 3.0)
    found = json.loads(said("plan", "--steps", steps, "--json"))
    assert found["sizes"] == GCPO[0].carried(GCPO[1], schedule).sizes.tolist()
    assert found["sigmas"] == schedule.sigmas.tolist()
    count = len(found["sizes"])
    assert found["step_weights"] == [1 / (count * size) for size in found["sizes"] for _ in range(size)]


@pytest.mark.parametrize("steps", [2, 3, 4, 5])
def test_a_schedule_of_few_steps_has_a_plan(said, steps):
    assert sum(json.loads(said("plan", "--steps", steps, "--json"))["sizes"]) == steps - 1


def test_the_printed_plan_has_each_step_with_its_sigma_and_weight(said):
    lines = said("plan", "--chunks", 2, 3, 1, "--shift", 1).splitlines()
    assert lines[0] == str(cg.ChunkPlan([2, 3, 1]))
    found = [re.findall(r"[\d.]+", line)[-3:] for line in lines if "█" in line]
    weights = cg.ChunkPlan([2, 3, 1]).step_weights
    assert found == [[str(k), f"{1 - k / 7:.4f}", f"{weights[k]:.4f}"] for k in range(6)]
    bars = [line.count("█") for line in lines if "█" in line]
    assert bars == [16, 16, 10, 10, 10, 32]  # of 32: 1/2, 1/3 and all of the greatest weight


@pytest.mark.parametrize("kind", ["npy", "json", "held", "csv", "column"])
def test_a_curve_is_read_from_any_of_its_files(said, tmp_path, curve, kind):
    path = tmp_path / {"npy": "c.npy", "json": "c.json", "held": "c.json", "csv": "c.csv", "column": "c.txt"}[kind]
    if kind == "npy":
        np.save(path, curve)
    elif kind == "csv":
        np.savetxt(path, curve, delimiter=",", header="relative L1", fmt="%.17g")
    elif kind == "column":
        np.savetxt(path, curve.mean(0), fmt="%.17g")
    else:
        path.write_text(json.dumps({"relative_l1": curve.tolist()} if kind == "held" else curve.tolist()))
    found = json.loads(said("plan", "--curve", path, "--json"))
    fit = cg.ChunkPlan.optimal(curve)
    assert found["sizes"] == fit.plan.sizes.tolist() == [4, 5, 7]
    np.testing.assert_allclose(found["curve"], fit.curve, rtol=1e-12)
    np.testing.assert_allclose([found["explained"], *found["levels"]], [fit.explained, *fit.levels], rtol=1e-9)


def test_options_of_a_curve_are_those_of_the_library(said, tmp_path, curve):
    path = tmp_path / "curve.npy"
    np.save(path, curve)
    sizes = lambda *words: json.loads(said("plan", "--curve", path, "--json", *words))["sizes"]  # noqa: E731
    assert sizes("--count", 2) == cg.ChunkPlan.optimal(curve, 2).plan.sizes.tolist()
    assert sizes("--max-size", 3) == cg.ChunkPlan.optimal(curve, max_size=3).plan.sizes.tolist()
    assert sizes("--method", "adaptive") == cg.ChunkPlan.adaptive(curve).sizes.tolist()
    assert (
        sizes("--method", "adaptive", "--max-size", 4, "--min-size", 1)
        == cg.ChunkPlan.adaptive(curve, 4, 1).sizes.tolist()
    )
    here, there = cg.Schedule.shifted(17, 3.0), cg.Schedule.shifted(50, 3.0)
    assert sizes("--carry", 50) == cg.ChunkPlan.optimal(curve).plan.carried(here, there).sizes.tolist()


def test_the_explained_share_of_an_adaptive_plan_is_counted_as_the_library_does(curve):
    fit = cg.ChunkPlan.optimal(curve, 4)
    assert _plan.explained(fit.plan, fit.curve) == pytest.approx(fit.explained, rel=1e-12)
    assert _plan.explained(fit.plan, np.ones(16)) == 1


@pytest.mark.parametrize("size", [1, 3, 16])
def test_chunks_of_one_size(said, size):
    assert json.loads(said("plan", "--size", size, "--json"))["sizes"] == cg.ChunkPlan.fixed(16, size).sizes.tolist()


def test_a_plan_is_drawn_into_a_file(said, tmp_path, curve):
    pytest.importorskip("matplotlib")
    np.save(tmp_path / "curve.npy", curve)
    said("plan", "--curve", tmp_path / "curve.npy", "--output", tmp_path / "plan.svg")
    said("plan", "--steps", 28, "--output", tmp_path / "plan.png")
    assert "<svg" in (tmp_path / "plan.svg").read_text()
    assert (tmp_path / "plan.png").read_bytes()[:4] == b"\x89PNG"


# ---- schedule, recipe ----


@pytest.mark.parametrize(
    "words, schedule",
    [
        ([], cg.Schedule.shifted(17, 3.0)),
        (["--steps", 6, "--shift", 1], cg.Schedule.linear(6)),
        (["--steps", 28, "--flux", "1024x768"], cg.Schedule.flux(28, 1024, 768)),
        (["--sigmas", 1, 0.6, 0.2, 0], cg.Schedule([1, 0.6, 0.2, 0])),
        (["--base", "diffusers", "--steps", 10], cg.Schedule.make(10, shift=3.0, base="diffusers")),
        (["--spacing", "karras", "--terminal", 0.1], cg.Schedule.make(17, shift=3.0, spacing="karras", terminal=0.1)),
    ],
)
def test_a_schedule_is_the_librarys_and_has_its_samplers_numbers(said, words, schedule):
    found = json.loads(said("schedule", *words, "--dynamics", "cps", "--eta", 0.4, "--json"))
    assert found["sigmas"] == schedule.sigmas.tolist() and found["timesteps"] == schedule.timesteps().tolist()
    sampler = cg.Sampler(schedule, "cps", 0.4)
    steps = [sampler.coefficients(k) for k in range(schedule.steps)]
    assert list(zip(*(found[name] for name in "absc"))) == [tuple(one) for one in steps]
    rows = said("schedule", *words, "--dynamics", "cps", "--eta", 0.4).splitlines()[3:-2]
    assert [row.split()[1] for row in rows] == [f"{sigma:.6f}" for sigma in schedule.sigmas]


def test_a_sampler_of_second_order_has_a_column_more(said):
    assert said("schedule", "--dynamics", "dpm_ode").splitlines()[2].split()[-1] == "c"


@pytest.mark.parametrize("name", cg.RECIPES)
def test_a_recipe_is_printed_whole(said, name):
    recipe = cg.Recipe(name)
    assert str(recipe) in said("recipe", name) and name in said("recipe")
    found = json.loads(said("recipe", name, "--json"))
    options = {key: value for key, value in found["sampler"].items()}
    again = cg.Sampler(cg.Schedule(found["sigmas"]), **options)
    assert again == recipe.sampler() and found["sizes"] == recipe.plan().sizes.tolist()
    assert found["loss"] == json.loads(json.dumps(recipe.loss)) and found["optimiser"] == recipe.optimiser
    assert json.loads(said("recipe", "--json"))[name] == found


def test_a_method_of_the_forward_process_is_printed_whole(said):
    for name, method in METHODS.items():
        assert said("recipe", name).rstrip() == str(method).rstrip() and f"\n{name} " in said("recipe")
        found = json.loads(said("recipe", name, "--json"))
        assert found["loss"] == json.loads(json.dumps(method.loss)) and found["draws"] == method.draws
        assert json.loads(said("recipe", "--json"))[name] == found


# ---- recommend ----


def recommended(said, *words):
    return json.loads(said("recommend", *words, "--json"))


def test_gcpos_model_gets_gcpos_settings(said):
    found, gcpo = recommended(said, "--latents", "16x90x90"), cg.Recipe("gcpo")
    assert (found["clip"],) * 2 == gcpo.loss["clip"] and found["learning_rate"] == gcpo.optimiser["learning_rate"]
    assert found["sizes"] == gcpo.plan().sizes.tolist() and found["elements"] == 129_600


@pytest.mark.parametrize(
    "name, latents",
    [("dancegrpo", "16x90x90"), ("mixgrpo", "16x90x90"), ("flow_grpo", "16x64x64"), ("flow_factory", "16x48x48")],
)
def test_the_clips_of_other_sources_are_within_a_factor_of_two(said, name, latents):
    """Each for single steps, at the size of image of its script."""
    recipe = cg.Recipe(name)
    ones = [1] * (recipe.steps - 1)
    clip = recommended(said, "--latents", latents, "--steps", recipe.steps, "--chunks", *ones)["clip"]
    assert recipe.loss["clip"][0] / 2 < clip < 2 * recipe.loss["clip"][0]


@pytest.mark.parametrize("elements", [64, 4096])
def test_spread_and_fall_are_those_of_measured_ratios(elements):
    """Velocities that change by a share of their size, at random: the closed form against 2,000 rollouts."""
    change, (plan, schedule), rng = 0.05, GCPO, np.random.default_rng(elements)
    sampler, batch = cg.Sampler(schedule), 2000 if elements < 1000 else 300
    velocity = rng.normal(size=(batch, elements)).astype(np.float32)  # of variance 1, at every step
    traj = sampler.rollout(lambda x, sigma, step: velocity, cg.initial_noise((batch, elements), seed=1), seed=2)
    logs = []
    for k in range(16):
        new = velocity + np.float32(change) * rng.normal(size=velocity.shape).astype(np.float32)
        logs.append(sampler.log_prob(k, traj.latents[:, k], new, traj.latents[:, k + 1]) - traj.log_probs[:, k])
    chunks = [np.mean(logs[steps], axis=0) for steps in plan.slices]
    spread, fall = _recommend.moved(plan, elements, change)
    assert -np.mean([chunk.mean() for chunk in chunks]) == pytest.approx(fall, rel=0.1)
    # (b/s)^2 rises from step to step, and the closed form takes its mean.
    assert np.sqrt(np.mean([chunk.var() for chunk in chunks])) == pytest.approx(spread, rel=0.45)


def test_smaller_samples_get_larger_clips_and_more_updates_smaller_rates(said):
    clips = [recommended(said, "--elements", count)["clip"] for count in (10**2, 10**4, 10**6)]
    assert clips == sorted(clips, reverse=True) and clips[0] > 5 * clips[2]
    rates = [
        recommended(said, "--elements", 64, "--updates", n, "--train", "lora")["learning_rate"] for n in (1, 2, 4, 8)
    ]
    assert rates == [3e-4, 3e-4, 1.5e-4, 7.5e-5]
    assert "clip does nothing" in said("recommend", "--elements", 64, "--updates", 1)


# ---- doctor, bench ----


def test_doctor_names_the_parts_and_tests_the_bits(said):
    found = json.loads(said("doctor", "--json"))
    values = {one["name"]: one["value"] for one in found["findings"]}
    assert found["ok"] and values["chunkgrpo"].startswith(cg.__version__)
    assert values["instruction set"].split(",")[0] == cg.instruction_set()
    assert np.__version__ in values["packages"]
    assert {"bits, 4 threads", *(f"bits, {name}" for name in _machine.lesser(cg.instruction_set()))} <= set(values)


def test_doctor_fails_where_bits_are_not_the_known_ones(said, monkeypatch):
    monkeypatch.setitem(_bits.KNOWN, "noise float32", "0")
    monkeypatch.setattr(_machine, "lesser", lambda name: ())
    assert re.search(r"FAIL +bits +noise float32 differ", said("doctor", status=1))


def test_doctor_fails_where_another_process_has_other_bits(monkeypatch):
    monkeypatch.setattr(_doctor, "_of_process", lambda threads, simd: {})
    states = {one.name: one.state for one in _doctor._self_test()}
    assert states["bits, 4 threads"] == "FAIL" and states["bits"] == states["ratios"] == "ok"


def test_doctor_advises_where_openblas_is_older_than_the_processor(monkeypatch):
    monkeypatch.setattr(_machine, "openblas", lambda: _machine.OpenBLAS("0.3.21", "Prescott", "/lib/libopenblas.so.0"))
    monkeypatch.setattr(_machine, "widest", lambda: "avx2")
    (found,) = _doctor._blas()
    assert found.state == "note" and "OPENBLAS_CORETYPE=Haswell" in found.advice


@pytest.mark.parametrize("capability, state", [((9, 0), "ok"), ((7, 0), "note")])
def test_doctor_says_which_devices_run_the_kernels(monkeypatch, capability, state):
    monkeypatch.setattr(_machine, "cuda", lambda: _machine.CUDA((12, 4), [("a card", capability)]))
    driver, device = _doctor._cuda()
    assert driver.value == "driver of CUDA 12.4" and device.state == state


DRIVER = r"""
#include <string.h>
int cuInit(unsigned flags) { return flags; }
int cuDriverGetVersion(int *version) { return *version = 12080, 0; }
int cuDeviceGetCount(int *count) { return *count = COUNT, 0; }
int cuDeviceGetName(char *name, int size, int device) { return strncpy(name, device ? "an old card" : "a card", size), 0; }
int cuDeviceGetAttribute(int *value, int which, int device) {
    return *value = which == 75 ? (device ? 7 : 9) : which == 76 ? 0 : -1, 0;
}
"""


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="there is no compiler")
@pytest.mark.parametrize(
    "count, values",
    [
        (2, ["driver of CUDA 12.8", "a card, compute capability 9.0", "an old card, compute capability 7.0"]),
        (0, ["no device: tensors of the CPU alone"]),
    ],
)
def test_doctor_asks_the_cuda_driver(tmp_path, count, values):
    (tmp_path / "driver.c").write_text(DRIVER)
    build = ["cc", "-shared", "-fPIC", f"-DCOUNT={count}", "-o", tmp_path / "libcuda.so.1", tmp_path / "driver.c"]
    subprocess.run(build, check=True)
    program = ("-c", "from chunkgrpo._cli import _doctor; print(*(one.value for one in _doctor._cuda()), sep='\\n')")
    done = process(program=program, LD_LIBRARY_PATH=str(tmp_path))
    assert done.stdout.splitlines() == values, done.stderr


def test_the_openblas_of_the_library_is_found():
    cg.Trainer(2, 2, width=8, blocks=1)
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", _machine.openblas().version) and _machine.openblas().core


def test_bench_times_every_call_on_each_number_of_threads(said):
    words = "bench --latents 4x8x8 --batch 3 --threads 1 2 --seconds 0.001 --type float64".split()
    found = json.loads(said(*words, "--json"))
    assert found["shape"] == [3, 4, 8, 8] and found["type"] == "float64"
    assert [row["call"] for row in found["rows"]] == ["step, with noise", "log-probability", "gradient", "chunk loss"]
    assert found["rows"][0]["bytes"] == 3 * (3 * 4 * 8 * 8) * 8  # latents, velocity, next latents
    assert all(0 < value < 1000 for row in found["rows"] for value in row["milliseconds"].values())
    for line in said(*words).splitlines()[3:6]:
        one, two, speed = map(float, line.split()[-3:])
        assert speed > 0 and one > 0 and two > 0


# ---- the whole command ----


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_each_option_with_its_default_and_an_example_that_runs(command, capsys, tmp_path, curve, monkeypatch):
    with pytest.raises(SystemExit) as exit:
        _cli.main([command, "--help"])
    text = capsys.readouterr().out
    assert exit.value.code == 0
    (parser,) = (one for one in _cli.parser()._actions if isinstance(one, argparse._SubParsersAction))
    one = parser.choices[command]
    for action in one._actions:
        assert action.help and all(name in text for name in action.option_strings)
        if action.option_strings and action.default not in (None, False, "==SUPPRESS=="):
            assert "(default: %(default)s)" in one._get_formatter()._get_help_string(action)
    monkeypatch.chdir(tmp_path)
    np.save("curve.npy", curve)
    words = shlex.split(text.split("example: chunkgrpo ")[1])
    if "--output" in words:
        pytest.importorskip("matplotlib")
    assert _cli.main(words) == 0


def test_the_list_of_commands_is_in_the_help(capsys):
    with pytest.raises(SystemExit):
        _cli.main(["--help"])
    text = capsys.readouterr().out
    assert all(re.search(rf"^ +{command}\s+[A-Z]", text, re.MULTILINE) for command in COMMANDS)


@pytest.mark.parametrize(
    "words, sentence",
    [
        ("", "required: COMMAND"),
        ("cut", "invalid choice: 'cut'"),
        ("plan --step 28", "unrecognized arguments: --step 28"),
        ("plan --steps 1", "the last step is never trained"),
        ("plan --steps many", "invalid int value: 'many'"),
        ("plan --chunks 2 0", "sizes holds 0; a chunk has at least one step"),
        ("plan --chunks 2 3 --steps 17", "5 trained steps ask for 6 sampling steps, and the schedule has 17"),
        ("plan --chunks 2 3 --size 2", "not allowed with argument"),
        ("plan --curve none.npy", "there is no file none.npy"),
        ("plan --curve words.csv", "words.csv does not hold numbers"),
        ("plan --curve ragged.csv", "ragged.csv does not hold numbers"),
        ("plan --curve odd.json", 'odd.json has no "relative_l1"'),
        ("plan --count 3", "--count: of a plan that follows a curve"),
        ("plan --sigmas 1 0.5 0 --steps 2", "--sigmas is a whole schedule: leave --steps out"),
        ("plan --flux 512x512 --terminal 0.1", "--flux is a whole schedule: leave --terminal out"),
        ("plan --output plan.txt", "it must end in .png, .svg or .pdf"),
        ("schedule --flux 1024", "must be WIDTHxHEIGHT"),
        ("schedule --sigmas 0 1", "sigma"),
        ("schedule --dynamics cps --eta 2", "eta"),
        ("recipe grpo", "invalid choice: 'grpo'"),
        ("recommend", "one of the arguments --elements --latents is required"),
        ("recommend --elements 0", "--elements is 0"),
        ("recommend --elements 64 --updates 0", "--updates is 0"),
        ("recommend --latents 16x0", "must be sizes, such as 16x128x128"),
        ("recommend --elements 64 --chunks 2 3", "--chunks has 5 steps"),
        ("bench --seconds nan", "--seconds is nan"),
        ("bench --batch 0", "--batch is 0"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_status_2(refused, tmp_path, monkeypatch, words, sentence):
    if "--output" in words:
        pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.csv").write_text("a,b\n")
    (tmp_path / "ragged.csv").write_text("1,2\n3\n")
    (tmp_path / "odd.json").write_text('{"curve": [1]}')
    assert sentence in refused(*words.split())


def test_a_missing_matplotlib_is_named_with_its_remedy(refused, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert refused("plan", "--output", tmp_path / "plan.svg").endswith("pip install chunkgrpo[plot]")


def test_python_m_chunkgrpo_is_the_command(said):
    done = process("plan", "--steps", 28)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == said("plan", "--steps", 28)
    assert process("--version").stdout == f"chunkgrpo {cg.__version__}\n"


def test_a_library_that_cannot_be_loaded_is_said_without_a_traceback(tmp_path):
    program = (str(ROOT / "bindings" / "python" / "chunkgrpo_command.py"),)
    done = process("doctor", program=program, CHUNKGRPO_LIBRARY=str(tmp_path / "none.so"))
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "none.so: no such file" in done.stderr and "make lib" in done.stderr
    assert process("recipe", "gcpo", program=program).stdout == process("recipe", "gcpo").stdout


def test_a_terminal_of_ascii_gets_ascii():
    done = process("plan", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout.isascii() and "####" in done.stdout
    assert process("recommend", "--elements", 64, PYTHONIOENCODING="ascii").returncode == 0


def test_a_closed_pipe_is_no_error():
    command = f"{shlex.quote(sys.executable)} -m chunkgrpo plan --steps 2000 | head -n 1"
    paths = {**os.environ, "PYTHONPATH": str(ROOT / "bindings" / "python")}
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], env=paths, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.count("\n") == 1


# ---- docs/cli.md ----

SHOWN = re.findall(r"```console\n\$ chunkgrpo (.*)\n((?:.|\n)*?)```", PAGE)


@pytest.mark.parametrize("words, printed", SHOWN, ids=[words for words, _ in SHOWN])
def test_the_page_shows_what_is_printed(said, words, printed):
    assert said(*shlex.split(words)) == printed


def test_the_page_has_every_command_and_option():
    (parser,) = (one for one in _cli.parser()._actions if isinstance(one, argparse._SubParsersAction))
    assert tuple(parser.choices) == COMMANDS and len(SHOWN) >= 3
    for command, one in parser.choices.items():
        assert f"## {command}" in PAGE
        for action in one._actions:
            assert all(f"`{name}" in PAGE for name in action.option_strings if name not in ("-h", "--help")), action
