"""docs/forward-process.md and the example of chunkgrpo.forward run as printed; examples/python/forward_digits.py trains."""

from __future__ import annotations

import re
import sys
import textwrap

import numpy as np
import pytest

import chunkgrpo as cg
from chunkgrpo import forward
from conftest import ROOT

PAGE = (ROOT / "docs" / "forward-process.md").read_text()


def test_the_run_of_the_page_raises_its_reward(capsys):
    pytest.importorskip("torch")
    (program,) = re.findall(r"<!-- run -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    names = {}
    exec(compile(program, "docs/forward-process.md", "exec"), names)
    rewards = names["rewards"]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.3
    assert "mean of the first coordinate" in capsys.readouterr().out


def test_the_example_of_the_module_runs():
    model = lambda x, t: (np.tanh(x) * t[:, None]).astype(x.dtype)  # noqa: E731
    names = {"x0": cg.normal((8, 5), 3, 0), "model": model, "old_model": model, "reward": lambda x: x.mean(1)}
    example = forward.__doc__
    code = example[example.index("    import numpy") :].partition("\n\nSeveral")[0]
    exec(textwrap.dedent(code), {**names, "frozen_model": lambda x, t: x / 2}, found := {})
    assert found["grad_v"].shape == (8, 5) and np.abs(found["grad_v"]).max() > 0


@pytest.mark.parametrize("method", ["nft", "awm"])
def test_the_digits_are_trained_by_either_method(method):
    for package in ("torch", "sklearn", "tqdm", "tensorboard", "PIL"):
        pytest.importorskip(package)
    sys.path.insert(0, str(ROOT / "examples" / "python"))
    import forward_digits

    small = ["--pretrain-steps", "10", "--iterations", "2", "--updates", "2", "--draws", "2", "--width", "32"]
    result = forward_digits.main(["--method", method, *small])
    assert len(result["rewards"]) == 2 and np.isfinite(result["rewards"]).all()
    assert result["after"] != result["before"]
