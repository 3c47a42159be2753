"""Swift's reference: DocC, from the modules that `make lib` compiled and the toolchain's docc, which needs no network."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

MODULES = {"ChunkGRPO": "the library", "ChunkGRPOTraining": "the embedded policy"}
PAGE = """# Swift reference

{text}
"""
LINKS = """The modules' documentation is DocC's:

{links}

A browser shows these pages from a server, not from a file: `python3 -m http.server --directory build/site`, then
`http://localhost:8000{base}`. `make docs SITE_BASE=/name` is for a site that lies under a folder of its host."""
ABSENT = """It is left out here. `make docs` builds it where the Swift toolchain is on the PATH."""


def run(*command):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"site: {command[0]} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def symbols(root, module, out):
    """The public symbols of a module, with their comments."""
    release = root / ".build-lib" / "release"
    triple = json.loads(run("swift", "-print-target-info"))["target"]["triple"]
    command = ["swift-symbolgraph-extract", "-module-name", module, "-target", triple, "-output-dir", out]
    command += ["-minimum-access-level", "public", "-skip-synthesized-members", "-I", release / "Modules"]
    for include in [root / "Sources" / "COpenBLAS", *sorted((root / "Sources").glob("C*/include"))]:
        command += ["-I", include]
    for found in sorted(release.resolve().glob("*.build/module.modulemap")):
        command += ["-Xcc", f"-fmodule-map-file={found}"]
    run(*command)


def available(root):
    modules = root / ".build-lib" / "release" / "Modules"
    tools = all(map(shutil.which, ("docc", "swift-symbolgraph-extract")))
    return tools and all((modules / f"{module}.swiftmodule").exists() for module in MODULES)


def page(built, base):
    """Markdown of the page that leads to the modules' pages."""
    if not built:
        return PAGE.format(text=ABSENT)
    links = "\n".join(
        f'- <a href="swift/{name}/documentation/{name.lower()}/index.html"><code>{name}</code></a>, {what}'
        for name, what in MODULES.items()
    )
    return PAGE.format(text=LINKS.format(links=links, base=base))


def build(root, site, scratch, base):
    """The modules' pages into the site, which is served under `base`."""
    for module in MODULES:
        graph = Path(scratch) / module
        shutil.rmtree(graph, ignore_errors=True)
        graph.mkdir(parents=True)
        symbols(root, module, graph)
        out = site / "swift" / module
        out.parent.mkdir(exist_ok=True)
        catalogue = root / "Sources" / module / f"{module}.docc"
        named = ["--fallback-display-name", module, "--fallback-bundle-identifier", module]
        hosted = ["--transform-for-static-hosting", "--hosting-base-path", f"{base}/swift/{module}".lstrip("/")]
        strict = ["--warnings-as-errors", "--disable-parameters-and-returns-validation"]
        run("docc", "convert", catalogue, *named, "--additional-symbol-graph-dir", graph, "--output-dir", out, *hosted, *strict)
