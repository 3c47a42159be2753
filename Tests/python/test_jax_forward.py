"""chunkgrpo.jax.forward: values are the library's, gradients those of the formula in jnp, under jit, grad and vmap."""

from __future__ import annotations

import re
import textwrap

import numpy as np
import pytest

import chunkgrpo as cg
from chunkgrpo import forward

jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")
jf = pytest.importorskip("chunkgrpo.jax.forward")

B = 6
CLEAN, NOISE, V, OLD, REF = np.random.default_rng(3).normal(size=(5, B, 2, 3)).astype(np.float32)
T = np.array([0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
ADVANTAGES = np.array([1.0, -0.5, 2.0, -1.5, 0.7, -0.2])
OTHERS = {"old_velocity": OLD, "reference_velocity": REF, "beta": 0.5}
transforms = pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])
LOSSES = {
    "nft": (lambda m, d: m.nft_loss(d, ADVANTAGES, times=T, kl=0.1)),
    "awm": (lambda m, d: m.awm_loss(d, ADVANTAGES, times=T, weighting="time", clip=0.5, reference_kl=0.1)),
    "dgpo": (lambda m, d: m.dgpo_loss(d, ADVANTAGES, group_size=3, beta=2.0)),
    "crd": (lambda m, d: m.crd_loss(d, ADVANTAGES, kl=0.1)),
    "dpo": (lambda m, d: m.dpo_loss(d, [[0, 1], [2, 3]], beta=2.0)),
}


@transforms
@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_gradient_in_the_velocity_are_the_librarys(name, transform):
    loss = LOSSES[name]

    def objective(v):
        return loss(jf, jf.distances(CLEAN, v, noise=NOISE, **OTHERS)).loss

    value, grad = transform(jax.value_and_grad(objective))(jnp.asarray(V))
    out = loss(forward, forward.distances(CLEAN, V, noise=NOISE, **OTHERS))
    expected = forward.distances_vjp(CLEAN, V, out.grads, noise=NOISE, **OTHERS)
    np.testing.assert_allclose(value, out.loss, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(grad, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())


def test_the_gradient_is_that_of_the_formula():
    def plain(v):
        u = NOISE - CLEAN
        plus = 0.5 * OLD + 0.5 * v
        return (T[:, None, None] * (v - u) ** 2).sum() + ((plus - u) ** 2).sum() + 2 * ((v - REF) ** 2).sum()

    def ours(v):
        d = jf.distances(CLEAN, v, noise=NOISE, **OTHERS)
        return 6 * ((T * d.distance).sum() + d.positive_distance.sum() + 2 * d.reference_divergence.sum())

    np.testing.assert_allclose(jax.grad(ours)(jnp.asarray(V)), jax.grad(plain)(jnp.asarray(V)), rtol=1e-5, atol=1e-5)


def test_under_vmap_each_lane_is_itself():
    batch = jnp.stack([V, OLD])
    each = jax.vmap(lambda v: jf.distances(CLEAN, v, seed=3).distance)(batch)
    for lane, v in zip(each, (V, OLD)):
        np.testing.assert_allclose(lane, forward.distances(CLEAN, v, seed=3).distance, rtol=1e-6)


def test_the_example_of_the_module_runs():
    code = textwrap.dedent(re.search(r"(?:^    .*\n|^\n(?=    ))+", jf.__doc__, re.MULTILINE)[0])
    model = lambda params, x, t: params * x * t[:, None, None]  # noqa: E731
    names = {"jax": jax, "model": model, "old": 0.9, "frozen": 1.1}
    exec(code, names)
    grad = names["gradient"](1.0, jnp.asarray(CLEAN), jnp.asarray(T), jnp.asarray(ADVANTAGES))
    x = forward.noised(CLEAN, T, seed=7)
    v, others = (
        x * T[:, None, None],
        {"old_velocity": 0.9 * x * T[:, None, None], "reference_velocity": 1.1 * x * T[:, None, None]},
    )
    v, others = v.astype(np.float32), {key: value.astype(np.float32) for key, value in others.items()}
    at = {"seed": 7, "beta": 1.0, **others}
    out = forward.nft_loss(forward.distances(CLEAN, v, **at), ADVANTAGES, times=T, kl=1e-4)
    expected = (forward.distances_vjp(CLEAN, v, out.grads, **at) * v).sum()
    np.testing.assert_allclose(grad, expected, rtol=1e-4)


PARTS = {
    "lengths": cg.Part(lengths=[5, 6, 7, 8]),
    "one shard of five": cg.Part(16, 40, all_reduce=lambda sums: None),  # its sums are not added to others
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_a_part_of_the_samples_is_that_of_numpy_under_jit_with_its_gradient(part):
    clean, v, old = np.random.default_rng(3).normal(size=(3, 4, 8)).astype(np.float32)
    t = np.array([0.2, 0.5, 0.7, 0.9])
    given = dict(seed=3, draw=2, part=part)
    x_t = jax.jit(lambda x: jf.noised(x, t, **given))(jnp.array(clean))
    np.testing.assert_array_equal(x_t, forward.noised(clean, t, **given))
    assert not np.array_equal(x_t, forward.noised(clean, t, seed=3, draw=2))

    def loss(v):
        d = jf.distances(jnp.array(clean), v, old_velocity=jnp.array(old), beta=1.0, **given)
        return (d.distance * jnp.arange(1.0, 5)).sum() + d.positive_distance.sum(), d.distance

    (_, found), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(jnp.array(v))
    others = dict(old_velocity=old, beta=1.0, **given)
    np.testing.assert_allclose(found, forward.distances(clean, v, **others).distance, rtol=1e-6)
    slopes = forward.Distances(distance=np.arange(1.0, 5), positive_distance=np.ones(4))
    np.testing.assert_allclose(grad, forward.distances_vjp(clean, v, slopes, **others), rtol=1e-5, atol=1e-7)
