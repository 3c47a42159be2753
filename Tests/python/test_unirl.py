"""Chunk-GRPO inside the real UniRL: its stage, its segments, its algorithms beside ours. Skipped where unirl is not
installed; scripts/setup installs it."""

from __future__ import annotations

import inspect
import re
import types

import numpy as np
import pytest
from conftest import ROOT

import chunkgrpo as cg
import chunkgrpo._generated as generated

pytest.importorskip("unirl", reason="unirl is not installed: scripts/setup python")
torch = pytest.importorskip("torch")
import unirl_tiny as tiny  # noqa: E402
from unirl.algorithms.flowdppo import FlowDPPO  # noqa: E402
from unirl.algorithms.flowgrpo import FlowGRPO  # noqa: E402
from unirl.models.sd3.conditions import SD3Conditions  # noqa: E402

import chunkgrpo.unirl as cgu  # noqa: E402

B, STEPS = 4, [0, 1, 2, 3, 4]
ADVANTAGES = torch.tensor([1.0, -1.0, 0.5, -0.3])


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    yield from tiny.one_thread()


class Job:
    """A rollout by one policy, and another one that is trained on it."""

    def __init__(self, lora=False, sde=STEPS):
        self.net = tiny.transformer()
        if lora:
            from peft import LoraConfig

            self.net.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]))
        self.stage, self.params = tiny.stage(self.net), tiny.params(sde)
        self.conditions = tiny.conditions(B).to_dict()
        self.segment = tiny.segment(self.stage, B, self.params)
        tiny.moved(self.net)

    def algorithm(self, kind, **options):
        backend = types.SimpleNamespace(model=self.net)
        given = {"stage": self.stage, "params": self.params, "conditions_cls": SD3Conditions, "backend": backend}
        return kind(**{**given, **options})

    def run(self, algorithm, segment=None, advantages=ADVANTAGES, progress=0.25, rows=slice(None), scale=1.0):
        """The step's result, and the gradient of all parameters."""
        self.net.zero_grad()
        conditions = tiny.conditions(B).slice(0, B)
        if rows != slice(None):
            conditions = conditions.slice(rows.start, rows.stop)
        given = self.segment if segment is None else segment
        result = algorithm.compute_loss_and_backward(
            conditions=conditions.to_dict(), segment=given, advantages=advantages[rows],
            training_progress=progress, loss_scale=scale,
        )  # fmt: skip
        return result, torch.cat([p.grad.flatten() for p in self.net.parameters() if p.grad is not None])

    def keyed(self, algorithm):
        """The rollout after the train stack's hook."""
        return algorithm.prepare_part(tiny.part(self.segment, ADVANTAGES)).segment

    def replayed(self, steps=STEPS):
        return self.stage.replay(
            SD3Conditions.from_dict(self.conditions), segment=self.segment, params=self.params, step_indices=list(steps)
        )

    def expected(self, plan, **options):
        """`chunk_loss` of numpy, and the gradient that its slopes give by PyTorch's own chain rule."""
        new, advantages = self.replayed().log_probs, options.pop("advantages", ADVANTAGES)
        out = cg.chunk_loss(new.detach().numpy(), self.segment.sde_logp.numpy(), advantages.numpy(), plan, **options)
        self.net.zero_grad()
        (new * torch.from_numpy(out.grad_log_probs).float()).sum().backward()
        return out, torch.cat([p.grad.flatten() for p in self.net.parameters() if p.grad is not None])


@pytest.fixture(scope="module")
def job():
    return Job()


def apart(ours, theirs):
    return float((ours - theirs).norm() / theirs.norm())


# ----------------------------------------------------------------------------------------------------------------------
# UniRL's own algorithms


@pytest.mark.parametrize("clip", [1e-4, 3e-3, 0.5])
@pytest.mark.parametrize("schedule", ["constant", "cosine_decay"])
def test_chunks_of_one_step_are_unirls_flowgrpo(job, clip, schedule):
    theirs, their_gradient = job.run(job.algorithm(FlowGRPO, clip_range=clip, clip_schedule=schedule), scale=0.5)
    ours, gradient = job.run(
        job.algorithm(cgu.ChunkGRPO, plan=[1] * 5, clip=clip, clip_schedule=schedule), scale=0.5
    )
    assert abs(ours.loss - theirs.loss) < 1e-6 * abs(theirs.loss)
    assert apart(gradient, their_gradient) < 1e-5
    for name in ("ratio_mean", "ratio_min", "ratio_max", "clip_range", "policy_loss"):
        assert ours.metrics[name] == pytest.approx(theirs.metrics[name], rel=1e-6)
    assert (ours.num_steps_or_tokens, ours.has_backward) == (theirs.num_steps_or_tokens, True)


def test_the_kl_to_the_base_model_is_unirls():
    job = Job(lora=True)
    theirs, their_gradient = job.run(job.algorithm(FlowGRPO, clip_range=1e-3, beta=0.3))
    ours, gradient = job.run(job.algorithm(cgu.ChunkGRPO, plan=[1] * 5, clip=1e-3, beta=0.3))
    assert theirs.metrics["kl_ref_mean"] > 1e-9
    assert ours.metrics["kl_ref_mean"] == pytest.approx(theirs.metrics["kl_ref_mean"], rel=1e-5)
    assert abs(ours.loss - theirs.loss) < 1e-6 * abs(theirs.loss)
    assert apart(gradient, their_gradient) < 1e-5


@pytest.mark.parametrize("threshold", [1e-6, 1e-4, 1.0])
def test_the_divergence_mask_is_unirls_flowdppo(threshold):
    job = Job()
    theirs = job.algorithm(FlowDPPO, kl_mask_threshold=threshold)
    ours = job.algorithm(cgu.ChunkGRPO, plan=[1] * 5, surrogate="divergence_mask", divergence_threshold=threshold)
    assert ours.anchor_fields == theirs.anchor_fields and ours.recomputes_anchor
    tiny.moved(job.net, -0.02)  # the old policy's means are those before the update
    theirs.prepare_segment(conditions=job.conditions, segment=job.segment)
    means = job.segment.sde_means
    ours.prepare_segment(conditions=job.conditions, segment=job.segment)
    assert torch.equal(job.segment.sde_means, means)
    tiny.moved(job.net)
    (a, g), (b, h) = job.run(theirs), job.run(ours)
    assert abs(b.loss - a.loss) < 1e-6 * abs(a.loss)
    assert apart(h, g) < 1e-5
    if threshold == 1e-6:
        assert a.metrics["masked_fraction"] > 0.2


def test_the_old_policy_is_replayed_as_unirls_is(job):
    before = job.segment.sde_logp.clone()
    anchors = []
    for kind, options in ((FlowGRPO, {}), (cgu.ChunkGRPO, {"plan": [5]})):
        algorithm = job.algorithm(kind, old_logp_source="replay", **options)
        job.segment.sde_logp = None
        algorithm.prepare_segment(conditions=job.conditions, segment=job.segment)
        anchors.append(job.segment.sde_logp)
    job.segment.sde_logp = before
    assert torch.equal(*anchors) and not torch.equal(anchors[0], before)


# ----------------------------------------------------------------------------------------------------------------------
# Chunks, selections and objectives


OBJECTIVES = [
    {},
    {"clip": (0.01, 0.02)},
    {"surrogate": "unclipped"},
    {"surrogate": "log_clipped", "clip": 2e-3},
    {"surrogate": "cispo", "clip": 0.2},
    {"surrogate": "spo", "clip": 0.2},
    {"surrogate": "sapo", "sapo_temperature_neg": 1.05},
    {"surrogate": "vespo", "vespo_k_pos": 2.0},
    {"ratio_cap": 1.001},
    {"dual_clip": 1.0001},
    {"kl": 0.5, "kl_estimator": "k2", "kl_level": "step"},
    {"average": "sample"},
    {"average": "step"},
    {"weights": [1.0, 0.5, 2.0]},
    {"ratio_scale": [1.0, 2.0, 1.0, 0.5, 1.0]},
]


@pytest.mark.parametrize("options", OBJECTIVES, ids=str)
def test_every_objective_is_chunk_loss(job, options):
    plan = [1, 2, 2]
    expected, gradient = job.expected(plan, **options)
    ours, own = job.run(job.algorithm(cgu.ChunkGRPO, plan=plan, **options))
    assert ours.loss == pytest.approx(expected.loss, rel=1e-9)
    assert apart(own, gradient) < 1e-6
    assert ours.metrics["ratio_max"] == expected.stats.ratio_max


def test_every_option_of_chunk_loss_is_taken_or_refused_with_the_way_out(job):
    taken = {name for options in OBJECTIVES for name in options} | {"divergence_threshold", "normaliser"}
    prefixes = ("sapo_", "vespo_")
    for name in generated.ChunkLossKeywords.__annotations__:
        if name in taken or name.startswith(prefixes):
            continue
        with pytest.raises(cg.InvalidArgument, match=f"^{name} cannot be given here: "):
            job.algorithm(cgu.ChunkGRPO, plan=[5], **{name: np.zeros(5)})
    shown = inspect.signature(cgu.ChunkGRPO).parameters
    assert set(shown) >= taken - {"clip"} and not set(shown) & set(cgu._algorithm.ELSEWHERE)
    with pytest.raises(cg.WrongType, match="Did you mean 'clip'"):
        job.algorithm(cgu.ChunkGRPO, plan=[5], clips=0.1)


def test_advantages_may_be_of_chunks_and_of_steps(job):
    for shape in ((B, 1), (B, 3), (B, 5)):
        advantages = torch.linspace(-1, 1, B * shape[1]).reshape(shape)
        expected, _ = job.expected([1, 2, 2], advantages=advantages[:, 0] if shape == (B, 1) else advantages)
        ours, _ = job.run(job.algorithm(cgu.ChunkGRPO, plan=[1, 2, 2]), advantages=advantages)
        assert ours.loss == pytest.approx(expected.loss, rel=1e-9)


def test_a_plan_over_the_schedule_gives_a_rollout_the_chunks_of_its_sde_steps():
    job = Job(sde=[0, 2, 3])
    advantages = torch.linspace(-1, 1, B * 4).reshape(B, 4)
    whole = job.algorithm(cgu.ChunkGRPO, plan=[1, 1, 2, 2], weights=[1.0, 9.0, 2.0, 9.0])  # steps 0 | 1 | 2 3 | 4 5
    small = job.algorithm(cgu.ChunkGRPO, plan=[1, 2], weights=[1.0, 2.0])
    (a, g), (b, h) = job.run(whole, advantages=advantages), job.run(small, advantages=advantages[:, [0, 2]])
    assert (a.loss, a.num_steps_or_tokens) == (b.loss, 3) and torch.equal(g, h)
    named, _ = job.run(job.algorithm(cgu.ChunkGRPO, plan=[1, 1, 2, 2], chunks=[1, 2]))
    assert named.num_steps_or_tokens == 2
    without_last = job.algorithm(cgu.ChunkGRPO, plan=[1, 1, 3], chunks=[2])
    assert job.run(without_last)[0].num_steps_or_tokens == 2
    for plan in ([4], [2, 2]):
        with pytest.raises(cg.InvalidArgument, match=r"plan has 4 steps; .* 3 SDE steps, \[0, 2, 3\], of a schedule of 6"):
            job.run(job.algorithm(cgu.ChunkGRPO, plan=plan))
    with pytest.raises(cg.InvalidArgument, match="none of them has an SDE step"):
        job.run(job.algorithm(cgu.ChunkGRPO, plan=[1, 1, 2, 2], chunks=[1]))
    last = Job(sde=[0, 5])
    with pytest.raises(cg.InvalidArgument, match="5 leaves out the last step, 5"):
        last.run(last.algorithm(cgu.ChunkGRPO, plan=[2, 3]))


def test_a_draw_is_by_sample_and_progress_alone(job):
    algorithm = job.algorithm(cgu.ChunkGRPO, plan=[1, 2, 1, 1], fraction=0.5, seed=7)
    segment = job.keyed(algorithm)
    whole, gradient = job.run(algorithm, segment)
    parts = [job.run(algorithm, segment.slice(i, i + 1), rows=slice(i, i + 1), scale=1 / B) for i in range(B)]
    assert sum(part.loss for part, _ in parts) / B == pytest.approx(whole.loss, rel=1e-5)
    assert apart(sum(own for _, own in parts), gradient) < 1e-6
    assert whole.num_steps_or_tokens == 5 and whole.metrics["selected"] == 2 * B
    assert job.run(algorithm, segment)[0].loss == whole.loss
    others = [job.run(algorithm, segment, progress=p)[0].loss for p in (0.0, 0.5, 0.75, 1.0)]
    others += [job.run(job.algorithm(cgu.ChunkGRPO, plan=[1, 2, 1, 1], fraction=0.5, seed=8), segment)[0].loss]
    assert len({whole.loss, *others}) > 3
    with pytest.raises(cg.WrongType, match="LatentSegment without sample keys"):
        job.run(algorithm)


def test_a_shared_draw_runs_its_steps_alone(job):
    plan = [1, 2, 1, 1]
    algorithm = job.algorithm(cgu.ChunkGRPO, plan=plan, fraction=0.25, shared=True, clip=0.01)
    seen = {}
    for progress in np.linspace(0, 1, 20):
        ours, gradient = job.run(algorithm, progress=float(progress))
        alone = [job.run(job.algorithm(cgu.ChunkGRPO, plan=plan, chunks=[k], clip=0.01))[0].loss for k in range(4)]
        seen[alone.index(ours.loss)] = ours.num_steps_or_tokens
        expected, slope = job.expected(plan, selection=[[alone.index(ours.loss)]] * B, clip=0.01)
        assert ours.loss == pytest.approx(expected.loss, rel=1e-9) and apart(gradient, slope) < 1e-6
        if len(seen) > 2:
            break
    assert len(seen) > 1 and all(count == plan[chunk] for chunk, count in seen.items())


def test_chunks_are_drawn_by_how_much_their_steps_move(job):
    plan = cg.ChunkPlan([1, 2, 2])
    algorithm = job.algorithm(cgu.ChunkGRPO, plan=plan, fraction=0.34, by_movement=True, weighting="softmax")
    curve = cg.relative_l1(job.segment.latents[:, :6].numpy())
    segment = job.keyed(algorithm)
    chunks = cgu._algorithm.chunks_of(plan, STEPS, 6)
    batches = [cgu._chunks.drawn(algorithm.draw, chunks, segment, STEPS, progress) for progress in np.arange(2000) / 2000]
    found = np.mean(batches, axis=0)
    weights = np.exp(plan.weights(curve))
    assert np.abs(found - weights / weights.sum(1, keepdims=True)).max() < 0.05  # 4.5 deviations
    assert np.array_equal(cgu._chunks.movement(segment, STEPS), curve)


def test_groups_of_chunks_weigh_alike_where_micro_batches_differ(job):
    """A normaliser is one per sample, so that the mean over micro-batches is the sum over the batch by it."""
    algorithm = job.algorithm(cgu.ChunkGRPO, plan=[1, 2, 2], fraction=0.67, average="step", normaliser=5.0)
    segment = job.keyed(algorithm)
    whole, gradient = job.run(algorithm, segment)
    parts = [job.run(algorithm, segment.slice(*r), rows=slice(*r), scale=(r[1] - r[0]) / B) for r in ((0, 3), (3, 4))]
    assert 0.75 * parts[0][0].loss + 0.25 * parts[1][0].loss == pytest.approx(whole.loss, rel=1e-5)
    assert apart(parts[0][1] + parts[1][1], gradient) < 1e-6
    with pytest.raises(cg.InvalidArgument, match="Give normaliser, the steps per sample"):
        job.algorithm(cgu.ChunkGRPO, plan=[1, 2, 2], fraction=0.67, average="step")
    # Chunks of one size may have one step of a rollout, or two.
    part = Job(sde=[0, 2, 3])
    algorithm = part.algorithm(cgu.ChunkGRPO, plan=[2, 2, 2], fraction=0.5, average="step")
    with pytest.raises(cg.InvalidArgument, match=r"chunks of several sizes, \[1, 2\], .* Give normaliser"):
        part.run(algorithm, part.keyed(algorithm))


def test_grpo_guards_ratios_are_its_formula(job):
    algorithm = job.algorithm(cgu.ChunkGRPO, plan=[1, 2, 2], guard=True, clip=0.5)
    assert algorithm.recomputes_anchor
    old = Job()
    tiny.moved(old.net, -0.02)  # what sampled
    algorithm.stage, segment = old.stage, job.segment
    algorithm.prepare_segment(conditions=job.conditions, segment=segment)
    algorithm.stage = job.stage
    ours, gradient = job.run(algorithm, segment)
    job.net.zero_grad()
    new = job.replayed()
    s = torch.tensor([cg.Sampler(segment.sigmas.double().numpy(), eta=0.7).coefficients(k).s for k in STEPS])
    drift = (new.prev_sample_means - segment.sde_means).square().flatten(2).mean(2) / (2 * s**2)
    ratios = ((new.log_probs - segment.sde_logp + drift) * s).split([1, 2, 2], 1)
    loss = torch.stack([-ADVANTAGES * part.mean(1).exp() for part in ratios], 1).mean()
    loss.backward()
    own = torch.cat([p.grad.flatten() for p in job.net.parameters() if p.grad is not None])
    assert ours.loss == pytest.approx(float(loss.detach()), rel=1e-5) and apart(gradient, own) < 1e-4
    assert float(drift.detach().max()) > 1e-7


def test_the_kl_estimate_may_be_of_the_base_model():
    job = Job(lora=True)
    ours, _ = job.run(job.algorithm(cgu.ChunkGRPO, plan=[1, 2, 2], kl=0.5, reference="base"))
    from unirl.train.lora import adapters_disabled

    with torch.no_grad(), adapters_disabled(job.net):
        base = job.replayed().log_probs
    expected, _ = job.expected([1, 2, 2], kl=0.5, reference_log_probs=base.numpy())
    assert ours.loss == pytest.approx(expected.loss, rel=1e-9)
    assert expected.stats.approximate_kl > 0


@pytest.mark.parametrize(
    "options",
    [
        {"clip": 2e-3},
        {"clip": 2e-3, "fraction": 0.67},
        {"guard": True, "clip": 0.5},
        {"surrogate": "divergence_mask", "divergence_threshold": 1e-6},
        {"beta": 0.3, "kl": 0.5, "reference": "base", "chunks": [0, 2]},
    ],
    ids=str,
)
def test_streamed_has_the_loss_and_the_gradient_of_one_graph(options):
    job = Job(lora=True)
    made = [job.algorithm(cgu.ChunkGRPO, plan=[1, 2, 2], streamed=streamed, **options) for streamed in (False, True)]
    if made[0].divergences:
        tiny.moved(job.net, -0.02)
        made[0].prepare_segment(conditions=job.conditions, segment=job.segment)
        tiny.moved(job.net)
    segment, calls = job.keyed(made[0]), []
    hook = job.net.register_forward_hook(lambda *_: calls.append((torch.is_grad_enabled(), float(torch.rand(())))))
    (whole, gradient), (ours, own) = (job.run(algorithm, segment, scale=0.5) for algorithm in made)
    hook.remove()
    assert ours.loss == pytest.approx(whole.loss, rel=1e-6) and apart(own, gradient) < 1e-5
    assert ours.metrics == pytest.approx(whole.metrics, rel=1e-5)
    runs = calls[-2 * ours.num_steps_or_tokens :] if "beta" not in options else []
    first, second = runs[: len(runs) // 2], runs[len(runs) // 2 :]
    assert all(not a[0] and b[0] and a[1] == b[1] for a, b in zip(first, second))  # the same random numbers


def test_streamed_refuses_what_runs_all_steps_together(job):
    stage = tiny.stage(job.net, batch_replay_steps=True)
    with pytest.raises(cg.InvalidArgument, match="batch_replay_steps"):
        job.algorithm(cgu.ChunkGRPO, plan=[5], streamed=True, stage=stage, old_logp_source="replay")


# ----------------------------------------------------------------------------------------------------------------------
# What is refused


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"plan": [0, 5]}, "sizes"),
        ({"fraction": 0.0}, "fraction"),
        ({"fraction": 0.1}, "fraction"),
        ({"chunks": [3]}, "chunks"),
        ({"chunks": [0], "shared": True}, "leave out shared"),
        ({"by_movement": True}, "a fraction of 1 takes all"),
        ({"by_movement": True, "shared": True, "fraction": 0.5}, "shared draws once"),
        ({"shared": True}, "leave shared out"),
        ({"seed": 3}, "seed is 3, but nothing is drawn"),
        ({"weighting": "softmax"}, "by_movement=True"),
        ({"clip": (0.999, 1.001)}, "bounds"),
        ({"clip_schedule": "cosine"}, "clip_schedule is 'cosine'; it must be one of 'constant'"),
        ({"clip_schedule": "linear_decay"}, "give the clip that it scales"),
        ({"surrogate": "unclipped", "clip": 0.1}, "clip"),
        ({"old_logp_source": "both"}, "old_logp_source is 'both'"),
        ({"reference": "base"}, "kl is 0"),
        ({"guard": True, "ratio_scale": [1.0] * 5}, "guard=True"),
        ({"seed": -1}, "seed is -1"),
        ({"beta": -0.1}, "beta is -0.1; it must be finite and >= 0"),
        ({"beta": float("nan")}, "beta is nan"),
        ({"weights": [1.0]}, "weights has shape"),
        ({"stage": None}, "needs a stage"),
    ],
    ids=str,
)
def test_an_option_that_would_do_nothing_or_harm_is_refused_at_the_start(job, options, sentence):
    with pytest.raises((cg.InvalidArgument, cg.WrongType), match=sentence):
        job.algorithm(cgu.ChunkGRPO, **{"plan": [1, 2, 2], **options})


def test_what_a_rollout_lacks_is_named(job):
    algorithm = job.algorithm(cgu.ChunkGRPO, plan=[5])
    bare = tiny.segment(job.stage, B, tiny.params(()))
    with pytest.raises(cg.InvalidArgument, match="no SDE steps"):
        job.run(algorithm, bare)
    logp, job.segment.sde_logp = job.segment.sde_logp, None
    try:
        with pytest.raises(cg.InvalidArgument, match="old_logp_source='replay'"):
            algorithm.prepare_segment(conditions=job.conditions, segment=job.segment)
    finally:
        job.segment.sde_logp = logp
    with pytest.raises(ValueError, match="needs the trainable model"):
        job.algorithm(cgu.ChunkGRPO, plan=[5], beta=0.1, backend=None)
    with pytest.raises(cg.NonFinite, match="2"):
        job.run(algorithm, advantages=torch.tensor([1.0, 1.0, float("nan"), 1.0]))


def test_another_unirl_is_refused(monkeypatch):
    import importlib

    monkeypatch.setattr("unirl.__version__", "0.3.1")
    with pytest.raises(cg.InvalidArgument, match=r"unirl is 0\.3\.1; .* was tried with 0\.2\.0"):
        importlib.reload(cgu)


# ----------------------------------------------------------------------------------------------------------------------
# Inside UniRL's train stack and Ray


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    """The example, over a stand-in for UniRL's own recipe, which its package does not have."""
    from hydra import compose, initialize_config_dir

    folder = tmp_path_factory.mktemp("recipe")
    below = folder / "diffusion" / "sd3"
    below.mkdir(parents=True)
    below.joinpath("sd3_trainside.yaml").write_text(
        "# @package _global_\n"
        "algorithm: {_target_: unirl.algorithms.flowgrpo.FlowGRPO, stage_attr: diffusion, clip_range: 1.0e-4,\n"
        "  clip_schedule: constant, old_logp_source: replay, params: '${sampling}',\n"
        "  conditions_cls: {_target_: hydra.utils.get_class, path: unirl.models.sd3.conditions.SD3Conditions}}\n"
        "sampling: {_target_: unirl.types.sampling.DiffusionSamplingParams, num_inference_steps: 10, eta: 0.7,\n"
        "  guidance_scale: 1.0, height: 32, width: 32, scheduler: {_target_: unirl.sde.index_schedule.AllSDEScheduler,\n"
        "  num_timesteps: '${..num_inference_steps}', num_sde_steps: 3, timestep_fraction: [0, 0.5]}}\n"
    )
    own = ROOT / "examples" / "unirl" / "sd3_chunkgrpo.yaml"
    folder.joinpath("sd3_chunkgrpo.yaml").write_text(own.read_text())
    with initialize_config_dir(str(folder), version_base=None):
        return compose("sd3_chunkgrpo")


def test_the_example_builds_and_trains(recipe):
    """By UniRL's own reading of a recipe: its `_target_`s are resolved where a worker builds its roles."""
    from unirl.distributed.group.worker import Worker
    from unirl.trainer.hydra import parse_hydra_cfg

    given = parse_hydra_cfg(recipe.algorithm)
    kind = given.pop("role_cls")
    worker = Worker.__new__(Worker)
    worker._roles = {}
    built = Worker._resolve_init_kwargs(worker, given)
    assert built["params"].get_sde_indices(0) == list(range(16)) and isinstance(built["plan"], list)
    net = tiny.transformer()
    stage = tiny.stage(net)
    algorithm = kind(pipeline=types.SimpleNamespace(diffusion=stage), **built)
    assert (type(algorithm), len(algorithm.plan), algorithm.old_logp_source) == (cgu.ChunkGRPO, 4, "replay")
    built["params"].sde_indices = built["params"].get_sde_indices(0)
    torch.manual_seed(0)
    conditions = tiny.conditions(2)
    schedule = tiny.get_sigma_schedule(17, 3.0)
    segment = stage.diffuse(conditions, schedule=schedule, params=built["params"])
    part = tiny.part(segment, torch.tensor([1.0, -1.0]))
    part.conditions = conditions.to_dict()
    algorithm.prepare_segment(conditions=part.conditions, segment=part.segment)
    part = algorithm.prepare_part(part)
    result = algorithm.compute_loss_and_backward(
        conditions=part.conditions, segment=part.segment, advantages=part.advantages,
        training_progress=0.0, loss_scale=1.0,
    )  # fmt: skip
    assert result.metrics["ratio_mean"] == 1.0 and result.metrics["selected"] == 4
    assert result.metrics["clip_range"] == 5e-5
    assert max(float(p.grad.abs().max()) for p in net.parameters() if p.grad is not None) > 0


def test_the_blocks_of_the_page_build():
    from hydra.utils import instantiate
    from omegaconf import OmegaConf

    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "unirl.md").read_text(), re.DOTALL)
    algorithm, pipeline = (OmegaConf.create(block) for block in blocks)
    algorithm.sampling = {"_target_": "unirl.types.sampling.DiffusionSamplingParams"}
    made = instantiate(algorithm.algorithm, stage=tiny.stage(tiny.transformer()))
    assert (made.plan, made.draw.fraction, made.options) == (cg.ChunkPlan([2, 3, 4, 7]), 0.5, {"clip": 5e-5})
    assert instantiate(pipeline.pipeline.strategy) == cgu.SamplerStrategy("precise")


class Backend:
    """What UniRL's TrainStack asks of a backend, of one process: the test with Ray has the real one."""

    grad_sync_deferred, optimizer, scheduler = False, None, None

    def __init__(self, model):
        self.model = model

    def trainable_module(self):
        return self.model

    def zero_grad(self):
        self.model.zero_grad()

    def set_grad_sync(self, now):
        pass

    def optimizer_step(self, max_grad_norm):
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_grad_norm)

    def on_rollout_end(self):
        pass

    def all_reduce_loss_sums(self, values):
        return values

    def gradient_average_world_size(self):
        return 1


def stacked(job, micro_batch, shuffle=False, **options):
    """The step of UniRL's TrainStack, and the gradient that it leaves."""
    from unirl.train.stack import TrainStack

    algorithm = job.algorithm(cgu.ChunkGRPO, plan=[1, 2, 2], clip=1e-2, **options)
    stack = TrainStack(
        fsdp_backend=Backend(job.net), algorithm=algorithm, micro_batch_size=micro_batch, max_grad_norm=1e9,
        shuffle_updates=shuffle,
    )  # fmt: skip
    result = stack.train_track(tiny.part(job.segment, ADVANTAGES), training_progress=0.5, rollout_id=0)
    return result, torch.cat([p.grad.flatten() for p in job.net.parameters() if p.grad is not None])


@pytest.mark.parametrize("options", [{}, {"fraction": 0.67, "streamed": True}, {"guard": True, "fraction": 0.34}], ids=str)
def test_unirls_train_stack_gives_one_gradient_for_any_micro_batch_and_order(options):
    job = Job()
    whole, gradient = stacked(job, 4, **options)
    for micro_batch, shuffle in ((1, False), (2, True)):
        result, own = stacked(job, micro_batch, shuffle, **options)
        assert result.loss == pytest.approx(whole.loss, rel=1e-5)
        assert apart(own, gradient) < 1e-5
    assert whole.optimizer_updates == 1 and float(gradient.abs().max()) > 0


def test_two_workers_of_ray_train_as_one_process(monkeypatch):
    """UniRL's device pool, FSDPBackend and TrainStack, on CPUs that Ray is told are devices. Left out is the pool's
    NCCL group, by which workers of GPUs hand each other tensors."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", f"{ROOT / 'bindings/python'}:{ROOT / 'Tests/python'}")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    import ray
    from unirl.distributed.group.device_pool import DevicePool
    from unirl.distributed.group.placement import _to_marker
    from unirl.train.backend.base import LrSchedulerConfig, OptimizerConfig
    from unirl.train.backend.fsdp import FSDPBackend
    from unirl.train.configs import FSDPConfig
    from unirl.train.stack import TrainStack

    job = Job()
    whole, gradient = stacked(job, 4, fraction=0.67)
    ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False)
    pool = DevicePool(2, devices_per_node=2)
    try:
        pool._create_placement_groups()
        pool._create_workers()
        bundle = _to_marker(pool.create_remote(tiny.Bundle))
        pipeline = _to_marker(pool.create_remote(tiny.Pipeline, init_kwargs={"bundle": bundle}))
        sharded = {
            "bundle": bundle,
            "block_class_names": ("JointTransformerBlock",),
            "fsdp_cfg": FSDPConfig(param_dtype="fp32", mixed_precision=False, fsdp_mode="full"),
            "optimizer_cfg": OptimizerConfig(0.0, 0.9, 0.999, 1e-8, 0.0),
            "scheduler_cfg": LrSchedulerConfig("constant", 0, 10),
        }
        backend = _to_marker(pool.create_remote(FSDPBackend, init_kwargs=sharded))
        given = {"pipeline": pipeline, "params": job.params, "conditions_cls": SD3Conditions, "backend": backend}
        options = {"plan": [1, 2, 2], "clip": 1e-2, "fraction": 0.67}
        results = []
        for streamed in (False, True):
            options["streamed"] = streamed
            algorithm = _to_marker(pool.create_remote(cgu.ChunkGRPO, init_kwargs={**given, **options}))
            stack = {"fsdp_backend": backend, "algorithm": algorithm, "micro_batch_size": 1, "max_grad_norm": 1e9}
            track = pool.create_remote(TrainStack, init_kwargs=stack).train_track
            results.append(track(tiny.part(job.segment, ADVANTAGES), training_progress=0.5, rollout_id=0))
    finally:
        pool.shutdown()
        ray.shutdown()
    for result in results:
        assert result.loss == pytest.approx(whole.loss, rel=1e-5)
        assert result.grad_norm == pytest.approx(float(gradient.norm()), rel=1e-5)
