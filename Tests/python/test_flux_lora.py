"""examples/python/flux_lora.py on tiny random models: it learns its reward, and a resumed run is the run."""

from __future__ import annotations

import csv
import importlib
import subprocess
import sys

import pytest

from conftest import ROOT

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("peft")
sys.path.insert(0, str(ROOT / "examples" / "python"))

flux_lora = importlib.import_module("flux_lora")


def train(out, *options):
    return flux_lora.train(flux_lora.arguments(["--out", str(out), *options]))


def adapter(pipe):
    return {name: weight.detach().clone() for name, weight in pipe.transformer.named_parameters() if "lora" in name}


def metrics(out):
    with open(out / "metrics.csv") as file:
        return list(csv.DictReader(file))


def test_the_reward_rises_on_the_tiny_sd3(tmp_path):
    _, rows = train(tmp_path, "--model", "tiny-sd3", "--iterations", "20")
    rewards = [row[1] for row in rows]
    first, last = sum(rewards[:4]) / 4, sum(rewards[-4:]) / 4
    spread = (rows[0][3] - rows[0][2]) / 4  # about a standard deviation between the samples of one iteration
    assert last > first + spread
    assert [float(row["reward_mean"]) for row in metrics(tmp_path)] == rewards


@pytest.mark.parametrize("model", ["tiny-flux", "tiny-sd3"])
def test_a_resumed_run_is_the_run_that_was_not_stopped(model, tmp_path):
    small = ["--model", model, "--group", "4", "--fraction", "0.5", "--steps", "6", "--kl", "0.01"]
    whole, rows = train(tmp_path / "whole", *small, "--iterations", "4")
    half, _ = train(tmp_path / "parts", *small, "--iterations", "2")
    before = adapter(half)
    parts, resumed = train(tmp_path / "parts", *small, "--iterations", "4", "--resume")
    assert resumed == rows and metrics(tmp_path / "parts") == metrics(tmp_path / "whole")
    a, b = adapter(whole), adapter(parts)
    assert a and all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(before[name], b[name]) for name in b)
    assert all(row[6] == 1 for row in rows)  # every rollout is trained before the weights move

    frozen = flux_lora.load_pipeline(flux_lora.arguments(["--model", model])).transformer
    trained = {name.replace(".base_layer", ""): weight for name, weight in parts.transformer.named_parameters()}
    for name, weight in frozen.named_parameters():
        assert torch.equal(weight, trained[name])


def test_the_adapter_loads_into_a_stock_pipeline(tmp_path):
    pipe, _ = train(tmp_path, "--model", "tiny-flux", "--group", "4", "--iterations", "2")
    stock = flux_lora.load_pipeline(flux_lora.arguments(["--model", "tiny-flux"]))
    stock.load_lora_weights(tmp_path / "adapter", adapter_name="default")
    a, b = adapter(pipe), adapter(stock)
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    assert any(weight.abs().max() > 0 for name, weight in b.items() if "lora_B" in name)


def test_bfloat16_checkpointing_and_a_reward_of_ones_own(tmp_path, monkeypatch):
    code = "def redness(images, prompts):\n    return [image.getpixel((0, 0))[0] for image in images]\n"
    (tmp_path / "my_rewards.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "prompts.txt").write_text("a dog\n\na cat\n")
    options = ["--dtype", "bfloat16", "--gradient-checkpointing", "--reward", "my_rewards:redness"]
    pipe, rows = train(
        tmp_path, "--group", "4", "--iterations", "1", "--prompts", str(tmp_path / "prompts.txt"), *options
    )
    assert rows[0][6] == 1 and rows[0][5] > 0
    assert {weight.dtype for weight in adapter(pipe).values()} == {torch.float32}
    assert pipe.scheduler.trajectory.latents.dtype == torch.float32


def test_it_runs_from_the_command_line(tmp_path):
    script = str(ROOT / "examples" / "python" / "flux_lora.py")
    run = [sys.executable, script, "--group", "3", "--iterations", "1", "--out", str(tmp_path)]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 0 and "iteration    0  reward" in done.stdout, done.stderr
    with pytest.raises(SystemExit, match="--chunks has 9 steps"):
        train(tmp_path, "--chunks", "9")
