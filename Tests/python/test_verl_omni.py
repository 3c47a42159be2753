"""Chunk-GRPO inside verl-omni's own engine and loss. Skipped without a checkout of verl-omni (its commit a1139ba was
tried), named by CHUNKGRPO_VERL_OMNI, and the packages that its engine imports: verl 0.9.1, tensordict."""

from __future__ import annotations

import os
import re
import types

import numpy as np
import pytest
from conftest import ROOT

import chunkgrpo as cg

if not os.environ.get("CHUNKGRPO_VERL_OMNI"):
    pytest.skip("CHUNKGRPO_VERL_OMNI names no checkout of verl-omni", allow_module_level=True)
for package in ("torch", "verl", "tensordict"):
    pytest.importorskip(package, reason=f"{package} is not installed, which verl-omni needs")

import torch  # noqa: E402
import verl_omni_tiny as tiny  # noqa: E402

tiny.load()
from verl_omni.workers.config.diffusion.actor import DiffusionLossConfig  # noqa: E402
from verl_omni.workers.engine.fsdp.diffusers_impl import PPODiffusersFSDPEngine  # noqa: E402

import chunkgrpo.verl_omni as cgv  # noqa: E402

B, S = 4, 5
ADVANTAGES = torch.tensor([1.0, -1.0, 0.5, -7.0])
CLAMPED = [1.0, -1.0, 0.5, -5.0]


class Job:
    """A rollout by one policy, and another one that is trained on it."""

    def __init__(self):
        self.net = tiny.transformer()
        self.data, self.found = tiny.rollout(tiny.engine(PPODiffusersFSDPEngine, self.net), B, S)
        self.data["advantages"] = ADVANTAGES[:, None].expand(B, S).contiguous()
        tiny.moved(self.net)

    def run(self, kind, loss, micro_batch=B, made=None, **options):
        """verl-omni's output of an update, and the gradient of all parameters."""
        from verl.utils import tensordict_utils as tu

        self.net.zero_grad()
        made = tiny.engine(kind, self.net) if made is None else made
        tu.assign_non_tensor(self.data, micro_batch_size_per_gpu=micro_batch)
        output = made.forward_backward_batch(self.data, tiny.actor(loss, **options))
        return output, torch.cat([p.grad.flatten() for p in self.net.parameters() if p.grad is not None])

    def ours(self, plan=(1,) * S, **options):
        micro_batch, made = options.pop("micro_batch", B), options.pop("made", None)
        return self.run(cgv.ChunkFSDPEngine, cgv.ChunkLossConfig(plan=list(plan), **options), micro_batch, made)

    def expected(self, plan, **options):
        """`chunk_loss` of the policy's log-probabilities, and the gradient of its slopes by one graph."""
        made, new = tiny.engine(PPODiffusersFSDPEngine, self.net), []
        self.net.zero_grad()
        from verl.utils import tensordict_utils as tu

        tu.assign_non_tensor(self.data, gradient_accumulation_steps=1, sp_size=1)
        for step in range(S):
            inputs = made.prepare_model_inputs(micro_batch=self.data, step=step)
            from verl_omni.pipelines.utils import forward_and_sample_previous_step

            given = {"model_inputs": inputs[0], "negative_model_inputs": None, "scheduler_inputs": self.data, "step": step}
            at = {"module": self.net, "scheduler": made.scheduler, "model_config": made.model_config}
            new.append(forward_and_sample_previous_step(**at, **given)[0])
        new = torch.stack(new, 1)
        old = self.data["old_log_probs"].numpy()
        out = cg.chunk_loss(new.detach().numpy(), old, np.array(CLAMPED), list(plan), **options)
        (new * torch.from_numpy(out.grad_log_probs).float()).sum().backward()
        return out, torch.cat([p.grad.flatten() for p in self.net.parameters() if p.grad is not None])


@pytest.fixture(scope="module")
def job():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Job()
    torch.set_num_threads(threads)


def apart(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


def loss_of(output):
    return float(np.mean([np.mean(losses) for losses in output["loss"]]))


@pytest.mark.parametrize("clip", [1e-4, 3e-3, 0.5])
@pytest.mark.parametrize("micro_batch", [4, 2])
def test_chunks_of_one_step_are_verl_omnis_flow_grpo(job, clip, micro_batch):
    _, theirs = job.run(PPODiffusersFSDPEngine, DiffusionLossConfig(clip_ratio=clip), micro_batch)
    _, ours = job.ours(clip_ratio=clip, micro_batch=micro_batch)
    assert apart(ours, theirs) < 1e-5


@pytest.mark.parametrize("threshold", [1e-6, 1.0])
def test_the_divergence_mask_is_verl_omnis_flow_dppo(job, threshold):
    loss = DiffusionLossConfig(loss_mode="flow_dppo", kl_mask_threshold=threshold)
    output, theirs = job.run(PPODiffusersFSDPEngine, loss)
    # verl-omni's Flow-DPPO does not clamp advantages.
    _, ours = job.ours(options={"surrogate": "divergence_mask"}, kl_mask_threshold=threshold)
    assert apart(ours, theirs) < 1e-5
    if threshold == 1e-6:
        assert max(output["metrics"]["actor/masked_fraction"].values) > 0.2


def test_guard_is_verl_omnis_grpo_guard(job):
    """With the weight 1 / dt that it gives each step's term."""
    _, theirs = job.run(PPODiffusersFSDPEngine, DiffusionLossConfig(loss_mode="grpo_guard", clip_ratio=1e-3))
    weights = [1 / float(job.found["sqrt_dt"][0, step]) ** 2 for step in range(S)]
    _, ours = job.ours(guard=True, clip_ratio=1e-3, options={"weights": weights})
    assert apart(ours, theirs) < 1e-5


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"surrogate": "unclipped"},
        {"surrogate": "spo"},
        {"surrogate": "sapo"},
        {"kl": 0.5},
        {"average": "step"},
        {"weights": [1.0, 2.0, 0.5]},
    ],
    ids=str,
)
def test_chunks_are_chunk_loss(job, options):
    plan = (1, 2, 2)
    clip = {} if options.get("surrogate") in ("unclipped", "sapo") else {"clip": 2e-3}
    expected, gradient = job.expected(plan, **clip, **options)
    output, ours = job.ours(plan, options=options, **({"clip_ratio": 2e-3} if clip else {}))
    assert apart(ours, gradient) < 1e-5
    shown = output["metrics"]
    assert shown["actor/pg_loss"].values == pytest.approx([expected.loss] * S, rel=1e-6)
    assert shown["actor/chunk/ratio_max"].values == pytest.approx([expected.stats.ratio_max] * S, rel=1e-6)
    assert loss_of(output) == pytest.approx(expected.loss / S, rel=1e-5)  # verl-omni has divided by the steps


@pytest.mark.parametrize("options", [{"fraction": 0.67}, {"fraction": 0.34, "by_movement": True}, {"chunks": [0, 2]}], ids=str)
def test_a_draw_is_the_same_for_any_micro_batch(job, options):
    seeds = [{"seed": seed} for seed in range(3)] if "fraction" in options else [{}]
    wholes = [job.ours((1, 2, 2), clip_ratio=2e-3, **seed, **options)[1] for seed in seeds]
    parts = [job.ours((1, 2, 2), clip_ratio=2e-3, micro_batch=1, **seed, **options)[1] for seed in seeds]
    assert all(apart(part, whole) < 1e-5 for part, whole in zip(parts, wholes))
    if "fraction" in options:
        assert apart(wholes[0], wholes[1]) > 1e-3 or apart(wholes[0], wholes[2]) > 1e-3


def test_steps_of_no_chunk_are_not_run_where_all_samples_have_the_same_ones(job):
    calls = []
    handle = job.net.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    try:
        output, gradient = job.ours((1, 2, 2), chunks=[1], clip_ratio=2e-3)
        assert calls == [False, False, True, True]
        calls.clear()
        job.ours((1, 2, 2), fraction=0.34, clip_ratio=2e-3)
        assert calls == [False] * 5 + [True] * 5
        calls.clear()
        job.ours((1, 1, 1, 1, 1), fraction=0.2, shared=True)
        assert calls == [False, True]
    finally:
        handle.remove()
    expected, own = job.expected((1, 2, 2), selection=[[1]] * B, clip=2e-3)
    assert apart(gradient, own) < 1e-5
    assert output["loss"] == [pytest.approx([expected.loss / S] * S, rel=1e-5)]


def test_a_resumed_run_goes_on_with_the_draws_of_its_checkpoint(job):
    """Two updates for each of three rollouts, of which a second engine has the last two alone."""

    from verl.utils import tensordict_utils as tu

    from chunkgrpo.verl_omni._loss import select

    loss = tiny.actor(cgv.ChunkLossConfig(plan=[1] * S, fraction=0.4, shared=True))
    tu.assign_non_tensor(job.data, micro_batch_size_per_gpu=B)

    def draws(rollouts):
        made, found = tiny.engine(cgv.ChunkFSDPEngine, job.net), []
        made.lr_scheduler = types.SimpleNamespace(last_epoch=rollouts[0])  # as its checkpoint has it
        made._judge = lambda micro_batch, settings, _: found.append(select(settings, micro_batch, made._moment).tolist())
        made._runs, made._judged = [False] * S, types.SimpleNamespace(slopes=torch.zeros(B, S), value=0.0, metrics={})
        for _ in rollouts:
            for _ in range(2):
                made.forward_backward_batch(job.data, loss)
            made.lr_scheduler.last_epoch += 1
        return found

    whole = draws([0, 1, 2])
    assert len(whole) == 6 and draws([1, 2]) == whole[2:] and len(set(map(str, whole))) > 2


def test_the_first_pass_may_be_left_out_where_the_policy_has_not_moved():
    job = Job()
    tiny.moved(job.net, -0.02)
    made, calls = tiny.engine(cgv.ChunkFSDPEngine, job.net), []
    found = made.forward_backward_batch(job.data, None, forward_only=True)["model_output"]["log_probs"]
    torch.testing.assert_close(found, job.data["old_log_probs"], rtol=1e-4, atol=1e-5)
    job.data["old_log_probs"] = found
    _, whole = job.ours((1, 2, 2))
    handle = job.net.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    _, ours = job.ours((1, 2, 2), skip_first_pass=True, made=made)
    assert calls == [True] * 5 and apart(ours, whole) < 1e-5
    made._moved = True  # as optimizer_step leaves it
    calls.clear()
    job.ours((1, 2, 2), skip_first_pass=True, made=made)
    handle.remove()
    assert calls == [False] * 5 + [True] * 5


def test_both_passes_draw_the_same_dropout(job):
    drawn = []
    handle = job.net.register_forward_hook(lambda _, __, out: (drawn.append(torch.rand(3)), out)[1])
    job.ours((5,))
    handle.remove()
    assert len(drawn) == 10
    assert all(torch.equal(a, b) for a, b in zip(drawn[:5], drawn[5:])) and not torch.equal(drawn[0], drawn[1])


def test_the_engine_has_the_place_of_verl_omnis():
    from verl.workers.engine.base import EngineRegistry

    for backend in ("fsdp", "fsdp2"):
        assert EngineRegistry._engines["diffusion_model"][backend]["cuda"] is cgv.ChunkFSDPEngine


def test_without_the_engine_the_loss_says_what_it_needs(job):
    with pytest.raises(cg.InvalidArgument, match="needs the engine of chunkgrpo.verl_omni"):
        job.run(PPODiffusersFSDPEngine, cgv.ChunkLossConfig(plan=[5]))


def test_other_losses_are_verl_omnis(job):
    loss = DiffusionLossConfig(clip_ratio=1e-3)
    (a, g), (b, h) = (job.run(kind, loss) for kind in (PPODiffusersFSDPEngine, cgv.ChunkFSDPEngine))
    assert a["loss"] == b["loss"] and torch.equal(g, h)


def overrides_of_the_page():
    page = (ROOT / "docs" / "verl-omni.md").read_text()
    block = re.search(r"```sh\npython3.*?```", page, re.DOTALL)[0]
    return [word for word in block.replace("\\\n", " ").split() if "=" in word]


def test_verl_omnis_own_configuration_takes_the_overrides_of_the_page():
    from hydra import compose, initialize_config_dir
    from verl.utils.config import omega_conf_to_dataclass

    with initialize_config_dir(f"{tiny.CHECKOUT}/verl_omni/trainer/config", version_base=None):
        config = compose("_generated_diffusion_trainer", overrides=overrides_of_the_page())
    made = omega_conf_to_dataclass(config.actor_rollout_ref.actor.diffusion_loss)
    assert isinstance(made, cgv.ChunkLossConfig) and made.get("loss_mode") == "chunk_grpo"
    assert made._settings.plan == cg.ChunkPlan([2, 3, 4, 7])
    assert made._settings.options == {"dual_clip": 3.0, "clip": (5e-5, 5e-5)}
    assert made._settings.draw.by_movement and made._settings.draw.fraction == 0.5


@pytest.mark.parametrize(
    "given, sentence",
    [
        ({"plan": None}, "plan is missing"),
        ({"loss_mode": "flow_grpo"}, "loss_mode=chunk_grpo"),
        ({"options": {"clip": 0.1}}, "give clip_ratio"),
        ({"options": {"clips": 0.1}}, "clips"),
        ({"options": {"mask": 1}}, "all of its SDE steps"),
        ({"options": {"surrogate": "unclipped"}, "clip_ratio_low": 0.1}, "clips nothing"),
        ({"options": {"average": "step"}, "fraction": 0.67}, "Give normaliser"),
        ({"shared": True}, "leave shared out"),
        ({"seed": 3}, "seed is 3, but nothing is drawn: a fraction of 1"),
        ({"seed": 3, "chunks": [0]}, "seed is 3, but nothing is drawn: chunks names"),
        ({"options": {"surrogate": "divergence_mask"}, "adv_clip_max": 4.0}, "adv_clip_max is 4.0"),
        ({"guard": True, "skip_first_pass": True}, "skip_first_pass"),
        ({"guard": True, "options": {"ratio_scale": [1.0] * 5}}, "guard"),
        ({"adv_clip_max": -1.0}, "adv_clip_max"),
        ({"ref_kl_coef": 0.1}, "ref_kl_coef is 0.1, which this loss does not read"),
        ({"options": {"surrogate": "divergence_mask"}, "add_kl_coefficient": False}, "add_kl_coefficient is False"),
        ({"kl_mask_threshold": 1e-3}, "kl_mask_threshold is 0.001"),
        ({"options": {"surrogate": "sapo"}, "clip_ratio": 0.2}, "clip_ratio is 0.2"),
    ],
    ids=str,
)
def test_options_that_would_do_nothing_or_harm_are_refused(given, sentence):
    with pytest.raises((ValueError, TypeError), match=sentence):
        cgv.ChunkLossConfig(**{"plan": [1, 2, 2], **given})


def test_a_plan_of_other_steps_and_weights_of_steps_are_refused(job):
    with pytest.raises(cg.InvalidArgument, match="plan has 4 steps; the rollout has 5 SDE steps"):
        job.ours((2, 2))
    job.data["rollout_is_weights"] = torch.ones(B, S)
    try:
        with pytest.raises(cg.InvalidArgument, match="weights of rollout_correction"):
            job.ours((5,))
    finally:
        del job.data["rollout_is_weights"]
