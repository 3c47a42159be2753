"""The library's noise: normal, independent, and a pure function of (seed, sample id, step, element)."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

import chunkgrpo as cg
from conftest import as_dtype, dtypes, velocity


def test_ten_million_draws_are_standard_normal():
    x = cg.normal((1000, 10_000), seed=2024, step=0, threads=2).ravel().astype(np.float64)
    n = x.size
    assert abs(x.mean()) < 4 / np.sqrt(n)
    assert abs(x.var() - 1) < 4 * np.sqrt(2 / n)
    assert abs(stats.skew(x)) < 4 * np.sqrt(6 / n)
    assert abs(stats.kurtosis(x)) < 4 * np.sqrt(24 / n)
    assert stats.kstest(x, "norm").pvalue > 1e-3
    # 10^7 draws reach 5.2 in the mean; a generator cut short would end earlier.
    assert 4.8 < np.abs(x).max() < 6.7


def correlation(a, b):
    return abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) * np.sqrt(a.size)


def test_samples_steps_seeds_and_elements_are_uncorrelated():
    def draw(seed=1, step=3, ids=None):
        return cg.normal((10, 100_000), seed, step, ids)

    x = draw()
    assert correlation(x[:-1], x[1:]) < 4
    assert correlation(x[:, :-1], x[:, 1:]) < 4
    for distance in (2, 4, 8, 16, 32):  # the shape of the generator's blocks
        assert correlation(x[:, :-distance], x[:, distance:]) < 4
    assert correlation(x, draw(step=4)) < 4
    assert correlation(x, draw(step=-1)) < 4
    assert correlation(x, draw(seed=2)) < 4
    assert correlation(x, draw(seed=1 + 2**32)) < 4
    assert correlation(x, draw(ids=np.arange(10) + 2**32)) < 4
    assert correlation(x**2, draw(step=4) ** 2) < 4


def test_same_bits_for_any_number_of_threads_and_any_split_of_the_batch():
    whole = cg.normal((7, 1001), seed=9, step=2)
    for threads in (0, 1, 2, 3, 16):
        np.testing.assert_array_equal(cg.normal((7, 1001), 9, 2, threads=threads), whole)
    parts = [cg.normal((len(ids), 1001), 9, 2, ids) for ids in ([0], [1, 2, 3], [4, 5], [6])]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    np.testing.assert_array_equal(cg.normal((2, 1001), 9, 2, [5, 2]), whole[[5, 2]])


def test_shorter_samples_have_the_beginning_of_longer_ones():
    whole = cg.normal((2, 100), seed=9, step=0)
    for size in (1, 7, 8, 9, 31, 32, 33, 99):
        np.testing.assert_array_equal(cg.normal((2, size), 9, 0), whole[:, :size])


@dtypes("float64", "float16", "bfloat16")
def test_other_types_hold_the_float32_noise(dtype_name):
    dtype = as_dtype(dtype_name)
    x = cg.normal((3, 100), seed=4, step=1)
    np.testing.assert_array_equal(cg.normal((3, 100), 4, 1, dtype=dtype), x.astype(dtype))


@pytest.mark.parametrize("dynamics", ["flow_sde", "cps"])
def test_a_rollout_has_the_same_bits_for_any_threads_and_any_split(schedule, dynamics):
    x_init = cg.initial_noise((5, 3, 100), seed=1)

    def run(rows, threads=1):
        sampler = cg.Sampler(schedule, dynamics, threads=threads)
        return sampler.rollout(velocity, x_init[rows], seed=3, sample_ids=np.arange(5)[rows])

    whole = run(slice(None))
    parts = [run(slice(None), threads=2), run(slice(0, 2)), run(slice(2, 5), threads=2)]
    for name in ("latents", "log_probs", "relative_l1"):
        both, first, second = (getattr(part, name) for part in parts)
        np.testing.assert_array_equal(both, getattr(whole, name))
        np.testing.assert_array_equal(np.concatenate([first, second]), getattr(whole, name))


@pytest.mark.parametrize("size", [5, 16, 32, 96, 1000, 1024, 1056, 2080])  # of whole and broken blocks and vectors
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_step_adds_the_noise_that_normal_gives(sampler, dtype, size):
    ids = [3, 1, 4, 1, 5, 9]
    x, v = (cg.normal((6, size), seed, 0, dtype=dtype) for seed in (1, 2))
    eps = cg.normal(x.shape, 7, 4, ids, dtype=dtype)
    seeded = sampler.step(4, x, v, seed=7, sample_ids=ids)
    given = sampler.step(4, x, v, noise=eps)
    np.testing.assert_array_equal(seeded[0], given[0])
    np.testing.assert_array_equal(seeded[1], given[1])


@pytest.mark.parametrize("size", [5, 16, 32, 96, 1000, 1056])
@dtypes("float16", "bfloat16")
def test_a_step_of_a_short_type_adds_the_float32_noise(sampler, dtype_name, size):
    dtype = as_dtype(dtype_name)
    x, v = (cg.normal((3, size), seed, 0, dtype=dtype) for seed in (1, 2))
    a, b, s, _ = sampler.coefficients(4)
    eps = cg.normal(x.shape, 7, 4)
    exact = a * x.astype(np.float64) + b * v.astype(np.float64) + s * eps
    ulp = 2.0 ** (-8 if dtype_name == "bfloat16" else -11)
    np.testing.assert_allclose(sampler.step(4, x, v, seed=7)[0].astype(np.float64), exact, rtol=1.01 * ulp, atol=1e-6)


def test_samples_of_a_group_share_their_initial_noise():
    x = cg.initial_noise((12, 4), seed=5, group_size=4)
    alone = cg.initial_noise((12, 4), seed=5)
    np.testing.assert_array_equal(x, np.repeat(alone[::4], 4, axis=0))
    assert len(np.unique(x, axis=0)) == 3
    part = cg.initial_noise((4, 4), seed=5, group_size=4, sample_ids=[4, 5, 6, 7])
    np.testing.assert_array_equal(part, x[4:8])


# ----------------------------------------------------------------------------------------------------------------------
# Against an independent Philox4x32-10 (Salmon et al. 2011) and Box-Muller in double precision


def philox(counter, key):
    """Words (n, 4) of counters (n, 4) under one key (2)."""
    c = np.asarray(counter, np.uint64).T.copy()
    k0, k1 = (int(word) for word in key)
    mask = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p0, p1 = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        c = np.stack(
            [
                (p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(k0),
                p1 & mask,
                (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(k1),
                p0 & mask,
            ]
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c.T


def test_the_independent_philox_gives_the_published_answers():
    published = [  # Random123, kat_vectors
        ([0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ]
    for counter, key, words in published:
        assert " ".join(f"{int(word):08x}" for word in philox([counter], key)[0]) == words


def expected_normals(seed, sample_id, step, size):
    blocks = 16 * (-(-size // 64))
    counter = np.zeros((blocks, 4), np.uint64)
    counter[:, 0] = np.arange(blocks)
    counter[:, 1] = step & 0xFFFFFFFF
    counter[:, 2:] = sample_id & 0xFFFFFFFF, sample_id >> 32
    words = philox(counter, [seed & 0xFFFFFFFF, seed >> 32]).astype(np.float64)
    normals = np.empty_like(words)
    for i in (0, 2):
        r = np.sqrt(-2 * np.log((words[:, i] + 0.5) / 2**32))
        angle = 2 * np.pi * words[:, i + 1] / 2**32
        normals[:, i], normals[:, i + 1] = r * np.cos(angle), r * np.sin(angle)
    # Element e is word (e/16) mod 4 of counter 16 (e/64) + e mod 16.
    return normals.reshape(-1, 16, 4).transpose(0, 2, 1).ravel()[:size]


@pytest.mark.parametrize("seed", [0, 7, 2**32 + 5, 2**64 - 1])
@pytest.mark.parametrize("step", [-1, 0, 16, 2**31 - 1])
def test_the_noise_is_philox_and_box_muller(seed, step):
    ids = [0, 1, 2**32 + 3, 2**64 - 1]
    x = cg.normal((4, 5000), seed, step, ids, dtype=np.float32)
    expected = np.stack([expected_normals(seed, each, step, 5000) for each in ids])
    np.testing.assert_allclose(x, expected, rtol=1e-6, atol=1e-6)
