"""The documentation's site has every name of the header and of the package, and finds a link that leads nowhere."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

import chunkgrpo as cg

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "site"


@pytest.fixture(scope="module", autouse=True)
def on_the_path():
    """The generator's modules import each other by name, as scripts/site has them."""
    from os import environ

    environ["CHUNKGRPO_ROOT"] = str(ROOT)
    sys.path.insert(0, str(SITE))
    yield
    sys.path.remove(str(SITE))


def module(name):
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, SITE / f"{name}.py")
    sys.modules[name] = found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def reference():
    header = (ROOT / "include" / "chunkgrpo.h").read_text()
    return "\n".join(text for _, _, text in module("c_reference").Reference(header).sections())


def test_the_c_reference_has_every_function_field_and_enumerator(reference):
    from subprocess import run

    header = run(["cc", "-E", "-P", str(ROOT / "include" / "chunkgrpo.h")], capture_output=True, text=True).stdout
    header = header[header.index("cgrpo_abi_version") - 20 :]
    functions = set(re.findall(r"\b(cgrpo_\w+)\(", header))
    enumerators = set(re.findall(r"\b(CGRPO_\w+) = ", header))
    fields = set(re.findall(r"\b(\w+)(?:\[\d+\])?;", "".join(re.findall(r"struct cgrpo_\w+ \{(.*?)\}", header, re.DOTALL))))
    assert min(len(functions), len(enumerators), len(fields)) > 50
    assert set(re.findall(r"c:function:: [^(]*?\b(cgrpo_\w+)\(", reference)) == functions
    assert enumerators <= set(re.findall(r"c:macro:: (CGRPO_\w+)", reference))
    assert fields == set(re.findall(r"c:member:: .*?\b(\w+)(?:\[\d+\])?\n", reference))


def test_the_c_reference_says_of_a_field_what_the_header_says(reference):
    (said,) = re.findall(r"c:member:: double wan_sigma_min\n\n +(.*)\n", reference)
    assert said == "0; in [0, 1]; for WAN_SDE and FLASH_SDE"


def test_the_python_reference_has_every_public_name_and_module():
    pages = module("python_reference").pages(ROOT / "bindings" / "python" / "chunkgrpo")
    named = set(re.findall(r"auto\w+:: chunkgrpo\.(\w+)\n", pages["python/chunkgrpo"]))
    assert named == set(cg.__all__) - {"__version__"}
    assert {f"python/chunkgrpo.{name}" for name in ("torch", "torch.forward", "jax", "diffusers", "compat.gcpo")} <= set(pages)
    assert not any("._" in page for page in pages)


@pytest.mark.parametrize(
    "plain, expected",
    [
        ("x' = a*x |b| `code` t_", "x' = a\\*x \\|b\\| ``code`` t\\_\n"),
        ("name   a thing\n       of two lines\nother  one", "``name``\n    a thing\n    of two lines\n\n``other``\n    one\n"),
        ("- one\n  more\n- two", "- one\n   more\n- two\n"),
        ("Text:\n\n    a = 1\n    f(a)", "Text:\n\n.. code-block:: python\n\n    a = 1\n    f(a)\n"),
        ("see arXiv 2510.21583.", "see `arXiv 2510.21583 <https://arxiv.org/abs/2510.21583>`__.\n"),
        ("`a`s", "``a``\\ s\n"),
    ],
)
def test_plain_prose_becomes_restructured_text(plain, expected):
    assert module("prose").restructured(plain) == expected


def test_a_dead_link_and_a_script_from_elsewhere_are_found(tmp_path):
    check = module("check_html")
    (tmp_path / "a.html").write_text('<p id="x"><a href="b.html#y">b</a><a href="#x">x</a><a href="c.html">c</a></p>')
    (tmp_path / "b.html").write_text('<p id="z"><a href="a.html#x">a</a><script src="https://example.org/s.js"></script></p>')
    pages = {path: check.Page(path.read_text()) for path in (tmp_path / "a.html", tmp_path / "b.html")}
    assert sorted(check.wrong(tmp_path, pages)) == [
        "a.html: b.html#y: no such place",
        "a.html: c.html: no such file",
        "b.html: loads https://example.org/s.js",
    ]


def test_links_of_pages_lead_to_pages_of_the_site(tmp_path):
    tree = module("pages").Pages(ROOT, tmp_path)
    tree.write("docs/settings.md")
    tree.write("docs/statistics.md")
    assert "[settings](/settings.md#the-clip)" in (tmp_path / "statistics.md").read_text()


def test_a_page_in_no_navigation_is_named(tmp_path):
    from subprocess import run

    (tmp_path / "scripts").mkdir()
    (tmp_path / "docs").mkdir()
    (tmp_path / "scripts" / "check-links").write_text((ROOT / "scripts" / "check-links").read_text())
    (tmp_path / "docs" / "README.md").write_text("# Documentation\n\n## A\n\n- [one](one.md)\n")
    (tmp_path / "docs" / "one.md").write_text("# One\n")
    (tmp_path / "docs" / "two.md").write_text("# Two\n")
    done = run([sys.executable, tmp_path / "scripts" / "check-links"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "docs/two.md: in no list of docs/README.md" in done.stdout and "one.md" not in done.stdout


def test_an_enumerator_that_a_field_names_is_a_link(reference):
    (said,) = re.findall(r"c:member:: cgrpo_baseline baseline\n\n +(.*)\n", reference)
    assert said == ":c:macro:`CGRPO_BASELINE_GROUP <cgrpo_baseline.CGRPO_BASELINE_GROUP>`"


def test_a_line_of_a_program_is_no_row_of_a_table():
    text = "x = f(1)    # one\ny = g(x)    # two"
    assert "``x = f(1)``" not in module("prose").restructured(text)


@pytest.mark.parametrize("taken", ["mine", "mine-source"])
def test_a_folder_with_files_that_are_no_site_is_not_taken(tmp_path, taken):
    from subprocess import run

    (tmp_path / taken).mkdir()
    (tmp_path / taken / "thesis.txt").write_text("years of work")
    done = run([sys.executable, ROOT / "scripts" / "site", "--out", tmp_path / "mine"], capture_output=True, text=True)
    assert done.returncode == 2 and "has files that are no site's" in done.stderr
    assert (tmp_path / taken / "thesis.txt").read_text() == "years of work"
