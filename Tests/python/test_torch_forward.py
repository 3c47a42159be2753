"""chunkgrpo.torch.forward: tiny Flux and SD3 against numbers that Flow-Factory's own functions printed; the streamed
gradient is the whole one and holds the activations of one draw; what training scripts do with it."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

import chunkgrpo as cg
from conftest import reference

torch = pytest.importorskip("torch")
import chunkgrpo.torch.forward as cgf  # noqa: E402
from test_torch_streamed import SavedBytes, gradients, relative_difference  # noqa: E402

# ----------------------------------------------------------------------------------------------------------------------
# Tiny transformers

MODELS = reference("forward_models")
each_model = pytest.mark.parametrize("case", MODELS, ids=[case["kind"].replace(":", "-") for case in MODELS])


def objective_of(method, o):
    """A method's loss of distances (B, N) and times (B, N), with Flow-Factory's options."""
    import forward_policies as fp

    def objective(d, t):
        if method == "nft":
            return cgf.nft_loss(d, fp.ADVANTAGES, times=t, kl=o["kl_beta"])
        if method == "awm":
            options = {"clip": o["clip_range"], "reference_kl": o["kl_beta"]}
            return cgf.awm_loss(d, fp.ADVANTAGES, times=t, weighting="time", **options)
        if method == "dgpo":
            options = {"clip": o["clip_range"], "kl": o["kl_beta"]}
            return cgf.dgpo_loss(d, fp.ADVANTAGES, groups=fp.GROUPS, beta=o["beta"], **options)
        if method == "crd":
            options = {"temperature": o["weight_temp"], "adaptive": False, "kl": o["kl_beta"]}
            return cgf.crd_loss(d, fp.ADVANTAGES, beta=o["beta"], **options)
        return cgf.dpo_loss(d, [[0, 1], [2, 3]], beta=o["beta"])

    return objective


@each_model
@pytest.mark.parametrize("joint", [False, True], ids=["each", "joint"])
def test_loss_and_every_gradient_are_flow_factorys(case, joint):
    pytest.importorskip("diffusers")
    import forward_policies as fp

    (kind, method), o, expected = case["kind"].split(":"), case["inputs"], case["expected"]
    policy, old, frozen = fp.policies(kind)
    pairs = method in ("dgpo", "dpo")
    clean, noise = fp.data(kind, shared=pairs)
    times = fp.TIMES[[0, 0, 2, 2]] if method == "dpo" else fp.TIMES
    out = cgf.streamed_backward(
        lambda x, t, j: policy(x, t),
        clean,
        times[:, None],
        objective_of(method, o),
        noise=noise[:, None],
        old=lambda x, t, j: old(x, t),
        reference=lambda x, t, j: frozen(x, t),
        beta=o["beta"] if method == "nft" else None,
        joint=joint,
    )
    np.testing.assert_allclose(out.loss.item(), expected["loss"], rtol=1e-5, atol=1e-6)
    ours, theirs = policy.gradients(), expected["gradients"]
    assert ours.keys() == theirs.keys()
    largest = max(norm for norm, _ in theirs.values())
    for name, (norm, along) in theirs.items():  # a key's bias has a gradient of 0, which rounding hides
        bound = 1e-5 * max(norm, 0.02 * largest)
        assert abs(ours[name][0] - norm) <= bound and abs(ours[name][1] - along) <= bound, name


# ----------------------------------------------------------------------------------------------------------------------
# A small network

B, N, GROUP = 6, 3, 3
ADVANTAGES = np.array([1.0, -0.5, 2.0, -1.5, 0.7, -0.2])
TIMES = np.array([[0.9, 0.5, 0.1], [0.8, 0.4, 0.2], [1.0, 0.6, 0.3]] * 2)


class Net(torch.nn.Module):
    def __init__(self, dropout=0.0):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(9, 16), torch.nn.Tanh(), torch.nn.Dropout(dropout), torch.nn.Linear(16, 8)
        )
        self.runs = []

    def forward(self, x, t, j):
        self.runs.append((j, torch.is_grad_enabled()))
        return self.layers(torch.cat([x, t[:, None].to(x)], 1))


@pytest.fixture
def nets():
    torch.manual_seed(0)
    return Net(), Net(), Net()


@pytest.fixture
def clean():
    return torch.from_numpy(cg.normal((B, 8), 3, 0))


OBJECTIVES = {
    "nft": lambda d, t: cgf.nft_loss(d, ADVANTAGES, times=t, kl=0.1),
    "nft_velocity": lambda d, t: cgf.nft_loss(d, ADVANTAGES, weighting="velocity"),
    "awm": lambda d, t: cgf.awm_loss(d, ADVANTAGES, times=t, weighting="generalised_huber", clip=0.5, reference_kl=0.1),
    "dgpo": lambda d, t: cgf.dgpo_loss(d, ADVANTAGES, group_size=GROUP, beta=2.0, clip=0.5, kl=0.1),
    "crd": lambda d, t: cgf.crd_loss(d, ADVANTAGES, temperature=0.5, kl=0.1),
    "dpo": lambda d, t: cgf.dpo_loss(d, cgf.pairs(ADVANTAGES, GROUP), beta=2.0),
    "own": lambda d, t: (t * d.distance).mean() + 0.1 * d.old_divergence.mean(),
}
SHARED = {"awm_chunk": lambda d, t: cgf.awm_loss(d, ADVANTAGES, [1, 2], clip=1.0)}
each_objective = pytest.mark.parametrize("name", OBJECTIVES)


def whole(nets, clean, objective, dtype=torch.float32):
    """The loss of all draws, with the graph of all; every tensor made here."""
    net, old, frozen = nets
    t, draws = torch.from_numpy(TIMES), []
    for j in range(N):
        x = cgf.noised(clean, t[:, j], seed=7, draw=j)
        with torch.no_grad():
            others = {"old_velocity": old(x, t[:, j], j), "reference_velocity": frozen(x, t[:, j], j)}
        draws.append(cgf.distances(clean, net(x, t[:, j], j), seed=7, draw=j, beta=0.5, **others))
    value = objective(cgf.Distances.stack(draws), t)
    return getattr(value, "loss", value)


def streamed(nets, clean, objective, **options):
    net, old, frozen = nets
    return cgf.streamed_backward(net, clean, TIMES, objective, seed=7, old=old, reference=frozen, beta=0.5, **options)


@each_objective
@pytest.mark.parametrize("joint", [False, True], ids=["each", "joint"])
def test_the_streamed_gradient_is_that_of_the_whole_loss(name, joint, nets, clean):
    loss = whole(nets, clean, OBJECTIVES[name])
    loss.backward()
    expected = gradients(nets[0])
    out = streamed(nets, clean, OBJECTIVES[name], joint=joint)
    torch.testing.assert_close(out.loss, loss.detach(), rtol=1e-12, atol=1e-12)
    assert relative_difference(gradients(nets[0]), expected) <= 1e-6
    assert not any(weight.grad is not None for net in nets[1:] for weight in net.parameters())


def test_draws_that_share_a_ratio_need_a_joint_pass(nets, clean):
    loss = whole(nets, clean, SHARED["awm_chunk"])
    loss.backward()
    expected = gradients(nets[0])
    nets[0].runs.clear()
    out = streamed(nets, clean, SHARED["awm_chunk"], joint=True)
    assert nets[0].runs == [(j, False) for j in range(N)] + [(j, True) for j in range(N)]
    torch.testing.assert_close(out.loss, loss.detach(), rtol=1e-12, atol=1e-12)
    assert relative_difference(gradients(nets[0]), expected) <= 1e-6
    with pytest.raises(cg.Error, match="sizes sum to 3"):  # and there are distances of one draw
        streamed(nets, clean, SHARED["awm_chunk"])


def test_a_chunk_of_draws_has_the_geometric_mean_of_their_ratios(nets, clean):
    with torch.no_grad():
        d = streamed_distances(nets, clean)
    each, chunk = cgf.awm_loss(d, ADVANTAGES, clip=1.0), cgf.awm_loss(d, ADVANTAGES, [1, 2], clip=1.0)
    torch.testing.assert_close(chunk.ratios[:, 0], each.ratios[:, 0])
    torch.testing.assert_close(chunk.ratios[:, 1], (each.ratios[:, 1] * each.ratios[:, 2]).sqrt())


def streamed_distances(nets, clean):
    with torch.enable_grad():
        out = streamed(nets, clean, OBJECTIVES["own"])
    nets[0].zero_grad()
    return out.distances


@pytest.mark.parametrize("joint", [False, True], ids=["each", "joint"])
def test_the_streamed_gradient_holds_the_activations_of_one_draw(joint, nets, clean):
    net = nets[0]
    with SavedBytes(net) as all_draws:
        whole(nets, clean, OBJECTIVES["nft"]).backward()
    with SavedBytes(net) as stream:
        streamed(nets, clean, OBJECTIVES["nft"], joint=joint)
    assert all_draws.now == stream.now == 0
    assert 2.5 * stream.peak <= all_draws.peak


def test_velocities_that_were_stored_do_as_the_models_that_gave_them(nets, clean):
    streamed(nets, clean, OBJECTIVES["nft"])
    expected = gradients(nets[0])
    stored = {}
    for name, net in (("old", nets[1]), ("reference", nets[2])):
        with torch.no_grad():
            t = torch.from_numpy(TIMES).float()
            values = [net(cgf.noised(clean, TIMES[:, j].copy(), seed=7, draw=j), t[:, j], j) for j in range(N)]
        stored[name] = torch.stack(values, 1)
    cgf.streamed_backward(nets[0], clean, TIMES, OBJECTIVES["nft"], seed=7, beta=0.5, **stored)
    ours = gradients(nets[0])
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


def test_dropout_draws_the_same_in_both_passes_of_a_joint_one(nets, clean):
    nets[0].layers[2].p = 0.5
    seen = []

    def net(x, t, j):
        seen.append(nets[0](x, t, j))
        return seen[-1]

    streamed((net, *nets[1:]), clean, OBJECTIVES["own"], joint=True)
    assert all(torch.equal(seen[j], seen[N + j]) for j in range(N))


@pytest.mark.parametrize("joint", [False, True], ids=["each", "joint"])
def test_scale_scaler_and_no_sync(joint, nets, clean):
    streamed(nets, clean, OBJECTIVES["nft"], joint=joint)
    expected = gradients(nets[0])
    outside = []

    @contextlib.contextmanager
    def no_sync():
        outside.append(1)
        yield

    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    streamed(nets, clean, OBJECTIVES["nft"], joint=joint, scale=0.25, scaler=scaler, no_sync=no_sync)
    ours = gradients(nets[0])
    assert len(outside) == N - 1
    for name, grad in expected.items():
        torch.testing.assert_close(ours[name], 2 * grad, rtol=1e-5, atol=1e-7)


def test_a_bfloat16_velocity_beside_float32_latents_has_a_bfloat16_gradient(clean):
    v = torch.from_numpy(cg.normal((B, 8), 4, 0)).bfloat16().requires_grad_()
    d = cgf.distances(clean, v, seed=7)
    d.distance.sum().backward()
    plain = v.detach().float().requires_grad_()
    cgf.distances(clean, plain, seed=7).distance.sum().backward()
    assert v.grad.dtype == torch.bfloat16 and torch.equal(v.grad, plain.grad.bfloat16())


def test_what_weighs_is_a_constant_and_second_derivatives_are_refused(clean):
    v = torch.from_numpy(cg.normal((B, 8), 4, 0)).requires_grad_()
    d = cgf.distances(clean, v, seed=7)
    assert d.distance.requires_grad and not d.absolute.requires_grad
    (grad,) = torch.autograd.grad(d.distance.sum(), v, create_graph=True)
    with pytest.raises(cg.InvalidArgument, match="no derivative"):
        grad.sum().backward()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"times": TIMES[:, 0]}, r"times has shape \(6,\); .* must be \(6, N\)"),
        ({"velocity": lambda x, t, j: x[:, :4]}, r"what velocity returned has shape \(6, 4\)"),
        ({"velocity": lambda x, t, j: x}, "no graph to go back through"),
        ({"objective": lambda d, t: d.distance}, "must be 0-dim: take its mean"),
        ({"objective": lambda d, t: 1.0}, "0-dim torch.Tensor, not float"),
        ({"old": torch.zeros(6, 8)}, r"old has shape \(6, 8\); it must be \(6, 3, 8\)"),
        ({"seed": None}, "give seed, or noise"),
        ({"beta": 1.0}, "no old_velocity"),
    ],
)
def test_a_wrong_argument_is_named(change, message, nets, clean):
    given = {"velocity": nets[0], "clean": clean, "times": TIMES, "objective": OBJECTIVES["own"], "seed": 7, **change}
    with pytest.raises(cg.Error, match=message):
        cgf.streamed_backward(**given)
    assert all(weight.grad is None for weight in nets[0].parameters())


@pytest.mark.parametrize("name", ["nft", "awm", "crd"])
def test_the_statistics_are_those_of_all_draws(name, nets, clean):
    each, joint = (streamed(nets, clean, OBJECTIVES[name], joint=joint).stats for joint in (False, True))
    assert type(each) is type(joint)
    for field in vars(joint):
        np.testing.assert_allclose(getattr(each, field), getattr(joint, field), rtol=1e-9, atol=1e-12, err_msg=field)
    assert streamed(nets, clean, OBJECTIVES["own"]).stats is None


def test_two_micro_batches_give_the_gradient_of_one_batch(nets, clean):
    net, old, frozen = nets

    def backward(rows, scale):
        cgf.streamed_backward(
            net,
            clean[rows],
            TIMES[rows],
            lambda d, t: cgf.nft_loss(d, ADVANTAGES[rows], times=t, kl=0.1),
            **{
                "seed": 7,
                "sample_ids": np.arange(B)[rows],
                "old": old,
                "reference": frozen,
                "beta": 0.5,
                "scale": scale,
            },
        )

    backward(slice(0, B), 1.0)
    expected = gradients(net)
    backward(slice(0, 2), 2 / B)
    backward(slice(2, B), (B - 2) / B)
    assert relative_difference(gradients(net), expected) <= 1e-6


def test_pairs_that_are_there_already(nets, clean):
    """Chosen and rejected images as one batch: the loss is -ln sigmoid of the formula's margin."""
    ids = [0, 1, 2, 0, 1, 2]
    x = cgf.noised(clean, TIMES[ids, 0], seed=7, sample_ids=ids)
    v, ref = nets[0](x, torch.from_numpy(TIMES[ids, 0]), 0), nets[2](x, torch.from_numpy(TIMES[ids, 0]), 0)
    d = cgf.distances(clean, v, seed=7, sample_ids=ids, reference_velocity=ref)
    loss = cgf.dpo_loss(d, [[0, 3], [1, 4], [2, 5]], beta=2.0).loss
    e = cgf.noised(torch.zeros_like(clean), 1.0, seed=7, sample_ids=ids)
    assert torch.equal(e[:3], e[3:])
    better = [((w - (e - clean)) ** 2).mean(1) for w in (v, ref)]
    gain = better[0] - better[1]
    expected = -torch.nn.functional.logsigmoid(-(gain[:3] - gain[3:])).mean()
    torch.testing.assert_close(loss.float(), expected, rtol=1e-5, atol=1e-7)
