"""A pipeline's velocity, repeated: the pipeline's own numbers for every step and any samples, with the gradient that the
pipeline itself has; what cannot be repeated is refused."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import chunkgrpo as cg
from test_diffusers import STEPS, diffusers, tiny_flux2, tiny_qwen, torch
from tiny_models import tiny_flux, tiny_sd3, tiny_wan

import chunkgrpo.torch as cgt
from chunkgrpo.diffusers import FlowMatchSDEScheduler, velocity_of
from chunkgrpo._replayed import Call, StepCalls, all_rows, some_rows
from chunkgrpo.torch._parallel import wrappers_in

MAKERS = {"flux": tiny_flux, "sd3": tiny_sd3, "qwen": tiny_qwen, "flux2": tiny_flux2, "wan": tiny_wan}
PLAN = cg.ChunkPlan([1, 3])


def made(name, dtype=torch.float32, **options):
    torch.manual_seed(0)
    pipe = MAKERS[name]().to(dtype)
    pipe.set_progress_bar_config(disable=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diffusers.utils.logging.get_logger("diffusers.configuration_utils"), "disabled", True)
        pipe.scheduler = FlowMatchSDEScheduler.from_config(pipe.scheduler.config, **options)
    return pipe


def run(name, pipe, batch=3, seed=1, tokens=6, start=None, **options):
    """(record, what the scheduler got (B, T, ...)) of a guided run."""
    g = torch.Generator().manual_seed(seed)

    def rows(*shape):
        return torch.randn(batch, *shape, generator=g).to(pipe.transformer.dtype)

    given = {"prompt_embeds": rows(tokens, 32), "height": 16, "width": 16, "num_inference_steps": STEPS}
    if name in ("sd3", "wan", "qwen"):
        given["negative_prompt_embeds"] = rows(tokens, 32)
    if name in ("flux", "sd3"):
        given["pooled_prompt_embeds"] = rows(32)
    if name == "sd3":
        given["negative_pooled_prompt_embeds"] = rows(32)
    if name == "qwen":
        mask = torch.ones(batch, tokens, dtype=torch.long)
        given.update(prompt_embeds_mask=mask, negative_prompt_embeds_mask=mask, true_cfg_scale=2.25)
    else:
        given["guidance_scale"] = 1.0 if name == "flux2" else 3.5
    if name == "wan":
        given["num_frames"] = 5
    seen, step = [], pipe.scheduler.step
    pipe.scheduler.step = lambda v, *args, **kwargs: (seen.append(v.clone()), step(v, *args, **kwargs))[1]
    try:
        pipe(**{**given, **options}, generator=start or torch.Generator().manual_seed(seed), output_type="latent")
    finally:
        del pipe.scheduler.step
    return pipe.scheduler.trajectory, torch.stack(seen, 1)


def replayed(velocity, record, steps=STEPS):
    return torch.stack([velocity(record.latents[:, k], None, record.first_step + k) for k in range(steps)], 1)


def close(a, b, tolerance=1e-5):
    torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MAKERS)
def test_every_step_has_the_bits_of_the_pipeline(name, dtype):
    pipe = made(name, dtype)
    velocity = velocity_of(pipe)
    for seed in (1, 2):
        record, seen = run(name, pipe, seed=seed)
        again = replayed(velocity, record)
        assert torch.equal(again, seen) and again.requires_grad
    new = cgt.log_probs(record.sampler, record.latents, again[:, :-1])
    assert torch.equal(new, record.log_probs)


@pytest.mark.parametrize("name", MAKERS)
def test_the_gradient_is_that_of_the_pipeline(name):
    """By central differences of what the pipeline itself gives to its scheduler in its first step."""
    pipe = made(name, torch.float64)
    velocity = velocity_of(pipe)
    record, seen = run(name, pipe)
    weights = torch.randn(seen[:, 0].shape, generator=torch.Generator().manual_seed(3), dtype=seen.dtype)
    parameters = [p for p in pipe.transformer.parameters() if p.requires_grad]
    loss = (velocity(record.latents[:, 0], None, 0) * weights).sum()
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    directions = [torch.randn(p.shape, generator=torch.Generator().manual_seed(i), dtype=p.dtype) for i, p in enumerate(parameters)]
    expected = sum((g * d).sum() for g, d in zip(grads, directions) if g is not None)

    def moved(by):
        with torch.no_grad():
            for p, d in zip(parameters, directions):
                p.add_(by * d)
        return (run(name, pipe)[1][:, 0] * weights).sum()

    h, tolerance = (1e-3, 5e-3) if name == "wan" else (1e-5, 1e-5)  # its norms and times are float32
    difference = (moved(h) - moved(-2 * h)) / (2 * h)
    assert abs(difference) > 1e-3
    assert expected.item() == pytest.approx(difference.item(), rel=tolerance)


@pytest.mark.parametrize("name", MAKERS)
def test_any_samples_of_any_runs(name):
    pipe = made(name)
    velocity = velocity_of(pipe)
    (first, a), (second, b) = (run(name, pipe, seed=seed, batch=2 + seed) for seed in (1, 2))
    both, seen = cg.concatenate([first, second]), torch.cat([a, b])
    assert len(both) == 7 and both.sample_ids == [0, 1, 2, 3, 4, 5, 6]
    assert torch.equal(both.latents, torch.cat([first.latents, second.latents]))
    for rows in (slice(None), slice(1, 6, 2), [6, 0, 3], np.array([False, True] * 3 + [True]), 4, torch.tensor([-1, 2])):
        part = both[rows]
        numbers = np.atleast_1d(np.arange(7)[np.asarray(rows) if not isinstance(rows, slice) else rows])
        assert part.sample_ids == numbers.tolist()
        assert torch.equal(part.latents, both.latents[numbers]) and torch.equal(part.log_probs, both.log_probs[numbers])
        close(replayed(velocity.of(part), part), seen[numbers])
        again = pickle.loads(pickle.dumps(part))
        assert torch.equal(replayed(velocity.of(again), again), replayed(velocity.of(part), part))
    close(replayed(velocity.of(first), first), a, 0)  # the record has its calls: the latest run does not matter


@pytest.mark.parametrize("name", MAKERS)
def test_each_sample_may_be_at_a_step_of_its_own(name):
    pipe = made(name)
    velocity = velocity_of(pipe)
    record, seen = run(name, pipe)
    steps = torch.tensor([3, 0, 3])
    x = record.latents[torch.arange(3), steps]
    close(velocity(x, None, steps), seen[torch.arange(3), steps])
    close(velocity.of(record[:2])(x[:2], None, steps[:2]), seen[[0, 1], steps[:2]])


def test_embeddings_are_kept_once():
    pipe = made("sd3")
    velocity_of(pipe)
    record, _ = run("sd3", pipe)
    for part in (record, record[[0, 2]], cg.concatenate([record, record]), pickle.loads(pickle.dumps(record)), record.to("cpu")):
        kept = [step.calls[0].arguments["encoder_hidden_states"] for step in part._calls]
        assert len(kept) == STEPS and len({tensor.data_ptr() for tensor in kept}) == 1


def test_both_transformers_of_a_pipeline_with_two_have_their_own_guidance():
    pipe = made("wan")
    torch.manual_seed(1)
    pipe.register_modules(transformer_2=tiny_wan().transformer)
    pipe.register_to_config(boundary_ratio=0.7)
    velocity = velocity_of(pipe)
    record, seen = run("wan", pipe, guidance_scale=4.0, guidance_scale_2=2.5)
    assert torch.equal(replayed(velocity, record), seen)
    scales = [(step.calls[0].model, step.rule.scale) for step in record._calls]
    assert scales[0] == ("transformer", 4.0) and scales[-1] == ("transformer_2", 2.5)
    steps = torch.tensor([0, STEPS - 1, 0])  # which no one call can have
    close(velocity(record.latents[torch.arange(3), steps], None, steps), seen[torch.arange(3), steps])
    other = torch.nn.Identity()
    assert velocity_of(pipe, {"transformer_2": other})._models["transformer_2"] is other


def test_image_to_image_is_repeated_from_where_it_begins():
    pipe = diffusers.FluxImg2ImgPipeline.from_pipe(made("flux"))
    pipe.set_progress_bar_config(disable=True)
    velocity = velocity_of(pipe)
    image = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    record, seen = run("flux", pipe, image=image, strength=0.6)
    assert record.first_step == 2 and torch.equal(replayed(velocity, record, 3), seen)
    with pytest.raises(cg.InvalidArgument, match="step = 1 is not recorded: 2 ... 4 are"):
        velocity(record.latents[:, 0], None, 1)


def test_an_image_beside_the_latents_stays_there():
    pipe = diffusers.FluxKontextPipeline.from_pipe(made("flux"))
    pipe.set_progress_bar_config(disable=True)
    velocity = velocity_of(pipe)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    record, seen = run("flux", pipe, image=image, _auto_resize=False, max_area=256)
    beside = [step.calls[0].beside for step in record._calls]
    assert beside[0].shape[1] > 0 and len({tensor.untyped_storage().data_ptr() for tensor in beside}) == 1
    assert beside[0].untyped_storage().nbytes() == 4 * beside[0].numel()  # without the latents before it
    assert torch.equal(replayed(velocity, record), seen)
    close(replayed(velocity.of(record[[2, 0]]), record[[2, 0]]), seen[[2, 0]])


def test_training_by_a_chunk_at_a_time_has_the_gradient_of_autograd():
    """The one side repeats the pipeline, the other is written out for SD3."""
    pipe = made("sd3")
    velocity = velocity_of(pipe)
    g = torch.Generator().manual_seed(1)
    words, pooled, no_words, not_pooled = (torch.randn(3, *shape, generator=g) for shape in ((6, 32), (32,), (6, 32), (32,)))
    record, _ = run(
        "sd3", pipe, prompt_embeds=words, pooled_prompt_embeds=pooled, negative_prompt_embeds=no_words,
        negative_pooled_prompt_embeds=not_pooled,
    )  # fmt: skip
    net, rows, adv = pipe.transformer, [2, 0], [1.0, -0.5]
    part = record[rows]
    cgt.streamed_backward(velocity.of(part), part.sampler, part.latents, part.log_probs, adv, PLAN)
    streamed = {name: p.grad.clone() for name, p in net.named_parameters() if p.grad is not None}
    net.zero_grad()

    def by_hand(x, t):
        text = {"encoder_hidden_states": torch.cat([no_words[rows], words[rows]])}
        text["pooled_projections"] = torch.cat([not_pooled[rows], pooled[rows]])
        u, c = net(torch.cat([x, x]), timestep=t.expand(4), return_dict=False, **text)[0].chunk(2)
        return u + 3.5 * (c - u)

    v = torch.stack([by_hand(record.latents[rows, k], pipe.scheduler.timesteps[k]) for k in range(4)], 1)
    cgt.chunk_policy_loss(part.sampler, part.latents, v, part.log_probs, adv, PLAN).loss.backward()
    for name, p in net.named_parameters():
        assert (p.grad is None) == (name not in streamed)
        if p.grad is not None:
            close(streamed[name], p.grad, 1e-5)


def test_autocast_and_inference_mode_are_those_of_the_run():
    pipe = made("sd3")
    velocity = velocity_of(pipe)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        record, seen = run("sd3", pipe)
    assert torch.equal(replayed(velocity, record), seen) and seen.dtype == torch.bfloat16
    out = cgt.streamed_backward(velocity, record.sampler, record.latents, record.log_probs, [1.0, 0.0, -1.0], PLAN)
    assert out.stats.ratio_std == 0 and pipe.transformer.proj_out.weight.grad.abs().max() > 0


@pytest.mark.parametrize("way", ["wrapped", "in place"])
def test_a_compiled_transformer_is_watched_too(way):
    pipe = made("sd3")
    if way == "wrapped":
        pipe.transformer = torch.compile(pipe.transformer, backend="eager")
    else:
        pipe.transformer.compile(backend="eager")
    velocity = velocity_of(pipe)
    record, seen = run("sd3", pipe)
    assert torch.equal(replayed(velocity, record), seen)
    out = cgt.streamed_backward(velocity, record.sampler, record.latents, record.log_probs, [1.0, 0.0, -1.0], PLAN)
    assert out.stats.ratio_std == 0 and any(p.grad is not None for p in pipe.transformer.parameters())


def test_a_wrapper_is_called_in_place_of_the_transformer_and_seen_by_streamed_backward():
    class Wrapper(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module
            self.calls = 0

        def forward(self, **kwargs):
            self.calls += 1
            return self.module(**kwargs)

    Wrapper.__name__, Wrapper.__module__ = "DistributedDataParallel", "torch.nn.parallel"
    pipe = made("wan")
    wrapper = Wrapper(pipe.transformer)
    velocity = velocity_of(pipe, wrapper)
    record, seen = run("wan", pipe)
    assert wrapper.calls == 0 and torch.equal(replayed(velocity, record), seen) and wrapper.calls == 2 * STEPS
    for function in (velocity, velocity.of(record), lambda x, sigma, step: velocity.of(record)(x, sigma, step)):
        assert wrappers_in(function) == {"ddp": wrapper}


def test_one_watch_a_scheduler_and_none_after_its_end():
    pipe = made("flux")
    first = velocity_of(pipe)
    second = velocity_of(pipe)
    record, seen = run("flux", pipe)
    assert len(pipe.transformer._forward_hooks) == 1 and torch.equal(replayed(first, record), seen)
    copied = copy.deepcopy(pipe.scheduler)
    assert copied._watch is None and repr(second) == "<velocity of FluxPipeline>"
    second.close()
    unseen, _ = run("flux", pipe)
    assert not pipe.transformer._forward_hooks and torch.equal(replayed(second.of(record), record), seen)
    with pytest.raises(cg.InvalidArgument, match="did not call its transformer"):
        replayed(second, unseen)


def test_evaluation_keeps_nothing():
    pipe = made("flux")
    velocity = velocity_of(pipe)
    record, seen = run("flux", pipe)
    with pipe.scheduler.evaluation():
        run("flux", pipe, seed=5)
        assert not velocity._watch._seen
        with pytest.raises(cg.InvalidArgument, match="has recorded no run"):
            velocity(record.latents[:, 0], None, 0)
    assert torch.equal(replayed(velocity, record), seen)


# ----------------------------------------------------------------------------------------------------------------------
# What is refused


def test_what_cannot_be_watched_is_refused():
    pipe = made("flux")
    ours, pipe.scheduler = pipe.scheduler, diffusers.FlowMatchEulerDiscreteScheduler()
    for wrong in (pipe, None):
        with pytest.raises(cg.WrongType, match="pipe.scheduler must be a FlowMatchSDEScheduler"):
            velocity_of(wrong)
    pipe.scheduler = ours
    with pytest.raises(cg.InvalidArgument, match=r"model\['vae'\] is a AutoencoderKL; pipe has transformer"):
        velocity_of(pipe, {"vae": pipe.vae})
    assert not pipe.transformer._forward_hooks
    with pytest.raises(cg.WrongType, match="record must be a RecordedTrajectory"):
        velocity_of(pipe).of([1])


def test_a_run_before_the_watch_is_refused():
    pipe = made("flux")
    record, _ = run("flux", pipe)
    velocity = velocity_of(pipe)
    with pytest.raises(cg.InvalidArgument, match="0 of 5 recorded steps have the pipeline's calls: call velocity_of"):
        velocity(record.latents[:, 0], None, 0)
    record, _ = run("flux", pipe)
    with pytest.raises(cg.InvalidArgument, match=r"latents has 2 samples; the record that is replayed has 3: .*record\[rows\]"):
        velocity(record.latents[:2, 0], None, 0)
    with pytest.raises(cg.InvalidArgument, match="step = 5 is not recorded: 0 ... 4 are"):
        velocity(record.latents[:, 0], None, 5)


def test_latents_that_a_pipeline_changes_first_are_refused():
    pipe = made("flux")
    velocity = velocity_of(pipe)
    hook = pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {**kwargs, "hidden_states": 0.5 * kwargs["hidden_states"]}), with_kwargs=True
    )
    record, _ = run("flux", pipe)
    hook.remove()
    with pytest.raises(cg.InvalidArgument, match="step 0: no argument of the transformer is the latents"):
        replayed(velocity, record)


def test_unknown_guidance_is_refused_or_given():
    def three(pipe):
        return {"skip_guidance_layers": [1], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}

    pipe = made("sd3")
    velocity = velocity_of(pipe)
    record, _ = run("sd3", pipe, **three(pipe))
    with pytest.raises(cg.InvalidArgument, match=r"step 1: no guidance that is known .* of the 3 .* give velocity_of\(pipe, combine"):
        replayed(velocity, record)

    def combine(outputs):  # diffusers' skip-layer guidance
        u, c, skipped = outputs if len(outputs) == 3 else (*outputs, outputs[1])
        return u + 3.5 * (c - u) + (c - skipped) * 2.8

    velocity = velocity_of(pipe, combine=combine)
    record, seen = run("sd3", pipe, **three(pipe))
    close(replayed(velocity, record), seen)


def test_as_many_layers_as_samples_are_not_rows():
    def combine(outputs):
        return outputs[-1] if len(outputs) == 3 else outputs[0] + 3.5 * (outputs[1] - outputs[0])

    pipe = made("sd3")
    velocity = velocity_of(pipe, combine=combine)
    layers = {"skip_guidance_layers": [7, 8, 1], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
    record, _ = run("sd3", pipe, **layers)
    whole = replayed(velocity, record)
    assert (whole[:, 1] - replayed(velocity_of(pipe), run("sd3", pipe)[0])[:, 1]).abs().max() > 1e-3  # one is skipped
    for i in range(3):
        close(replayed(velocity.of(record[i]), record[i]), whole[[i]])
    scales = {"control_hidden_states_scale": torch.tensor([1.0, 0.5]), "visual_rope_pos": [torch.arange(2), torch.arange(4)]}
    call = Call("transformer", "hidden_states", 1, 2, torch.float32, None, scales, None)
    (part,) = some_rows([StepCalls((call,), None)], slice(0, 1))
    both = all_rows([[StepCalls((call,), None)]] * 2)[0]
    for arguments in (part.calls[0].arguments, both.calls[0].arguments):
        for name in scales:
            assert str(arguments[name]) == str(scales[name])


def test_a_cache_between_steps_is_refused():
    pipe = made("flux")
    velocity = velocity_of(pipe)
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1))
    record, _ = run("flux", pipe)
    with pytest.raises(cg.InvalidArgument, match="takes what it computes from a cache; disable_cache"):
        replayed(velocity, record)


def test_runs_that_no_one_call_has_are_one_record_but_not_one_velocity():
    pipe = made("qwen")
    velocity = velocity_of(pipe)
    runs = [run("qwen", pipe, **options)[0] for options in ({}, {"tokens": 8}, {"true_cfg_scale": 3.0})]
    for i, words in ((1, r"encoder_hidden_states(_mask)?, .* to one length"), (2, "guidance, 2.25 and 3.0: train them one by one")):
        both = cg.concatenate([runs[0], runs[i]])
        assert len(both) == 6
        with pytest.raises(cg.InvalidArgument, match=words):
            replayed(velocity.of(both), both)
        with pytest.raises(cg.InvalidArgument, match=words):
            replayed(velocity.of(both[:2]), both[:2])


def test_records_that_are_not_of_one_kind_are_not_concatenated():
    pipe = made("flux")
    first, _ = run("flux", pipe)
    pipe.scheduler.configure(eta=0.3)
    second, _ = run("flux", pipe)
    with pytest.raises(cg.InvalidArgument, match=r"trajectories\[1\] has sampler"):
        cg.concatenate([first, second])
    pipe.scheduler.configure(eta=0.7)
    third, _ = run("flux", pipe, height=32)
    with pytest.raises(cg.InvalidArgument, match=r"trajectories\[1\] has another schedule"):
        cg.concatenate([first, third])
    pipe = made("sd3")
    (small, _), (large, _) = (run("sd3", pipe, height=height) for height in (16, 32))
    with pytest.raises(cg.InvalidArgument, match=r"latents of the trajectories are .*\(3, 6, 4, 8, 8\).* and .*\(3, 6, 4, 16, 8\)"):
        cg.concatenate([small, large])
    with pytest.raises(cg.WrongType, match=r"trajectories\[0\] must be a Trajectory"):
        cg.concatenate([1])
    with pytest.raises(cg.InvalidArgument, match="trajectories is empty"):
        cg.concatenate([])
