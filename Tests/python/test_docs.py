"""The blocks of README and of the pages of docs/ run as they are printed, or say that they are fragments."""

import contextlib
import io
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), ROOT / "CONTRIBUTING.md", ROOT / "bindings" / "python" / "README.md"]

# What the blocks of a page take as given.
GIVEN = {
    "statistics.md": """
import types, torch, chunkgrpo as cg, chunkgrpo.torch as cgt
plan, sampler = cg.ChunkPlan([1, 2]), cg.Sampler(cg.Schedule.shifted(4, 3.0))
weight = torch.ones(1, requires_grad=True)
velocity = lambda x, sigma, step: weight * x
traj = sampler.rollout(lambda x, sigma, step: x, torch.randn(24, 5), seed=1)
rewards, images, iteration = traj.images.mean(1), torch.rand(24, 3, 4, 4), 0
rows = [slice(0, 12), slice(12, 24)]
adv = cg.advantages(rewards, group_size=12)
minibatches = [(traj.latents[r], traj.log_probs[r], adv[r]) for r in rows]
logged = {}
logger = types.SimpleNamespace(log=lambda numbers, step: logged.update(numbers))
""",
    "settings.md": "import chunkgrpo as cg",
    "collapse.md": "import chunkgrpo as cg",
    # The device alone is another.
    "gpu.md": """
import torch as real, types, chunkgrpo as cg, chunkgrpo.torch as cgt
torch = types.SimpleNamespace(randn=lambda *shape, device: real.randn(2, 3, 4))
sampler, plan = cg.Sampler(cg.Schedule.shifted(4, 3.0)), cg.ChunkPlan([1, 2])
weight = real.ones(1, requires_grad=True)
velocity = lambda x, sigma, step: (weight * x).detach() if not real.is_grad_enabled() else weight * x
reward = lambda images: images.mean((1, 2))
advantages = cg.advantages
cg = types.SimpleNamespace(advantages=lambda r, group_size: advantages(r, 2))
""",
}
# The C blocks that are no whole programs, as the body of a function.
GIVEN_C = """#include <chunkgrpo.h>
enum { B = 2, D = 3 };
void given(const cgrpo_sampler *sampler, int64_t step, void *stream, void *workspace, uint64_t *status, void *latents,
           const int64_t *shape, cgrpo_tensor v, cgrpo_tensor next, double *log_prob);
void given(const cgrpo_sampler *sampler, int64_t step, void *stream, void *workspace, uint64_t *status, void *latents,
           const int64_t *shape, cgrpo_tensor v, cgrpo_tensor next, double *log_prob) {
%s}
"""


def blocks(page, language):
    return [body for info, body in FENCE.findall(page.read_text()) if info == language]


def run_elsewhere(page):
    """The tests that run the blocks of a page in a way of their own."""
    tests = (path for path in sorted((ROOT / "Tests" / "python").glob("test_*.py")) if path != Path(__file__))
    texts = {path.name: path.read_text() for path in tests}
    return [name for name, text in texts.items() if f'"{page.name}"' in text and "```python" in text]


RUN_HERE = [page for page in PAGES[1:] if blocks(page, "python") and not run_elsewhere(page)]


@pytest.mark.parametrize("page", RUN_HERE, ids=lambda page: page.name)
def test_the_python_blocks_of_a_page_run_in_order(page):
    names = {}
    if "torch" in GIVEN.get(page.name, "") or any("import torch" in block for block in blocks(page, "python")):
        pytest.importorskip("torch")
    exec(compile(GIVEN.get(page.name, ""), f"given to {page.name}", "exec"), names)
    for number, block in enumerate(blocks(page, "python"), 1):
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(block, f"{page.name}, block {number}", "exec"), names)
    if page.name == "statistics.md":
        assert {"train/ratio_mean", "train/reward_std", "train/image_contrast"} <= set(names["logged"])
    if page.name == "collapse.md":
        options = names["trainer"].options
        assert (options["reference_kl"], options["reference_divergence"]) == (0.35, "gaussian")
        assert (options["chunk_fraction"], options["ema_decay"]) == (1.0, 0.99)


def test_each_fence_names_a_language_that_is_checked_or_says_that_it_is_a_fragment():
    checked = {"python", "c", "swift", "sh", "", "console", "text", "csv", "mermaid"}
    for page in PAGES:
        for info, _ in FENCE.findall(page.read_text()):
            language, *rest = info.split() or [""]
            assert language in checked | {"cmake", "toml", "yaml", "cpp", "rust", "go", "json"}, f"{page.name}: ```{info}"
            assert rest in ([], ["fragment"]), f"{page.name}: ```{info}"
            assert info != "swift" or page == ROOT / "README.md", f"{page.name}: a Swift block that nothing compiles"


def test_shell_blocks_are_shell():
    scripts = [(page.name, body) for page in PAGES for body in blocks(page, "sh")]
    assert scripts
    for name, body in scripts:
        done = subprocess.run(["bash", "-n"], input=body, capture_output=True, text=True)
        assert done.returncode == 0, f"{name}: {done.stderr}"


def test_c_blocks_of_the_pages_compile(tmp_path):
    found = [(page.name, body) for page in PAGES[1:] for body in blocks(page, "c")]
    assert found
    for name, body in found:
        source = tmp_path / "block.c"
        source.write_text(body if "int main" in body else GIVEN_C % body)
        command = ["cc", "-std=c99", "-Wall", "-Werror", "-Wno-unused", "-fsyntax-only", "-I", str(ROOT / "include"), source]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{name}: {done.stderr}"


def test_a_command_of_make_that_a_page_names_is_there():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    for page in PAGES:
        text = page.read_text()
        named = re.findall(r"`make ([a-z-]+)", text)
        named += [target for body in blocks(page, "sh") for target in re.findall(r"^make ([a-z-]+)", body, re.MULTILINE)]
        for target in named:
            assert target in targets, f"{page.name}: make {target}"


def test_the_page_of_recipes_says_what_the_library_says():
    import chunkgrpo as cg

    (page,) = [page for page in PAGES if page.name == "recipes.md"]
    from chunkgrpo.forward import METHODS

    texts = [*(str(cg.Recipe(name)) for name in cg.RECIPES), *map(str, METHODS.values())]
    assert blocks(page, "text") == [text.rstrip() + "\n" for text in texts]
