"""What scripts/generate-bindings writes: it is up to date, and the header's defaults are those that `_init` sets."""

from __future__ import annotations

import ctypes
import inspect
import json
import math
import subprocess
import sys

import pytest

import chunkgrpo as cg
from chunkgrpo import _generated, _library, _options
from conftest import ROOT


def generate(*arguments):
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "generate-bindings", *arguments], capture_output=True, text=True
    )


DEFAULTS = json.loads(generate("--defaults").stdout)


def struct_of(name):
    return getattr(_generated, "".join(word.capitalize() for word in name.split("_")))


def number_of(token):
    """The value that a comment's first token names, as `_init` sets it."""
    if token == "null":
        return None
    if token == "INFINITY":
        return math.inf
    if token.startswith("CGRPO_"):
        tables = [name for name, table in vars(_generated).items() if name.isupper() and isinstance(table, dict)]
        table = max((name for name in tables if token.startswith(f"CGRPO_{name}_")), key=len)
        return getattr(_generated, table)[token[len(f"CGRPO_{table}_") :].lower()]
    return float(token)


def test_the_files_are_what_the_header_says():
    done = generate("--check")
    assert done.returncode == 0, done.stderr


def test_an_enumerator_of_two_lines_is_one_and_one_without_a_number_is_refused(tmp_path):
    for name in ("scripts", "include"):
        (tmp_path / name).mkdir()
    script = tmp_path / "scripts" / "generate-bindings"
    script.write_text((ROOT / "scripts" / "generate-bindings").read_text())
    header = (ROOT / "include" / "chunkgrpo.h").read_text()
    one = "CGRPO_DYNAMICS_DPM_ODE = 6"
    assert one in header
    run = [sys.executable, "-c", f"import runpy; h = runpy.run_path({str(script)!r}); "
           "print(h['Header'](open(h['HEADER']).read()).enums['dynamics'])"]

    def enums(replacement):
        (tmp_path / "include" / "chunkgrpo.h").write_text(header.replace(one, replacement))
        return subprocess.run(run, capture_output=True, text=True)

    assert enums(one).stdout == enums("CGRPO_DYNAMICS_DPM_ODE =\n        6").stdout != ""
    refused = enums("CGRPO_DYNAMICS_DPM_ODE")
    assert refused.returncode != 0 and "cgrpo_dynamics" in refused.stderr


def test_every_options_struct_has_defaults_in_the_header():
    structs = {struct for struct in vars(_generated).values() if hasattr(struct, "init")}
    assert {struct_of(name) for name in DEFAULTS} == structs and len(structs) >= 13


@pytest.mark.parametrize("name", DEFAULTS)
def test_the_headers_defaults_are_those_that_init_sets(name):
    struct = struct_of(name)
    filled = _library.new(struct)
    fields = [field for field, _ in struct._fields_]
    assert fields == ["struct_size", *DEFAULTS[name]] and filled.struct_size == ctypes.sizeof(struct)
    for field, token in DEFAULTS[name].items():
        value = getattr(filled, field)
        if token == "unset":  # a struct in the struct
            assert bytes(value) == bytes(ctypes.sizeof(value)), field
        elif token == "null":
            assert not value, field
        else:
            assert value == number_of(token), field


@pytest.mark.parametrize(
    "function, struct",
    [
        (cg.Sampler, _generated.SamplerOptions),
        (cg.Schedule.make, _generated.ScheduleOptions),
        (cg.SDEWindow, _generated.WindowOptions),
        (cg.ChunkPlan.adaptive, _generated.AdaptiveOptions),
        (cg.ChunkPlan.optimal, _generated.OptimalOptions),
        (cg.ChunkPlan.select, _generated.SelectOptions),
        (cg.advantages, _generated.AdvantageOptions),
        (cg.chunk_loss, _generated.ChunkLossOptions),
        (cg.importance_weights, _generated.ImportanceOptions),
        (cg.step_advantages, _generated.AdvantageOptions),
        (cg.tree_advantages, _generated.AdvantageOptions),
        (cg.Trainer, _generated.TrainerOptions),
        (cg.Trainer.pretrain, _generated.PretrainOptions),
    ],
)
def test_functions_show_every_option_with_the_librarys_default(function, struct):
    shown = inspect.signature(function).parameters
    for name, default in _options.read(_library.new(struct)).items():
        if function is cg.chunk_loss and name == "clip":
            default = None  # so that it can be left where nothing is clipped
        if shown[name].default is not inspect.Parameter.empty and name != "mu":
            assert shown[name].default == default, name
        assert shown[name].annotation is not inspect.Parameter.empty, name


def test_an_unknown_option_is_refused_with_the_one_that_is_near():
    schedule = cg.Schedule.linear(4)
    with pytest.raises(TypeError, match=r"chunk_loss\(\) got an unexpected keyword argument 'clipp'.*'clip'"):
        cg.chunk_loss([[0.0]], [[0.0]], [1.0], [1], clipp=0.1)
    with pytest.raises(cg.WrongType, match=r"Sampler\(\) got an unexpected keyword argument 'logprob'.*'log_prob'"):
        cg.Sampler(schedule, logprob="gaussian")
    with pytest.raises(cg.WrongType, match=r"'tempo'$"):
        cg.Sampler(schedule, tempo=1)


def test_options_come_back_as_they_were_given():
    given = dict(dynamics="cps", eta=0.5, last_step="ode", window=[1, 2], after="dpm_ode", threads=3)
    read = _options.read(_options.fill(_generated.SamplerOptions, given, "Sampler"))
    assert {name: read[name] for name in given} == given and read["etas"] is None
    given = dict(clip=(0.1, 0.2), kl=0.5, surrogate="cispo", normaliser=7.0)
    read = _options.read(_options.fill(_generated.ChunkLossOptions, given, "chunk_loss"))
    assert {name: read[name] for name in given} == given


def test_the_types_of_options_are_shown_and_a_count_that_has_no_none_is_an_int():
    shown = inspect.signature(cg.Trainer).parameters
    assert (shown["threads"].default, shown["threads"].annotation) == (0, "int")
    assert inspect.signature(cg.chunk_loss).parameters["clip"].annotation.startswith("Optional[Union[float")
