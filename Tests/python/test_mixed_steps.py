"""Batches whose samples stand at steps of their own, with guidances of their own: they are their samples one by one."""

from __future__ import annotations

import numpy as np
import pytest

import chunkgrpo as cg
from conftest import as_dtype, dtypes

STEPS, GUIDANCES, IDS = [3, 0, 7, 3], [2.5, 1.0, 0.0, 4.0], [9, 4, 4, 70]
UPSTREAM = [0.7, -1.3, 0.01, 2.0]


def arrays(count, dtype, shape=(4, 3, 43), seed=0):
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape).astype(dtype) for _ in range(count)]


def one(array, i):
    return array[i : i + 1]


@dtypes()
def test_every_function_of_a_step_gives_the_samples_one_by_one_to_the_bit(sampler, dtype_name):
    x, v, u = arrays(3, as_dtype(dtype_name))
    mixed = {"unconditional": u, "guidance": GUIDANCES}
    new, log_prob = sampler.step(STEPS, x, v, seed=3, sample_ids=IDS, **mixed)
    again = sampler.log_prob(np.array(STEPS), x, v, new, **mixed)
    grads = sampler.log_prob_vjp(STEPS, x, v, new, UPSTREAM, **mixed)
    image = sampler.predicted_image(STEPS, x, v, **mixed)
    distance = cg.divergence(sampler, STEPS, v, u)
    slope = cg.divergence_vjp(sampler, STEPS, v, u, UPSTREAM, kind="mean")
    np.testing.assert_array_equal(again, log_prob)
    for i, k in enumerate(STEPS):
        xi, vi, ui, ni = (one(array, i) for array in (x, v, u, new))
        own = {"unconditional": ui, "guidance": GUIDANCES[i]}
        a, b = sampler.step(k, xi, vi, seed=3, sample_ids=IDS[i : i + 1], **own)
        assert a.tobytes() == ni.tobytes() and b[0] == log_prob[i]
        for whole, part in zip(grads, sampler.log_prob_vjp(k, xi, vi, ni, UPSTREAM[i : i + 1], **own)):
            assert one(whole, i).tobytes() == part.tobytes()
        assert one(image, i).tobytes() == sampler.predicted_image(k, xi, vi, **own).tobytes()
        assert distance[i] == cg.divergence(sampler, k, vi, ui)[0]
        part = cg.divergence_vjp(sampler, k, vi, ui, UPSTREAM[i : i + 1], kind="mean")
        assert one(slope, i).tobytes() == part.tobytes()


def test_a_batch_mixes_windows(sampler):
    firsts, n = [5, 0, 9], 4
    x, v, u = (arrays(1, np.float32, (3, count, 20), seed)[0] for seed, count in enumerate((n + 1, n, n)))
    grad = np.random.default_rng(5).standard_normal((3, n))
    noise = {"seed": 2, "sample_ids": [8, 1, 5]}
    together = sampler.log_probs(x, v, firsts), sampler.log_probs_vjp(x, v, grad, firsts)
    distances = cg.divergences(sampler, v, u, first_step=firsts)
    sampled = cg.divergences_from_sampled(sampler, x, v, first_step=np.array(firsts), **noise)
    for i, first in enumerate(firsts):
        xi, vi, ui = one(x, i), one(v, i), one(u, i)
        np.testing.assert_array_equal(one(together[0], i), sampler.log_probs(xi, vi, first))
        np.testing.assert_array_equal(one(together[1], i), sampler.log_probs_vjp(xi, vi, one(grad, i), first))
        np.testing.assert_array_equal(one(distances, i), cg.divergences(sampler, vi, ui, first_step=first))
        own = {"seed": 2, "sample_ids": noise["sample_ids"][i : i + 1]}
        np.testing.assert_array_equal(
            one(sampled, i), cg.divergences_from_sampled(sampler, xi, vi, first_step=first, **own)
        )


def test_a_deterministic_step_has_log_probability_0_in_a_step_and_none_else(schedule):
    sampler = cg.Sampler(schedule, window=[3, 4])
    x, v = arrays(2, np.float32)
    new, log_prob = sampler.step([3, 9, 4, 3], x, v, seed=1)
    assert log_prob[1] == 0 and (log_prob[[0, 2, 3]] != 0).all()
    with pytest.raises(cg.InvalidArgument, match="step 9 of sample 1 is deterministic"):
        sampler.log_prob([3, 9, 4, 3], x, v, new)


def test_what_is_wrong_about_the_numbers_is_named(sampler):
    x, v, u = arrays(3, np.float32)

    def refuses(match, kind=cg.InvalidArgument, step=STEPS, **options):
        with pytest.raises(kind, match=match):
            sampler.step(step, x, v, seed=1, **options)

    refuses(r"steps\[2\] = 17 is outside 0 … 16", step=[0, 1, 17, 2])
    refuses("step has 2 numbers; the batch has 4 samples", step=[0, 1])
    refuses(r"step\[1\] must be an integer", cg.WrongType, step=[0, 1.5, 2, 3])
    refuses("step has element type float64", cg.WrongType, step=np.zeros(4))
    refuses("guidance needs the unconditional velocity", guidance=GUIDANCES)
    refuses(r"guidance has shape \(2,\)", unconditional=u, guidance=[1, 2])
    refuses(r"guidance\[1\] = nan", unconditional=u, guidance=[1, np.nan, 1, 1])
    with pytest.raises(cg.InvalidArgument, match=r"first_step\[1\] = 18"):
        sampler.log_probs(np.stack([x, x], 1), v[:, None], [0, 18, 1, 2])


# ----------------------------------------------------------------------------------------------------------------------
# Gradients


def tensors(count, shape=(4, 3, 5), dtype="float64"):
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=getattr(torch, dtype)) for _ in range(count)]


def test_in_torch_gradients_are_those_of_the_samples_and_finite_differences(sampler):
    torch = pytest.importorskip("torch")
    import chunkgrpo.torch as cgt

    x, new, v, u = tensors(4)
    v.requires_grad_(), u.requires_grad_()
    steps, guidances = torch.tensor(STEPS), torch.tensor(GUIDANCES)

    def value(v, u):
        return cgt.log_prob(sampler, steps, x, v, new, unconditional=u, guidance=guidances)

    assert torch.autograd.gradcheck(value, (v, u))
    value(v, u).sum().backward()
    for i, k in enumerate(STEPS):
        vi, ui = (one(t.detach(), i).requires_grad_() for t in (v, u))
        cgt.log_prob(sampler, k, one(x, i), vi, one(new, i), unconditional=ui, guidance=GUIDANCES[i]).sum().backward()
        assert torch.equal(one(v.grad, i), vi.grad) and torch.equal(one(u.grad, i), ui.grad)
    assert torch.autograd.gradcheck(lambda v: cgt.divergence(sampler, steps, v, u.detach()), (v,))


def test_in_torch_deterministic_samples_of_a_step_have_no_gradient(schedule):
    torch = pytest.importorskip("torch")
    import chunkgrpo.torch as cgt

    sampler = cg.Sampler(schedule, window=[3, 4])
    x, v, u = tensors(3)
    v.requires_grad_(), u.requires_grad_()
    kind = {"seed": 1, "guidance": GUIDANCES}
    new, log_prob = cgt.step(sampler, [3, 9, 4, 8], x, v, unconditional=u, **kind)
    log_prob.sum().backward()
    some = torch.tensor([0, 2])
    vs, us = v.detach()[some].requires_grad_(), u.detach()[some].requires_grad_()
    cgt.log_prob(
        sampler, [3, 4], x[some], vs, new[some], unconditional=us, guidance=[GUIDANCES[0], GUIDANCES[2]]
    ).sum().backward()
    for whole, part in ((v.grad, vs.grad), (u.grad, us.grad)):
        assert torch.equal(whole[some], part) and not whole[[1, 3]].any()


def test_streamed_windows_have_the_loss_and_the_gradient_of_chunk_policy_loss(sampler):
    torch = pytest.importorskip("torch")
    import chunkgrpo.torch as cgt

    firsts, n = torch.tensor([5, 0, 9]), 4
    latents = tensors(1, (3, n + 1, 6), "float32")[0]
    plan, advantages = cg.ChunkPlan([1, 3]), torch.tensor([1.0, -0.5, 0.7])
    model = torch.nn.Linear(7, 6)
    sigmas = torch.tensor(np.array(sampler.schedule.sigmas), dtype=torch.float32)

    def velocity(x, sigma, step):
        assert torch.equal(sigma, sigmas[step]) and step.dtype == torch.int64
        return model(torch.cat([x, sigma[:, None]], dim=1))

    def all_of():
        return torch.stack([velocity(latents[:, j], sigmas[firsts + j], firsts + j) for j in range(n)], dim=1)

    old = cgt.log_probs(sampler, latents, all_of().detach(), firsts) + 1e-5
    out = cgt.chunk_policy_loss(sampler, latents, all_of(), old, advantages, plan, first_step=firsts, check=False)
    out.loss.backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    streamed = cgt.streamed_backward(
        velocity, sampler, latents, old, advantages, plan, first_step=firsts, check=False
    )
    assert float(streamed.loss) == float(out.loss.detach())
    for parameter, grad in zip(model.parameters(), expected):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-5, atol=1e-7)


def test_in_jax_mixed_steps_are_numpys_under_jit_and_grad(sampler):
    jax = pytest.importorskip("jax")
    import chunkgrpo.jax as cgj

    x, v, new = arrays(3, np.float32, (4, 12))
    steps = jax.numpy.array(STEPS)
    value = jax.jit(lambda k, v: cgj.log_prob(sampler, k, x, v, new))(steps, v)
    np.testing.assert_array_equal(value, sampler.log_prob(STEPS, x, v, new).astype(np.float32))
    for k in (steps, STEPS):
        grad = jax.grad(lambda v: cgj.log_prob(sampler, k, x, v, new).sum())(v)
        np.testing.assert_array_equal(grad, sampler.log_prob_vjp(STEPS, x, v, new, np.ones(4)))


def test_in_jax_deterministic_samples_of_a_step_have_no_gradient(schedule):
    jax = pytest.importorskip("jax")
    import chunkgrpo.jax as cgj

    sampler = cg.Sampler(schedule, window=[3, 4])
    x, v = arrays(2, np.float32, (3, 12))
    grad = jax.grad(lambda v: cgj.step(sampler, [3, 9, 4], x, v, seed=1)[1].sum())(v)
    new, _ = sampler.step([3, 9, 4], x, v, seed=1)
    np.testing.assert_array_equal(grad[1], np.zeros(12))
    own = sampler.log_prob_vjp([3, 4], x[[0, 2]], v[[0, 2]], new[[0, 2]], np.ones(2))
    np.testing.assert_array_equal(grad[np.array([0, 2])], own)


def test_the_diffusers_scheduler_takes_a_timestep_for_each_sample():
    pytest.importorskip("diffusers")
    torch = pytest.importorskip("torch")
    from chunkgrpo.diffusers import FlowMatchSDEScheduler

    scheduler = FlowMatchSDEScheduler(shift=3.0, seed=7)
    scheduler.set_timesteps(10)
    x, v = tensors(2, dtype="float32")
    steps = [3, 0, 9, 3]
    timesteps = scheduler.timesteps[steps]
    with pytest.raises(cg.InvalidArgument, match="set scheduler.sample_ids"):
        scheduler.step(v, timesteps, x)
    scheduler.sample_ids = IDS
    out = scheduler.step(v, timesteps, x).prev_sample
    expected, log_prob = scheduler.sampler.step(steps, x, v, seed=7, sample_ids=IDS)
    assert torch.equal(out, expected) and torch.equal(scheduler.log_prob, log_prob)
    assert scheduler.trajectory is None and scheduler.step_index is None
    with pytest.raises(cg.InvalidArgument, match="none of scheduler.timesteps"):
        scheduler.step(v, torch.tensor([1.0, 2.0, 3.0, 4.0]) * 77.7, x)
    with pytest.raises(cg.InvalidArgument, match=r"timestep has shape \(2,\)"):
        scheduler.step(v, timesteps[:2], x)
    # A run goes on as if there had been no such step.
    for timestep in scheduler.timesteps:
        x = scheduler.step(v, timestep, x).prev_sample
    assert scheduler.trajectory.done
