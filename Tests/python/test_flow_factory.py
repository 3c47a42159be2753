"""The trainer of chunkgrpo.flow_factory against autograd, on a stand-in of Flow-Factory or on itself."""

from __future__ import annotations

import types

import numpy as np
import pytest
from conftest import ROOT as _  # noqa: F401  (puts the package on the path)

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

from flow_factory_policy import (  # noqa: E402
    Adapter, arguments, cff, cg, expected, frames, gradient, log_probs_of, rollouts, scheduler, trained, trainer_of,
)


@pytest.mark.parametrize("chunks", [1, [1, 2, 3], 4, [6]])
@pytest.mark.parametrize("clip", [1e-4, 0.3])
def test_a_step_of_the_trainer_is_the_gradient_of_the_chunk_loss(chunks, clip):
    trainer, adapter, samples = trained({"chunks": chunks, "clip_range": clip})
    plan = cg.ChunkPlan.fixed(6, chunks) if isinstance(chunks, int) else chunks
    loss, grad = expected(adapter, samples, plan, clip=clip)
    (logged,) = trainer.logged
    assert abs(float(logged["train/loss"]) - loss) < 1e-6
    assert (gradient(adapter) - grad).norm() < 1e-5 * grad.norm()
    assert logged["train/grad_norm"] == pytest.approx(float(grad.norm()), rel=1e-5)


def test_steps_of_one_take_one_forward_pass_and_chunks_two():
    assert trained({"chunks": 1})[1].calls == 6
    assert trained({"chunks": 2})[1].calls == 12


def test_chunks_of_one_step_are_ppo_step_by_step():
    """The loss as Flow-GRPO writes it, in autograd."""
    _, adapter, samples = trained({"chunks": 1, "clip_range": 0.01})
    new = log_probs_of(adapter, samples, range(1, 7))
    old = torch.stack([s.log_probs[1:7] for s in samples])
    advantage = torch.stack([s.extra_kwargs["advantage"] for s in samples])[:, None]
    ratio = torch.exp(new - old)
    loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(0.99, 1.01)).mean()
    grads = torch.autograd.grad(loss, adapter.get_trainable_parameters())
    grad = torch.cat([g.flatten() for g in grads]).double()
    assert (gradient(adapter) - grad).norm() < 1e-5 * grad.norm()


@pytest.mark.parametrize(
    "loss, more",
    [
        ({"surrogate": "spo"}, {"clip_range": 0.1}),
        ({"surrogate": "cispo", "average": "step"}, {"clip_range": 0.1}),
        ({"surrogate": "sapo", "average": "sample"}, {}),
        ({"surrogate": "log_clipped"}, {"clip_range": 0.1}),
        ({"surrogate": "vespo", "vespo_k_pos": 1.5}, {}),
        ({"surrogate": "unclipped", "kl": 0.1, "kl_estimator": "k2", "kl_level": "step"}, {}),
        ({"dual_clip": 3.0, "kl": 0.01}, {"clip_range": [-0.1, 0.2]}),
    ],
)
def test_every_objective_is_reached(loss, more):
    trainer, adapter, samples = trained({"chunks": [2, 4], "loss": loss, **more})
    clip = {} if "clip_range" not in more else {"clip": (0.1, 0.2) if loss.get("dual_clip") else 0.1}
    value, grad = expected(adapter, samples, [2, 4], **loss, **clip)
    assert abs(float(trainer.logged[0]["train/loss"]) - value) < 1e-6
    assert (gradient(adapter) - grad).norm() < 1e-5 * grad.norm()


def test_a_selection_trains_its_chunks_and_runs_no_other_step():
    options = {"chunks": [2, 1, 3], "chunk_fraction": 0.34, "per_device_batch_size": 1}
    trainer, adapter, samples = trained(options, accumulate=4)
    # In the order of the epoch's permutation, one micro-batch each.
    from flow_factory.utils.base import create_generator

    order = torch.randperm(4, generator=create_generator(42, 0, 0)).numpy()
    seed = int(np.random.SeedSequence([42, 0, 0]).generate_state(1, np.uint64)[0])
    chosen = cg.ChunkPlan([2, 1, 3]).select(4, fraction=0.34, seed=seed, sample_ids=order)
    assert chosen.sum(1).tolist() == [1] * 4
    assert adapter.calls == 2 * (chosen @ [2, 1, 3]).sum()
    value, grad = expected(adapter, [samples[i] for i in order], [2, 1, 3], clip=1e-4, selection=chosen)
    assert (gradient(adapter) - grad).norm() < 1e-5 * grad.norm()
    assert abs(float(trainer.logged[0]["train/loss"]) - value) < 1e-6
    assert trainer.logged[0]["train/chunk_selected"] == 4


def test_micro_batches_add_up_to_one_batch():
    whole = trained({"chunks": 3, "per_device_batch_size": 8}, count=8)
    parts = trained({"chunks": 3, "per_device_batch_size": 2}, count=8, accumulate=4)
    assert torch.allclose(gradient(whole[1]), gradient(parts[1]), rtol=1e-5, atol=1e-9)
    assert len(parts[0].logged) == 1 and parts[0].step == 1
    for name in ("loss", "chunk_ratio_mean", "chunk_selected", "ratio_max"):
        one, many = (float(trainer.logged[0][f"train/{name}"]) for trainer in (whole[0], parts[0]))
        assert many == pytest.approx(one, abs=1e-6)


@pytest.mark.parametrize("kl_type", ["v-based", "x-based"])
def test_the_kl_of_flow_factory_is_added_at_each_step(kl_type):
    options = {"chunks": 3, "kl_beta": 0.5, "kl_type": kl_type, "clip_range": 0.3}
    trainer, adapter, samples = trained(options)
    _, grad = expected(adapter, samples, [3, 3], clip=0.3)
    name = "noise_pred" if kl_type == "v-based" else "next_latents_mean"

    def values():
        rows = []
        for i in range(1, 7):
            x, y = frames(samples, i), frames(samples, i + 1)
            times, embeds = samples[0].timesteps, torch.stack([s.prompt_embeds for s in samples])
            rows.append(getattr(adapter.forward(times[i], x, embeds, times[i + 1], y, 0.7, return_kwargs=[name]), name))
        return torch.stack(rows)

    with torch.no_grad(), adapter.use_ref_parameters():
        reference = values()
    kl = ((values() - reference) ** 2).mean()
    own = torch.autograd.grad(0.5 * kl, adapter.get_trainable_parameters())
    grad = grad + torch.cat([g.flatten() for g in own]).double()
    assert (gradient(adapter) - grad).norm() < 1e-5 * grad.norm()
    assert float(trainer.logged[0]["train/kl_div"]) == pytest.approx(kl.item(), rel=1e-5)


def test_the_kl_of_flow_factory_has_its_weight_whatever_steps_are_run():
    """Its part of the gradient is that of a mean over the steps, with few ranks (which run few) as with many."""
    options = {"chunks": [2, 1, 3], "chunk_fraction": 0.34, "per_device_batch_size": 1}
    _, plain, _ = trained(options, count=1)
    _, weighted, samples = trained({**options, "kl_beta": 0.5, "kl_type": "v-based"}, count=1)
    seed = int(np.random.SeedSequence([42, 0, 0]).generate_state(1, np.uint64)[0])
    plan = cg.ChunkPlan([2, 1, 3])
    chosen = np.repeat(plan.select(1, fraction=0.34, seed=seed, sample_ids=[0]), plan.sizes, 1)[0]
    assert 0 < chosen.sum() < 6
    distances = []
    for i in 1 + np.flatnonzero(chosen):
        x, y, times = frames(samples, i), frames(samples, i + 1), samples[0].timesteps
        given = times[i], x, torch.stack([s.prompt_embeds for s in samples]), times[i + 1], y, 0.7
        own = weighted.forward(*given, return_kwargs=["noise_pred"]).noise_pred
        with torch.no_grad(), weighted.use_ref_parameters():
            reference = weighted.forward(*given, return_kwargs=["noise_pred"]).noise_pred
        distances.append(((own - reference) ** 2).mean())
    slope = torch.autograd.grad(0.5 * torch.stack(distances).mean(), weighted.get_trainable_parameters())
    slope = torch.cat([g.flatten() for g in slope]).double()
    assert (gradient(weighted) - gradient(plain) - slope).norm() < 1e-5 * slope.norm()


def test_the_estimated_kl_may_be_to_the_reference():
    options = {"chunks": 3, "loss": {"kl": 0.2}, "kl_reference": "reference", "clip_range": 0.3}
    trainer, adapter, samples = trained(options)
    with torch.no_grad(), adapter.use_ref_parameters():
        reference = log_probs_of(adapter, samples, range(1, 7))
    value, grad = expected(adapter, samples, [3, 3], clip=0.3, kl=0.2, reference_log_probs=reference)
    assert (gradient(adapter) - grad).norm() < 1e-5 * grad.norm()
    assert abs(float(trainer.logged[0]["train/loss"]) - value) < 1e-6


def divergence_of(adapter, samples):
    """(B, S): |m - m_old|^2 / (2 s^2) and s (S,), with a graph."""
    times, rows, scales = samples[0].timesteps, [], []
    for i in range(1, 7):
        x, y = frames(samples, i), frames(samples, i + 1)
        embeds = torch.stack([s.prompt_embeds for s in samples])
        names = ["next_latents_mean", "std_dev_t", "dt"]
        out = adapter.forward(times[i], x, embeds, times[i + 1], y, 0.7, return_kwargs=names)
        scales.append((out.std_dev_t * torch.sqrt(-out.dt)).flatten()[0])
        moved = out.next_latents_mean - torch.stack([s.extra_kwargs["next_latents_mean"][i] for s in samples])
        rows.append(moved.flatten(1).square().mean(1) / (2 * scales[-1] ** 2))
    return torch.stack(rows, 1), torch.stack(scales)


@pytest.mark.parametrize("chunks", [1, [2, 4]])
def test_grpo_guard_normalises_the_ratios(chunks):
    trainer, adapter, samples = trained({"chunks": chunks, "ratio_norm": "grpo_guard", "clip_range": 0.3}, means=True)
    bias, scale = divergence_of(adapter, samples)
    given = {"ratio_bias": bias, "ratio_scale": scale.detach().numpy(), "clip": 0.3}
    value, grad = expected(adapter, samples, [1] * 6 if chunks == 1 else chunks, **given)
    assert (gradient(adapter) - grad).norm() < 2e-5 * grad.norm()
    assert abs(float(trainer.logged[0]["train/loss"]) - value) < 1e-6


def test_the_divergence_mask_has_the_divergences():
    options = {"surrogate": "divergence_mask", "divergence_threshold": 1e-3}
    trainer, adapter, samples = trained({"chunks": [2, 4], "loss": options}, means=True)
    divergence, _ = divergence_of(adapter, samples)
    value, grad = expected(adapter, samples, [2, 4], divergence=divergence.detach(), **options)
    assert (gradient(adapter) - grad).norm() < 1e-5 * grad.norm()
    assert abs(float(trainer.logged[0]["train/loss"]) - value) < 1e-6


@pytest.mark.parametrize("kind", ["adaptive", "optimal"])
def test_a_plan_is_found_once_from_the_first_rollouts(kind):
    trainer, adapter, samples = trained({"chunks": kind})
    curve = cg.relative_l1(torch.stack([s.all_latents[1:8] for s in samples]).numpy())
    plan = cg.ChunkPlan.adaptive(curve) if kind == "adaptive" else cg.ChunkPlan.optimal(curve).plan
    value, grad = expected(adapter, samples, plan, clip=1e-4)
    assert trainer._found == plan and (gradient(adapter) - grad).norm() < 1e-5 * grad.norm()


def test_both_passes_draw_the_same_dropout():
    adapter = Adapter(scheduler())
    samples = rollouts(adapter, moved=0.0)
    adapter.net = torch.nn.Sequential(adapter.net, torch.nn.Dropout(0.5))
    trainer = trainer_of(cff.ChunkGRPOTrainer, arguments(chunks=3), adapter)
    seen = []
    adapter.net.register_forward_hook(lambda module, inputs, output: seen.append(output.detach().clone()))
    trainer.optimize(samples)
    assert all(torch.equal(a, b) for a, b in zip(seen[:6], seen[6:])) and not torch.equal(seen[0] != 0, seen[1] != 0)


def test_the_first_pass_can_be_skipped_until_the_first_update():
    """The gradient of the first update is the same; later ones take both passes."""
    adapter = Adapter(scheduler())
    samples = rollouts(adapter, moved=0.0)
    adapter.calls = 0
    options = {"chunks": [2, 4], "skip_first_pass": True, "num_inner_epochs": 2}
    trainer = trainer_of(cff.ChunkGRPOTrainer, arguments(**options), adapter)
    _, grad = expected(adapter, samples, [2, 4], clip=1e-4)
    adapter.calls = 0
    trainer.optimize(samples)
    assert adapter.calls == 6 + 12
    assert trainer.logged[0]["train/grad_norm"] == pytest.approx(float(grad.norm()), rel=1e-5)
    assert float(trainer.logged[0]["train/chunk_ratio_std"]) == 0
    with pytest.raises(cg.InvalidArgument, match="skip_first_pass leaves out"):
        arguments(skip_first_pass=True, ratio_norm="grpo_guard")


def test_a_random_subset_of_steps_is_trained_in_their_order():
    trainer, adapter, samples = trained({"chunks": [1, 2], "gradient_accumulation_steps": 3}, num_sde_steps=3)
    steps = sorted(adapter.scheduler.train_timesteps.tolist())
    assert len(steps) == 3
    _, grad = expected(adapter, samples, [1, 2], steps=steps, clip=1e-4)
    assert (gradient(adapter) - grad).norm() < 1e-5 * grad.norm()


def test_advantages_are_those_of_the_library():
    adapter = Adapter(scheduler())
    samples = rollouts(adapter, 6)
    options = {"baseline": "leave_one_out", "scale": "none"}
    trainer = trainer_of(cff.ChunkGRPOTrainer, arguments(advantages=options), adapter)
    processor = types.SimpleNamespace(reward_weights={"a": 1.0, "b": 0.5}, _pending_advantage_metrics=None)
    rewards = {"a": torch.tensor([1.0, 2.0, 0.0, 4.0, 1.0, 1.0]), "b": torch.tensor([0.0, 2.0, 1.0, 1.0, 3.0, 0.0])}
    found = trainer._advantages(processor, samples, rewards, True)
    rows = torch.stack([rewards["a"], rewards["b"]], 1).double().numpy()
    want = cg.advantages(rows, 2, weights=[1.0, 0.5], **options)
    assert found.tolist() == pytest.approx(want) and [s.extra_kwargs["advantage"] for s in samples] == found.tolist()
    (logged,) = trainer.logged
    assert logged["train/reward_a_mean"] == 1.5 and logged["train/reward_mean"] == pytest.approx(1.5 + 3.5 / 6)
