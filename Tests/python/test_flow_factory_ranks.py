"""Chunk-GRPO in Flow-Factory on two processes by accelerate, against one that has all samples."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT as REPOSITORY

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

from flow_factory_policy import (  # noqa: E402
    ROOT, Adapter, arguments, cff, gradient, rollouts, scheduler, trained, trainer_of,
)

OPTIONS = {"chunks": [1, 2, 3], "per_device_batch_size": 2, "clip_range": 0.3, "kl_beta": 0.1, "loss": {"kl": 0.1}}
ADVANTAGES = {"advantages": {"scale": "batch", "clamp": 2.0}}


def rewards_of(samples):
    return {"red": torch.stack([s.all_latents[-1].mean() for s in samples])}


def worker(path):
    """A rank's half of the samples; the first one leaves what it has found."""
    import types

    adapter = Adapter(scheduler())
    samples = rollouts(adapter, 8)
    # Gradients are summed in the last backward pass of an update alone.
    trainer = trainer_of(cff.ChunkGRPOTrainer, arguments(**OPTIONS, **ADVANTAGES), adapter, accumulate=2)
    rank = trainer.accelerator.process_index
    own = samples[4 * rank : 4 * rank + 4]
    # Neighbours are of one prompt; the ranks have one half of each.
    for i, sample in enumerate(samples):
        sample.prompt = f"prompt {i % 4}"
    processor = types.SimpleNamespace(reward_weights={"red": 1.0})
    found = trainer._advantages(processor, own, rewards_of(own), False)
    adapter.net = trainer.accelerator.prepare(adapter.net)
    trainer.optimize(own)
    if rank == 0:
        torch.save((gradient(adapter), found, {k: v for k, v in trainer.logged[-1].items()}), path)
    torch.distributed.destroy_process_group()


def test_two_processes_have_the_gradient_of_one(tmp_path):
    paths = REPOSITORY / "bindings" / "python", Path(__file__).parent
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")]),
        "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", __file__]
    run = subprocess.run([*command, tmp_path / "found"], env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-4000:]
    grad, advantages, logged = torch.load(tmp_path / "found", weights_only=False)

    trainer, adapter, samples = trained({**OPTIONS, "per_device_batch_size": 8}, count=8)
    assert (grad - gradient(adapter)).norm() < 1e-5 * grad.norm()
    for name in ("chunk_selected", "chunk_ratio_mean", "chunk_ratio_max", "chunk_approximate_kl", "kl_div"):
        assert float(logged[f"train/{name}"]) == pytest.approx(float(trainer.logged[0][f"train/{name}"]), rel=1e-5)

    import chunkgrpo as cg

    groups = [i % 4 for i in range(8)]
    want = cg.advantages(rewards_of(samples)["red"], groups=groups, **ADVANTAGES["advantages"])
    assert advantages.tolist() == pytest.approx(want[:4].tolist())


CONFIGURATION = """
launcher: accelerate
num_processes: 1
mixed_precision: "no"
data: {dataset_dir: HERE/data, cache_dir: HERE/cache, dataloader_num_workers: 0, sampler_type: distributed_k_repeat}
model:
  {model_type: flow_factory_tiny.Adapter, model_name_or_path: tiny, finetune_type: full, target_modules: all,
   master_weight_dtype: fp32}
log: {run_name: tiny, logging_backend: none, save_dir: HERE/saves, save_freq: 0, verbose: false}
scheduler: {dynamics: precise, noise_level: 0.7, num_sde_steps: null}
train:
  trainer_type: chunkgrpo.flow_factory.ChunkGRPO
  chunks: [1, 2, 3]
  chunk_fraction: 0.67
  chunk_weighting: relative_l1
  loss: {kl: 0.01}
  kl_reference: reference
  advantages: {scale: batch}
  clip_range: 0.2
  resolution: 16
  num_inference_steps: 7
  guidance_scale: 1.0
  per_device_batch_size: 2
  group_size: 4
  unique_sample_num_per_epoch: 2
  gradient_step_per_epoch: 1
  num_inner_epochs: 2
  max_epochs: 2
  learning_rate: 1.0e-3
  ema_decay: 0
  latent_storage_dtype: fp32
eval: {eval_freq: 0}
rewards: [{name: red, reward_model: flow_factory_tiny.Redness, batch_size: 2, device: cpu, dtype: float32}]
"""


@pytest.mark.skipif(not ROOT, reason="CHUNKGRPO_FLOW_FACTORY names no repository of Flow-Factory")
@pytest.mark.parametrize("processes", [1, 2])
def test_flow_factory_trains_with_it(tmp_path, processes):
    """Their launcher, loader, adapter, rewards and rollouts, of a tiny Stable Diffusion 3."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.txt").write_text("a red ball\na blue cube\na green hat\n")
    path = tmp_path / "config.yaml"
    path.write_text(CONFIGURATION.replace("HERE", str(tmp_path)))
    paths = REPOSITORY / "bindings" / "python", Path(__file__).parent, ROOT
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths)), "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "chunkgrpo.flow_factory", path]
    if processes > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
        command += ["-m", "flow_factory.train", path]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    text = run.stdout + run.stderr
    assert run.returncode == 0, text[-4000:]
    assert "Loaded SDE scheduler: ChunkSDEScheduler" in text and f"World Size: {processes}" in text
    updates = [line for line in text.splitlines() if "train/grad_norm=" in line]
    assert len(updates) == 4 and all("train/chunk_selected=16 " in line and "nan" not in line for line in updates)
    # The first update of an epoch is on the policy that sampled, the second one no longer.
    assert ["train/chunk_ratio_max=1 " in line for line in updates] == [True, False, True, False]


if __name__ == "__main__":
    worker(sys.argv[1])
