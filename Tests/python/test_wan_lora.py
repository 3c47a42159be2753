"""examples/python/wan_lora.py on a tiny random video model: its videos become steadier, on two processes as on one."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys

import pytest

from conftest import ROOT

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("peft")
pytest.importorskip("matplotlib")
sys.path.insert(0, str(ROOT / "examples" / "python"))

wan_lora = importlib.import_module("wan_lora")


def rewards(text, before="reward"):
    return [float(number) for number in re.findall(rf"{before} +(-[\d.]+)", text)]


def test_videos_become_steadier_and_the_adapter_loads(tmp_path, capsys):
    wan_lora.train(wan_lora.arguments(["--out", str(tmp_path), "--device", "cpu", "--iterations", "24"]))
    text = capsys.readouterr().out
    (before,), (after,) = (rewards(text, f"{name}: reward") for name in ("before", "after"))
    assert after > before + 0.005
    for name in ("before", "after"):
        assert wan_lora.Image.open(tmp_path / f"{name}.gif").n_frames == 5
    stock = wan_lora.tiny_pipeline("tiny-wan")
    stock.load_lora_weights(tmp_path / "adapter")
    assert any(weight.abs().max() > 0 for name, weight in stock.transformer.named_parameters() if "lora_B" in name)


def test_two_processes_have_the_rewards_of_one(tmp_path, capsys):
    options = ["--device", "cpu", "--iterations", "3", "--fraction", "0.5", "--lr", "1e-3"]
    alone = wan_lora.train(wan_lora.arguments([*options, "--out", str(tmp_path / "alone")]))
    script = str(ROOT / "examples" / "python" / "wan_lora.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", script]
    own = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    run = [*launch, *options, "--out", str(tmp_path / "two")]
    text = subprocess.run(run, env={**os.environ, **own}, check=True, capture_output=True, text=True).stdout
    *both, before, after = rewards(text)
    assert both == pytest.approx(alone, abs=2e-5) and len(both) == 3
    assert [before, after] == pytest.approx(rewards(capsys.readouterr().out)[-2:], abs=2e-5)
