"""The chunk gradient against the official arithmetic of GCPO written in plain PyTorch, with tiny random transformers of
diffusers; and the streamed one: the same gradient, the memory of one step, beside what training scripts do with it."""

from __future__ import annotations

import contextlib
import math
import os
from datetime import timedelta

import numpy as np
import pytest

import chunkgrpo as cg
from conftest import ROOT  # noqa: F401  (puts the package on the path)

torch = pytest.importorskip("torch")
import chunkgrpo.torch as cgt  # noqa: E402

SCHEDULE = cg.Schedule.shifted(17, 3.0)
SIGMAS = SCHEDULE.sigmas.tolist()
SCHEDULE_SIGMAS = torch.tensor(SIGMAS, dtype=torch.float32)
SAMPLER = cg.Sampler(SCHEDULE, "dance_sde", 0.3, last_step="ode")
CHUNKS, STEPS = cg.ChunkPlan([2, 3, 4, 7]), cg.ChunkPlan.fixed(16, 1)

# ----------------------------------------------------------------------------------------------------------------------
# The official arithmetic (xingzhejun/GCPO, train_grpo_flux_clip.py: flux_step and train_one_step), one sample at a time


def official_log_prob(v, x, next_x, eta, k):
    sigma, delta = SIGMAS[k], SIGMAS[k] - SIGMAS[k + 1]
    image = x - sigma * v
    score = -(x - image * (1 - sigma)) / sigma**2
    mean = x - delta * v + 0.5 * eta**2 * score * delta
    deviation = eta * math.sqrt(delta)
    log_prob = -((next_x - mean) ** 2) / (2 * deviation**2) - math.log(deviation) - math.log(math.sqrt(2 * math.pi))
    return log_prob.mean(dim=tuple(range(1, log_prob.ndim)))


def official_backward(velocity, latents, old_log_probs, advantages, plan, selection, clip, kl):
    """Adds the gradient up as the script does, chunk by chunk; `velocity(x, steps, samples)` takes a batch of both."""
    total, count = 0.0, int(selection.sum())
    for i in range(len(latents)):
        for j in np.flatnonzero(selection[i]):
            steps = list(range(16))[plan.slices[j]]
            v = velocity(latents[i, steps], steps, [i] * len(steps))
            x = latents[i : i + 1]
            new = [official_log_prob(v[n : n + 1], x[:, k], x[:, k + 1], 0.3, k) for n, k in enumerate(steps)]
            new = torch.stack(new).mean()
            old = old_log_probs[i, steps].mean()
            ratio = torch.exp(new - old)
            policy = torch.maximum(-advantages[i] * ratio, -advantages[i] * torch.clamp(ratio, 1 - clip, 1 + clip))
            divergence = torch.exp(old - new) - 1 - (old - new)
            loss = (policy + kl * divergence) / count
            loss.backward()
            total += loss.item()
    return total


class Flux:
    """(B, tokens, channels) latents, as in the official script."""

    shape = (3, 6, 8)

    def __init__(self):
        from diffusers import FluxTransformer2DModel

        self.model = FluxTransformer2DModel(
            **{"in_channels": 8, "num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16},
            **{
                "num_attention_heads": 2,
                "joint_attention_dim": 8,
                "pooled_projection_dim": 4,
                "axes_dims_rope": (4, 6, 6),
            },
        )
        self.prompts, self.pooled = torch.randn(3, 5, 8), torch.randn(3, 4)
        self.text_ids, self.image_ids = (
            torch.zeros(5, 3),
            torch.tensor([[0.0, i, j] for i in range(2) for j in range(3)]),
        )

    def __call__(self, x, steps, samples):
        return self.model(
            hidden_states=x,
            timestep=torch.tensor([SIGMAS[k] for k in steps]),
            encoder_hidden_states=self.prompts[samples],
            pooled_projections=self.pooled[samples],
            txt_ids=self.text_ids,
            img_ids=self.image_ids,
        ).sample


class SD3:
    shape = (3, 4, 4, 4)

    def __init__(self):
        from diffusers import SD3Transformer2DModel

        self.model = SD3Transformer2DModel(
            **{"sample_size": 4, "patch_size": 1, "in_channels": 4, "out_channels": 4, "num_layers": 2},
            **{"attention_head_dim": 8, "num_attention_heads": 4, "caption_projection_dim": 32},
            **{"joint_attention_dim": 8, "pooled_projection_dim": 4, "pos_embed_max_size": 8},
        )
        self.prompts, self.pooled = torch.randn(3, 5, 8), torch.randn(3, 4)

    def __call__(self, x, steps, samples):
        return self.model(
            hidden_states=x,
            timestep=torch.tensor([1000 * SIGMAS[k] for k in steps]),
            encoder_hidden_states=self.prompts[samples],
            pooled_projections=self.pooled[samples],
        ).sample


@pytest.fixture(scope="module", params=[Flux, SD3], ids=["flux", "sd3"])
def policy(request):
    pytest.importorskip("diffusers")
    torch.manual_seed(0)
    policy = request.param()
    for name, parameter in policy.model.named_parameters():  # no zero blocks, and all of them matter
        torch.nn.init.normal_(parameter, std=0.3 / math.sqrt(max(parameter.shape[-1], 4)))
    policy.velocity = lambda x, sigma, k: policy(x, [k] * 3, [0, 1, 2])
    x_init = cg.initial_noise(policy.shape, seed=1, like=torch.empty(0))
    policy.trajectory = SAMPLER.rollout(policy.velocity, x_init, seed=1)
    for parameter in policy.model.parameters():  # one optimiser step later: ratios on both sides of the clip range
        parameter.data += 0.05 * parameter.std() * torch.randn_like(parameter)
    policy.advantages = torch.tensor([1.3, -0.6, 0.9])
    return policy


def gradients(model):
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


def relative_difference(ours, theirs):
    assert ours.keys() == theirs.keys() and ours
    return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm().clamp(min=1e-30)) for name in theirs)


@pytest.mark.parametrize("plan", [CHUNKS, STEPS], ids=["chunks", "steps"])
@pytest.mark.parametrize("kl", [0.0, 0.5])
def test_loss_and_every_gradient_are_those_of_the_official_arithmetic(policy, plan, kl):
    trajectory = policy.trajectory
    selection = plan.select(3, 0.5, seed=4)
    old = trajectory.log_probs.float()
    with torch.no_grad():
        v = torch.stack([policy.velocity(trajectory.latents[:, k], SIGMAS[k], k) for k in range(16)], 1)
        ratios = cgt.chunk_policy_loss(SAMPLER, trajectory.latents, v, old, policy.advantages, plan).ratios
    clip = float((ratios - 1).abs()[torch.from_numpy(selection)].quantile(0.5))  # so that both branches are taken
    expected = official_backward(policy, trajectory.latents, old, policy.advantages, plan, selection, clip, kl)
    official = gradients(policy.model)
    options = {"clip": clip, "kl": kl, "selection": selection}

    v = torch.stack([policy.velocity(trajectory.latents[:, k], SIGMAS[k], k) for k in range(16)], 1)
    out = cgt.chunk_policy_loss(SAMPLER, trajectory.latents, v, old, policy.advantages, plan, **options)
    out.loss.backward()
    unstreamed = gradients(policy.model)

    streamed = cgt.streamed_backward(
        policy.velocity, SAMPLER, trajectory.latents, old, policy.advantages, plan, **options
    )
    ours = gradients(policy.model)

    moved = out.stats.clip_fraction_low + out.stats.clip_fraction_high
    assert 0 < moved < 1
    assert abs(out.loss.item() - expected) <= 1e-5 * abs(expected)
    assert relative_difference(unstreamed, official) <= 1e-5
    assert relative_difference(ours, official) <= 1e-5
    assert abs((streamed.loss - out.loss).item()) <= 1e-6 * abs(expected)
    assert relative_difference(ours, unstreamed) <= 1e-6


# ----------------------------------------------------------------------------------------------------------------------
# Memory


class SavedBytes:
    """Bytes that autograd keeps for backward passes, parameters left out: now, and at most."""

    def __init__(self, model):
        self.own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self.held, self.now, self.peak = {}, 0, 0

    def pack(self, tensor):
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if key in self.own:
            return tensor, None
        if key not in self.held:
            self.held[key] = 0
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
        self.held[key] += 1
        return tensor.detach(), Token(self, key, storage.nbytes())

    def __enter__(self):
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda pair: pair[0])
        self.hooks.__enter__()
        return self

    def __exit__(self, *error):
        self.hooks.__exit__(*error)


class Token:
    def __init__(self, counter, key, size):
        self.counter, self.key, self.size = counter, key, size

    def __del__(self):
        self.counter.held[self.key] -= 1
        if not self.counter.held[self.key]:
            del self.counter.held[self.key]
            self.counter.now -= self.size


def test_the_streamed_gradient_of_a_chunk_of_seven_holds_the_activations_of_one_step(policy):
    trajectory, old, advantages = policy.trajectory, policy.trajectory.log_probs, policy.advantages
    last = CHUNKS.select(3, chunks=[3])
    with SavedBytes(policy.model) as one:
        v = policy.velocity(trajectory.latents[:, 9], SIGMAS[9], 9)
        cgt.log_prob(SAMPLER, 9, trajectory.latents[:, 9], v, trajectory.latents[:, 10]).sum().backward()
        del v
    with SavedBytes(policy.model) as official:
        v = torch.stack([policy.velocity(trajectory.latents[:, k], SIGMAS[k], k) for k in range(9, 16)], 1)
        new = cgt.log_probs(SAMPLER, trajectory.latents[:, 9:], v, 9)
        cgt.chunk_loss(new, old[:, 9:], advantages, [7], clip=1.0).loss.backward()
        del v, new
    with SavedBytes(policy.model) as streamed:
        cgt.streamed_backward(
            policy.velocity, SAMPLER, trajectory.latents, old, advantages, CHUNKS, selection=last, clip=1.0
        )
    policy.model.zero_grad()
    assert one.now == official.now == streamed.now == 0 and one.peak > 0
    assert streamed.peak <= 1.3 * one.peak
    assert 6.5 * one.peak <= official.peak <= 7.5 * one.peak


# ----------------------------------------------------------------------------------------------------------------------
# A small network, and what stands around it


class Net(torch.nn.Module):
    """Counts how often it runs, with and without a graph."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(9, 16), torch.nn.Tanh(), torch.nn.Dropout(dropout), torch.nn.Linear(16, 8)
        )
        self.runs = []

    def forward(self, x, sigma, k):
        self.runs.append((k, torch.is_grad_enabled()))
        return self.layers(torch.cat([x, torch.full_like(x[:, :1], sigma)], 1))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def rollout(net, batch=6):
    trajectory = SAMPLER.rollout(net, cg.initial_noise((batch, 8), 1, like=torch.empty(0)), seed=1)
    old = trajectory.log_probs + 1e-3 * torch.randn(
        batch, 16, generator=torch.Generator().manual_seed(5), dtype=torch.float64
    )
    net.runs.clear()
    advantages = torch.tensor([1.0, -0.5, 2.0, -1.5, 0.7, -0.2])[:batch]
    return trajectory.latents, old, advantages


def watched():
    """A no_sync, and a list whose one item says whether it is entered."""
    inside = [False]

    @contextlib.contextmanager
    def no_sync():
        inside[0] = True
        yield
        inside[0] = False

    return no_sync, inside


def unstreamed(net, latents, old, advantages, plan=CHUNKS, **options):
    v = torch.stack([net(latents[:, k], SIGMAS[k], k) for k in range(plan.steps)], 1)
    out = cgt.chunk_policy_loss(SAMPLER, latents, v, old, advantages, plan, **options)
    out.loss.backward()
    net.runs.clear()
    return out, gradients(net)


def test_only_steps_that_are_needed_are_run(net):
    latents, old, advantages = rollout(net)
    selection = CHUNKS.select(6, chunks=[1, 2])
    mask = np.ones((6, 16))
    mask[:, 2] = 0
    out, expected = unstreamed(net, latents, old, advantages, selection=selection, mask=mask, clip=1.0)
    streamed = cgt.streamed_backward(
        net, SAMPLER, latents, old, advantages, CHUNKS, selection=selection, mask=mask, clip=1.0
    )
    assert net.runs == [(k, False) for k in range(3, 9)] + [(k, True) for k in range(3, 9)]
    assert relative_difference(gradients(net), expected) <= 1e-6
    assert torch.equal(streamed.new_log_probs[:, :3], old[:, :3])
    torch.testing.assert_close(streamed.new_log_probs[:, 3:9], out.new_log_probs[:, 3:9])
    assert streamed.stats.selected == out.stats.selected


@pytest.mark.parametrize("columns", [len(CHUNKS), 16])
def test_advantages_of_chunks_and_steps_have_the_unstreamed_gradient(net, columns):
    latents, old, _ = rollout(net)
    advantages = torch.randn(6, columns, generator=torch.Generator().manual_seed(2))
    out, expected = unstreamed(net, latents, old, advantages, clip=1.0)
    streamed = cgt.streamed_backward(net, SAMPLER, latents, old, advantages, CHUNKS, clip=1.0)
    assert relative_difference(gradients(net), expected) <= 1e-6
    torch.testing.assert_close(streamed.loss, out.loss.detach(), rtol=1e-6, atol=0)


def test_steps_without_a_gradient_are_run_once(net):
    """All that the second chunk did is clipped."""
    latents, old, advantages = rollout(net)
    advantages = advantages.abs()
    old[:, 2:5] -= 1
    options = {"clip": 0.2, "selection": CHUNKS.select(6, chunks=[0, 1])}
    _, expected = unstreamed(net, latents, old, advantages, **options)
    cgt.streamed_backward(net, SAMPLER, latents, old, advantages, CHUNKS, **options)
    assert [k for k, graph in net.runs if graph] == [0, 1]
    assert relative_difference(gradients(net), expected) <= 1e-6


def test_where_everything_is_clipped_the_gradient_is_zero_as_it_is_of_the_whole_loss(net):
    latents, old, advantages = rollout(net)
    out, expected = unstreamed(net, latents, old - 1, advantages.abs(), clip=0.2)
    streamed = cgt.streamed_backward(net, SAMPLER, latents, old - 1, advantages.abs(), CHUNKS, clip=0.2)
    assert [k for k, graph in net.runs if graph] == [15]
    ours = gradients(net)
    assert ours.keys() == expected.keys() and not any(grad.any() for grad in ours.values())
    torch.testing.assert_close(streamed.loss, out.loss, rtol=1e-6, atol=0)


def test_dropout_draws_the_same_in_both_passes(net):
    """The policy's ratio is then exactly 1, and the random numbers go on as after one pass."""
    latents, old, advantages = rollout(net)
    net.layers[2].p = 0.5
    state = torch.get_rng_state()
    v = torch.stack([net(latents[:, k], SIGMAS[k], k) for k in range(16)], 1)
    after, old = torch.get_rng_state(), cgt.log_probs(SAMPLER, latents, v.detach())
    cgt.chunk_policy_loss(SAMPLER, latents, v, old, advantages, CHUNKS).loss.backward()
    expected = gradients(net)
    torch.set_rng_state(state)
    streamed = cgt.streamed_backward(net, SAMPLER, latents, old, advantages, CHUNKS)
    assert (streamed.ratios == 1).all()
    assert torch.equal(torch.get_rng_state(), after)
    assert relative_difference(gradients(net), expected) <= 1e-6
    torch.set_rng_state(state)
    cgt.streamed_backward(net, SAMPLER, latents, old, advantages, CHUNKS, preserve_rng_state=False)
    assert relative_difference(gradients(net), expected) > 1e-2


@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_on_policy_the_gradient_is_the_same_without_the_first_pass(net, kl):
    """Also that of a KL to another policy, whose log-probabilities are not the old ones."""
    latents, _, advantages = rollout(net)
    with torch.no_grad():
        v = torch.stack([net(latents[:, k], SIGMAS[k], k) for k in range(16)], 1)
    old = cgt.log_probs(SAMPLER, latents, v)
    options = {"kl": kl, "reference_log_probs": old - 0.01, "selection": np.arange(24).reshape(6, 4) % 3 != 0}
    expected = cgt.streamed_backward(net, SAMPLER, latents, old, advantages, CHUNKS, **options)
    grads = gradients(net)
    net.runs.clear()
    found = cgt.streamed_backward(net, SAMPLER, latents, old, advantages, CHUNKS, on_policy=True, **options)
    assert [graph for _, graph in net.runs] == [True] * 16
    for name, grad in gradients(net).items():
        torch.testing.assert_close(grad, grads[name], rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(found.grad_log_probs, expected.grad_log_probs)
    assert torch.equal(found.new_log_probs, old) and (found.ratios == 1).all()


def test_on_policy_is_checked_in_a_samplers_first_loss_and_refused_with_a_ratio_bias(net):
    sampler = cg.Sampler(SCHEDULE, "dance_sde", 0.3, last_step="ode")
    latents, old, advantages = rollout(net)
    with torch.no_grad():
        net.layers[0].weight.mul_(1.5)
    with pytest.warns(cg.RatioWarning):
        first = cgt.streamed_backward(net, sampler, latents, old, advantages, CHUNKS, on_policy=True)
    grads = gradients(net)
    second = cgt.streamed_backward(net, sampler, latents, old, advantages, CHUNKS, on_policy=True)
    assert all(torch.equal(grad, grads[name]) for name, grad in gradients(net).items())
    assert (first.ratios == 1).all() and torch.equal(first.new_log_probs, second.new_log_probs)
    bias = lambda v, step: v.flatten(1).mean(1)  # noqa: E731
    with pytest.raises(cg.InvalidArgument, match="ratio_bias is given with on_policy=True"):
        cgt.streamed_backward(net, sampler, latents, old, advantages, CHUNKS, on_policy=True, ratio_bias=bias)


def test_micro_batches_add_up_to_the_batch(net):
    latents, old, advantages = rollout(net)
    _, expected = unstreamed(net, latents, old, advantages, kl=0.1)
    for part in (slice(0, 2), slice(2, 4), slice(4, 6)):
        cgt.streamed_backward(net, SAMPLER, latents[part], old[part], advantages[part], CHUNKS, kl=0.1, scale=1 / 3)
    assert relative_difference(gradients(net), expected) <= 1e-6


def test_a_grad_scaler_scales_and_skips_what_overflows(net):
    latents, old, advantages = rollout(net)
    _, expected = unstreamed(net, latents, old, advantages, clip=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    out = cgt.streamed_backward(net, SAMPLER, latents, old, advantages, CHUNKS, clip=1.0, scaler=scaler)
    assert relative_difference({k: p.grad / 1024 for k, p in net.named_parameters()}, expected) <= 1e-6
    assert abs(float(out.loss)) < 10  # the loss itself is not scaled
    before = [parameter.clone() for parameter in net.parameters()]
    scaler.unscale_(optimiser)
    scaler.step(optimiser)
    scaler.update()
    assert scaler.get_scale() == 2048
    for (name, parameter), old_value in zip(net.named_parameters(), before):
        torch.testing.assert_close(parameter, old_value - 0.1 * expected[name], rtol=1e-5, atol=1e-7)
    optimiser.zero_grad()

    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    before = [parameter.clone() for parameter in net.parameters()]
    half = lambda x, sigma, k: net(x, sigma, k).half()  # noqa: E731
    cgt.streamed_backward(half, SAMPLER, latents, old, advantages, CHUNKS, clip=1.0, scaler=scaler)
    assert not all(parameter.grad.isfinite().all() for parameter in net.parameters())
    scaler.step(optimiser)
    scaler.update()
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters())) and scaler.get_scale() < 2.0**40


def test_autocast_keeps_no_weights_from_the_pass_without_a_graph(net):
    latents, old, advantages = rollout(net)
    with torch.autocast("cpu", torch.bfloat16):
        _, expected = unstreamed(net, latents, old, advantages, clip=1.0)
        cgt.streamed_backward(net, SAMPLER, latents, old, advantages, CHUNKS, clip=1.0)
    ours = gradients(net)
    assert ours.keys() == expected.keys() == dict(net.named_parameters()).keys()
    assert relative_difference(ours, expected) <= 2e-2  # sums of sixteen steps in bfloat16


def test_guidance_penalty_and_ratio_bias_are_part_of_the_gradient(net):
    latents, old, advantages = rollout(net)
    old_v = torch.stack([net(latents[:, k], SIGMAS[k], k) for k in range(16)], 1).detach() + 0.05
    guided = lambda x, sigma, k: (net(x, sigma, k), net(0.5 * x, sigma, k))  # noqa: E731

    pairs = [guided(latents[:, k], SIGMAS[k], k) for k in range(16)]
    new = torch.stack(
        [
            cgt.log_prob(SAMPLER, k, latents[:, k], v, latents[:, k + 1], unconditional=u, guidance=2.0)
            for k, (v, u) in enumerate(pairs)
        ],
        1,
    )
    bias = cgt.divergences(SAMPLER, torch.stack([v for v, _ in pairs], 1), old_v)
    penalty = sum(0.01 * (k + 1) * (v**2).mean() for k, (v, _) in enumerate(pairs))
    out = cgt.chunk_loss(new, old, advantages, CHUNKS, clip=1.0, ratio_bias=bias)
    (out.loss + penalty).backward()
    expected = gradients(net)

    streamed = cgt.streamed_backward(
        *(guided, SAMPLER, latents, old, advantages, CHUNKS),
        guidance=2.0,
        penalty=lambda v, x, sigma, k: 0.01 * (k + 1) * (v**2).mean(),
        ratio_bias=lambda v, k: cgt.divergences(SAMPLER, v[:, None], old_v[:, k : k + 1], first_step=k)[:, 0],
        clip=1.0,
    )
    assert relative_difference(gradients(net), expected) <= 2e-6
    torch.testing.assert_close(streamed.loss, (out.loss + penalty).detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("every_step", [False, True])
def test_a_penalty_is_added_once_for_each_step_that_is_run(net, every_step):
    """Of the steps that some sample needs, or of all, whatever is selected."""
    latents, old, advantages = rollout(net)
    selection = np.zeros((len(latents), len(CHUNKS)), bool)
    selection[0, 1] = selection[1, 2] = True  # steps 2 ... 8
    term = lambda v, k: 0.01 * (k + 1) * (v**2).mean()  # noqa: E731
    v = torch.stack([net(latents[:, k], SIGMAS[k], k) for k in range(16)], 1)
    out = cgt.chunk_policy_loss(SAMPLER, latents, v, old, advantages, CHUNKS, selection=selection, check=False)
    added = sum(term(v[:, k], k) for k in (range(16) if every_step else range(2, 9)))
    (out.loss + added).backward()
    expected = gradients(net)
    streamed = cgt.streamed_backward(
        *(net, SAMPLER, latents, old, advantages, CHUNKS),
        **{"selection": selection, "every_step": every_step, "penalty": lambda v, x, sigma, k: term(v, k), "check": False},
    )
    assert relative_difference(gradients(net), expected) <= 2e-6
    torch.testing.assert_close(streamed.loss, (out.loss + added).detach(), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("columns", [range(17), [16], [16, 0, 3], []], ids=str)
def test_a_penalty_of_named_steps_is_added_there_alone_the_last_noiseless_one_too(net, columns, dropout):
    latents, old, advantages = rollout(net)
    with torch.no_grad():
        frozen = torch.stack([net(latents[:, k], SIGMAS[k], k) for k in range(17)], 1) + 0.1
    net.layers[2].p = dropout
    selection = CHUNKS.select(6, chunks=[1])  # steps 2 ... 4

    def penalty(v, x, sigma, k):
        assert torch.equal(x, latents[:, k]) and sigma == SIGMAS[k]
        return 0.02 * (k + 1) * cgt.divergence(SAMPLER, k, v, frozen[:, k], kind="velocity").mean()

    state = torch.get_rng_state()
    ran = sorted({2, 3, 4}.union(columns))
    # The first pass draws the dropout of the loss's steps, before that of the others.
    v = {k: net(latents[:, k], SIGMAS[k], k) for k in [2, 3, 4] + [k for k in ran if k not in (2, 3, 4)]}
    new = old.clone()
    new[:, 2:5] = cgt.log_probs(SAMPLER, latents[:, 2:6], torch.stack([v[k] for k in (2, 3, 4)], 1), 2)
    out = cgt.chunk_loss(new, old, advantages, CHUNKS, selection=selection, clip=1.0)
    added = sum(0.02 * (k + 1) * (v[k] - frozen[:, k]).square().mean() for k in columns)
    (out.loss + added).backward()
    expected, after = gradients(net), torch.get_rng_state()
    net.runs.clear()
    torch.set_rng_state(state)
    streamed = cgt.streamed_backward(
        *(net, SAMPLER, latents, old, advantages, CHUNKS),
        **{"selection": selection, "clip": 1.0, "penalty": penalty, "penalty_steps": columns, "check": False},
    )
    assert net.runs == [(k, False) for k in (2, 3, 4)] + [(k, True) for k in ran]
    assert relative_difference(gradients(net), expected) <= 2e-6
    assert torch.equal(torch.get_rng_state(), after)
    torch.testing.assert_close(streamed.loss, (out.loss + added).detach().double(), rtol=1e-6, atol=1e-8)


def test_a_penalty_beyond_a_window_of_each_sample_gets_the_steps_of_its_samples(net):
    latents, old, advantages = rollout(net)
    first = torch.tensor([0, 3, 0, 3, 1, 1])
    windows = torch.stack([latents[i, k : k + 4] for i, k in enumerate(first.tolist())])
    known = torch.stack([old[i, k : k + 2] for i, k in enumerate(first.tolist())])
    seen = []

    def mixed(x, sigma, step):
        return net.layers(torch.cat([x, sigma[:, None]], 1))

    def penalty(v, x, sigma, step):
        seen.append(step.tolist())
        return (v * torch.arange(1, 7)[:, None]).square().mean()

    v = [net.layers(torch.cat([windows[:, j], SCHEDULE_SIGMAS[first + j][:, None]], 1)) for j in range(4)]
    penalty_of_3 = (v[3] * torch.arange(1, 7)[:, None]).square().mean()
    new = cgt.log_probs(SAMPLER, windows[:, :3], torch.stack(v[:2], 1), first)
    (cgt.chunk_loss(new, known, advantages, [2], clip=1.0).loss + penalty_of_3).backward()
    expected = gradients(net)
    options = {"first_step": first, "clip": 1.0, "penalty": penalty, "check": False}
    cgt.streamed_backward(mixed, SAMPLER, windows, known, advantages, [2], penalty_steps=[3], **options)
    assert seen == [(first + 3).tolist()]
    assert relative_difference(gradients(net), expected) <= 2e-6


def test_a_guided_pair_and_the_last_synchronised_step_take_part_beyond_the_plan(net):
    """Whatever ran has a gradient, zero or not: what engines wait for."""
    latents, old, advantages = rollout(net)
    (no_sync, inside), log = watched(), []

    def pair(x, sigma, k):
        v, u = net(x, sigma, k), net(0.5 * x, sigma, k)
        if u.requires_grad:
            u.register_hook(lambda grad: log.append((k, inside[0], bool(grad.any()))))
        return v, u

    options = {"guidance": 2.0, "clip": 1.0, "penalty": lambda v, *_: v.square().mean(), "penalty_steps": [2, 16]}
    selection = CHUNKS.select(6, chunks=[1])  # steps 2 ... 4
    cgt.streamed_backward(
        pair, SAMPLER, latents, old, advantages, CHUNKS, selection=selection, no_sync=no_sync, check=False, **options
    )
    assert log == [(2, True, True), (3, True, True), (4, True, True), (16, False, False)]


@pytest.mark.parametrize(
    "wrong, kind, words",
    [
        ([17], ValueError, r"penalty_steps\[0\] is 17; it must be in 0 ... 16"), ([-1], ValueError, "penalty_steps"),
        ([1.5], TypeError, "penalty_steps"), (np.ones(17, bool), TypeError, "it must hold integers"),
        ([True], TypeError, "penalty_steps"), (3, ValueError, "penalty_steps has shape"),
        ([2, 5, 2], ValueError, "has 2 twice"), ("last", TypeError, "penalty_steps"),
    ],
)  # fmt: skip
def test_other_penalty_steps_are_refused_before_the_model_runs(net, wrong, kind, words):
    latents, old, advantages = rollout(net)
    options = {"penalty": lambda v, *_: v.square().mean(), "penalty_steps": wrong}
    with pytest.raises(kind, match=words) as caught:
        cgt.streamed_backward(net, SAMPLER, latents, old, advantages, CHUNKS, **options)
    assert isinstance(caught.value, cg.Error) and not net.runs
    with pytest.raises(ValueError, match="without a penalty"):
        cgt.streamed_backward(net, SAMPLER, latents, old, advantages, CHUNKS, penalty_steps=[16])
    with pytest.raises(ValueError, match=r"penalty_steps\[0\] is 4; .* 0 ... 3"):  # no frame, and then no step
        cgt.streamed_backward(net, SAMPLER, latents[:, :4], old[:, :3], advantages, [3], **{**options, "penalty_steps": [4]})


def test_the_unconditional_velocity_may_be_of_a_frozen_model(net):
    latents, old, advantages = rollout(net)
    frozen = Net()
    for free in (True, False):
        pair = lambda x, sigma, k: (net(x, sigma, k), frozen(x, sigma, k))  # noqa: E731
        cgt.streamed_backward(pair, SAMPLER, latents, old, advantages, CHUNKS, guidance=2.0, clip=1.0)
        assert all((parameter.grad is not None) == free for parameter in frozen.parameters())
        if free:
            expected = gradients(net)
            frozen.zero_grad()
            frozen.requires_grad_(False)
    assert relative_difference(gradients(net), expected) == 0


def test_a_plan_may_start_later_and_every_step_be_run(net):
    latents, old, advantages = rollout(net)
    new = cgt.log_probs(
        SAMPLER, latents[:, 5:], torch.stack([net(latents[:, k], SIGMAS[k], k) for k in range(5, 9)], 1), 5
    )
    cgt.chunk_loss(new, old[:, 5:9], advantages, [1, 3], clip=1.0).loss.backward()
    expected = gradients(net)
    net.runs.clear()
    cgt.streamed_backward(net, SAMPLER, latents[:, 5:10], old[:, 5:9], advantages, [1, 3], first_step=5, clip=1.0)
    assert net.runs == [(k, graph) for graph in (False, True) for k in range(5, 9)]
    assert relative_difference(gradients(net), expected) <= 1e-6
    net.runs.clear()
    chosen = cg.ChunkPlan([1, 3]).select(6, chunks=[0])
    options = {"first_step": 5, "clip": 1.0, "selection": chosen, "every_step": True}
    cgt.streamed_backward(net, SAMPLER, latents[:, 5:10], old[:, 5:9], advantages, [1, 3], **options)
    assert net.runs == [(k, graph) for graph in (False, True) for k in range(5, 9)]


def test_latents_in_bfloat16_and_latents_made_under_inference_mode_are_streamed_too(net):
    with torch.inference_mode():
        latents, old, advantages = (tensor.clone() for tensor in rollout(net))
    assert latents.is_inference()
    _, expected = unstreamed(
        net, *(torch.tensor(t.tolist(), dtype=t.dtype) for t in (latents, old, advantages)), clip=1.0
    )
    cgt.streamed_backward(net, SAMPLER, latents, old, advantages, CHUNKS, clip=1.0)
    assert relative_difference(gradients(net), expected) <= 1e-6

    half = Net().bfloat16()
    latents, old, advantages = rollout_in_bfloat16(half)
    out = cgt.streamed_backward(half, SAMPLER, latents, old, advantages, CHUNKS)
    assert (out.ratios == 1).all() and all(p.grad.dtype == torch.bfloat16 and p.grad.any() for p in half.parameters())


def rollout_in_bfloat16(net):
    x_init = cg.initial_noise((6, 8), 1, like=torch.empty(0, dtype=torch.bfloat16))
    trajectory = SAMPLER.rollout(net, x_init, seed=1)
    return trajectory.latents, trajectory.log_probs, cg.advantages(trajectory.images[:, 0], len(trajectory.images))


def test_what_cannot_be_streamed_is_refused_and_leaves_no_gradient(net):
    latents, old, advantages = rollout(net)

    def refuse(kind, words, velocity=net, latents=latents, old=old, plan=CHUNKS, **options):
        with pytest.raises(kind, match=words) as caught:
            cgt.streamed_backward(velocity, SAMPLER, latents, old, advantages, plan, **options)
        assert isinstance(caught.value, cg.Error) and all(parameter.grad is None for parameter in net.parameters())

    frozen = lambda x, sigma, k: net(x, sigma, k).detach()  # noqa: E731
    refuse(ValueError, "returned for step 0 has no graph", velocity=frozen)
    refuse(ValueError, "the velocity returned has shape", velocity=lambda x, sigma, k: net(x, sigma, k)[:, :3])
    refuse(
        TypeError,
        "the velocity returned a list; it must return a torch.Tensor",
        velocity=lambda x, sigma, k: net(x, sigma, k).tolist(),
    )
    refuse(TypeError, "the velocity returned has element type torch.int64", velocity=lambda x, *_: x.long())
    refuse(cg.NonFinite, "sample 0 at step 0", velocity=lambda x, sigma, k: net(x, sigma, k) * float("nan"))
    refuse(ValueError, "latents has shape", latents=latents[:, :16])
    refuse(ValueError, "16 steps from first_step 2 on end beyond the schedule's 17", first_step=2)
    refuse(ValueError, "first_step is -1", first_step=-1)
    refuse(ValueError, "old_log_probs has shape", old=old[:, :15])
    refuse(ValueError, "latents requires grad", latents=latents.clone().requires_grad_())
    refuse(ValueError, "old_log_probs requires grad", old=old.clone().requires_grad_())
    refuse(ValueError, "no step is selected", selection=np.zeros((6, 4), bool))
    refuse(ValueError, "clip", clip=-1.0)
    with torch.inference_mode():
        refuse(ValueError, "inference_mode")
    with torch.no_grad():  # needs no graph around it
        cgt.streamed_backward(net, SAMPLER, latents, old, advantages, CHUNKS)
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_a_model_that_writes_to_its_latents_is_refused_and_they_stay_as_they_are(net):
    latents, old, advantages = rollout(net)
    before = latents.clone()

    def writes(x, sigma, k):
        v = net(x, sigma, k)
        x.mul_(0.5)
        return v

    with pytest.raises(cg.InvalidArgument, match="the velocity has written to its latents"):
        cgt.streamed_backward(writes, SAMPLER, latents, old, advantages, CHUNKS)
    penalty = lambda v, x, sigma, k: x.mul_(0.5).sum() + v.mean()  # noqa: E731
    with pytest.raises(cg.InvalidArgument, match="the penalty has written to its latents"):
        cgt.streamed_backward(net, SAMPLER, latents, old, advantages, CHUNKS, penalty=penalty)
    assert torch.equal(latents, before) and all(parameter.grad is None for parameter in net.parameters())


def test_what_callbacks_return_by_mistake_is_named_with_the_remedy(net):
    from types import SimpleNamespace

    latents, old, advantages = rollout(net)

    def refuse(kind, words, velocity=net, **options):
        with pytest.raises(kind, match=words) as caught:
            cgt.streamed_backward(velocity, SAMPLER, latents, old, advantages, CHUNKS, **options)
        assert isinstance(caught.value, cg.Error)
        net.zero_grad()

    refuse(TypeError, r"returned a tuple of 1; return its \[0\]", velocity=lambda *given: (net(*given),))
    refuse(TypeError, r"a list of 1; return its \[0\]$", velocity=lambda *given: [net(*given)])
    pair = r"a tuple of 3; return its \[0\], or the pair \(conditional, unconditional\)"
    refuse(TypeError, pair, velocity=lambda *given: (net(*given),) * 3)
    wrapped = lambda *given: SimpleNamespace(sample=net(*given))  # noqa: E731
    refuse(TypeError, r"a tuple of 2; return its \[0\]", velocity=lambda *given: (wrapped(*given),) * 2)
    refuse(TypeError, "a dict; return the array in it", velocity=lambda *given: {"sample": net(*given)})
    refuse(TypeError, "returned a ndarray; it must return a torch.Tensor", velocity=lambda x, *_: x.numpy())
    refuse(TypeError, r"return its \.sample", velocity=lambda *given: SimpleNamespace(sample=net(*given)))
    refuse(TypeError, "the velocity returned None; .*is a `return` missing", velocity=lambda *given: None)
    refuse(TypeError, "the velocity returned a float; it must return an array", velocity=lambda *given: 0.5)
    refuse(TypeError, "the penalty returned must be a 0-dim torch.Tensor, not float", penalty=lambda *given: 0.5)
    refuse(ValueError, r"the penalty returned has shape \(6,\).*take its mean", penalty=lambda v, *_: v.mean(1))
    refuse(TypeError, "the penalty returned must be .* not NoneType", penalty=lambda *given: None)
    refuse(ArithmeticError, "the penalty returned for step 0 is nan", penalty=lambda v, *_: v.mean() * math.nan)
    refuse(TypeError, "the penalty returned has element type", penalty=lambda v, *_: v.mean() + 0j)
    refuse(ValueError, "the penalty returned has no graph", penalty=lambda v, *_: v.detach().mean())
    refuse(TypeError, r"the ratio_bias .* torch.Tensor of shape \(6,\), not float", ratio_bias=lambda *given: 0.5)
    refuse(ValueError, r"the ratio_bias returned has shape \(\); it must be \(6,\)", ratio_bias=lambda v, _: v.mean())
    refuse(TypeError, "the ratio_bias .* not tuple", ratio_bias=lambda v, _: (v.mean(1),))
    refuse(TypeError, "the ratio_bias .* element type", ratio_bias=lambda v, _: v.mean(1) + 0j)
    refuse(ArithmeticError, "ratio_bias of sample 0 at step 0 is nan", ratio_bias=lambda v, _: v.mean(1) * math.nan)
    constant = lambda v, _: v.detach().square().mean(1)  # noqa: E731
    refuse(ValueError, "the ratio_bias returned has no graph", ratio_bias=constant)


def test_swapped_arguments_are_named(net):
    latents, old, advantages = rollout(net)
    with pytest.raises(cg.WrongType, match="velocity must be callable, not Sampler"):
        cgt.streamed_backward(SAMPLER, net, latents, old, advantages, CHUNKS)
    v = torch.zeros(6, 16, 8)
    for call in (
        lambda: cgt.streamed_backward(net, SAMPLER, latents, old, CHUNKS, advantages),
        lambda: cgt.chunk_policy_loss(SAMPLER, latents, v, old, CHUNKS, advantages),
        lambda: cgt.chunk_loss(old, old, CHUNKS, advantages),
        lambda: cg.chunk_loss(old, old, CHUNKS, advantages),
    ):
        with pytest.raises(cg.WrongType, match="plan must be a ChunkPlan or its sizes.*swapped"):
            call()
    with pytest.raises(cg.WrongType, match="sampler must be a chunkgrpo.Sampler, not Tensor"):
        cgt.chunk_policy_loss(latents, SAMPLER, v, old, advantages, CHUNKS)
    x = latents[:, 0]
    for call in (
        lambda: cgt.log_prob(3, SAMPLER, x, x, x),
        lambda: cgt.step(3, SAMPLER, x, x),
        lambda: cg.tempflow_weights(CHUNKS, SCHEDULE),
        lambda: cg.divergences(v, SAMPLER, v),
        lambda: cg.divergences_from_sampled(latents, SAMPLER, v, seed=1),
    ):
        with pytest.raises(cg.WrongType, match="sampler must be a chunkgrpo.Sampler, not"):
            call()
    with pytest.raises(cg.WrongType, match="velocity must be callable, not Tensor"):
        SAMPLER.rollout(x, net, seed=1)
    with pytest.raises(cg.WrongType, match="source must be a chunkgrpo.Schedule, not int"):
        CHUNKS.carried(17, 50)


def test_latents_of_other_frames_are_refused_where_their_number_tells(net):
    latents, old, advantages = rollout(net)
    v, late = torch.zeros(6, 13, 8), cg.ChunkPlan([13])
    words = r"18 frames; from first_step 3 on there are 15. latents\[:, 0\] must be what step 3 takes"
    for call in (
        lambda: cgt.streamed_backward(net, SAMPLER, latents, old[:, 3:], advantages, late, first_step=3),
        lambda: cgt.chunk_policy_loss(SAMPLER, latents, v, old[:, 3:], advantages, late, first_step=3),
        lambda: cgt.log_probs(SAMPLER, latents, v, 3),
        lambda: SAMPLER.log_probs(latents, v, 3),
        lambda: SAMPLER.log_probs_vjp(latents, v, torch.ones(6, 13), 3),
        lambda: cg.divergences_from_sampled(SAMPLER, latents, v, seed=1, first_step=3),
        lambda: cg.divergences_from_sampled_vjp(SAMPLER, latents, v, torch.ones(6, 13), seed=1, first_step=3),
    ):
        with pytest.raises(cg.InvalidArgument, match=words):
            call()


WINDOW = cg.Sampler(SCHEDULE, "flow_sde", 0.7, window=[4, 5, 6])


@pytest.mark.parametrize("by", ["mask", "selection"])
def test_a_window_between_deterministic_steps_is_trained_by_mask_and_by_selection(net, by):
    trajectory = WINDOW.rollout(net, cg.initial_noise((6, 8), 1, like=torch.empty(0)), seed=1)
    advantages = torch.tensor([1.0, -0.5, 2.0, -1.5, 0.7, -0.2])
    plan = cg.ChunkPlan([4, 3, 9])
    inside = np.zeros((6, 16), bool)
    inside[:, 4:7] = True
    options = {"mask": inside} if by == "mask" else {"selection": plan.select(6, chunks=[1])}
    v = lambda steps: torch.stack([net(trajectory.latents[:, k], SIGMAS[k], k) for k in steps], 1)  # noqa: E731

    old = trajectory.log_probs - 0.01  # as if the weights had moved since
    part = cg.Sampler.log_probs(WINDOW, trajectory.latents[:, 4:8], v(range(4, 7)).detach(), 4)
    expected = cgt.chunk_policy_loss(
        *(WINDOW, trajectory.latents[:, 4:8], v(range(4, 7)), old[:, 4:7], advantages, [3]), first_step=4, clip=1.0
    )
    expected.loss.backward()
    wanted = gradients(net)
    out = cgt.chunk_policy_loss(WINDOW, trajectory.latents, v(range(16)), old, advantages, plan, clip=1.0, **options)
    out.loss.backward()
    assert out.loss.item() == expected.loss.item()
    assert relative_difference(gradients(net), wanted) <= 1e-6
    assert torch.equal(out.new_log_probs[:, 4:7], part) and torch.equal(out.new_log_probs[:, :4], old[:, :4])
    streamed = cgt.streamed_backward(net, WINDOW, trajectory.latents, old, advantages, plan, clip=1.0, **options)
    assert streamed.loss.item() == expected.loss.item()
    assert relative_difference(gradients(net), wanted) <= 1e-6


def test_later_chunks_of_a_trajectory_that_began_elsewhere_are_trained_alone(net):
    whole = SAMPLER.rollout(net, cg.initial_noise((6, 8), 1, like=torch.empty(0)), seed=1)
    later = SAMPLER.begin(whole.latents[:, 5], seed=1, position=5)
    later.advance(net)
    advantages, selection = torch.tensor([1.0, -0.5, 2.0, -1.5, 0.7, -0.2]), CHUNKS.select(6, chunks=[2, 3])
    assert later.log_probs[:, :5].isnan().all() and later.latents[:, :5].isnan().all()
    v = lambda: torch.stack([net(whole.latents[:, k], SIGMAS[k], k) for k in range(16)], 1)  # noqa: E731
    options = {"selection": selection, "clip": 1.0}
    cgt.chunk_policy_loss(SAMPLER, whole.latents, v(), whole.log_probs, advantages, CHUNKS, **options).loss.backward()
    expected = gradients(net)
    out = cgt.chunk_policy_loss(SAMPLER, later.latents, v(), later.log_probs, advantages, CHUNKS, **options)
    out.loss.backward()
    assert relative_difference(gradients(net), expected) == 0
    assert out.new_log_probs[:, :5].isnan().all() and not out.new_log_probs[:, 5:].isnan().any()
    net.runs.clear()
    streamed = cgt.streamed_backward(net, SAMPLER, later.latents, later.log_probs, advantages, CHUNKS, **options)
    assert relative_difference(gradients(net), expected) <= 1e-6
    assert {k for k, _ in net.runs} == set(range(5, 16))
    assert torch.equal(streamed.new_log_probs.isnan(), out.new_log_probs.isnan())


# ----------------------------------------------------------------------------------------------------------------------
# Several processes


def test_no_sync_is_left_for_the_last_step_alone(net):
    latents, old, advantages = rollout(net)
    (no_sync, inside), log = watched(), []

    def velocity(x, sigma, k):
        v = net(x, sigma, k)
        if v.requires_grad:
            log.append(("forward", k, inside[0]))
            v.register_hook(lambda grad: log.append(("backward", k, inside[0])))
        return v

    cgt.streamed_backward(velocity, SAMPLER, latents, old, advantages, CHUNKS, no_sync=no_sync, clip=1.0)
    assert log == [(way, k, k != 15) for k in range(16) for way in ("forward", "backward")]


CASES = (False, True)
"""Whether the second rank finds all its chunks clipped."""


def rank(number, folder):
    """Process `number` of two: its half of the batch through DistributedDataParallel."""
    from torch.nn.parallel import DistributedDataParallel

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        *("gloo", f"file://{folder}/meet"), timeout=timedelta(seconds=100), rank=number, world_size=2
    )
    half = slice(3 * number, 3 * number + 3)
    for clipped in CASES:
        net, latents, old, advantages = example(clipped)
        model, selection = DistributedDataParallel(net), CHUNKS.select(6, 0.5, seed=2)[half]
        options = {"clip": 0.2, "selection": selection, "no_sync": model.no_sync}
        for _ in range(2):  # and they may be added up
            cgt.streamed_backward(model, SAMPLER, latents[half], old[half], advantages[half], CHUNKS, **options)
        torch.save((gradients(net), net.runs), f"{folder}/{number}-{clipped}")
    torch.distributed.barrier()
    os._exit(0)  # PyTorch's own destructors may wait for each other here: one for the GIL, one with it


def example(clipped):
    torch.manual_seed(0)
    net = Net()
    latents, old, advantages = rollout(net)
    if clipped:
        old[3:], advantages[3:] = old[3:] - 1, advantages[3:].abs()
    return net, latents, old, advantages


def test_ranks_of_ddp_end_with_the_mean_of_their_gradients(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    torch.multiprocessing.spawn(rank, (str(tmp_path),), nprocs=2)
    for clipped in CASES:
        net, latents, old, advantages = example(clipped)
        _, expected = unstreamed(net, latents, old, advantages, clip=0.2, selection=CHUNKS.select(6, 0.5, seed=2))
        for number in range(2):
            grads, runs = torch.load(tmp_path / f"{number}-{clipped}")
            assert relative_difference({name: grad / 2 for name, grad in grads.items()}, expected) <= 1e-6
            if clipped and number == 1:
                assert sum(graph for _, graph in runs) == 2  # one backward pass of zeros a call
