"""Velocities in bfloat16 and float16 beside float32 latents: the bits of the same velocities in float32, and gradients
that are those rounded once."""

import numpy as np
import pytest

import chunkgrpo as cg
from chunkgrpo import forward

torch = pytest.importorskip("torch")
cgt = pytest.importorskip("chunkgrpo.torch")
pytest.importorskip("ml_dtypes")

SAMPLER = cg.Sampler(cg.Schedule.shifted(6, shift=3.0), eta=0.7)
UPSTREAM = [1000.0, -7.0, 0.3]
narrow = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def of_numpy(tensor):
    """As users of numpy have it: bfloat16 in ml_dtypes' type."""
    import ml_dtypes

    if tensor.dtype is torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


@narrow
def test_numpy_velocities_give_the_bits_of_wide_ones(dtype):
    x, end = randn(3, 77).numpy(), randn(3, 77, seed=1).numpy()
    v, u = (of_numpy(randn(3, 77, seed=seed, dtype=dtype)) for seed in (2, 3))
    wide, wide_u = v.astype(np.float32), u.astype(np.float32)
    for options, other in (({}, {}), ({"unconditional": u, "guidance": 2.5}, {"unconditional": wide_u, "guidance": 2.5})):
        for one, two in zip(SAMPLER.step(2, x, v, seed=4, **options), SAMPLER.step(2, x, wide, seed=4, **other)):
            np.testing.assert_array_equal(one, two)
            assert one.dtype == two.dtype
        expected = SAMPLER.log_prob(2, x, wide, end, **other)
        np.testing.assert_array_equal(SAMPLER.log_prob(2, x, v, end, **options), expected)
        found = SAMPLER.log_prob_vjp(2, x, v, end, UPSTREAM, **options)
        known = SAMPLER.log_prob_vjp(2, x, wide, end, UPSTREAM, **other)
        for one, two in zip(np.atleast_3d(found).T, np.atleast_3d(known).T):
            assert one.dtype == v.dtype
            np.testing.assert_array_equal(one, two.astype(v.dtype))
    np.testing.assert_array_equal(SAMPLER.predicted_image(2, x, v), SAMPLER.predicted_image(2, x, wide))


@narrow
def test_numpy_trajectories_and_distances_give_the_bits_of_wide_ones(dtype):
    x, v = randn(3, 5, 77).numpy(), of_numpy(randn(3, 4, 77, seed=1, dtype=dtype))
    wide, upstream = v.astype(np.float32), np.outer(UPSTREAM, [1, 0, -2, 3])
    np.testing.assert_array_equal(SAMPLER.log_probs(x, v, 1), SAMPLER.log_probs(x, wide, 1))
    found, known = (SAMPLER.log_probs_vjp(x, velocities, upstream, 1) for velocities in (v, wide))
    np.testing.assert_array_equal(found, known.astype(v.dtype))
    found, known = (cg.divergences_from_sampled(SAMPLER, x, w, seed=1, first_step=1) for w in (v, wide))
    np.testing.assert_array_equal(found, known)

    clean, old, reference = x[:, 0], v[:, 1], v[:, 2]
    at = {"seed": 3, "beta": 0.5}
    found = forward.distances(clean, v[:, 0], old_velocity=old, reference_velocity=reference, **at)
    others = {"old_velocity": wide[:, 1], "reference_velocity": wide[:, 2]}
    known = forward.distances(clean, wide[:, 0], **others, **at)
    for name in ("distance", "old_divergence", "reference_distance", "negative_absolute"):
        np.testing.assert_array_equal(getattr(found, name), getattr(known, name))
    slopes = forward.Distances(distance=UPSTREAM)
    found = forward.distances_vjp(clean, v[:, 0], slopes, seed=3)
    np.testing.assert_array_equal(found, forward.distances_vjp(clean, wide[:, 0], slopes, seed=3).astype(v.dtype))


def test_torch_reads_velocities_where_they_lie():
    from chunkgrpo.torch._tensors import beside

    dtype = torch.bfloat16
    x, v, wide = randn(2, 8), randn(2, 8, seed=1, dtype=dtype), randn(2, 8, seed=2)
    assert beside(x, v).data_ptr() == v.data_ptr()
    assert [w.data_ptr() for w in beside(x, v, v)] == [v.data_ptr()] * 2
    assert {w.dtype for w in beside(x, v, wide)} == {torch.float32}  # of two types: both as the latents
    assert beside(x.double(), v).dtype == torch.float64 and beside(v, wide).dtype == dtype


def test_a_gradient_too_large_for_float16_is_infinite_for_a_grad_scaler_to_see():
    x, v = randn(2, 8), randn(2, 8, seed=1, dtype=torch.float16).requires_grad_()
    cgt.log_prob(SAMPLER, 2, x, v, x).backward(torch.tensor([1e9, 1.0], dtype=torch.float64))
    assert v.grad[0].isinf().any() and v.grad[1].isfinite().all()


@narrow
def test_torch_gradients_are_those_of_wide_velocities_rounded_once(dtype):
    from chunkgrpo.torch import forward as of_torch

    x, end = randn(3, 77), randn(3, 77, seed=1)
    narrow_ones = [randn(3, 77, seed=seed, dtype=dtype).requires_grad_() for seed in (2, 3)]
    pairs = [(v, v.detach().float().requires_grad_()) for v in narrow_ones]
    clean = {"seed": 4, "beta": 0.5}

    def losses(v, u):
        yield cgt.log_prob(SAMPLER, 2, x, v, end, unconditional=u, guidance=2.5)
        yield cgt.log_prob(SAMPLER, [0, 1, 3], x, v, end)
        yield cgt.step(SAMPLER, 2, x, v, seed=5)[1]
        yield of_torch.distances(x, v, old_velocity=u, reference_velocity=u, **clean).positive_distance

    for (v, wide), (u, wide_u) in (pairs, pairs[::-1]):
        for found, known in zip(losses(v, u), losses(wide, wide_u)):
            assert torch.equal(found, known)
            for tensor in (v, wide, u, wide_u):
                tensor.grad = None
            for value in (found, known):
                (value * torch.tensor(UPSTREAM, dtype=value.dtype)).sum().backward()
            for tensor, of in ((v, wide), (u, wide_u)):
                assert (tensor.grad is None) == (of.grad is None)
                assert tensor.grad is None or torch.equal(tensor.grad, of.grad.to(dtype))


@narrow
def test_streamed_backward_and_chunk_policy_loss_give_the_bits_of_wide_velocities(dtype):
    plan = cg.ChunkPlan([2, 3])
    initial = randn(3, 7)
    path = SAMPLER.rollout(lambda x, sigma, step: 0.5 * x, initial, seed=1)
    weight = torch.nn.Parameter(torch.full((7,), 0.6))
    results = []
    for kind in (dtype, torch.float32):
        weight.grad = None

        def velocity(x, sigma, step, kind=kind):
            return (weight * x).to(dtype).to(kind)  # the same numbers

        out = cgt.streamed_backward(
            velocity, SAMPLER, path.latents, path.log_probs, [1.0, -1.0, 0.5], plan, clip=1e-1, check=False
        )
        results.append((out.loss, out.new_log_probs))
    for found, known in zip(*results):
        assert torch.equal(found, known)
    v = randn(3, 5, 7, seed=3, dtype=dtype).requires_grad_()
    wide = v.detach().float().requires_grad_()
    for tensor in (v, wide):
        of = cgt.chunk_policy_loss(SAMPLER, path.latents, tensor, path.log_probs, [1.0, -1.0, 0.5], plan, check=False)
        of.loss.backward()
    assert v.grad.dtype == dtype and torch.equal(v.grad, wide.grad.to(dtype)) and v.grad.any()


@narrow
@pytest.mark.parametrize("options", [{"eta": 0.7}, {"dynamics": "dpm_sde"}, {"dynamics": "ode"}], ids=str)
def test_the_diffusers_scheduler_keeps_float32_latents(dtype, options):
    module = pytest.importorskip("chunkgrpo.diffusers")

    def run(kind):
        scheduler = module.FlowMatchSDEScheduler(**options)
        scheduler.set_timesteps(4)
        x = randn(2, 5)
        for timestep in scheduler.timesteps:
            x = scheduler.step((x * 0.5).to(dtype).to(kind), timestep, x, return_dict=False)[0]
        return x, scheduler.trajectory.log_probs

    for found, known in zip(run(dtype), run(torch.float32)):
        assert found.dtype == known.dtype and torch.equal(found, known)


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_jax_velocities_give_the_bits_of_wide_ones(name):
    jax = pytest.importorskip("jax")
    cgj = pytest.importorskip("chunkgrpo.jax")
    from chunkgrpo.jax import forward as of_jax

    jnp = jax.numpy
    x, end, v, u = (jnp.asarray(randn(3, 77, seed=seed).numpy()) for seed in range(4))
    v, u = v.astype(name), u.astype(name)
    weights = jnp.asarray(UPSTREAM)

    def of_step(v, u):
        return (weights * cgj.log_prob(SAMPLER, 2, x, v, end, unconditional=u, guidance=2.5)).sum()

    def of_distances(v, u):
        return (weights * of_jax.distances(x, v, seed=1, old_velocity=jax.lax.stop_gradient(u)).old_divergence).sum()

    for function, both in ((of_step, True), (of_distances, False)):
        taken = jax.jit(jax.value_and_grad(function, (0, 1) if both else 0))
        value, grads = taken(v, u)
        known, wide = taken(v.astype("float32"), u.astype("float32"))
        assert value == known
        for grad, of in zip(*((grads, wide) if both else ((grads,), (wide,)))):
            assert grad.dtype == name and (grad == of.astype(name)).all() and grad.any()


def test_other_mixtures_are_refused_with_the_way_out():
    x, v = randn(2, 8).numpy(), randn(2, 8, seed=1).numpy()
    with pytest.raises(cg.WrongType, match="velocity is float64, .* make it float32, bfloat16 or float16"):
        SAMPLER.log_prob(1, x, v.astype(np.float64), x)
    with pytest.raises(cg.WrongType, match="velocity is float32, but the latents are float16: make it float16"):
        SAMPLER.log_prob(1, x.astype(np.float16), v, x.astype(np.float16))
    with pytest.raises(cg.WrongType, match="unconditional is float32, but velocity is float16"):
        SAMPLER.log_prob(1, x, v.astype(np.float16), x, unconditional=v, guidance=2.0)
