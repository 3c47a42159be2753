"""The ctypes declarations against the header, and how the library is found."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys

import pytest

import chunkgrpo as cg
from chunkgrpo import _generated, _library
from conftest import ROOT

HEADER = ROOT / "include" / "chunkgrpo.h"
STRUCTS = {
    "cgrpo_" + re.sub(r"(?<!^)(?=[A-Z])", "_", name.removesuffix("Struct")).lower(): struct
    for name, struct in vars(_generated).items()
    if isinstance(struct, type) and issubclass(struct, ctypes.Structure)
}


def declarations():
    """{function: parameters} of the header."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.S)
    found = re.findall(r"^[\w ]+?[ *](cgrpo_\w+)\(([^;]*?)\);", text, flags=re.M | re.S)
    return {name: [] if args.strip() == "void" else args.split(",") for name, args in found}


def test_every_function_of_the_header_is_declared_with_its_number_of_parameters():
    header = {name: len(parameters) for name, parameters in declarations().items()}
    here = {name: len(words.split()) - 1 for name, words in _generated.FUNCTIONS.items()}
    assert header == here


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_structs_are_laid_out_as_in_the_header(tmp_path):
    lines = []
    for name, struct in STRUCTS.items():
        lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
        for field, _ in struct._fields_:
            member = f"(({name} *)0)->{field}"
            lines.append(f'printf("{name}.{field} %zu %zu\\n", offsetof({name}, {field}), sizeof({member}));')
    source = tmp_path / "layout.c"
    source.write_text(f'#include <stdio.h>\n#include "{HEADER}"\nint main(void) {{\n' + "\n".join(lines) + "\n}\n")
    subprocess.run(["cc", "-o", tmp_path / "layout", source], check=True)
    header = subprocess.run([tmp_path / "layout"], check=True, capture_output=True, text=True).stdout.split("\n")[:-1]
    here = []
    for name, struct in STRUCTS.items():
        here.append(f"{name} {ctypes.sizeof(struct)}")
        for field, _ in struct._fields_:
            place = getattr(struct, field)
            here.append(f"{name}.{field} {place.offset} {place.size}")
    assert header == here and len(STRUCTS) >= 11


def test_numbers_are_those_of_the_header():
    header = dict(re.findall(r"(CGRPO_\w+) = (\d+)", HEADER.read_text()))
    tables = {name: value for name, value in vars(_generated).items() if name.isupper() and isinstance(value, dict)}
    del tables["FUNCTIONS"]
    here = {
        f"CGRPO_{table}_{name.upper()}": number for table, names in tables.items() for name, number in names.items()
    }
    assert {name.replace("CGRPO_STATUS_", "CGRPO_"): str(number) for name, number in here.items()} == header
    for name, number in _generated.STATUS.items():
        assert _library.lib.cgrpo_status_name(number) == f"CGRPO_{name.upper()}".encode()


def test_everything_public_has_a_docstring():
    for name in cg.__all__:
        thing = getattr(cg, name)
        if name != "__version__":
            assert thing.__doc__ and not thing.__doc__.startswith(f"{name}("), name
            for key, member in vars(thing).items() if isinstance(thing, type) else ():
                if callable(getattr(thing, key, None)) and not key.startswith("_"):
                    assert member.__doc__ or getattr(member, "__func__", member).__doc__, f"{name}.{key}"


def test_the_version_is_that_of_the_package():
    project = (ROOT / "bindings/python/pyproject.toml").read_text()
    assert f'version = "{cg.__version__}"' in project


# ----------------------------------------------------------------------------------------------------------------------
# Finding the library


def run(code, package, **environment):
    env = {**os.environ, "PYTHONPATH": str(package), **environment}
    env = {key: value for key, value in env.items() if value}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd="/")


@pytest.fixture
def alone(tmp_path):
    """The package, copied away from the tree and its build."""
    shutil.copytree(ROOT / "bindings/python/chunkgrpo", tmp_path / "a/b/c/chunkgrpo")
    return tmp_path / "a/b/c"


LIBRARY = _library.lib._name


def test_the_library_is_found_by_its_environment_variable(alone):
    done = run("import chunkgrpo; print(chunkgrpo._library.lib._name)", alone, CHUNKGRPO_LIBRARY=LIBRARY)
    assert done.stdout.strip() == LIBRARY


def test_the_library_is_found_beside_the_package(alone):
    shutil.copy(LIBRARY, alone / "chunkgrpo" / _library._NAME)
    done = run("import chunkgrpo; print(chunkgrpo._library.lib._name)", alone, CHUNKGRPO_LIBRARY="")
    assert done.stdout.strip() == str(alone / "chunkgrpo" / _library._NAME)


def test_a_missing_library_is_an_import_error_that_says_what_was_tried(alone):
    done = run("import chunkgrpo", alone, CHUNKGRPO_LIBRARY="")
    assert done.returncode == 1 and "ImportError" in done.stderr
    for words in (str(alone / "chunkgrpo" / _library._NAME), "build/lib", "make lib", "CHUNKGRPO_LIBRARY"):
        assert words in done.stderr


@pytest.mark.parametrize(
    "make, words",
    [
        (lambda path: None, "no such file"),
        (lambda path: path.write_text("no library"), "invalid ELF header|file too short"),
    ],
    ids=["missing", "broken"],
)
def test_a_chosen_library_that_cannot_be_loaded_is_not_replaced_by_another(tmp_path, make, words):
    path = tmp_path / "lib.so"
    make(path)
    done = run("import chunkgrpo", ROOT / "bindings/python", CHUNKGRPO_LIBRARY=str(path))
    assert done.returncode == 1 and "ImportError" in done.stderr
    assert str(path) in done.stderr and re.search(words, done.stderr)


@pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
def test_a_library_of_another_interface_is_refused(tmp_path):
    source = tmp_path / "other.c"
    source.write_text("unsigned cgrpo_abi_version(void) { return 1; }\n")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "other.so", source], check=True)
    done = run("import chunkgrpo", ROOT / "bindings/python", CHUNKGRPO_LIBRARY=str(tmp_path / "other.so"))
    assert "ImportError" in done.stderr and "version 1 of the binary interface" in done.stderr


def test_nothing_but_numpy_is_imported():
    done = run(
        "import sys, numpy; before = set(sys.modules); import chunkgrpo; new = set(sys.modules) - before;"
        "installed = [m for m in new if 'site-packages' in str(getattr(sys.modules[m], '__file__', ''))];"
        "print({m.split('.')[0] for m in installed} - {'numpy'})",
        ROOT / "bindings/python",
    )
    assert done.stdout.strip() == "set()"
