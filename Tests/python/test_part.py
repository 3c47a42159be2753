"""Shards and samples of unequal length: against the whole, and against samples one by one."""

from __future__ import annotations

import copy
import os
import pickle
import re
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
from conftest import ROOT, as_dtype, dtypes, velocity

import chunkgrpo as cg
from chunkgrpo import forward

SHAPE = 2, 40, 1000
ELEMENTS = SHAPE[1] * SHAPE[2]
WHOLE_BLOCKS = [20_480], [1024, 30_720]
ELSEWHERE = [777], [13_000, 26_001]


class Ranks:
    """Threads that stand for the ranks of a run: `of` is called with each one's slice and part."""

    def __init__(self, cuts):
        self.ranges = list(zip([0, *cuts], [*cuts, ELEMENTS]))
        self.barrier = threading.Barrier(len(self.ranges))
        self.sums = [None] * len(self.ranges)

    def all_reduce(self, rank):
        def add(sums):
            assert sums.dtype == np.float64 and sums.ndim == 1
            self.sums[rank] = sums.copy()
            self.barrier.wait()
            sums[:] = np.sum(self.sums, axis=0)
            self.barrier.wait()

        return add

    def of(self, call):
        results, failures = [None] * len(self.ranges), []

        def run(rank):
            first, end = self.ranges[rank]
            part = cg.Part(first, ELEMENTS, all_reduce=self.all_reduce(rank))
            try:
                results[rank] = call(slice(first, end), part)
            except BaseException as error:  # shown below
                failures.append(error)
                self.barrier.abort()

        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(self.ranges))]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        if failures:
            raise failures[0]
        return results


def arrays(dtype, *, steps=None):
    shape = (SHAPE[0], *(() if steps is None else (steps,)), ELEMENTS)
    return [np.random.default_rng(seed).normal(size=shape).astype(dtype) for seed in range(3)]


@pytest.fixture
def sampler():
    return cg.Sampler(cg.Schedule.shifted(steps=6, shift=3.0))


@dtypes()
@pytest.mark.parametrize("cuts", [*WHOLE_BLOCKS, *ELSEWHERE], ids=str)
def test_shards_step_as_the_whole_does(sampler, dtype_name, cuts):
    x, v, _ = arrays(as_dtype(dtype_name))
    following, log_prob = sampler.step(1, x, v, seed=7)

    def rank(own, part):
        out = sampler.with_part(part).step(1, np.ascontiguousarray(x[:, own]), v[:, own], seed=7)
        noise = cg.normal((SHAPE[0], own.stop - own.start), 7, 1, dtype=x.dtype, part=part)
        return *out, noise

    results = Ranks(cuts).of(rank)
    np.testing.assert_array_equal(np.concatenate([out[0] for out in results], 1), following)
    whole = cg.normal((SHAPE[0], ELEMENTS), 7, 1, dtype=x.dtype)
    np.testing.assert_array_equal(np.concatenate([out[2] for out in results], 1), whole)
    for _, own, _ in results:
        np.testing.assert_array_equal(own, results[0][1])
        if cuts in WHOLE_BLOCKS:
            np.testing.assert_array_equal(own, log_prob)
        else:
            np.testing.assert_allclose(own, log_prob, rtol=0, atol=1e-12 if dtype_name == "float64" else 2e-8)


def test_numbers_of_shards_are_those_of_the_whole(sampler):
    x, v, w = arrays(np.float32)
    frames, velocities, _ = (a[:, :count] for a, count in zip(arrays(np.float32, steps=5), (5, 4, 4)))
    velocities = np.ascontiguousarray(velocities)

    def numbers(own, part):
        s = sampler if part is None else sampler.with_part(part)
        cut = np.ascontiguousarray
        x_, v_, w_ = cut(x[:, own]), cut(v[:, own]), cut(w[:, own])
        d = forward.distances(x_, v_, seed=3, old_velocity=w_, reference_velocity=x_, beta=0.5, part=part)
        plain = forward.distances(x_, v_, seed=3, part=part)
        return [
            s.log_prob(2, x_, v_, w_),
            s.log_probs(cut(frames[..., own]), cut(velocities[..., own])),
            cg.relative_l1(cut(frames[..., own]), part=part),
            cg.divergence(s, 1, v_, w_),
            cg.divergences(s, cut(velocities[..., own]), cut(velocities[..., own] * 2)),
            cg.divergences_from_sampled(s, cut(frames[..., own]), cut(velocities[..., own]), seed=3),
            *(getattr(d, name) for name in forward.Distances.__dataclass_fields__ if name != "beta"),
            plain.distance,
            plain.absolute,
        ]

    whole = numbers(slice(None), None)
    for results in (Ranks(cuts).of(numbers) for cuts in WHOLE_BLOCKS):
        for own in results:
            for a, b in zip(own, whole):
                np.testing.assert_array_equal(a, b)


def test_gradients_of_shards_need_no_all_reduce(sampler):
    x, v, w = arrays(np.float32)
    upstream = [2.0, -3.0]
    whole = sampler.log_prob_vjp(1, x, v, w, upstream), cg.divergence_vjp(sampler, 1, v, w, upstream)
    for first, end in ((0, 13_000), (13_000, ELEMENTS)):
        s = sampler.with_part(cg.Part(first, ELEMENTS))
        x_, v_, w_ = (np.ascontiguousarray(a[:, first:end]) for a in (x, v, w))
        np.testing.assert_array_equal(s.log_prob_vjp(1, x_, v_, w_, upstream), whole[0][:, first:end])
        np.testing.assert_array_equal(cg.divergence_vjp(s, 1, v_, w_, upstream), whole[1][:, first:end])
        with pytest.raises(cg.InvalidArgument, match="all_reduce"):
            s.log_prob(1, x_, v_, w_)


def test_what_is_not_finite_on_one_rank_is_refused_on_all(sampler):
    x, v, w = arrays(np.float32)
    v[1, 39_000] = np.nan
    refused = []

    def rank(own, part):
        with pytest.raises(cg.NonFinite, match="sample 1 at step 2"):
            sampler.with_part(part).log_prob(2, *(np.ascontiguousarray(a[:, own]) for a in (x, v, w)))
        refused.append(own)

    Ranks([20_480]).of(rank)
    assert len(refused) == 2


@dtypes()
def test_a_ragged_rollout_equals_its_samples_one_by_one(sampler, dtype_name):
    lengths, dtype = [1700, 640, 3000], as_dtype(dtype_name)
    part = cg.Part(lengths=lengths)
    x = cg.initial_noise((3, 30, 100), seed=5, dtype=dtype, part=part)
    trajectory = sampler.with_part(part).rollout(velocity, x, seed=5)
    for i, length in enumerate(lengths):
        alone = cg.initial_noise((1, length), seed=5, sample_ids=[i], dtype=dtype)
        one = sampler.rollout(velocity, alone, seed=5, sample_ids=[i])
        rows = trajectory.latents[i].reshape(7, -1)
        np.testing.assert_array_equal(rows[:, :length], one.latents[0])
        assert not rows[:, length:].any()
        np.testing.assert_array_equal(trajectory.log_probs[i], one.log_probs[0])
        np.testing.assert_array_equal(trajectory.relative_l1[i], one.relative_l1[0])


def test_autograd_gives_padding_no_gradient(sampler):
    torch = pytest.importorskip("torch")
    import chunkgrpo.torch.forward as cgf
    import chunkgrpo.torch as cgt

    part, generator = cg.Part(lengths=[600, 200]), torch.Generator().manual_seed(0)
    x, v, w = (torch.randn(2, 1000, generator=generator, dtype=torch.float64) for _ in range(3))
    v[0, 600:] = float("nan")
    v[1, 200:] = float("nan")
    v.requires_grad_()
    cgt.log_prob(sampler.with_part(part), 1, x, v, w).sum().backward()
    d = cgf.distances(x, v, seed=1, part=part).distance.sum()
    both = v.grad.clone() + torch.autograd.grad(d, v)[0]
    c = sampler.coefficients(1)
    for i, length in enumerate((600, 200)):
        a, b = x[i, :length], v[i, :length].detach().requires_grad_()
        mean = c.a * a + c.b * b
        log_prob = -((w[i, :length] - mean) ** 2).mean() / (2 * c.s**2)
        e = forward.noised(torch.zeros(2, 1000, dtype=torch.float64), 1.0, seed=1)[i, :length]
        distance = ((b - (e - a)) ** 2).mean()
        expected = torch.autograd.grad(log_prob + distance, b)[0]
        torch.testing.assert_close(both[i, :length], expected, rtol=1e-9, atol=1e-15)
        assert not both[i, length:].any()


def test_a_part_is_a_value(sampler):
    part = cg.Part(1024, 4096, lengths=[3000, 20])
    for other in (copy.copy(part), copy.deepcopy(part), pickle.loads(pickle.dumps(part))):
        assert other == part and hash(other) == hash(part)
    assert part != cg.Part(1024, 4096) and (part.first_element, part.total_elements) == (1024, 4096)
    with pytest.raises(cg.WrongType):
        part.first_element = 3
    with pytest.raises(ValueError):
        part.lengths[0] = 3
    shard = sampler.with_part(part)
    assert shard.part == part and sampler.part is None and shard != sampler
    assert pickle.loads(pickle.dumps(shard)) == shard and shard.with_part(None) == sampler
    assert "Part(1024, 4096, lengths=[3000, 20])" in repr(shard)


def test_a_wrong_part_is_refused(sampler):
    x = np.zeros((2, 100), np.float32)
    for part, message in [
        (cg.Part(1, 100), "no room"),
        (cg.Part(0, 99), "no room"),
        (cg.Part(lengths=[1, 2, 3]), "3 lengths; the batch has 2"),
        (cg.Part(lengths=[1, 101]), r"lengths\[1\] = 101"),
    ]:
        with pytest.raises(cg.InvalidArgument, match=message):
            sampler.with_part(part).step(1, x, x, seed=1)
    for make in (lambda: cg.Part(-1), lambda: cg.Part(0, 0), lambda: cg.Part(lengths=[0, 1])):
        with pytest.raises(cg.InvalidArgument):
            make()
    with pytest.raises(cg.WrongType, match="Part"):
        sampler.with_part(3)
    with pytest.raises(cg.WrongType, match="callable"):
        cg.Part(all_reduce=3)
    with pytest.raises(cg.InvalidArgument, match="Sampler.step"):
        sampler.with_part(cg.Part(0, 200)).rollout(velocity, x, seed=1)


def blocks():
    text = (ROOT / "docs" / "shards.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def test_the_page_of_shards_trains_in_two_processes_as_in_one(tmp_path):
    torch = pytest.importorskip("torch")
    code = blocks()[0] + "\nimport sys\nsaved = dict(x=x, old=old, ratios=out.ratios, loss=out.loss.detach())"
    code += "\nsaved['grad'] = weight.grad\ntorch.save(saved, f'{sys.argv[1]}_{rank}')\n"
    (tmp_path / "run.py").write_text(code)

    def run(ranks):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        out = tmp_path / f"of_{ranks}"
        path = {"PYTHONPATH": str(ROOT / "bindings" / "python"), "OMP_NUM_THREADS": "1"}
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(ranks)}
        command = [sys.executable, str(tmp_path / "run.py"), str(out)]
        started = [subprocess.Popen(command, env={**os.environ, **path, **place, "RANK": str(r)}) for r in range(ranks)]
        assert [process.wait(timeout=120) for process in started] == [0] * ranks
        return [torch.load(f"{out}_{r}") for r in range(ranks)]

    (whole,), shards = run(1), run(2)
    assert torch.equal(torch.cat([shard["x"] for shard in shards], 2), whole["x"])
    for shard in shards:
        assert torch.equal(shard["old"], whole["old"]) and torch.equal(shard["loss"], whole["loss"])
        assert torch.equal(shard["ratios"], torch.ones(4, 2, dtype=torch.float64))
        torch.testing.assert_close(shard["grad"], whole["grad"], rtol=1e-5, atol=1e-7)


def test_the_page_of_unequal_lengths_runs():
    exec(compile(blocks()[1], "shards.md", "exec"), {})
