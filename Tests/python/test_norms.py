"""The hinge of norms, against torch's autograd of its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import chunkgrpo as cg
import chunkgrpo.torch as cgt

RNG = np.random.default_rng(1)
SIZES = np.array([0.5, 2.0, 1.0, 1.1])[:, None, None]
REFERENCE = RNG.normal(size=(4, 3, 700))
VELOCITY = REFERENCE * SIZES  # deflated, inflated, the same, inflated


def formula(v, w):
    return torch.relu((v * v).mean((1, 2)) - (w * w).mean((1, 2)))


def test_ratios_and_hinges_are_their_formulas():
    out = cg.norm_hinge(VELOCITY, REFERENCE)
    np.testing.assert_allclose(out.ratios, SIZES.ravel(), rtol=1e-12)
    assert out.ratios[2] == 1 and out.hinges[0] == 0 and out.hinges[2] == 0
    expected = formula(torch.from_numpy(VELOCITY), torch.from_numpy(REFERENCE)).numpy()
    np.testing.assert_allclose(out.hinges, expected, rtol=1e-12)
    assert cg.norm_hinge(np.zeros((1, 2)), np.zeros((1, 2))).ratios[0] == 1
    assert np.isfinite(cg.norm_hinge(np.ones((1, 2)), np.zeros((1, 2))).ratios[0])


@pytest.mark.parametrize("threads", [1, 2])
def test_the_vector_jacobian_product_is_that_of_autograd(threads):
    grad = np.array([1.0, -2.0, 3.0, 0.5])
    v = torch.from_numpy(VELOCITY).requires_grad_()
    (expected,) = torch.autograd.grad(formula(v, torch.from_numpy(REFERENCE)), v, torch.from_numpy(grad))
    found = cg.norm_hinge_vjp(VELOCITY, REFERENCE, grad, threads=threads)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-12)
    assert (found[0] == 0).all() and (found[2] == 0).all()


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_torch_differentiates_it(dtype, tolerance):
    v, w = torch.from_numpy(VELOCITY).to(dtype).requires_grad_(), torch.from_numpy(REFERENCE).to(dtype)
    out = cgt.norm_hinge(v, w)
    assert not out.ratios.requires_grad and isinstance(out, cg.NormHinge)
    torch.testing.assert_close(out.ratios, cg.norm_hinge(v.detach(), w).ratios, rtol=0, atol=0)
    loss = out.hinges.mean()
    expected = formula(v.double(), w.double()).mean()
    (found,), (wanted,) = torch.autograd.grad(loss, v), torch.autograd.grad(expected, v)
    torch.testing.assert_close(loss, expected, rtol=tolerance, atol=1e-6)
    torch.testing.assert_close(found[[1, 3]], wanted[[1, 3]], rtol=tolerance, atol=1e-9)


@pytest.mark.parametrize("transform", ["eager", "jit"])
def test_jax_differentiates_it(transform):
    jax = pytest.importorskip("jax")
    from chunkgrpo import jax as cgj

    v, w = VELOCITY.astype(np.float32), REFERENCE.astype(np.float32)
    run = jax.jit if transform == "jit" else lambda function: function
    weights = np.array([1.0, -2.0, 3.0, 0.5], np.float32)
    loss, found = run(jax.value_and_grad(lambda v: (cgj.norm_hinge(v, w).hinges * weights).sum()))(v)
    t = torch.from_numpy(v).requires_grad_()
    expected = (formula(t, torch.from_numpy(w)) * torch.from_numpy(weights)).sum()
    (wanted,) = torch.autograd.grad(expected, t)
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
    np.testing.assert_allclose(found[1::2], wanted[1::2], rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(run(lambda v: cgj.norm_hinge(v, w).ratios)(v), cg.norm_hinge(v, w).ratios, rtol=1e-6)
    assert (jax.grad(lambda v: cgj.norm_hinge(v, w).ratios.sum())(v) == 0).all()


@pytest.mark.parametrize(
    "words, wrong",
    [
        ("reference has shape", lambda: cg.norm_hinge(np.ones((2, 3)), np.ones((2, 4)))),
        ("grad has shape", lambda: cg.norm_hinge_vjp(np.ones((2, 3)), np.ones((2, 3)), [1.0])),
        ("velocity of sample 1 is not finite", lambda: cg.norm_hinge(np.array([[1.0], [np.nan]]), np.ones((2, 1)))),
        ("^reference of sample 0", lambda: cg.norm_hinge(np.ones((2, 1)), np.array([[np.inf], [1.0]]))),
        ("threads", lambda: cg.norm_hinge(np.ones((2, 1)), np.ones((2, 1)), threads=-1)),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(words, wrong):
    with pytest.raises(cg.Error, match=words):
        wrong()
