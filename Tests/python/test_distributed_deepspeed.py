"""Two processes train through DeepSpeed's engines, ZeRO 1, 2 and 3, with the gradient of one process. Skipped where
DeepSpeed is not installed: it is not among the pinned packages, because it compiles an operation when it starts."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from test_distributed_torch import ITERATIONS, SELECTION, B, Net, expected, iterate, moved, relative_difference, streamed
from test_distributed_torch import trained_by_one_process

import chunkgrpo as cg
import chunkgrpo.distributed as cgd

torch = pytest.importorskip("torch")

STAGES = (1, 2, 3)


def engine_of(stage, rows):
    import deepspeed

    net = moved(Net())
    names = [name for name, _ in net.named_parameters()]
    optimiser = torch.optim.SGD(net.parameters(), lr=0.0)  # each update is the first
    config = {
        **{"train_micro_batch_size_per_gpu": rows, "zero_optimization": {"stage": stage}},
        **{"zero_force_ds_cpu_optimizer": False, "zero_allow_untested_optimizer": True},
    }
    return deepspeed.initialize(model=net, optimizer=optimiser, config=config)[0], names


def gradients(engine, names):
    from deepspeed.utils import safe_get_full_grad

    return {name: safe_get_full_grad(p).clone() for name, p in zip(names, engine.module.parameters())}


class Stepped:
    """The engine's optimiser for `iterate`: its own step empties the gradients."""

    def __init__(self, engine):
        self.step, self.zero_grad = engine.step, lambda: None


def trained(stage, ranks, folder, resumed):
    """(names, the weights after all iterations); resumed: from the engine's checkpoint after the first."""
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    def made():
        net = Net(torch.float64)
        config = {
            **{"train_micro_batch_size_per_gpu": B // ranks.size, "zero_optimization": {"stage": stage}},
            **{"zero_force_ds_cpu_optimizer": False, "zero_allow_untested_optimizer": True},
        }
        optimiser = torch.optim.AdamW(net.parameters(), 1e-2)
        return deepspeed.initialize(model=net, optimizer=optimiser, config=config)[0]

    engine, names = made(), [name for name, _ in Net().named_parameters()]
    for iteration in range(ITERATIONS):
        if iteration == 1 and resumed:
            engine.save_checkpoint(folder)
            engine = made()
            engine.load_checkpoint(folder)
        iterate(engine, Stepped(engine), iteration, ranks, lambda model, *rows: streamed(model, ranks, *rows))
    return {name: safe_get_full_fp32_param(p).double() for name, p in zip(names, engine.module.parameters())}


def process(folder):
    import deepspeed

    torch.set_num_threads(1)
    deepspeed.init_distributed("gloo")
    ranks, found = cgd.of_torch(), {}
    trajectory, advantages, _, _ = expected()
    own = ranks.share(B)
    part = type("Part", (), {"latents": trajectory.latents[own], "log_probs": trajectory.log_probs[own]})
    for stage in STAGES:
        engine, names = engine_of(stage, len(advantages[own]))
        options = {"clip": 0.2, "kl": 0.1}
        if stage == 1:
            options["every_step"] = False
        for iteration in range(2):
            out = streamed(engine, ranks, part, advantages[own], SELECTION[own], **options)
            found[stage, iteration] = ranks.mean(out.loss), gradients(engine, names)
            engine.step()
        try:
            streamed(engine, ranks, part, advantages[own], SELECTION[own], **{**options, "no_sync": None})
        except cg.InvalidArgument as error:
            found[stage, "refused"] = str(error)
    for stage in STAGES:
        found[stage, "trained"] = [trained(stage, ranks, f"{folder}/zero-{stage}", again) for again in (False, True)]
    torch.save(found, f"{folder}/{ranks.rank}")
    os._exit(0)


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    if importlib.util.find_spec("deepspeed") is None:
        pytest.skip("DeepSpeed is not installed")
    if shutil.which("ninja") is None:
        pytest.skip("ninja is not on PATH, by which DeepSpeed compiles an operation")
    folder = tmp_path_factory.mktemp("ranks")
    own = {
        **{"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        **{"PYTHONPATH": f"{ROOT / 'bindings' / 'python'}:{ROOT / 'Tests' / 'python'}"},
    }
    program = f"import test_distributed_deepspeed as test; test.process({str(folder)!r})"
    (folder / "train.py").write_text(program)
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py"]
    subprocess.run(run, cwd=folder, env={**os.environ, **own}, check=True)
    return [torch.load(folder / str(i), weights_only=False) for i in range(2)]


@pytest.mark.parametrize("stage", STAGES)
def test_loss_and_gradients_are_those_of_one_process(processes, stage):
    _, _, out, grads = expected()
    for loss, own in (found[stage, update] for found in processes for update in range(2)):
        assert abs(loss - float(out.loss.detach())) <= 1e-12
        assert relative_difference(own, grads) <= 1e-6


@pytest.mark.parametrize("stage", STAGES)
def test_an_engine_without_no_sync_is_refused(processes, stage):
    for found in processes:
        assert "no_sync is missing: the velocity's DeepSpeed engine" in found[stage, "refused"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_and_one_that_is_resumed_end_with_the_weights_of_one_process(processes, stage):
    weights = trained_by_one_process()
    for found in processes:
        straight, resumed = found[stage, "trained"]
        assert relative_difference(straight, weights) <= 1e-6
        assert relative_difference(resumed, straight) <= 1e-6
