"""bfloat16 gradients are rounded to nearest, ties to even numbers, by every instruction set: against ml_dtypes."""

import pytest
from test_process import run

pytest.importorskip("ml_dtypes")

CODE = """
import ml_dtypes, numpy as np, chunkgrpo as cg
from chunkgrpo import forward

def integers(seed, count, unit):
    return unit * np.random.default_rng(seed).integers(-170, 171, (1, count)).astype(np.float32)

def rounded(latents, count, exponent):
    # distance = mean d^2 with d = velocity - (noise - clean) has the gradient 2 upstream / count * d. bfloat16 has 8 bits,
    # d up to 10, whose last 2 are a tie for every other number that has them all.
    v, clean, noise = integers(1, count, 2), integers(2, count, 2), integers(3, count, 8)
    upstream = forward.Distances(distance=[count * 2.0 ** (exponent - 1)])
    found = forward.distances_vjp(
        clean.astype(latents), v.astype(ml_dtypes.bfloat16), upstream, noise=noise.astype(latents))
    known = (v - (noise - clean)) * np.float32(2.0**exponent)
    ties = known.view(np.uint32) & 0xffff == 0x8000
    known = known.astype(ml_dtypes.bfloat16)
    assert ties[known.view(np.uint16) & 1 == 0].sum() > count / 20
    np.testing.assert_array_equal(found.view(np.uint16) & 0x7fff, known.view(np.uint16) & 0x7fff)
    np.testing.assert_array_equal(found, known)

for latents in (np.float32, ml_dtypes.bfloat16):
    for exponent in (0, 116, -138):  # at the largest numbers, and among the subnormal ones
        rounded(latents, 4093, exponent)
    rounded(latents, 1 << 22, 0)  # stored past the caches
print(cg.instruction_set())
"""


@pytest.mark.parametrize("instructions", ["baseline", "avx2", "avx512"])
def test_ties_go_to_even_numbers(instructions):
    if run("import chunkgrpo as cg; print(cg.instruction_set())", CHUNKGRPO_SIMD=instructions).strip() != instructions:
        pytest.skip(f"this processor has no {instructions}")
    assert run(CODE, CHUNKGRPO_SIMD=instructions).strip() == instructions
