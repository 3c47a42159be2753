"""Every field of what a call takes or gives back has its sentence: in `help`, in the header, in Swift."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import runpy

import pytest
from conftest import ROOT

MODULES = ("", ".forward", ".torch", ".torch.forward", ".jax", ".jax.forward", ".diffusers", ".distributed")
HEADER = (ROOT / "include" / "chunkgrpo.h").read_text()
STORED = re.compile(r"\s*public (?:private\(set\) |internal\(set\) )?(?:static )?(?:var|let) (\w+)[^{]*$")


def results():
    """{name: class} of the public classes whose instances are records."""
    found = {}
    for module in MODULES:
        try:
            names = vars(importlib.import_module(f"chunkgrpo{module}"))
        except ImportError:  # of a framework that is not here
            continue
        for name in names["__all__"]:
            if inspect.isclass(names[name]) and (dataclasses.is_dataclass(names[name]) or hasattr(names[name], "_fields")):
                found[f"chunkgrpo{module}.{name}"] = names[name]
    from chunkgrpo._generated import ForwardStats
    from chunkgrpo.sampler import Coefficients

    return {**found, "ForwardStats": ForwardStats, "Coefficients": Coefficients}


RESULTS = results()


def test_the_results_are_found():
    named = {kind.__name__ for kind in RESULTS.values()}
    assert {"ChunkStats", "ChunkLoss", "ChunkFit", "IterationReport", "OnPolicyReport", "Distances", "Method"} <= named


@pytest.mark.parametrize("name", RESULTS)
def test_help_explains_every_field_of_a_result(name):
    kind = RESULTS[name]
    fields = [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else list(kind._fields)
    explained = dict(re.findall(r"^(\w+) {2,}(\S.*)$", inspect.getdoc(kind), re.MULTILINE))
    assert list(explained) == [field for field in fields if not field.startswith("_")]
    assert not [field for field, text in explained.items() if len(text) < 8 and kind.__name__ != "Coefficients"]


def test_the_header_explains_every_field_of_a_struct():
    structs = runpy.run_path(str(ROOT / "scripts" / "generate-bindings"))["Header"](HEADER).structs
    assert len(structs) >= 25
    bare = [f"{s}.{f.name}" for s, fields in structs.items() for f in fields if not f.comment and f.name != "struct_size"]
    assert not bare


def test_swift_explains_every_stored_property():
    """In a line of `///` above it, or above the line of its kin: options that the header explains too."""
    bare, seen = [], 0
    for path in sorted(ROOT.glob("Sources/ChunkGRPO*/**/*.swift")):
        lines = path.read_text().splitlines()
        for at, line in enumerate(lines):
            if match := STORED.match(line):
                above = next(text for text in reversed(lines[:at]) if not text.strip().startswith("@"))
                seen += 1
                if not above.strip().startswith("///"):
                    bare.append(f"{path.relative_to(ROOT)}:{at + 1} {match[1]}")
    assert seen > 150
    assert not bare, bare
