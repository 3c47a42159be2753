"""Processes that train one model have the numbers of one process: trajectories, loss and gradients, through
DistributedDataParallel, both kinds of FSDP and accelerate, with groups across processes, other numbers of chunks and other
steps on each. What would hang or be wrong is refused."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import subprocess
import sys
import time
from datetime import timedelta

import numpy as np
import pytest
from conftest import ROOT  # noqa: F401  (puts the package on the path)

import chunkgrpo as cg
import chunkgrpo.distributed as cgd

torch = pytest.importorskip("torch")
import chunkgrpo.torch as cgt  # noqa: E402

SAMPLER = cg.Sampler(cg.Schedule.shifted(9, 3.0), "flow_sde", 0.7)
PLAN = cg.ChunkPlan([1, 2, 2, 3])
B, D = 12, 6
PROMPTS = [f"prompt {i // 4}" for i in range(B)]
"""Four samples each, so that their groups lie across two ranks, or four."""
SELECTION = np.zeros((B, 4), bool)
SELECTION[0:3, 0] = SELECTION[3:6, 1] = SELECTION[4, 0] = SELECTION[6:9] = True
"""Of four ranks: one chunk, one or two others, all, and none. The last step is of the third alone."""


class Net(torch.nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (torch.nn.Linear(*size, dtype=dtype) for size in ((D + 1, 16), (16, 16), (16, D)))

    def forward(self, x, sigma):
        h = torch.cat([x, torch.full_like(x[:, :1], sigma)], 1)
        return self.c(torch.nn.functional.silu(self.b(torch.nn.functional.silu(self.a(h)))))


def rollout(model, ids, dtype=torch.float32):
    """One sample after the other: a product's bits may depend on the number of rows."""
    x_init = cg.initial_noise((len(ids), D), seed=3, sample_ids=ids, like=torch.empty(0, dtype=dtype))
    velocity = lambda x, sigma, k: torch.cat([model(row[None], sigma) for row in x])  # noqa: E731
    return SAMPLER.rollout(velocity, x_init, seed=5, sample_ids=ids)


def reward(images):
    return -(images - 1).double().square().mean(1)


def moved(net, seed=1):
    """A policy some updates later."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return net


def sharded(net):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for part in (net.a, net.b, net.c, net):
        fully_shard(part, mesh=mesh)
    return net


def accelerated(net):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    assert cgd.of_accelerate(accelerator).size == torch.distributed.get_world_size()
    return accelerator.prepare(net)


WRAPPERS = {
    "ddp": torch.nn.parallel.DistributedDataParallel,
    "ddp, unused": functools.partial(torch.nn.parallel.DistributedDataParallel, find_unused_parameters=True),
    "fsdp2": sharded,
    "accelerate": accelerated,
}


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def gradients(model):
    """By their names in the bare network."""
    return {name.removeprefix("module."): whole(p.grad).clone() for name, p in model.named_parameters()}


def relative_difference(ours, theirs):
    assert ours.keys() == theirs.keys() and ours
    return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm()) for name in theirs)


# ----------------------------------------------------------------------------------------------------------------------
# One process


def one_process(net, trajectory, advantages, **options):
    """The whole batch with autograd, all steps at once."""
    sigmas = SAMPLER.schedule.sigmas.tolist()
    v = torch.stack([net(trajectory.latents[:, k], sigmas[k]) for k in range(PLAN.steps)], 1)
    net.zero_grad()
    out = cgt.chunk_policy_loss(SAMPLER, trajectory.latents, v, trajectory.log_probs, advantages, PLAN, **options)
    out.loss.backward()
    return out, gradients(net)


@functools.lru_cache(maxsize=1)
def expected():
    trajectory = rollout(Net(), np.arange(B))
    advantages = cg.advantages(reward(trajectory.images), groups=PROMPTS)
    options = {"selection": SELECTION, "clip": 0.2, "kl": 0.1, "check": False}
    return trajectory, advantages, *one_process(moved(Net()), trajectory, advantages, **options)


ITERATIONS = 3


def iterate(model, optimiser, iteration, ranks, step):
    """An iteration on this rank's share of the samples: another selection in each; `step` adds the gradient."""
    own = ranks.share(B)
    ids = B * iteration + np.arange(B)[own]
    trajectory = rollout(model, ids, torch.float64)
    rewards = reward(trajectory.images)
    advantages = ranks.advantages(rewards, groups=[PROMPTS[i % B] for i in ids], sample_ids=ids)
    selection = np.roll(SELECTION, 3 * iteration, axis=0)[own]
    step(model, trajectory, advantages, selection)
    optimiser.step()
    optimiser.zero_grad()


def trained_by_one_process():
    def step(model, trajectory, advantages, selection):
        one_process(model, trajectory, advantages, selection=selection, check=False)

    net = Net(torch.float64)
    optimiser = torch.optim.AdamW(net.parameters(), 1e-2)
    for iteration in range(ITERATIONS):
        iterate(net, optimiser, iteration, cgd.Ranks(), step)
    return dict(net.named_parameters())


# ----------------------------------------------------------------------------------------------------------------------
# Several


def streamed(model, ranks, trajectory, advantages, selection, **options):
    velocity = lambda x, sigma, k: model(x, sigma)  # noqa: E731
    options = {"normaliser": ranks.normaliser(PLAN, selection=selection), **options}
    given = {"every_step": ranks.needed_steps(PLAN, selection=selection), "no_sync": cgt.no_sync(model), **options}
    rows = trajectory.latents, trajectory.log_probs, advantages
    return cgt.streamed_backward(
        velocity, SAMPLER, *rows, PLAN, selection=selection, check=False, **given
    )


def first_update(wrap, ranks, **options):
    """The trajectory is of the wrapped model; the policy that is trained has moved since."""
    ids = np.arange(B)[ranks.share(B)]
    trajectory = rollout(wrap(Net()), ids)
    rewards = reward(trajectory.images)
    advantages = ranks.advantages(rewards, groups=[PROMPTS[i] for i in ids], sample_ids=ids)
    model = wrap(moved(Net()))
    out = streamed(model, ranks, trajectory, advantages, SELECTION[ids], clip=0.2, kl=0.1, **options)
    first = trajectory.latents, trajectory.log_probs, advantages
    return first, ranks.mean(out.loss), gradients(model), ranks.merge_stats(out.stats)


def by_autograd(wrap, ranks):
    """One backward pass on each rank, of all its steps; that of the rank with nothing, too."""
    trajectory, advantages, _, _ = expected()
    own = ranks.share(B)
    model, sigmas = wrap(moved(Net())), SAMPLER.schedule.sigmas.tolist()
    v = torch.stack([model(trajectory.latents[own, k], sigmas[k]) for k in range(PLAN.steps)], 1)
    rows = trajectory.latents[own], v, trajectory.log_probs[own], advantages[own]
    n = ranks.normaliser(PLAN, selection=SELECTION[own])
    out = cgt.chunk_policy_loss(
        SAMPLER, *rows, PLAN, selection=SELECTION[own], normaliser=n, clip=0.2, kl=0.1, check=False
    )
    out.loss.backward()
    return ranks.mean(out.loss), gradients(model)


def trained(wrap, ranks, folder, resumed):
    """The weights after all iterations; resumed: from a checkpoint after the first, in fresh objects."""

    def made():
        model = wrap(Net(torch.float64))
        return model, torch.optim.AdamW(model.parameters(), 1e-2)

    def step(model, *rows):
        streamed(model, ranks, *rows)

    model, optimiser = made()
    for iteration in range(ITERATIONS):
        if iteration == 1 and resumed:
            from torch.distributed import checkpoint
            from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict

            names = ("model", "optimiser")
            checkpoint.save(dict(zip(names, get_state_dict(model, optimiser))), checkpoint_id=f"{folder}/saved")
            model, optimiser = made()
            states = dict(zip(names, get_state_dict(model, optimiser)))
            checkpoint.load(states, checkpoint_id=f"{folder}/saved")
            set_state_dict(
                model, optimiser, model_state_dict=states["model"], optim_state_dict=states["optimiser"]
            )
        iterate(model, optimiser, iteration, ranks, step)
    return {name.removeprefix("module."): whole(p.detach()).clone() for name, p in model.named_parameters()}


def trained_by_accelerate(ranks, folder, resumed):
    """As `trained`, with accelerate's own optimiser and checkpoints."""
    from accelerate import Accelerator

    def made():
        net, accelerator = Net(torch.float64), Accelerator(cpu=True)
        return accelerator, *accelerator.prepare(net, torch.optim.AdamW(net.parameters(), 1e-2))

    accelerator, model, optimiser = made()
    for iteration in range(ITERATIONS):
        if iteration == 1 and resumed:
            accelerator.save_state(f"{folder}/saved")
            accelerator, model, optimiser = made()
            accelerator.load_state(f"{folder}/saved")
        iterate(model, optimiser, iteration, ranks, lambda model, *rows: streamed(model, ranks, *rows))
    return {name.removeprefix("module."): p.detach().clone() for name, p in model.named_parameters()}


def accumulated(wrap, ranks):
    """Two micro-batches, the first of them in a context of its own: with the count of both, and their sum."""
    trajectory, advantages, _, _ = expected()
    ids = np.arange(B)[ranks.share(B)]
    model, n = wrap(moved(Net())), ranks.normaliser(PLAN, selection=SELECTION[ids])
    for i, part in enumerate((ids[:2], ids[2:])):
        with contextlib.nullcontext() if i else cgt.no_sync(model):
            velocity = lambda x, sigma, k: model(x, sigma)  # noqa: E731
            cgt.streamed_backward(
                velocity, SAMPLER, trajectory.latents[part], trajectory.log_probs[part], advantages[part], PLAN,
                selection=SELECTION[part], normaliser=n, clip=0.2, kl=0.1, check=False, every_step=True,
                no_sync=cgt.no_sync(model),
            )  # fmt: skip
    return gradients(model)


def refused(ranks):
    """What each model without its option says; on all ranks before any of them waits."""
    from torch.nn.parallel import DistributedDataParallel

    static = DistributedDataParallel(moved(Net()), static_graph=True)
    cases = {
        "ddp": (DistributedDataParallel(moved(Net())), {"no_sync": None, "every_step": False}),
        "static": (static, {}),
        "fsdp2": (sharded(moved(Net())), {"every_step": False}),
    }
    said = {}
    trajectory, advantages, _, _ = expected()
    for name, wrap in (("ddp, unequal", DistributedDataParallel), ("fsdp2, unequal", sharded)):
        cases[name] = wrap(moved(Net())), {"normaliser": None, "every_step": True}
    rows = np.roll(SELECTION, ranks.rank, axis=0)[:7]
    part = type("Part", (), {"latents": trajectory.latents[:7], "log_probs": trajectory.log_probs[:7]})
    for name, (model, options) in cases.items():
        try:
            streamed(model, ranks, part, advantages[:7], rows, **options)
        except cg.InvalidArgument as error:
            said[name] = str(error)
    return said


def failed(ranks):
    """An error of the last rank, and then its death."""
    try:
        with ranks.together("the reward"):
            if ranks.rank + 1 == ranks.size:
                raise ValueError("no image")
    except (ValueError, cgd.RankFailed) as error:
        said = type(error).__name__, str(error)
    start = time.monotonic()
    if ranks.rank + 1 == ranks.size:
        return said, None, 0
    try:
        ranks.total(1)
    except cgd.RankFailed as error:
        return said, str(error), time.monotonic() - start


def process(number, size, folder):
    torch.set_num_threads(1)
    torchrun = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": size, "MASTER_ADDR": "localhost", "MASTER_PORT": 1}
    os.environ.update({name: str(value) for name, value in torchrun.items()})  # which accelerate reads
    where = f"file://{folder}/meet"
    torch.distributed.init_process_group("gloo", where, timedelta(seconds=100), rank=number, world_size=size)
    ranks, found = cgd.of_torch(), {}
    for name, wrap in WRAPPERS.items():
        found[name] = first_update(wrap, ranks)
    found["without no_sync"] = first_update(sharded, ranks, no_sync=None)
    found["autograd"] = {name: by_autograd(WRAPPERS[name], ranks) for name in ("ddp", "fsdp2")}
    found["accumulated"] = {name: accumulated(WRAPPERS[name], ranks) for name in ("ddp", "fsdp2")}
    for name in ("ddp", "fsdp2"):
        found["trained", name] = [trained(WRAPPERS[name], ranks, f"{folder}/{name}", again) for again in (False, True)]
    found["trained", "accelerate"] = [trained_by_accelerate(ranks, f"{folder}/accelerate", again) for again in (False, True)]
    if size > 1:
        found["refused"] = refused(ranks)
    if size == 4:  # two pairs that have the same samples, as with tensor parallel
        pairs = [torch.distributed.new_group(pair) for pair in ([0, 2], [1, 3])]
        own = cgd.of_torch(pairs[number % 2])
        found["of a group"] = own.rank, own.size, own.total(number)
    if size > 1:
        found["failed"] = failed(ranks)
    torch.save(found, f"{folder}/{number}")
    os._exit(0)  # PyTorch's own destructors may wait for each other here


@pytest.fixture(scope="module", params=[1, 2, 4])
def processes(request, tmp_path_factory):
    """What each of so many found."""
    pytest.importorskip("torch.distributed.fsdp").fully_shard
    pytest.importorskip("accelerate")
    folder = tmp_path_factory.mktemp("ranks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.multiprocessing.spawn(process, (request.param, str(folder)), nprocs=request.param)
    return [torch.load(folder / str(i), weights_only=False) for i in range(request.param)]


@pytest.mark.parametrize("name", [*WRAPPERS, "without no_sync"])
def test_trajectories_loss_and_gradients_are_those_of_one_process(processes, name):
    trajectory, advantages, out, grads = expected()
    latents, log_probs, own = (torch.cat(rows) for rows in zip(*(found[name][0] for found in processes)))
    assert torch.equal(latents, trajectory.latents) and torch.equal(log_probs, trajectory.log_probs)
    assert torch.equal(own, advantages)
    for found in processes:
        _, loss, own_grads, stats = found[name]
        assert abs(loss - float(out.loss.detach())) <= 1e-12
        assert relative_difference(own_grads, grads) <= 1e-6
        assert stats.selected == out.stats.selected == SELECTION.sum()
        assert stats.ratio_std == pytest.approx(out.stats.ratio_std, rel=1e-9)


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_one_backward_pass_of_all_steps_has_the_gradient_of_one_process(processes, name):
    _, _, out, grads = expected()
    for found in processes:
        loss, own = found["autograd"][name]
        assert abs(loss - float(out.loss.detach())) <= 1e-12 and relative_difference(own, grads) <= 1e-6


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_micro_batches_add_up_to_one_process(processes, name):
    for found in processes:
        assert relative_difference(found["accumulated"][name], expected()[3]) <= 1e-6


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "accelerate"])
def test_a_run_and_one_that_is_resumed_end_with_the_weights_of_one_process(processes, name):
    weights = trained_by_one_process()
    for found in processes:
        straight, resumed = found["trained", name]
        assert relative_difference(straight, weights) <= 1e-9
        # DistributedDataParallel sums its first gradients in buckets of another order than the later ones.
        assert relative_difference(resumed, straight) <= (0 if name == "fsdp2" else 1e-12)


def test_what_would_hang_or_be_wrong_is_refused(processes):
    if len(processes) == 1:
        pytest.skip("one process waits for nobody")
    for found in processes:
        said = found["refused"]
        assert "DistributedDataParallel sums gradients in each backward pass" in said["ddp"]
        assert "static_graph=True" in said["static"]
        for name in ("ddp, unequal", "fsdp2, unequal"):
            assert "normaliser is missing: the loss is a mean over" in said[name]
        assert "every_step is missing: the velocity's parameters or gradients are sharded" in said["fsdp2"]


def test_ranks_may_be_of_a_group(processes):
    if len(processes) < 4:
        pytest.skip("needs four processes")
    assert [found["of a group"] for found in processes] == [(0, 2, 2), (0, 2, 4), (1, 2, 2), (1, 2, 4)]


def test_others_hear_of_an_error_and_of_a_death(processes):
    *others, last = processes
    if not others:
        pytest.skip("one process has no others")
    assert last["failed"][0] == ("ValueError", "no image")
    for found in others:
        said, gone, seconds = found["failed"]
        assert said == ("RankFailed", f"rank {len(others)} failed in the reward: ValueError: no image")
        assert "a rank is gone" in gone and seconds < 30


def test_the_program_of_the_page_prints_the_same_numbers_on_two_ranks(tmp_path):
    page = (ROOT / "docs" / "distributed.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "train.py").write_text(program)
    own = {"PYTHONPATH": str(ROOT / "bindings" / "python"), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}

    def run(*words):
        environment = {**os.environ, **own, "PYTHONUNBUFFERED": "1"}
        ended = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
        # After destroy_process_group gloo's threads abort an ending rank now and then: 3 of 42 runs of a program of
        # PyTorch's DistributedDataParallel alone.
        assert ended.returncode == 0 or "terminate called without an active exception" in ended.stderr, ended.stderr[-4000:]
        return ended.stdout

    one = run("-W", "ignore", "train.py")
    two = run("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "train.py")
    assert len(one.splitlines()) == 5 and "chunks 48" in one
    numbers = [[float(number) for number in re.findall(r"[-+]?\d+\.\d+", text)] for text in (one, two)]
    np.testing.assert_allclose(*numbers, atol=2e-5)
