"""chunkgrpo.jax: values are the library's, gradients those of the formula in jnp, under jit, grad, vmap and scan."""

from __future__ import annotations

import warnings
from collections import namedtuple
from functools import partial

import numpy as np
import pytest
from conftest import dtypes

import chunkgrpo as cg

jax = pytest.importorskip("jax")
jnp = pytest.importorskip("jax.numpy")
cgj = pytest.importorskip("chunkgrpo.jax")
_jax_host = pytest.importorskip("chunkgrpo.jax._host")

SCHEDULE = cg.Schedule.shifted(9, 3.0)
SAMPLER = cg.Sampler(SCHEDULE)
PLAN = cg.ChunkPlan([2, 3, 3])
Given = namedtuple("Given", "x v next_x old advantages")
transforms = pytest.mark.parametrize("transform", [lambda f: f, jax.jit], ids=["eager", "jit"])


def normal(*shape, seed=0, dtype="float32"):
    return jax.random.normal(jax.random.key(seed), shape).astype(dtype)


def triple(shape=(3, 2, 4), dtype="float32"):
    return [normal(*shape, seed=seed, dtype=dtype) for seed in range(3)]


def trajectory(dtype="float32", batch=4):
    """Latents (B, 10, 5) and old log-probabilities (B, 8), rolled out by the library; a later policy's velocities."""
    weight = np.asarray(0.7, jnp.dtype(dtype))
    traj = SAMPLER.rollout(lambda x, sigma, k: x * weight, np.asarray(normal(batch, 5, dtype=dtype)), seed=3)
    latents, old = jnp.asarray(traj.latents), jnp.asarray(traj.log_probs, "float32")
    # Where the policy stays, the ratio is 1; elsewhere it leaves the clip range in both directions.
    move = 1 + 0.01 * normal(batch, 8, 1, seed=9) * (jnp.arange(8) > 1)[:, None]
    return latents, latents[:, :8] * weight * move.astype(dtype), old


def plain_log_prob(sampler, k, x, v, next_x, form="gaussian"):
    a, b, s, _ = sampler.coefficients(k)
    x, v, next_x = (jnp.asarray(array, "float32") for array in (x, v, next_x))
    square = ((next_x - (a * x + b * v)) ** 2).mean(axis=tuple(range(1, x.ndim)))
    return -square if form == "squared_error" else -square / (2 * s * s) - jnp.log(s) - jnp.log(2 * jnp.pi) / 2


def plain_log_probs(latents, velocities):
    steps = range(velocities.shape[1])
    return jnp.stack(
        [plain_log_prob(SAMPLER, k, latents[:, k], velocities[:, k], latents[:, k + 1]) for k in steps], axis=1
    )


def plain_loss(new, old, advantages, clip=1e-3, kl=0.0):
    """PPO on chunk ratios, as in the paper: the mean over samples and chunks."""
    starts = np.cumsum([0, *PLAN.sizes])
    delta = jnp.stack([(new - old)[:, i:j].mean(axis=1) for i, j in zip(starts, starts[1:])], axis=1)
    ratio, advantages = jnp.exp(delta), advantages[:, None]
    policy = jnp.maximum(-advantages * ratio, -advantages * jnp.clip(ratio, 1 - clip, 1 + clip))
    return (policy + kl * (jnp.exp(-delta) - 1 + delta)).mean()


def assert_close(actual, expected, tolerance=1e-5):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert np.abs(expected).max() > 0
    assert np.abs(actual - expected).max() <= tolerance * np.abs(expected).max()


# ----------------------------------------------------------------------------------------------------------------------
# Log-probabilities


@transforms
@dtypes("float32", "float16", "bfloat16")
def test_log_prob_is_the_librarys(transform, dtype_name):
    arrays = triple(dtype=dtype_name)
    expected = SAMPLER.log_prob(2, *map(np.asarray, arrays))
    found = transform(partial(cgj.log_prob, SAMPLER, 2))(*arrays)
    assert found.dtype == "float32"
    np.testing.assert_array_equal(found, expected.astype(np.float32))


@transforms
@pytest.mark.parametrize("form", ["gaussian", "squared_error"])
@pytest.mark.parametrize("dynamics", ["flow_sde", "dance_sde", "cps"])
def test_gradient_of_log_prob_is_that_of_the_formula(transform, dynamics, form):
    sampler = cg.Sampler(SCHEDULE, dynamics, eta=0.5, log_prob=form)
    x, v, next_x = triple()
    weights = jnp.array([1.0, -2.0, 0.5])
    found = transform(jax.grad(lambda v: weights @ cgj.log_prob(sampler, 4, x, v, next_x)))(v)
    expected = jax.grad(lambda v: weights @ plain_log_prob(sampler, 4, x, v, next_x, form))(v)
    assert_close(found, expected)


@transforms
def test_guidance_has_gradients_in_both_velocities(transform):
    x, v, next_x = triple()
    u = normal(*x.shape, seed=7)
    found = transform(
        jax.grad(lambda v, u, w: cgj.log_prob(SAMPLER, 1, x, v, next_x, unconditional=u, guidance=w).sum(), (0, 1))
    )(v, u, jax.lax.stop_gradient(3.5))
    expected = jax.grad(lambda v, u: plain_log_prob(SAMPLER, 1, x, u + 3.5 * (v - u), next_x).sum(), (0, 1))(v, u)
    for one, other in zip(found, expected):
        assert_close(one, other)


def test_gradient_has_the_velocitys_type_and_the_latents_arithmetic():
    x, v, next_x = triple()
    v = v.astype("bfloat16")
    found = jax.grad(lambda v: cgj.log_prob(SAMPLER, 1, x, v, next_x).sum())(v)
    expected = jax.grad(lambda v: plain_log_prob(SAMPLER, 1, x, v, next_x).sum())(v.astype("float32"))
    assert found.dtype == "bfloat16"
    np.testing.assert_array_equal(cgj.log_prob(SAMPLER, 1, x, v, next_x), cgj.log_prob(SAMPLER, 1, x, v * 1.0, next_x))
    assert_close(found, expected, 2**-8)


def test_log_probs_and_their_gradient_are_those_of_the_steps():
    latents, velocities, _ = trajectory()
    weights = normal(4, 3, seed=5)
    found = jax.jit(lambda v: cgj.log_probs(SAMPLER, latents[:, 2:], v, first_step=2))(velocities[:, 2:5])
    np.testing.assert_array_equal(
        found, SAMPLER.log_probs(np.asarray(latents[:, 2:]), np.asarray(velocities[:, 2:5]), 2).astype(np.float32)
    )
    gradient = jax.jit(jax.grad(lambda v: (weights * cgj.log_probs(SAMPLER, latents, v)).sum()))
    assert_close(
        gradient(velocities[:, :3]),
        jax.grad(lambda v: (weights * plain_log_probs(latents, v)).sum())(velocities[:, :3]),
    )


@transforms
def test_divergence_is_the_librarys_and_its_gradient_that_of_the_formula(transform):
    v, other, weights = normal(3, 2, 5, seed=1), normal(3, 2, 5, seed=2), normal(3, 2, seed=3)
    found = transform(partial(cgj.divergences, SAMPLER, first_step=4))(v, other)
    expected = cg.divergences(SAMPLER, np.asarray(v), np.asarray(other), first_step=4)
    np.testing.assert_array_equal(found, expected.astype(np.float32))

    def plain(v):
        b_s = jnp.array([SAMPLER.coefficients(k)[1] / SAMPLER.coefficients(k).s for k in (4, 5)], "float32")
        return (weights * b_s**2 * ((v - other) ** 2).mean(axis=2) / 2).sum()

    gradient = transform(jax.grad(lambda v: (weights * cgj.divergences(SAMPLER, v, other, first_step=4)).sum()))(v)
    assert_close(gradient, jax.grad(plain)(v))


# ----------------------------------------------------------------------------------------------------------------------
# vmap and scan


@transforms
def test_vmap_over_samples_is_the_batch_to_the_bit(transform):
    x, v, next_x = triple()

    def one(x, v, next_x):
        return cgj.log_prob(SAMPLER, 3, x[None], v[None], next_x[None])[0]

    np.testing.assert_array_equal(transform(jax.vmap(one))(x, v, next_x), cgj.log_prob(SAMPLER, 3, x, v, next_x))
    whole = jax.grad(lambda v: cgj.log_prob(SAMPLER, 3, x, v, next_x).sum())(v)
    np.testing.assert_array_equal(transform(jax.vmap(jax.grad(one, 1)))(x, v, next_x), whole)


def test_vmap_of_vmap_over_steps_and_velocities_with_shared_latents():
    x, v, next_x = triple()
    policies, steps = jnp.stack([v, 2 * v, -v, v + 1]), jnp.array([0, 5])
    of_steps = jax.vmap(lambda v, k: cgj.log_prob(SAMPLER, k, x, v, next_x), (None, 0))
    found = jax.jit(jax.vmap(of_steps, (0, None)))(policies, steps)
    expected = [[cgj.log_prob(SAMPLER, k, x, policy, next_x) for k in (0, 5)] for policy in policies]
    assert found.shape == (4, 2, 3)
    np.testing.assert_array_equal(found, expected)


def test_one_callback_serves_all_lanes(monkeypatch):
    calls = []
    whole = _jax_host._on_host
    monkeypatch.setattr(_jax_host, "_on_host", lambda *arguments: calls.append(1) or whole(*arguments))
    arrays = triple((6, 2))
    f = jax.jit(jax.vmap(lambda *lane: cgj.log_prob(SAMPLER, 3, *(array[None] for array in lane))))
    jax.block_until_ready(f(*arrays))
    assert len(calls) == 1


def test_a_rollout_in_scan_is_the_librarys_and_its_log_probs_have_gradients():
    x, sigmas = normal(3, 5), jnp.asarray(SCHEDULE.sigmas, "float32")

    def rollout(weight, log_prob):
        def body(x, k):
            return log_prob(k, x, jnp.tanh(x) * weight * sigmas[k])

        return jax.lax.scan(body, x, jnp.arange(8))

    last, log_probs = jax.jit(rollout, static_argnums=1)(0.5, partial(cgj.step, SAMPLER, seed=jnp.uint32(7)))
    latents = [np.asarray(x)]
    for k in range(8):
        x_k = latents[-1]
        step = SAMPLER.step(k, x_k, np.asarray(jnp.tanh(x_k) * 0.5 * sigmas[k]), seed=7)
        latents.append(step[0])
        np.testing.assert_allclose(log_probs[k], step[1], rtol=2e-6)
    np.testing.assert_allclose(last, latents[-1], rtol=1e-5)

    def plain(weight):
        steps = [
            plain_log_prob(SAMPLER, k, latents[k], jnp.tanh(latents[k]) * weight * sigmas[k], latents[k + 1])
            for k in range(8)
        ]
        return jnp.stack(steps).sum()

    found = jax.jit(jax.grad(lambda w: rollout(w, partial(cgj.step, SAMPLER, seed=7))[1].sum()))(0.5)
    assert_close(found, jax.grad(plain)(0.5), 1e-4)


# ----------------------------------------------------------------------------------------------------------------------
# Steps


@transforms
@dtypes("float32", "float16", "bfloat16")
def test_step_has_the_librarys_noise_and_a_log_prob_that_is_found_again(transform, dtype_name):
    x, v, _ = triple(dtype=dtype_name)
    ids = np.array([5, 2**20, 2**32 - 1], np.uint32)
    next_x, log_prob = transform(partial(cgj.step, SAMPLER, 2))(x, v, seed=jnp.uint32(11), sample_ids=jnp.asarray(ids))
    expected = SAMPLER.step(2, np.asarray(x), np.asarray(v), seed=11, sample_ids=ids)
    assert next_x.dtype == dtype_name
    np.testing.assert_array_equal(next_x, expected[0])
    np.testing.assert_array_equal(log_prob, expected[1].astype(np.float32))
    np.testing.assert_array_equal(log_prob, cgj.log_prob(SAMPLER, 2, x, v, next_x))


@transforms
def test_a_seed_that_is_a_constant_may_have_64_bits(transform):
    x, v, _ = triple()
    next_x, _ = transform(partial(cgj.step, SAMPLER, 2, seed=2**64 - 1, sample_ids=[2**63, 1, 2]))(x, v)
    expected, _ = SAMPLER.step(2, np.asarray(x), np.asarray(v), seed=2**64 - 1, sample_ids=[2**63, 1, 2])
    np.testing.assert_array_equal(next_x, expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_key_draws_float32_normals(dtype):
    x, v, _ = triple(dtype=dtype)
    key = jax.random.key(4)
    found = jax.jit(partial(cgj.step, SAMPLER, 2))(x, v, key=key)
    given = cgj.step(SAMPLER, 2, x, v, noise=jax.random.normal(key, x.shape, "float32"))
    assert np.std(np.asarray(found[0], np.float32)) > 0.1
    for one, other in zip(found, given):
        np.testing.assert_array_equal(one, other)


@transforms
def test_log_prob_of_a_step_has_a_gradient_and_its_latents_have_none(transform):
    x, v, noise = triple()
    next_x, _ = cgj.step(SAMPLER, 2, x, v, noise=noise)
    weights = jnp.array([1.0, -2.0, 0.5])
    found = transform(jax.grad(lambda v: weights @ cgj.step(SAMPLER, 2, x, v, noise=noise)[1]))(v)
    assert_close(found, jax.grad(lambda v: weights @ plain_log_prob(SAMPLER, 2, x, v, next_x))(v))
    through = transform(jax.grad(lambda v: cgj.step(SAMPLER, 2, x, v, noise=noise)[0].sum()))(v)
    np.testing.assert_array_equal(through, 0)


def test_a_deterministic_step_has_log_prob_and_gradient_zero():
    x, v, _ = triple()
    ode = cg.Sampler(SCHEDULE, "ode")
    next_x, log_prob = cgj.step(ode, 2, x, v)
    a, b, *_ = ode.coefficients(2)
    np.testing.assert_allclose(next_x, a * x + b * v, atol=1e-6)
    np.testing.assert_array_equal(log_prob, 0)
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda v: cgj.step(ode, 2, x, v)[1].sum()))(v), 0)


def test_second_order_steps_take_the_image_before():
    sampler = cg.Sampler(SCHEDULE, "dpm_sde")
    x, v, noise = triple()
    image = normal(*x.shape, seed=8)
    found = jax.jit(partial(cgj.step, sampler, 2))(x, v, noise=noise, previous_image=image)
    expected = sampler.step(2, *map(np.asarray, (x, v)), noise=np.asarray(noise), previous_image=np.asarray(image))
    np.testing.assert_array_equal(found[0], expected[0])
    again = cgj.log_prob(sampler, 2, x, v, found[0], previous_image=image)
    np.testing.assert_array_equal(again, found[1])


# ----------------------------------------------------------------------------------------------------------------------
# The chunk loss


@transforms
@pytest.mark.parametrize("kl", [0.0, 0.5])
def test_chunk_loss_and_its_gradient_are_those_of_the_formula(transform, kl):
    old, advantages = 0.1 * normal(4, 8, seed=1), normal(4, seed=2)
    new = old + 1e-2 * normal(4, 8, seed=3)

    def ours(new, old, advantages):
        out = cgj.chunk_loss(new, old, advantages, PLAN, clip=1e-3, kl=kl)
        return out.loss, out

    (loss, out), gradient = transform(jax.value_and_grad(ours, has_aux=True))(new, old, advantages)
    expected = jax.value_and_grad(plain_loss)(new, old, advantages, kl=kl)
    assert_close(loss, expected[0])
    assert_close(gradient, expected[1])
    library = cg.chunk_loss(np.asarray(new), np.asarray(old), np.asarray(advantages), PLAN, clip=1e-3, kl=kl)
    np.testing.assert_allclose(out.ratios, library.ratios, rtol=1e-6)
    np.testing.assert_allclose(gradient, library.grad_log_probs, rtol=1e-6)
    assert int(out.stats.selected) == 12
    assert float(out.stats.ratio_std) == pytest.approx(library.stats.ratio_std, rel=1e-6)


def test_options_may_be_traced():
    old, new, advantages = normal(4, 8, seed=1), normal(4, 8, seed=3), normal(4, seed=2)
    rng = np.random.default_rng(0)
    options = dict(
        mask=rng.integers(2, size=(4, 8)) == 1,
        selection=np.array([[0, 1], [1, 2], [2, 0], [0, 2]]),
        weights=rng.random((4, 3)).astype(np.float32),
        ratio_scale=rng.random(8).astype(np.float32),
        ratio_bias=rng.random((4, 8)).astype(np.float32),
        reference_log_probs=rng.normal(size=(4, 8)).astype(np.float32),
        kl=np.float32(0.25),
    )
    found = jax.jit(lambda *given, **options: cgj.chunk_loss(*given, PLAN, clip=0.2, **options))(
        new, old, advantages, **jax.tree.map(jnp.asarray, options)
    )
    expected = cg.chunk_loss(*map(np.asarray, (new, old, advantages)), PLAN, clip=0.2, **options)
    np.testing.assert_allclose(found.loss, expected.loss, rtol=1e-6)
    for name in ("grad_log_probs", "ratios", "grad_ratio_bias"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-9)


@transforms
@pytest.mark.parametrize("columns", [3, 8])
def test_advantages_of_chunks_and_steps_are_signed(transform, columns):
    old, advantages = 0.1 * normal(4, 8, seed=1), normal(4, columns, seed=2)
    new = old + 1e-2 * normal(4, 8, seed=3)

    def ours(new, advantages):
        return cgj.chunk_loss(new, old, advantages, PLAN, surrogate="unclipped").loss

    def plain(new, advantages):
        chunks = partial(jnp.split, indices_or_sections=np.cumsum(PLAN.sizes)[:-1], axis=1)
        means = lambda x: jnp.stack([part.mean(1) for part in chunks(x)], 1)  # noqa: E731
        return (-(means(advantages) if columns == 8 else advantages) * jnp.exp(means(new - old))).mean()

    found, expected = transform(jax.value_and_grad(ours))(new, advantages), jax.value_and_grad(plain)(new, advantages)
    assert_close(found[0], expected[0])
    assert_close(found[1], expected[1])


@transforms
def test_ratio_bias_has_a_gradient(transform):
    old, new, advantages = normal(4, 8, seed=1), normal(4, 8, seed=3), normal(4, seed=2)

    def ours(bias):
        return cgj.chunk_loss(new, old, advantages, PLAN, surrogate="unclipped", ratio_bias=bias).loss

    bias = normal(4, 8, seed=4)
    expected = jax.grad(lambda bias: plain_loss(new + bias, old, advantages, clip=jnp.inf))(bias)
    assert_close(transform(jax.grad(ours))(bias), expected)


def test_vmap_of_the_loss_is_one_loss_a_lane():
    old, new, advantages = normal(3, 4, 8, seed=1), normal(3, 4, 8, seed=3), normal(4, seed=2)

    def gradient(new, old):
        return jax.value_and_grad(lambda new: cgj.chunk_loss(new, old, advantages, PLAN, clip=0.2).loss)(new)

    found = jax.jit(jax.vmap(gradient))(new, old)
    for lane in range(3):
        for one, other in zip(found, gradient(new[lane], old[lane])):
            np.testing.assert_array_equal(one[lane], other)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.checkpoint], ids=["plain", "checkpoint"])
def test_gradient_of_the_weights_is_that_of_the_formula(wrap):
    latents, _, old = trajectory()
    advantages, sigmas = normal(4, seed=2), jnp.asarray(SCHEDULE.sigmas[:8], "float32")
    weights = {"a": jnp.eye(5) * 0.7 + 0.01 * normal(5, 5, seed=6), "b": 0.01 * normal(5, seed=7)}

    def model(weights):
        return jnp.tanh(latents[:, :8] @ weights["a"]) + sigmas[:, None] * weights["b"]

    def ours(weights):
        out = cgj.chunk_policy_loss(SAMPLER, latents, model(weights), old, advantages, PLAN, clip=0.5, kl=0.1)
        return 3 * out.loss

    def plain(weights):
        return 3 * plain_loss(plain_log_probs(latents, model(weights)), old, advantages, clip=0.5, kl=0.1)

    found, expected = jax.jit(jax.value_and_grad(wrap(ours)))(weights), jax.value_and_grad(plain)(weights)
    assert_close(found[0], expected[0])
    for name in weights:
        assert_close(found[1][name], expected[1][name])


@dtypes("float32", "float16", "bfloat16")
def test_policy_loss_is_the_loss_of_the_log_probs_and_has_ratios_of_exactly_1_on_policy(dtype_name):
    latents, velocities, old = trajectory(dtype_name)
    advantages = normal(4, seed=2)
    arguments = (old, advantages, PLAN)

    def fused(v):
        return cgj.chunk_policy_loss(SAMPLER, latents, v, *arguments, clip=1e-3).loss

    def apart(v):
        return cgj.chunk_loss(cgj.log_probs(SAMPLER, latents, v), *arguments, clip=1e-3).loss

    one, other = (jax.jit(jax.value_and_grad(f))(velocities) for f in (fused, apart))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1], other[1])
    assert one[1].dtype == dtype_name and np.abs(one[1]).max() > 0
    out = jax.jit(lambda v: cgj.chunk_policy_loss(SAMPLER, latents, v, *arguments))(velocities)
    np.testing.assert_array_equal(out.ratios[:, 0], 1)
    assert np.all(np.asarray(out.ratios[:, 1:]) != 1)
    stayed = velocities.at[:, 2:].set(latents[:, 2:8] * np.asarray(0.7, latents.dtype))
    out = jax.jit(lambda v: cgj.chunk_policy_loss(SAMPLER, latents, v, *arguments))(stayed)
    np.testing.assert_array_equal(out.ratios, 1)
    assert out.stats.approximate_kl == out.stats.ratio_std == 0  # where a last bit would show


@transforms
@pytest.mark.parametrize("traced", ["all", "velocities"])
def test_the_first_loss_of_a_sampler_warns_where_ratios_are_not_1_and_names_the_cause(transform, traced):
    weight = np.float32(0.7)
    latents, _, old = trajectory()
    on_policy = latents[:, :8] * weight

    def loss(sampler, old, latents=latents, **options):
        call = lambda x, v: cgj.chunk_policy_loss(sampler, x, v, old, np.ones(4), PLAN, **options).loss  # noqa: E731
        if traced == "all":
            return jax.block_until_ready(transform(call)(latents, on_policy))
        return jax.block_until_ready(transform(partial(call, latents))(on_policy))

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(cg.Sampler(SCHEDULE), old)
        loss(cg.Sampler(SCHEDULE, eta=0.3), old, check=False)
    other = cg.Sampler(SCHEDULE, eta=0.3)
    with pytest.warns(cg.RatioWarning, match=r"another sampler: the rollout's was 'flow_sde' with eta=0.7"):
        loss(other, old)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss(other, old)
    with pytest.warns(cg.RatioWarning, match="latents edited: the steps 3, 4"):
        loss(cg.Sampler(SCHEDULE), old, latents.at[:, 4].multiply(1.01))


def test_old_log_probs_that_are_a_constant_in_float64_stay_so():
    latents, velocities, _ = trajectory()
    old = SAMPLER.log_probs(np.asarray(latents), np.asarray(velocities)) + 1e-9  # lost in float32
    out = jax.jit(lambda v: cgj.chunk_policy_loss(SAMPLER, latents, v, old, np.ones(4), PLAN, clip=1e-10))(velocities)
    assert float(out.stats.approximate_kl) > 0 and float(out.loss) < 0
    np.testing.assert_allclose(out.grad_log_probs, 0 * old - 1 / 12 / np.repeat(PLAN.sizes, PLAN.sizes), rtol=1e-6)


def test_with_x64_nothing_is_rounded():
    with jax.enable_x64(True):
        x, v, next_x = (jnp.asarray(np.random.default_rng(i).normal(size=(3, 4))) for i in range(3))
        found = jax.jit(partial(cgj.log_prob, SAMPLER, 2))(x, v, next_x)
        assert found.dtype == "float64"
        np.testing.assert_array_equal(found, SAMPLER.log_prob(2, *map(np.asarray, (x, v, next_x))))
        gradient = jax.grad(lambda v: cgj.log_prob(SAMPLER, 2, x, v, next_x).sum())(v)
        a, b, s, _ = SAMPLER.coefficients(2)
        np.testing.assert_allclose(gradient, b * (next_x - a * x - b * v) / (4 * s * s), rtol=1e-12)


# ----------------------------------------------------------------------------------------------------------------------
# Errors


@transforms
def test_a_derivative_in_data_is_refused(transform):
    x, v, next_x = triple()
    latents, velocities, old = trajectory()
    advantages = normal(4, seed=2)
    for name, f, at in (
        ("latents", lambda x: cgj.log_prob(SAMPLER, 2, x, v, next_x).sum(), x),
        ("next_latents", lambda next_x: cgj.log_prob(SAMPLER, 2, x, v, next_x).sum(), next_x),
        ("latents", lambda latents: cgj.log_probs(SAMPLER, latents, velocities).sum(), latents),
        ("noise", lambda noise: cgj.step(SAMPLER, 2, x, v, noise=noise)[1].sum(), x),
        ("old_log_probs", lambda old: cgj.chunk_loss(old, old, advantages, PLAN).loss, old),
        ("advantages", lambda a: cgj.chunk_loss(old, old * 1.1, a, PLAN).loss, advantages),
    ):
        with pytest.raises(cg.InvalidArgument, match=f"^{name} is data.*stop_gradient"):
            transform(jax.grad(f))(at)
    stopped = jax.grad(lambda new: cgj.chunk_loss(new, jax.lax.stop_gradient(new), advantages, PLAN).loss)
    assert np.abs(transform(stopped)(old)).max() > 0


@transforms
def test_what_is_wrong_with_shapes_types_and_options_is_our_exception_under_jit_too(transform):
    given = Given(*triple(), normal(4, 8), normal(4))
    ode = cg.Sampler(SCHEDULE, "ode")
    invalid, wrong_type = cg.InvalidArgument, cg.WrongType
    for kind, message, f in (
        (invalid, "step = 9 is outside", lambda a: cgj.log_prob(SAMPLER, 9, a.x, a.v, a.next_x)),
        (invalid, "deterministic", lambda a: cgj.log_prob(ode, 1, a.x, a.v, a.next_x)),
        (invalid, r"velocity has shape \(2, 2, 4\)", lambda a: cgj.log_prob(SAMPLER, 1, a.x, a.v[:2], a.next_x)),
        (invalid, r"latents has shape \(\)", lambda a: cgj.log_prob(SAMPLER, 1, 1.0, a.v, a.next_x)),
        (wrong_type, "latents has element type int", lambda a: cgj.log_prob(SAMPLER, 1, a.x.astype(int), a.v, a.next_x)),
        (invalid, "velocities has shape", lambda a: cgj.log_probs(SAMPLER, a.x, a.v)),
        (invalid, "latents has shape", lambda a: cgj.log_probs(SAMPLER, a.x[0, 0], a.v)),
        (invalid, "noise", lambda a: cgj.step(SAMPLER, 1, a.x, a.v)),
        (invalid, "exclude", lambda a: cgj.step(SAMPLER, 1, a.x, a.v, key=jax.random.key(0), seed=1)),
        (invalid, "old_log_probs has shape", lambda a: cgj.chunk_loss(a.old, a.old[:3], a.advantages, PLAN)),
        (invalid, "new_log_probs has shape", lambda a: cgj.chunk_loss(a.old[0], a.old, a.advantages, PLAN)),
        (invalid, "surrogate", lambda a: cgj.chunk_loss(a.old, a.old, a.advantages, PLAN, surrogate="none")),
        (invalid, "chunk", lambda a: cgj.chunk_loss(a.old, a.old, a.advantages, [3, 4])),
        (TypeError, "no_option", lambda a: cgj.chunk_loss(a.old, a.old, a.advantages, PLAN, no_option=1)),
    ):
        with pytest.raises(kind, match=message):
            transform(f)(given)


@pytest.mark.filterwarnings("ignore")
def test_what_is_wrong_with_numbers_is_named_and_the_next_call_works():
    x, v, next_x = triple()
    log_prob = partial(cgj.log_prob, SAMPLER)
    bad = v.at[1, 0, 0].set(jnp.nan)
    with pytest.raises(cg.NonFinite, match="sample 1 at step 2"):
        log_prob(2, x, bad, next_x)
    with pytest.raises(jax.errors.JaxRuntimeError, match="NonFinite: .*sample 1 at step 2"):
        jax.block_until_ready(jax.jit(log_prob)(2, x, bad, next_x))
    with pytest.raises(jax.errors.JaxRuntimeError, match="InvalidArgument: step = 9 is outside"):
        jax.block_until_ready(jax.jit(log_prob)(9, x, v, next_x))
    np.testing.assert_array_equal(jax.jit(log_prob)(2, x, v, next_x), log_prob(2, x, v, next_x))


@transforms
def test_subnormal_latents_survive_the_flushing_of_xlas_threads(transform):
    sampler = cg.Sampler(cg.Schedule.shifted(8, 3.0), dynamics="ode")
    latents = np.full((2, 64), 5e-40, np.float32)
    velocity = np.full((2, 64), 3e-40, np.float32)
    expected = sampler.step(3, latents, velocity)[0]
    assert (expected != 0).all() and (np.abs(expected) < 1e-38).all()
    found = transform(partial(cgj.step, sampler, 3, seed=0))(jnp.asarray(latents), jnp.asarray(velocity))[0]
    np.testing.assert_array_equal(found, expected)


@transforms
@pytest.mark.parametrize("by", ["mask", "selection"])
def test_a_window_between_deterministic_steps_is_trained_by_mask_and_by_selection(transform, by):
    window = cg.Sampler(SAMPLER.schedule, eta=0.7, window=[3, 4])
    trajectory = window.rollout(lambda x, sigma, k: np.tanh(x), cg.initial_noise((3, 5), 1), seed=1)
    plan, adv, old = cg.ChunkPlan([3, 2, 3]), np.array([1.0, -0.5, 2.0]), trajectory.log_probs - 0.01
    v = jnp.asarray(np.tanh(trajectory.latents[:, :8]))
    inside = np.zeros((3, 8), bool)
    inside[:, 3:5] = True
    options = {"mask": inside} if by == "mask" else {"selection": plan.select(3, chunks=[1])}

    def loss(v):
        return cgj.chunk_policy_loss(window, trajectory.latents, v, old, adv, plan, clip=1.0, **options).loss

    def part(v):
        at = trajectory.latents[:, 3:6], v, old[:, 3:5], adv, [2]
        return cgj.chunk_policy_loss(window, *at, first_step=3, clip=1.0).loss

    np.testing.assert_allclose(transform(loss)(v), part(v[:, 3:5]), rtol=1e-6)
    grad = transform(jax.grad(loss))(v)
    np.testing.assert_allclose(grad[:, 3:5], jax.grad(part)(v[:, 3:5]), rtol=1e-5)
    assert not grad[:, :3].any() and not grad[:, 5:].any()
