"""examples/python/flux_lora.py on tiny random models: it learns its reward, a resumed run is the run, and so is one of two
processes."""

from __future__ import annotations

import csv
import importlib
import os
import subprocess
import sys

import pytest

from conftest import ROOT

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("peft")
pytest.importorskip("matplotlib")
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


SMALL = ["--model", "tiny-sd3", "--group", "4", "--fraction", "0.5", "--lr", "1e-3", "--save-every", "100"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """metrics.csv after three iterations of one process."""
    out = tmp_path_factory.mktemp("alone")
    train(out, *SMALL, "--iterations", "3")
    return metrics(out)


# One launch for all: most of its time is the imports. accelerate begins by itself, as DDP does in test_wan_lora.
WAYS = ("accelerate", "ddp", "fsdp2")
TWO_PROCESSES = f"""
import sys
import flux_lora
for way in {WAYS}:
    flux_lora.train(flux_lora.arguments([*sys.argv[2:], "--parallel", way, "--out", sys.argv[1] + "/" + way]))
flux_lora.dist.destroy_process_group()
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder for each way, after two iterations of two processes."""
    pytest.importorskip("accelerate")
    pytest.importorskip("tensorboard")
    out = tmp_path_factory.mktemp("two")
    (out / "program.py").write_text(TWO_PROCESSES)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(out / "program.py")]
    own = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "1"}
    own["PYTHONPATH"] = os.pathsep.join([str(ROOT / "examples" / "python"), os.environ.get("PYTHONPATH", "")])
    options = ["--iterations", "2", "--tensorboard", "--device", "cpu"]
    subprocess.run([*launch, str(out), *SMALL, *options], env={**os.environ, **own}, check=True, capture_output=True)
    return out


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_have_the_numbers_of_one_which_can_go_on_from_them(way, alone, two):
    out = two / way
    assert {"samples-00002.png", "reward.png", "adapter"} <= {path.name for path in out.iterdir()}
    assert list(out.glob("events.*"))
    train(out, *SMALL, "--iterations", "3", "--resume")
    for ours, theirs in zip(metrics(out), alone, strict=True):
        for name, tolerance in {"reward_mean": 2e-3, "loss": 1e-6, "grad_norm": 1e-3 * float(theirs["grad_norm"])}.items():
            assert float(ours[name]) == pytest.approx(float(theirs[name]), abs=tolerance), name
        assert float(ours["ratio_mean"]) == pytest.approx(1, abs=1e-6)


def test_the_help_says_every_default(capsys):
    with pytest.raises(SystemExit):
        flux_lora.arguments(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    for words in ("noise scale (default: 0.7)", "samples per prompt; 12, tiny: 24", "of AdamW (default: 0.0001)", "(default: ddp)"):
        assert words in text
    assert "default: None" not in text


def test_samples_that_do_not_divide_are_refused(tmp_path, monkeypatch):
    class Three:
        rank, size = 0, 3

    monkeypatch.setattr(flux_lora.cgd, "Ranks", Three)
    with pytest.raises(SystemExit, match="^8 samples .* do not divide into 3 processes"):
        train(tmp_path, "--group", "4")
