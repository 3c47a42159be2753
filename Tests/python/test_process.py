"""Threads and vectors of the process."""

import os
import subprocess
import sys

import pytest

import chunkgrpo as cg


def run(code, **environment):
    done = subprocess.run(
        [sys.executable, "-c", code], text=True, capture_output=True, env={**os.environ, **environment}, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


DIGEST = """
import hashlib, numpy as np, chunkgrpo as cg
sampler = cg.Sampler(cg.Schedule.shifted(17, 3.0), threads=2)
digest = hashlib.sha256()
for dtype in (np.float32, np.float64, np.float16):
    x = cg.initial_noise((3, 70001), seed=1, dtype=dtype)
    next_x, log_prob = sampler.step(5, x, x[::-1].copy(), seed=2)
    grad = sampler.log_prob_vjp(5, x, x, next_x, [1, 2, 3])
    for array in (x, next_x, log_prob, grad):
        digest.update(array.tobytes())
print(cg.instruction_set(), digest.hexdigest())
"""


def test_every_instruction_set_gives_the_same_bits():
    lines = {run(DIGEST, CHUNKGRPO_SIMD=name).split()[1] for name in ("baseline", "avx2", "avx512")}
    assert len(lines) == 1


def test_an_instruction_set_can_be_asked_for():
    assert run(DIGEST, CHUNKGRPO_SIMD="baseline").startswith("baseline ")
    assert cg.instruction_set() in ("baseline", "avx2", "avx512")


def test_a_limit_of_one_starts_no_thread():
    code = """
import os, numpy as np, chunkgrpo as cg
cg.set_thread_limit(1)
before = len(os.listdir("/proc/self/task"))
sampler = cg.Sampler(cg.Schedule.shifted(17, 3.0), threads=8)
x = cg.initial_noise((4, 200000), seed=1)
one = sampler.step(5, x, x, seed=2)
assert len(os.listdir("/proc/self/task")) == before
cg.set_thread_limit(256)
many = sampler.step(5, x, x, seed=2)
assert len(os.listdir("/proc/self/task")) == before + 7
assert (one[0] == many[0]).all() and (one[1] == many[1]).all()
"""
    run(code)


@pytest.mark.parametrize("limit", [0, -1, 257])
def test_a_limit_out_of_bounds_is_refused(limit):
    with pytest.raises(cg.InvalidArgument, match="limit"):
        cg.set_thread_limit(limit)


def test_a_limit_that_is_no_integer_is_refused():
    with pytest.raises(cg.WrongType, match="limit"):
        cg.set_thread_limit(2.5)


def test_a_forked_worker_computes_what_its_parent_does():
    run("""
import os, numpy as np, chunkgrpo as cg
sampler = cg.Sampler(cg.Schedule.shifted(17, 3.0), threads=3)
x = cg.initial_noise((4, 200000), seed=1)
expected = sampler.step(5, x, x, seed=2)[1]
read, write = os.pipe()
child = os.fork()
if child == 0:
    os.write(write, sampler.step(5, x, x, seed=2)[1].tobytes())
    os._exit(0)
os.close(write)
with os.fdopen(read, "rb") as pipe:
    assert pipe.read() == expected.tobytes()
assert os.waitpid(child, 0)[1] == 0
assert (sampler.step(5, x, x, seed=2)[1] == expected).all()
""")


def test_cold_children_of_multiprocessing_train():
    run("""
import multiprocessing, sys
import numpy as np, chunkgrpo as cg

def train():
    trainer = cg.Trainer(8, 3, width=24, blocks=1, embedding_size=8, steps=5, group_size=64, threads=2, chunk_fraction=1)
    trainer.iterate(np.eye(2, 3, dtype=np.float32), lambda images, prompts: images[:, 0])

for _ in range(8):
    children = [multiprocessing.get_context("fork").Process(target=train) for _ in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
        if child.exitcode != 0:
            child.kill()
            sys.exit(f"a child ended with {child.exitcode}")
""")
