"""Residuals that a forward pass keeps: their formula, the gradients of them to the bit, and what autograd holds and shares."""

from __future__ import annotations

import numpy as np
import pytest

import chunkgrpo as cg
from conftest import ROOT  # noqa: F401  (puts the package on the path)

torch = pytest.importorskip("torch")
import chunkgrpo.torch as cgt  # noqa: E402
from chunkgrpo.torch import _kept  # noqa: E402

SAMPLER = cg.Sampler(cg.Schedule.shifted(8, 3.0))
SIZES = [(3, 1), (3, 5, 7), (3, 1025), (2, 50, 1311)]
sizes = pytest.mark.parametrize("shape", SIZES, ids=str)
kinds = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])


def tensors(shape, dtype, count=4):
    return [torch.randn(*shape, generator=torch.Generator().manual_seed(i), dtype=dtype) for i in range(count)]


def weights(shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def same(a, b):
    """To the bit: +0 and -0 differ."""
    return a.dtype is b.dtype and np.array_equal(a.contiguous().numpy().view(np.uint8), b.contiguous().numpy().view(np.uint8))


def options(name, shape):
    steps, guidance = [4, 1, 0][: shape[0]], [0.5, 1.0, 3.0][: shape[0]]
    return {
        "plain": (3, {}),
        "guided": (3, {"guidance": 3.5}),
        "mixed": (steps, {}),
        "mixed and guided": (steps, {"guidance": guidance}),
    }[name]


@kinds
@sizes
@pytest.mark.parametrize("name", ["plain", "guided", "mixed", "mixed and guided"])
def test_a_residual_gives_the_gradients_of_log_prob_vjp_to_the_bit(name, shape, dtype):
    x, v, u, end = tensors(shape, dtype)
    step, given = options(name, shape)
    guided, w = "guidance" in given, weights(shape[:1])
    extras = {**given, "unconditional": u} if guided else given
    value, residual = cg.log_prob_residual(SAMPLER, step, x, v, end, **extras)
    assert same(value, SAMPLER.log_prob(step, x, v, end, **extras))
    known = SAMPLER.log_prob_vjp(step, x, v, end, w, **extras)
    grads = cg.residual_vjp(SAMPLER, step, residual, w, guided=guided, **given)
    for a, b in zip(grads if guided else [grads], known if guided else [known]):
        assert same(a, b)
    if name == "plain":
        a, b, _, _ = SAMPLER.coefficients(step)
        torch.testing.assert_close(residual, end - (a * x + b * v), rtol=0, atol=1e-5 if dtype is torch.float32 else 1e-14)


@kinds
@sizes
@pytest.mark.parametrize("first", [2, "each"])
def test_residuals_of_a_trajectory_give_the_gradients_of_log_probs_vjp_to_the_bit(first, shape, dtype):
    first = [0, 3, 2][: shape[0]] if first == "each" else first
    x, v = tensors((shape[0], 5, *shape[1:]), dtype, 1)[0], tensors((shape[0], 4, *shape[1:]), dtype, 2)[1]
    w = weights((shape[0], 4))
    w[:, 1] = w[0, 2] = 0
    values, residuals = cg.log_probs_residuals(SAMPLER, x, v, first)
    assert same(values, SAMPLER.log_probs(x, v, first))
    assert same(cg.residuals_vjp(SAMPLER, residuals, w, first), SAMPLER.log_probs_vjp(x, v, w, first))


@pytest.mark.parametrize("latents", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("velocity", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_autograd_has_the_bits_of_the_direct_call_in_every_type_and_again_in_a_kept_graph(latents, velocity):
    x, v, u, end = tensors((3, 5, 41), torch.float32)
    x, end, v, u = x.to(latents), end.to(latents), v.to(velocity).requires_grad_(), u.to(velocity).requires_grad_()
    w = weights((3,))
    own = {latents, velocity} == {torch.float32, torch.bfloat16} and latents is torch.float32
    plain = [t.detach() if own else t.detach().to(latents) for t in (v, u)]
    known = SAMPLER.log_prob_vjp(3, x, plain[0], end, w, unconditional=plain[1], guidance=2.5)
    value = cgt.log_prob(SAMPLER, 3, x, v, end, unconditional=u, guidance=2.5)
    for keep in (True, True, False):
        grads = torch.autograd.grad(value, (v, u), w, retain_graph=keep)
        assert all(same(a.float(), b.to(velocity).float()) for a, b in zip(grads, known))
    alone = cgt.log_prob(SAMPLER, 3, x, v, end)
    known = SAMPLER.log_prob_vjp(3, x, plain[0], end, w)
    for keep in (True, False):
        assert same(torch.autograd.grad(alone, v, w, retain_graph=keep)[0].float(), known.to(velocity).float())


@pytest.mark.parametrize("selected", [[[True, False, True]] * 4, None], ids=["some chunks", "all"])
def test_the_policy_loss_has_the_bits_of_the_direct_call(selected):
    x, v = tensors((4, 7, 33), torch.float32, 1)[0], tensors((4, 6, 33), torch.float32, 2)[1].requires_grad_()
    given = {} if selected is None else {"selection": np.array(selected)}
    old = SAMPLER.log_probs(x, v.detach()) + 0.01
    out = cgt.chunk_policy_loss(SAMPLER, x, v, old, [1.0, -1.0, 0.5, 2.0], [2, 2, 2], clip=1.0, check=False, **given)
    known = SAMPLER.log_probs_vjp(x, v.detach(), out.grad_log_probs)
    for keep in (True, False):
        assert same(torch.autograd.grad(out.loss, v, retain_graph=keep)[0] + 0.0, known + 0.0)  # -0 where nothing is selected


def test_autograd_holds_the_residual_and_none_of_its_inputs():
    x, v, u, end = tensors((3, 700), torch.float32)
    v.requires_grad_()
    held = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        cgt.log_prob(SAMPLER, 3, x, v * 1, end)
        cgt.log_probs(SAMPLER, torch.stack([x, end], 1), v[:, None] * 1)
    assert [t.numel() for t in held if t.numel() > 1] == [x.numel()] * 2
    assert not {t.data_ptr() for t in held} & {t.data_ptr() for t in (x, v, end)}


def test_a_velocity_of_16_bits_is_kept_as_it_is():
    x, v, _, end = tensors((3, 700), torch.float32)
    held, narrow = [], v.bfloat16().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t) or t, lambda t: t):
        cgt.log_prob(SAMPLER, 3, x, narrow, end)
    assert {t.data_ptr() for t in held if t.numel() > 0} == {x.data_ptr(), narrow.data_ptr(), end.data_ptr()}


def test_without_a_gradient_no_residual_is_made(monkeypatch):
    monkeypatch.setattr(cgt._nodes._residuals, "log_prob_residual", lambda *_, **__: pytest.fail("a residual"))
    x, v, _, end = tensors((3, 7), torch.float32)
    cgt.log_prob(SAMPLER, 3, x, v, end)
    with torch.no_grad():
        cgt.log_prob(SAMPLER, 3, x, v.requires_grad_(), end)


def test_the_last_backward_pass_makes_the_residual_the_gradient_and_takes_no_memory():
    x, v, _, end = tensors((3, 700), torch.float32)
    v.requires_grad_()
    value = cgt.log_prob(SAMPLER, 3, x, v, end)
    residual = value.grad_fn.saved_tensors[0]
    kept = residual.clone()
    first = torch.autograd.grad(value.sum(), v, retain_graph=True)[0]
    assert torch.equal(residual, kept) and first.data_ptr() != residual.data_ptr()
    last = torch.autograd.grad(value.sum(), v)[0]
    assert last.data_ptr() == residual.data_ptr() and torch.equal(last, first)


def test_hooks_may_take_the_residual_elsewhere_and_keep_it():
    x, v, _, end = tensors((3, 700), torch.float32)
    v.requires_grad_()
    expected = torch.autograd.grad(cgt.log_prob(SAMPLER, 3, x, v, end).sum(), v)[0]
    with torch.autograd.graph.save_on_cpu():
        value = cgt.log_prob(SAMPLER, 3, x, v, end)
    assert torch.equal(torch.autograd.grad(value.sum(), v)[0], expected)
    log = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: log.append(t) or t, lambda t: t):
        value = cgt.log_prob(SAMPLER, 3, x, v, end)
    before = log[0].clone()
    assert torch.equal(torch.autograd.grad(value.sum(), v)[0], expected) and torch.equal(log[0], before)


@pytest.mark.parametrize("missing", ["_KEEPS_GRAPH", "_HOOKS"])
def test_where_pytorch_does_not_say_that_a_pass_is_the_last_nothing_is_written_in_place(missing, monkeypatch):
    monkeypatch.setattr(_kept, missing, None)
    monkeypatch.setattr(_kept, "_IN_PLACE", False)
    x, v, _, end = tensors((3, 700), torch.float32)
    value = cgt.log_prob(SAMPLER, 3, x, v.requires_grad_(), end)
    residual = value.grad_fn.saved_tensors[0]
    kept = residual.clone()
    gradient = torch.autograd.grad(value.sum(), v)[0]
    assert torch.equal(residual, kept) and same(gradient, SAMPLER.log_prob_vjp(3, x, v.detach(), end, [1.0] * 3))


def test_a_backward_pass_that_failed_is_not_taken_again_from_what_it_left():
    x, v, _, end = tensors((3, 700), torch.float32)
    value = cgt.log_prob(SAMPLER, 3, x, v.requires_grad_(), end)
    with pytest.raises(cg.NonFinite, match="grad_log_prob of sample 0 at step 3 makes a gradient too large for float32"):
        value.backward(torch.full((3,), 1e60, dtype=torch.float64))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.sum().backward()


def test_a_checkpointed_model_computes_the_residual_again():
    from torch.utils.checkpoint import checkpoint

    x, v, _, end = tensors((3, 40), torch.float32)
    layer = torch.nn.Linear(40, 40)

    def value(x):
        return cgt.log_prob(SAMPLER, 3, x.detach(), layer(x), end)

    value(x).sum().backward()
    known = layer.weight.grad
    for reentrant in (True, False):
        layer.weight.grad = None
        checkpoint(value, x.clone().requires_grad_(), use_reentrant=reentrant).sum().backward()
        assert torch.equal(layer.weight.grad, known)


def test_a_second_derivative_is_refused_for_a_velocity_inside_a_graph():
    x, v, _, end = tensors((3, 40), torch.float32)
    velocity = v.requires_grad_() * 2
    for wanted in (velocity, v):
        value = cgt.log_prob(SAMPLER, 3, x, velocity, end)
        (gradient,) = torch.autograd.grad(value.sum(), wanted, create_graph=True)
        with pytest.raises(cg.InvalidArgument, match="take them once"):
            torch.autograd.grad(gradient.sum(), wanted)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_residual_that_would_be_rounded_is_refused(dtype):
    x, v, _, end = (t.to(dtype) for t in tensors((3, 7), torch.float32))
    with pytest.raises(cg.WrongType, match="residual.*rounded.*log_prob_vjp"):
        cg.log_prob_residual(SAMPLER, 3, x, v, end)
    with pytest.raises(cg.WrongType, match="residual.*rounded"):
        cg.residual_vjp(SAMPLER, 3, v, [1.0] * 3)
    with pytest.raises(cg.WrongType, match="residual.*rounded"):
        cg.residuals_vjp(SAMPLER, v[:, None], [[1.0]] * 3)


def test_what_does_not_fit_is_refused():
    x, v, _, end = (t.numpy() for t in tensors((3, 7), torch.float32))
    residual = cg.log_prob_residual(SAMPLER, 3, x, v, end)[1]
    with pytest.raises(cg.InvalidArgument, match="grad_log_prob has shape"):
        cg.residual_vjp(SAMPLER, 3, residual, [1.0])
    with pytest.raises(cg.InvalidArgument, match="step has 2 numbers"):
        cg.residual_vjp(SAMPLER, [1, 2], residual, [1.0] * 3)
    with pytest.raises(cg.NonFinite, match=r"grad_log_prob\[1\] = nan"):
        cg.residual_vjp(SAMPLER, 3, residual, [1.0, np.nan, 1.0])
    with pytest.raises(cg.InvalidArgument, match="residuals hold 2 steps, but from step 7 on there are 1"):
        cg.residuals_vjp(SAMPLER, np.zeros((3, 2, 7)), np.ones((3, 2)), 7)
    with pytest.raises(cg.WrongType, match="sampler must be a chunkgrpo.Sampler"):
        cg.log_prob_residual(x, 3, x, v, end)


def test_of_a_part_of_a_sample_too():
    x, v, _, end = (t.numpy() for t in tensors((2, 4096), torch.float32))
    value, residual = cg.log_prob_residual(SAMPLER, 3, x, v, end)
    part = SAMPLER.with_part(cg.Part(lengths=[4096, 1000]))
    _, padded = cg.log_prob_residual(part, 3, x, v, end)
    grad = cg.residual_vjp(part, 3, padded, [1.0, 2.0])
    np.testing.assert_array_equal(grad, part.log_prob_vjp(3, x, v, end, [1.0, 2.0]))
    assert not grad[1, 1000:].any() and grad[1, :1000].all()
