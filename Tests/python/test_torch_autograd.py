"""chunkgrpo.torch against PyTorch's own autograd of the same formulas, and in the company that it will keep: autocast,
no_grad, inference_mode, torch.compile."""

from __future__ import annotations

import gc
import math
import warnings

import pytest

import chunkgrpo as cg
from conftest import ROOT  # noqa: F401  (puts the package on the path)

torch = pytest.importorskip("torch")
import chunkgrpo.torch as cgt  # noqa: E402

SCHEDULE = cg.Schedule.shifted(17, 3.0)
SAMPLER = cg.Sampler(SCHEDULE)
PLAN = cg.ChunkPlan([2, 3, 4, 7])
SAMPLERS = {
    "flow_sde": SAMPLER,
    "dance_sde": cg.Sampler(SCHEDULE, "dance_sde", 0.3),
    "cps": cg.Sampler(SCHEDULE, "cps", 0.8),
    "cps, squared error": cg.Sampler(SCHEDULE, "cps", 0.8, log_prob="squared_error"),
    "dpm_sde": cg.Sampler(SCHEDULE, "dpm_sde"),
    "wan_sde": cg.Sampler(SCHEDULE, "wan_sde"),
    "sage": cg.Sampler(SCHEDULE, "sage"),
    "precise": cg.Sampler(SCHEDULE, "precise"),
    "consistency": cg.Sampler(SCHEDULE, "consistency"),
}
TYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "float16": torch.float16}
types = pytest.mark.parametrize("dtype", TYPES.values(), ids=TYPES)


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape or (4, 3, 5), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(
        dtype
    )


def transition(dtype=torch.float64):
    x, v, u, h = (randn(seed=seed, dtype=dtype) for seed in range(4))
    return x, v, u, h, SAMPLER.step(3, x, v, seed=1)[0]


def plain_log_prob(name, k, x, v, next_x, u=None, guidance=1.0, h=None):
    """The formula, in PyTorch."""
    sampler = SAMPLERS[name]
    a, b, s, _ = sampler.coefficients(k)
    v = v if u is None else u + guidance * (v - u)
    mean = a * x + b * v + (0 if h is None else sampler.coefficients(k).c * h)
    error = ((next_x - mean) ** 2).mean(dim=tuple(range(1, x.ndim)))
    if "squared" in name:
        return -error
    return -error / (2 * s**2) - math.log(s) - 0.5 * math.log(2 * math.pi)


# ----------------------------------------------------------------------------------------------------------------------
# Gradients


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("k", [0, 3, 15])
def test_log_prob_and_its_gradients_are_those_of_autograd(name, k):
    x, v, u, h, next_x = transition()
    h = h if SAMPLERS[name].coefficients(k).c else None
    upstream = randn(4, seed=9)
    values, grads = [], []
    for function in (
        lambda v, u: cgt.log_prob(SAMPLERS[name], k, x, v, next_x, unconditional=u, guidance=2.5, previous_image=h),
        lambda v, u: plain_log_prob(name, k, x, v, next_x, u, 2.5, h),
    ):
        inputs = [v.clone().requires_grad_(), u.clone().requires_grad_()]
        value = function(*inputs)
        value.backward(upstream)
        values.append(value.detach())
        grads.append([tensor.grad for tensor in inputs])
    assert values[0].dtype == torch.float64 and values[0].shape == (4,)
    torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(*grads):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-12)


def test_gradients_pass_gradcheck():
    x, v, u, _, next_x = transition()
    v, u = v.requires_grad_(), u.requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda v, u: cgt.log_prob(SAMPLER, 3, x, v, next_x, unconditional=u, guidance=3.0), (v, u))
    latents, velocities, other = randn(2, 5, 3), randn(2, 4, 3, seed=1).requires_grad_(), randn(2, 4, 3, seed=2)
    assert check(lambda v: cgt.log_probs(SAMPLER, latents, v, 2), (velocities,))
    for kind in ("gaussian", "gaussian_per_time", "mean", "velocity"):
        assert check(lambda v: cgt.divergences(SAMPLER, v, other, kind=kind, first_step=1), (velocities,))
    new, bias = ((1e-2 * randn(2, 6, seed=seed)).requires_grad_() for seed in (3, 4))
    advantages = torch.tensor([1.5, -0.5])
    for options in ({"clip": 0.01, "kl": 0.3}, {"surrogate": "unclipped", "kl": 0.1, "kl_estimator": "k2"}):

        def loss(new, bias, options=options):
            return cgt.chunk_loss(new, torch.zeros(2, 6), advantages, [2, 4], ratio_bias=bias, **options).loss

        assert check(loss, (new, bias))

    def whole(v):
        return cgt.chunk_policy_loss(SAMPLER, latents, v, torch.zeros(2, 4), advantages, [1, 3], clip=1.0).loss

    assert check(whole, ((0.01 * velocities).detach().requires_grad_(),))


def test_log_probs_are_those_of_the_steps():
    latents, velocities = randn(2, 6, 3), randn(2, 4, 3, seed=1).requires_grad_()
    value = cgt.log_probs(SAMPLER, latents, velocities, 2)
    steps = [cgt.log_prob(SAMPLER, 2 + j, latents[:, j], velocities[:, j], latents[:, j + 1]) for j in range(4)]
    assert torch.equal(value, torch.stack(steps, 1))
    upstream = randn(2, 4, seed=5)
    (together,) = torch.autograd.grad(value, velocities, upstream)
    (apart,) = torch.autograd.grad(torch.stack(steps, 1), velocities, upstream)
    assert torch.equal(together, apart)


def test_the_chunk_loss_is_that_of_autograd():
    new, old = 1e-3 * randn(4, 16, seed=1), 1e-3 * randn(4, 16, seed=2)
    advantages, chosen = torch.tensor([1.0, -0.5, 2.0, -1.5]), PLAN.select(4, 0.5, seed=3)
    new.requires_grad_()
    out = cgt.chunk_loss(new, old, advantages, PLAN, clip=(3e-4, 5e-4), kl=0.7, selection=chosen)
    (grad,) = torch.autograd.grad(3 * out.loss, new)

    def chunks(steps):
        return torch.stack([part.mean(1) for part in steps.split(PLAN.sizes.tolist(), 1)], 1)

    delta = chunks(new) - chunks(old)
    ratio, a = delta.exp(), advantages[:, None].double()
    terms = torch.maximum(-a * ratio, -a * ratio.clamp(1 - 3e-4, 1 + 5e-4)) + 0.7 * (torch.exp(-delta) - 1 + delta)
    expected = terms[torch.from_numpy(chosen)].mean()
    (expected_grad,) = torch.autograd.grad(3 * expected, new)
    torch.testing.assert_close(out.loss, expected, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-11, atol=1e-15)
    torch.testing.assert_close(out.ratios, ratio.detach(), rtol=1e-12, atol=0)
    assert 0 < out.stats.clip_fraction_low + out.stats.clip_fraction_high < 1
    assert torch.equal(out.new_log_probs, new.detach()) and not out.new_log_probs.requires_grad
    assert torch.equal(3 * out.grad_log_probs, grad)


@pytest.mark.parametrize("columns", [4, 16])
def test_the_chunk_loss_of_signed_advantages_of_chunks_and_steps_is_that_of_autograd(columns):
    new, old = 1e-3 * randn(4, 16, seed=1), 1e-3 * randn(4, 16, seed=2)
    advantages = randn(4, columns, seed=3)
    new.requires_grad_()
    out = cgt.chunk_loss(new, old, advantages, PLAN, clip=(3e-4, 5e-4))
    (grad,) = torch.autograd.grad(out.loss, new)

    def chunks(steps):
        return torch.stack([part.mean(1) for part in steps.split(PLAN.sizes.tolist(), 1)], 1)

    a = (chunks(advantages) if columns == 16 else advantages).double()
    ratio = (chunks(new) - chunks(old)).exp()
    expected = torch.maximum(-a * ratio, -a * ratio.clamp(1 - 3e-4, 1 + 5e-4)).mean()
    (expected_grad,) = torch.autograd.grad(expected, new)
    torch.testing.assert_close(out.loss, expected, rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-11, atol=1e-15)


def test_the_policy_loss_is_the_chunk_loss_of_the_log_probs():
    latents, velocities, old = randn(4, 17, 3), randn(4, 16, 3, seed=1).requires_grad_(), randn(4, 16, seed=2) * 1e-2
    two = cgt.chunk_loss(cgt.log_probs(SAMPLER, latents, velocities), old, [1, -1, 2, 0], PLAN, kl=0.1)
    one = cgt.chunk_policy_loss(SAMPLER, latents, velocities, old, [1, -1, 2, 0], PLAN, kl=0.1)
    assert torch.equal(one.loss, two.loss)
    assert torch.equal(*(torch.autograd.grad(out.loss, velocities)[0] for out in (one, two)))


# ----------------------------------------------------------------------------------------------------------------------
# Steps


@types
def test_a_step_takes_its_noise_from_the_generator_as_randn_does(dtype):
    x, v = randn(dtype=dtype), randn(seed=1, dtype=dtype)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=dtype)
    expected = SAMPLER.step(3, x, v, noise=noise)
    given = cgt.step(SAMPLER, 3, x, v, noise=noise)
    drawn = cgt.step(SAMPLER, 3, x, v, generator=torch.Generator().manual_seed(5))
    torch.manual_seed(5)
    default = cgt.step(SAMPLER, 3, x, v)
    for next_x, log_prob in (given, drawn, default):
        assert torch.equal(next_x, expected[0]) and torch.equal(log_prob, expected[1])
    library = cgt.step(SAMPLER, 3, x, v, seed=5, sample_ids=[3, 1, 4, 2])
    assert torch.equal(library[0], SAMPLER.step(3, x, v, seed=5, sample_ids=[3, 1, 4, 2])[0])


def test_the_log_prob_of_a_step_has_the_gradient_of_log_prob_and_its_latents_have_none():
    x, v, u, _, _ = transition()
    v, u = v.requires_grad_(), u.requires_grad_()
    next_x, value = cgt.step(SAMPLER, 3, x, v, seed=2, unconditional=u, guidance=2.0)
    again = cgt.log_prob(SAMPLER, 3, x, v, next_x, unconditional=u, guidance=2.0)
    assert not next_x.requires_grad and torch.equal(value, again)
    upstream = randn(4, seed=8)
    for a, b in zip(torch.autograd.grad(value, (v, u), upstream), torch.autograd.grad(again, (v, u), upstream)):
        assert torch.equal(a, b) and a.abs().sum() > 0


def test_a_step_without_noise_draws_none_and_has_no_gradient():
    sampler, generator = cg.Sampler(SCHEDULE, "ode"), torch.Generator().manual_seed(3)
    before = generator.get_state()
    x, v = randn(), randn(seed=1).requires_grad_()
    next_x, value = cgt.step(sampler, 3, x, v, generator=generator)
    assert torch.equal(generator.get_state(), before)
    assert torch.equal(next_x, sampler.step(3, x, v.detach())[0])
    assert not value.any() and not value.requires_grad


@types
@pytest.mark.parametrize("velocity_type", TYPES.values(), ids=TYPES)
def test_a_velocity_of_another_type_is_computed_in_that_of_the_latents_and_its_gradient_is_its_own(
    dtype, velocity_type
):
    x, next_x = randn(dtype=dtype), randn(seed=2, dtype=dtype)
    v = randn(seed=1, dtype=velocity_type).requires_grad_()
    same = v.detach().to(dtype).requires_grad_()
    mixed, plain = cgt.log_prob(SAMPLER, 3, x, v, next_x.double()), cgt.log_prob(SAMPLER, 3, x, same, next_x)
    assert torch.equal(mixed, plain)
    upstream = randn(4, seed=3)
    (grad,), (expected,) = torch.autograd.grad(mixed, v, upstream), torch.autograd.grad(plain, same, upstream)
    assert grad.dtype == velocity_type and torch.equal(grad, expected.to(velocity_type))

    latents, velocities = randn(2, 4, 3, dtype=dtype), randn(2, 3, 3, seed=1, dtype=velocity_type).requires_grad_()
    cgt.log_probs(SAMPLER, latents, velocities).sum().backward()
    assert velocities.grad.dtype == velocity_type and velocities.grad.abs().sum() > 0
    stepped, value = cgt.step(SAMPLER, 3, x, v, noise=next_x.double())
    assert stepped.dtype == dtype and torch.equal(stepped, SAMPLER.step(3, x, v.detach().to(dtype), noise=next_x)[0])
    assert torch.equal(value, cgt.log_prob(SAMPLER, 3, x, v, stepped))


@types
@pytest.mark.parametrize("name", SAMPLERS)
def test_on_the_policy_that_sampled_every_ratio_is_exactly_one(dtype, name):
    """With the velocities that the rollout saw, in whatever type they were stored."""
    sampler = cg.Sampler(
        SCHEDULE, name.split(",")[0], 0.7, dpm_order=1, log_prob="squared_error" if "squared" in name else "gaussian"
    )
    torch.manual_seed(0)
    layer, seen = torch.nn.Linear(20, 20).to(dtype), []

    def velocity(x, sigma, step):
        seen.append(torch.tanh(layer(x)) * (0.5 + sigma))
        return seen[-1]

    trajectory = sampler.rollout(velocity, cg.initial_noise((6, 20), 1, like=torch.empty(0, dtype=dtype)), seed=1)
    assert trajectory.latents.dtype == dtype
    velocities = torch.stack(seen[:16], 1).requires_grad_()
    advantages = cg.advantages(trajectory.images.float().sum(1), 3)
    out = cgt.chunk_policy_loss(sampler, trajectory.latents, velocities, trajectory.log_probs, advantages, PLAN, kl=0.1)
    assert (out.ratios == 1).all() and torch.equal(out.new_log_probs, trajectory.log_probs)
    out.loss.backward()
    assert velocities.grad.dtype == dtype and velocities.grad.abs().sum() > 0
    again = [
        cgt.log_prob(sampler, k, trajectory.latents[:, k], seen[k], trajectory.latents[:, k + 1]) for k in range(16)
    ]
    assert torch.equal(torch.stack(again, 1), trajectory.log_probs)


# ----------------------------------------------------------------------------------------------------------------------
# What autograd is used for


def test_a_result_can_be_used_twice_and_its_graph_be_kept():
    x, v, _, _, next_x = transition()
    v.requires_grad_()
    value = cgt.log_prob(SAMPLER, 3, x, v, next_x)
    (once,) = torch.autograd.grad(value.sum(), v, retain_graph=True)
    (twice,) = torch.autograd.grad(value.sum() + 2 * value.sum(), v, retain_graph=True)
    torch.testing.assert_close(twice, 3 * once)
    loss = cgt.chunk_loss(value[:, None] / 100, torch.zeros(4, 1), [1, 2, 3, 4], [1], surrogate="unclipped").loss
    (first,) = torch.autograd.grad(loss, v, retain_graph=True)
    assert torch.equal(first, torch.autograd.grad(loss, v)[0])
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, v)


@pytest.mark.parametrize("function", ["log_prob", "log_probs", "step", "chunk_loss", "divergence"])
def test_a_second_derivative_is_refused(function):
    x, v, _, _, next_x = transition()
    v.requires_grad_()
    value = {
        "log_prob": lambda: cgt.log_prob(SAMPLER, 3, x, v, next_x),
        "log_probs": lambda: cgt.log_probs(SAMPLER, torch.stack([x, next_x], 1), v[:, None]),
        "step": lambda: cgt.step(SAMPLER, 3, x, v, seed=1)[1],
        "chunk_loss": lambda: (
            cgt.chunk_loss(v[:, :, 0], torch.zeros(4, 3), [1, 2, 3, 4], [3], surrogate="unclipped").loss
        ),
        "divergence": lambda: cgt.divergences(SAMPLER, v[:, None], x[:, None]),
    }[function]()
    (grad,) = torch.autograd.grad(value.sum(), v, create_graph=True, retain_graph=True)
    assert torch.equal(grad, torch.autograd.grad(value.sum(), v)[0])
    with pytest.raises(cg.InvalidArgument, match="take them once"):
        torch.autograd.grad(grad.sum() + v.sum(), v)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_grad_nothing_requires_it_and_the_numbers_are_the_same(mode):
    x, v, _, _, next_x = transition()
    v.requires_grad_()
    expected = cgt.log_prob(SAMPLER, 3, x, v, next_x), *cgt.step(SAMPLER, 3, x, v, seed=1)
    with mode():
        values = cgt.log_prob(SAMPLER, 3, x, v, next_x), *cgt.step(SAMPLER, 3, x, v, seed=1)
        loss = cgt.chunk_loss(v[:, :, 0], torch.zeros(4, 3), [1, 2, 3, 4], [3]).loss
    for value, known in zip(values, expected):
        assert not value.requires_grad and torch.equal(value, known)
    assert not loss.requires_grad


def test_constants_made_under_inference_mode_can_be_trained_on():
    with torch.inference_mode():
        x, next_x = randn(seed=1), randn(seed=2)
    assert x.is_inference()
    v = randn(seed=3).requires_grad_()
    cgt.log_prob(SAMPLER, 3, x, v, next_x).sum().backward()
    expected = v.grad.clone()
    cgt.log_probs(SAMPLER, torch.stack([x, next_x], 1), v[:, None], 3).sum().backward()
    assert torch.equal(v.grad, 2 * expected)


def test_only_what_requires_grad_gets_one():
    x, v, u, _, next_x = transition()
    u.requires_grad_()
    cgt.log_prob(SAMPLER, 3, x, v, next_x, unconditional=u, guidance=2.0).sum().backward()
    assert u.grad.abs().sum() > 0 and v.grad is None
    new, bias = torch.zeros(2, 3), torch.zeros(2, 3, requires_grad=True)
    cgt.chunk_loss(new, torch.zeros(2, 3), [1, -2], [3], ratio_bias=bias).loss.backward()
    assert bias.grad.dtype == torch.float32 and bias.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_changes_the_model_and_not_the_functions(dtype):
    torch.manual_seed(0)
    layer = torch.nn.Linear(5, 5)
    x, next_x = randn(dtype=torch.float32), randn(seed=2, dtype=torch.float32)
    with torch.autocast("cpu", dtype):
        v = layer(x)
        inside = cgt.log_prob(SAMPLER, 3, x, v, next_x)
        loss = cgt.chunk_loss(inside[:, None], torch.zeros(4, 1), [1, 2, 3, 4], [1], clip=1.0).loss
        loss.backward()
    assert v.dtype == dtype and inside.dtype == loss.dtype == torch.float64
    assert torch.equal(inside, cgt.log_prob(SAMPLER, 3, x, v, next_x))
    assert layer.weight.grad.dtype == torch.float32 and layer.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_the_surrounding_code_can_be_compiled(backend):
    torch.manual_seed(0)
    layer = torch.nn.Linear(5, 5)
    x, next_x = randn(dtype=torch.float32), randn(seed=2, dtype=torch.float32)

    def train(x, next_x):
        v = layer(x).sin()
        stepped, value = cgt.step(SAMPLER, 3, x, v, seed=1)
        new = torch.stack([cgt.log_prob(SAMPLER, 3, x, v * 1.001, next_x), value], 1) / 1000
        return cgt.chunk_loss(new.cos(), new.detach(), torch.ones(4), [1, 1], clip=1.0).loss * 3 + stepped.sum()

    losses, grads = [], []
    with warnings.catch_warnings(record=True) as caught:
        for function in (train, torch.compile(train, backend=backend)):
            loss = function(x, next_x)
            layer.zero_grad()
            loss.backward()
            losses.append(loss.detach())
            grads.append(layer.weight.grad.clone())
    assert not caught
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-5, atol=1e-7)


# ----------------------------------------------------------------------------------------------------------------------
# What is refused


def refuse(call, kind, words):
    with pytest.raises(kind, match=words) as caught:
        call()
    assert isinstance(caught.value, cg.Error)


def test_grad_where_it_makes_no_sense_is_refused():
    x, v, _, h, next_x = transition()
    v.requires_grad_()
    leaf = x.clone().requires_grad_()
    words = "requires grad, but there is a gradient for velocities alone"
    refuse(lambda: cgt.log_prob(SAMPLER, 3, leaf, v, next_x), ValueError, f"^latents {words}")
    refuse(lambda: cgt.log_prob(SAMPLER, 3, x, v, leaf), ValueError, f"^next_latents {words}")
    refuse(lambda: cgt.log_prob(SAMPLER, 3, x, v, next_x, previous_image=leaf), ValueError, f"^previous_image {words}")
    refuse(lambda: cgt.step(SAMPLER, 3, leaf, v), ValueError, f"^latents {words}")
    refuse(lambda: cgt.step(SAMPLER, 3, x, v, noise=leaf), ValueError, f"^noise {words}")
    refuse(lambda: cgt.log_probs(SAMPLER, leaf, leaf[:, :2]), ValueError, f"^latents {words}")
    refuse(lambda: cgt.divergences(SAMPLER, v[:, None], leaf[:, None]), ValueError, f"^other {words}")
    new = torch.zeros(2, 2, requires_grad=True)
    refuse(lambda: cgt.chunk_loss(new, new, [1, 2], [2]), ValueError, "^old_log_probs requires grad")
    refuse(lambda: cgt.chunk_loss(new, new.detach(), [1, 2], [2], weights=new), ValueError, "^weights requires grad")


def test_what_is_no_fitting_tensor_is_refused():
    x, v, _, _, next_x = transition()
    refuse(lambda: cgt.log_prob(SAMPLER, 3, x.numpy(), v, next_x), TypeError, "^latents must be a torch.Tensor, not nd")
    refuse(lambda: cgt.log_prob(SAMPLER, 3, x, None, next_x), TypeError, "^velocity must be a torch.Tensor")
    refuse(lambda: cgt.log_prob(SAMPLER, 3, x, v.int(), next_x), TypeError, "^velocity has element type torch.int32")
    refuse(
        lambda: cgt.log_prob(SAMPLER, 3, x, v.to(torch.complex64), next_x),
        TypeError,
        "^velocity has element type torch.complex64",
    )
    refuse(lambda: cgt.log_prob(SAMPLER, 3, x, v[:, :2], next_x), ValueError, "^velocity has shape")
    refuse(lambda: cgt.log_prob(SAMPLER, 3, x.int(), v, next_x), TypeError, "^latents has element type int32")
    refuse(lambda: cgt.log_prob(SAMPLER, 3, x, v.to("meta"), next_x), TypeError, "^velocity is on the meta device")
    refuse(lambda: cgt.log_prob(SAMPLER, 3, x, v.to_sparse(), next_x), TypeError, "^velocity is a tensor of layout")
    refuse(lambda: cgt.log_prob(SAMPLER, 17, x, v, next_x), ValueError, "17")
    refuse(lambda: cgt.log_prob(cg.Sampler(SCHEDULE, "ode"), 3, x, v, next_x), ValueError, "density|s = 0|noise")
    refuse(lambda: cgt.log_prob(SAMPLER, 3, x, v * float("nan"), next_x), cg.NonFinite, "sample 0 at step 3")
    refuse(lambda: cgt.step(SAMPLER, 3, x, v, seed=1, noise=x), ValueError, "noise, generator and seed exclude")
    refuse(lambda: cgt.step(SAMPLER, 3, x, v, sample_ids=[1, 2, 3, 4]), ValueError, "sample_ids belong to a seed")
    refuse(lambda: cgt.chunk_loss([[0.0]], [[0.0]], [1], [1]), TypeError, "^new_log_probs must be a torch.Tensor")
    refuse(lambda: cgt.chunk_loss(torch.zeros(2), torch.zeros(2), [1, 2], [1]), ValueError, "^new_log_probs has shape")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_tensor_that_is_written_to_before_the_backward_pass_is_noticed_where_it_is_needed(dtype):
    x, v, _, _, next_x = transition(dtype)
    velocity = v.requires_grad_() * 1
    expected = torch.autograd.grad(cgt.log_prob(SAMPLER, 3, x, velocity, next_x).sum(), velocity)[0]
    value = cgt.log_prob(SAMPLER, 3, x, velocity, next_x)
    with torch.no_grad():
        velocity.mul_(2)
    if dtype is torch.float64:  # the residual is kept, and nothing else is read
        assert torch.equal(torch.autograd.grad(value.sum(), velocity)[0], expected)
    else:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            value.sum().backward()


def test_tensors_that_nobody_else_holds_live_until_the_backward_pass():
    x, v, _, _, next_x = transition()
    v.requires_grad_()
    (expected,) = torch.autograd.grad(cgt.log_prob(SAMPLER, 3, x, v * 2, next_x).sum(), v)
    value = cgt.log_prob(SAMPLER, 3, x.clone(), v * 2, next_x.clone())
    gc.collect()
    filler = [torch.full_like(x, float("nan")) for _ in range(100)]
    assert torch.equal(torch.autograd.grad(value.sum(), v)[0], expected)
    del filler


def test_transforms_of_functions_are_refused():
    x, v, _, _, next_x = transition()
    with pytest.raises(RuntimeError, match="setup_context"):
        torch.func.grad(lambda v: cgt.log_prob(SAMPLER, 3, x, v, next_x).sum())(v)
    with pytest.raises((RuntimeError, TypeError)):
        torch.vmap(lambda v: cgt.log_prob(SAMPLER, 3, x, v[None].expand(4, 3, 5), next_x))(v)
