"""Trainers on several ranks train one policy: that of one trainer which has all prompts. Here ranks are threads, processes of
torch.distributed, and MPI's where it is installed."""

from __future__ import annotations

import copy
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from test_distributed import run
from test_training import CONDITIONS, data, make, reward, state

import chunkgrpo as cg
import chunkgrpo.distributed as cgd

PROMPTS = CONDITIONS[[0, 1, 1, 0, 0]]


def values(trainer, folder):
    """All numbers of its checkpoint."""
    trainer.save(folder)
    content = (folder / "model.safetensors").read_bytes()
    return np.frombuffer(content[8 + int.from_bytes(content[:8], "little") :], np.float32)


def rewarding(conditions):
    """By the condition itself: the number of its row is another on each rank."""
    return lambda images, prompt: reward(images, conditions[prompt].argmax(1))


def train(ranks, folder, prompts=PROMPTS, iterations=3):
    with make() as trainer:
        if ranks is not None:
            trainer.set_replica(ranks)
        trainer.pretrain(*data(), steps=20, batch_size=33)
        own = prompts if ranks is None else prompts[ranks.rank :: ranks.size]
        reports = [trainer.iterate(own, rewarding(own)) for _ in range(iterations)]
        return values(trainer, folder), reports


def numbers(report):
    stats = report.stats
    return [report.reward_mean, report.reward_std, report.loss, report.grad_norm, stats.selected, stats.ratio_std]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_ranks_end_like_one_trainer(size, tmp_path):
    expected, reports = train(None, tmp_path / "alone")
    found = run(size, lambda ranks: train(ranks, tmp_path / str(ranks.rank)))
    for own, told in found:
        assert np.array_equal(own, found[0][0])
        assert np.abs(own - expected).max() <= 1e-6 * np.abs(expected).max()
        for one, other in zip(told, reports):
            np.testing.assert_allclose(numbers(one), numbers(other), rtol=1e-5, atol=1e-7)


def failing(where, images, prompt):
    if where:
        raise RuntimeError("no reward today")
    return reward(images, prompt)


def test_an_exception_of_one_rank_is_one_of_all_and_changes_nothing(tmp_path):
    def program(ranks):
        with make() as trainer:
            trainer.set_replica(ranks)
            own, before = PROMPTS[ranks.rank :: ranks.size], state(trainer)
            with pytest.raises(Exception) as raised:
                trainer.iterate(own, lambda *of: failing(ranks.rank == 1, *of))
            with pytest.raises(Exception) as bad:
                trainer.iterate("no conditions" if ranks.rank == 2 else own, reward)
            assert state(trainer) == before
            return raised.value, bad.value, trainer.iterate(own, reward).iteration

    one, two, three = run(3, program)
    assert type(two[0]) is RuntimeError and str(two[0]) == "no reward today"
    for other in (one, three):
        assert type(other[0]) is cg.CallbackFailed and str(other[0]).startswith("rank 1 failed: the reward callback")
    assert isinstance(three[1], cg.Error) and not isinstance(three[1], cgd.RankFailed)
    assert [type(other[1]) for other in (one, two)] == [cgd.RankFailed] * 2
    assert [rank[2] for rank in (one, two, three)] == [1, 1, 1]


def test_a_rank_that_does_not_come_is_an_error_of_the_others_in_time():
    def program(ranks):
        with make() as trainer:
            trainer.set_replica(ranks)
            if ranks.rank == 0:
                return None
            with pytest.raises(cgd.RankFailed, match="a rank is gone, or has not answered within 1 s"):
                trainer.iterate(PROMPTS[ranks.rank :: ranks.size], reward)
            return trainer.iterations

    assert run(2, program, timeout=1) == [None, 0]


def test_trainers_that_differ_are_refused_on_all():
    def program(ranks):
        with make(seed=ranks.rank // 2) as trainer:
            with pytest.raises(cg.InvalidArgument, match="rank 2 has other options than rank 0"):
                trainer.set_replica(ranks)
            return trainer.iterate(CONDITIONS, reward).iteration  # it is alone

    assert run(3, program) == [1, 1, 1]


def test_copies_and_none_are_alone():
    def program(ranks):
        with make() as trainer:
            trainer.set_replica(ranks)
            with copy.deepcopy(trainer) as other:
                alone = other.iterate(CONDITIONS[[ranks.rank]], reward)
            trainer.set_replica(None)
            assert trainer.iterate(CONDITIONS[[ranks.rank]], reward).loss == alone.loss
            return alone.reward_mean

    one, two = run(2, program)
    assert one == two  # the same noise, that of a first sample


def test_what_is_no_ranks_is_refused():
    with make() as trainer, pytest.raises(cg.WrongType, match="ranks must be Ranks of chunkgrpo.distributed, not int"):
        trainer.set_replica(3)


def test_all_reduce_sums_in_place_and_takes_floats_alone():
    def program(ranks):
        found = []
        for dtype in (np.float32, np.float64):
            array = np.arange(6, dtype=dtype).reshape(2, 3) * (1 + ranks.rank)
            ranks.all_reduce(array)
            found.append(array)
        with pytest.raises(cg.WrongType, match="float32 or float64"):
            ranks.all_reduce(np.arange(3))
        with pytest.raises(cg.InvalidArgument, match="contiguous"):
            ranks.all_reduce(np.zeros((4, 4))[:, 1])
        return found

    for found in run(3, program):
        assert [array.dtype for array in found] == [np.float32, np.float64]
        assert all(np.array_equal(array, 6 * np.arange(6).reshape(2, 3)) for array in found)


# ----------------------------------------------------------------------------------------------------------------------
# Processes

PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import numpy as np
import chunkgrpo.distributed as cgd
from test_training_replica import train
{begin}
own, reports = train(ranks, Path({folder!r}) / str(ranks.rank))
np.save({folder!r} + f"/{{ranks.rank}}.npy", own)
print("size", ranks.size)
"""


def launch(command, folder, begin):
    script = folder / "train.py"
    script.write_text(PROGRAM.format(tests=str(ROOT / "Tests/python"), folder=str(folder), begin=begin))
    paths = os.pathsep.join([str(ROOT / "bindings/python"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, str(script)], env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, capture_output=True,
        text=True, timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert "size 2" in done.stdout
    return [np.load(folder / f"{rank}.npy") for rank in range(2)]


def like_one(found, tmp_path):
    expected, _ = train(None, tmp_path / "alone")
    assert np.array_equal(found[0], found[1])
    assert np.abs(found[0] - expected).max() <= 1e-6 * np.abs(expected).max()


def test_processes_of_torchrun_end_like_one_trainer(tmp_path):
    pytest.importorskip("torch")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--standalone"]
    begin = "import torch.distributed as dist; dist.init_process_group('gloo'); ranks = cgd.of_torch()"
    like_one(launch(command, tmp_path, begin), tmp_path)


def test_processes_of_mpirun_end_like_one_trainer(tmp_path):
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    if shutil.which("mpirun") is None:
        pytest.skip("no mpirun: install openmpi-bin")
    command = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "2", sys.executable]
    begin = "from mpi4py import MPI; ranks = cgd.of_mpi(MPI.COMM_WORLD)"
    like_one(launch(command, tmp_path, begin), tmp_path)


# ----------------------------------------------------------------------------------------------------------------------
# The example in C


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    if shutil.which("mpicc") is None or shutil.which("mpirun") is None:
        pytest.skip("no mpicc and mpirun: install libopenmpi-dev and openmpi-bin")
    folder = tmp_path_factory.mktemp("examples")
    subprocess.run(
        ["make", "-s", "-C", str(ROOT / "examples/c"), f"OUT={folder}", f"{folder}/replica_mpi"],
        env={**os.environ, "PKG_CONFIG_PATH": str(ROOT / "build/lib/pkgconfig")}, check=True, capture_output=True,
    )
    return folder / "replica_mpi"


def mpirun(count, *command):
    return subprocess.Popen(
        ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", str(count), *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )


def is_running(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def parameters(folder):
    content = (folder / "model.safetensors").read_bytes()
    return np.frombuffer(content[8 + int.from_bytes(content[:8], "little") :], np.float32)


def test_mpirun_of_the_example_ends_with_the_same_parameters_on_any_number_of_ranks(example, tmp_path):
    found = []
    for count in (1, 2, 4):
        done = mpirun(count, example, tmp_path / str(count))
        output, _ = done.communicate(timeout=120)
        assert done.returncode == 0 and output.count("reward") == 20, output
        found.append(parameters(tmp_path / str(count)))
    largest = np.abs(found[0]).max()
    assert max(np.abs(other - found[0]).max() for other in found) <= 1e-6 * largest


@pytest.mark.parametrize("end", ["killed", "stopped"])
def test_where_a_rank_of_the_example_is_gone_the_others_end_and_a_run_resumes(end, example, tmp_path):
    running = mpirun(3, example, tmp_path, 10**9)
    for _ in range(3):
        running.stdout.readline()
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    assert len(children) == 3
    os.kill(int(children[1]), signal.SIGKILL if end == "killed" else signal.SIGSTOP)
    end_by = time.monotonic() + 30
    output, _ = running.communicate(timeout=60)
    while any(map(is_running, children)) and time.monotonic() < end_by:
        time.sleep(0.1)
    assert time.monotonic() < end_by and running.returncode != 0
    if end == "stopped":
        assert "the all-reduce callback returned 1: a rank may be gone" in output
    with cg.Trainer.load(tmp_path) as trainer:
        reached = trainer.iterations
    resumed = mpirun(2, example, tmp_path, reached + 2)
    output, _ = resumed.communicate(timeout=60)
    assert resumed.returncode == 0 and output.count("reward") == 2, output
