"""A call's own cost: how much Python it runs, and that the short look at an array finds what the long one does."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import chunkgrpo as cg
import chunkgrpo.torch as cgt
from chunkgrpo import _family, _frameworks

SAMPLER = cg.Sampler(cg.Schedule.shifted(steps=6, shift=3.0))
PACKAGE = str(Path(cg.__file__).parent)
X, V, NEXT = (torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(i)) for i in range(3))
ARRAYS = [tensor.numpy() for tensor in (X, V, NEXT)]
PLAN = cg.ChunkPlan([2, 3])
ONES = torch.ones(4, dtype=torch.float64)


def calls(work):
    """How many functions the package calls, and are called in it; in the steady state."""
    count = 0

    def look(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call") and frame.f_code.co_filename.startswith(PACKAGE)

    for _ in range(3):
        work()
    sys.setprofile(look)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


def gradient():
    velocity = V.clone().requires_grad_()
    torch.autograd.grad(cgt.log_prob(SAMPLER, 2, X, velocity, NEXT), velocity, ONES)


def iteration():
    model = torch.nn.Linear(5, 5)
    rolled = SAMPLER.rollout(lambda x, *_: model(x), X, seed=0)
    cgt.streamed_backward(lambda x, *_: model(x), SAMPLER, rolled.latents, rolled.log_probs, ONES, PLAN)


@pytest.mark.parametrize(
    "work, most",
    [
        (lambda: SAMPLER.log_prob(2, *ARRAYS), 58),
        (lambda: SAMPLER.log_prob(2, X, V, NEXT), 74),
        (lambda: SAMPLER.step(2, X, V, seed=1), 80),
        (lambda: SAMPLER.log_prob_vjp(2, X, V, NEXT, ONES), 92),
        (lambda: cgt.log_prob(SAMPLER, 2, X, V, NEXT), 100),
        (gradient, 220),
        (iteration, 1780),
    ],
    ids=[
        "log_prob of numpy", "log_prob", "step", "log_prob_vjp", "log_prob that autograd could take", "autograd, forward and backward",
        "iteration of five steps",
    ],
)
def test_a_call_runs_little_python(work, most):
    """A call's own time follows this number, which does not depend on the machine."""
    assert calls(work) <= most


def laid(tensor):
    """The same numbers as they may lie."""
    wide = torch.zeros(8, 4, 5)
    wide[::2, :3] = tensor
    single = torch.empty_strided((4, 1, 3, 5), (15, 7, 5, 1)).copy_(tensor[:, None])  # whose stride of one means nothing
    unaligned = torch.frombuffer(bytearray(2) + bytearray(tensor.numpy().tobytes()), dtype=torch.uint8)[2:]
    return {
        "dense": tensor,
        "a parameter": torch.nn.Parameter(tensor),
        "samples apart": wide[::2, :3],
        "turned": tensor.transpose(1, 2).contiguous().transpose(1, 2),
        "negated": torch._neg_view(-tensor),
        "from the middle": torch.cat([torch.full((1, 3, 5), torch.nan), tensor])[1:],
        "of one": single[:, 0],
        "of bytes": unaligned.clone().view(torch.float32).view(4, 3, 5),
    }


@pytest.mark.parametrize("name", laid(X))
def test_however_a_tensor_lies_its_numbers_are_those_of_a_copy(name, monkeypatch):
    x, v, after = (laid(tensor)[name] for tensor in (X, V, NEXT))

    def work(*tensors):
        with torch.no_grad():
            stepped, log_prob = SAMPLER.step(2, *tensors[:2], noise=tensors[2])
            vjp = SAMPLER.log_prob_vjp(2, *tensors, ONES)
            return stepped, log_prob, SAMPLER.log_prob(2, *tensors), vjp, SAMPLER.predicted_image(2, *tensors[:2])

    found = work(x, v, after)
    monkeypatch.setattr(_frameworks.Torch, "lent", lambda *_: None)
    for one, other in zip(found, work(X.clone(), V.clone(), NEXT.clone())):
        assert torch.equal(one, other) and one.is_contiguous()


def refusal(work):
    try:
        return work()
    except Exception as error:
        return type(error), str(error)


@pytest.mark.parametrize(
    "work",
    [
        lambda: torch.func.grad(lambda v: SAMPLER.log_prob(2, X, v, NEXT).sum())(V),
        lambda: torch.func.grad(lambda v: SAMPLER.log_prob(2, X, V, NEXT).sum() + v.sum())(V),
        lambda: torch.func.jvp(lambda v: SAMPLER.log_prob(2, X, v, NEXT), (V,), (V,)),
        lambda: torch.vmap(lambda v: SAMPLER.log_prob(2, X, v, NEXT))(V[None]),
        lambda: SAMPLER.log_prob(2, X, torch._efficientzerotensor(X.shape), NEXT),
        lambda: SAMPLER.log_prob(2, X, V.to_mkldnn(), NEXT),
        lambda: SAMPLER.log_prob(2, X, torch.nested.nested_tensor([V[0], V[1]]), NEXT),
        lambda: SAMPLER.log_prob_vjp(2, X, V, NEXT, ONES.clone().requires_grad_()),
        lambda: SAMPLER.log_prob_vjp(2, X, V, NEXT, ONES[:3]),
        lambda: SAMPLER.log_prob(2, ARRAYS[0], ARRAYS[1][:2], ARRAYS[2]),
        lambda: SAMPLER.log_prob(2, ARRAYS[0], np.ma.masked_less(ARRAYS[1], 0), ARRAYS[2]),
    ],
    ids=lambda work: "",
)
def test_what_is_refused_at_a_long_look_is_refused_at_a_short_one(work, monkeypatch):
    found = refusal(work)
    assert isinstance(found, tuple)
    for family in (_frameworks.Torch, _family.Numpy):
        monkeypatch.setattr(family, "lent", lambda *_: None)
    assert found == refusal(work)


def test_a_derivative_forward_in_mode_is_refused_not_lost():
    forward = torch.autograd.forward_ad
    with forward.dual_level(), pytest.raises(NotImplementedError, match="jvp"):
        cgt.log_prob(SAMPLER, 2, X, forward.make_dual(V, V), NEXT)


def test_a_tensor_whose_memory_is_not_its_own_is_refused():
    """PyTorch shows other memory as a functional tensor's, which was read."""
    with pytest.raises(cg.WrongType, match="velocity is a Tensor that cannot be read: it stands for another one"):
        torch.func.functionalize(lambda v: SAMPLER.log_prob(2, X, v, NEXT))(V)


def test_samples_that_share_memory_are_read_where_they_lie():
    x = X[:1].expand(4, 3, 5)
    assert torch.equal(SAMPLER.log_prob(2, x, V, NEXT), SAMPLER.log_prob(2, x.clone(), V, NEXT))


def test_a_result_is_dense_where_the_velocity_is_not():
    apart = torch.zeros(8, 3, 5)[::2]
    grad = SAMPLER.log_prob_vjp(2, X, apart.copy_(V), NEXT, ONES)
    assert grad.is_contiguous() and torch.equal(grad, SAMPLER.log_prob_vjp(2, X, V, NEXT, ONES))


def test_numbers_upstream_may_lie_in_any_way():
    expected = SAMPLER.log_prob_vjp(2, X, V, NEXT, np.arange(4.0))
    matrix = torch.zeros(4, 3, dtype=torch.float64)
    matrix[:, 1] = torch.arange(4.0)
    for upstream in (matrix[:, 1], torch.arange(4.0), torch.arange(4), [0, 1, 2, 3], matrix[:, 1].contiguous()):
        assert torch.equal(SAMPLER.log_prob_vjp(2, X, V, NEXT, upstream), expected)


def test_coefficients_are_asked_for_once_and_a_step_beyond_is_refused_each_time():
    sampler = cg.Sampler(SAMPLER.schedule, eta=0.3)
    assert sampler.coefficients(2) == sampler.coefficients(np.int64(2)) == sampler.with_part(None).coefficients(2)
    assert sampler.coefficients(2) != SAMPLER.coefficients(2)
    for _ in range(2):
        with pytest.raises(cg.InvalidArgument, match="step = 6 is outside"):
            sampler.coefficients(6)
