"""The scheduler in diffusers' own pipelines (tiny random models): at eta = 0 the stock image, else the library's samplers,
with a record that training can go on from."""

from __future__ import annotations

import copy
import inspect
import pickle
import sys
import typing
import warnings

import numpy as np
import pytest

from conftest import ROOT

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("peft")  # which the example needs, from which the tiny models come
sys.path.insert(0, str(ROOT / "examples" / "python"))

import tiny_models  # noqa: E402

import chunkgrpo as cg  # noqa: E402
import chunkgrpo.torch as cgt  # noqa: E402
from chunkgrpo.diffusers import FlowMatchSDEScheduler  # noqa: E402

Stock = diffusers.FlowMatchEulerDiscreteScheduler
BATCH, STEPS = 2, 5


def tiny_qwen():
    size = {"num_layers": 2, "attention_head_dim": 16, "num_attention_heads": 3, "axes_dims_rope": (8, 4, 4)}
    transformer = diffusers.QwenImageTransformer2DModel(in_channels=16, out_channels=4, joint_attention_dim=32, **size)
    layers = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 2, 4], "num_res_blocks": 1, "temperal_downsample": [False, True]}
    vae = diffusers.AutoencoderKLQwenImage(**layers, latents_mean=[0.0] * 4, latents_std=[1.0] * 4)
    scheduler = Stock(use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, shift_terminal=0.02)
    return diffusers.QwenImagePipeline(scheduler, vae, None, None, transformer)


def tiny_flux2():
    size = {"num_layers": 1, "num_single_layers": 1, "attention_head_dim": 16, "num_attention_heads": 2}
    text = {"joint_attention_dim": 32, "timestep_guidance_channels": 32, "axes_dims_rope": (4, 4, 4, 4)}
    transformer = diffusers.Flux2Transformer2DModel(in_channels=16, **size, **text)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    vae = diffusers.AutoencoderKLFlux2(
        **blocks, block_out_channels=(8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=4
    )
    return diffusers.Flux2KleinPipeline(Stock(use_dynamic_shifting=True), vae, None, None, transformer)


MAKERS = {"flux": tiny_models.tiny_flux, "sd3": tiny_models.tiny_sd3, "qwen": tiny_qwen, "flux2": tiny_flux2}


@pytest.fixture(scope="module")
def pipelines():
    """name, type -> a pipeline with its stock scheduler, made once."""
    made = {}

    def get(name, dtype=torch.float32):
        if (name, dtype) not in made:
            torch.manual_seed(0)
            pipe = MAKERS[name]().to(dtype)
            pipe.set_progress_bar_config(disable=True)
            made[name, dtype] = pipe, pipe.scheduler
        pipe, stock = made[name, dtype]
        pipe.scheduler = stock
        return pipe

    return get


def swap(pipe, **options):
    pipe.scheduler = FlowMatchSDEScheduler.from_config(pipe.scheduler.config, **options)
    return pipe.scheduler


def run(name, pipe, batch=BATCH, output="pt", **options):
    g = torch.Generator().manual_seed(5)

    def embeddings(*shape):
        return torch.randn(batch, *shape, generator=g).to(pipe.transformer.dtype)

    given = {"prompt_embeds": embeddings(6, 32), "height": 32, "width": 32, "num_inference_steps": STEPS}
    if name == "qwen":
        mask = torch.ones(batch, 6, dtype=torch.long)
        given.update(prompt_embeds_mask=mask, negative_prompt_embeds=embeddings(6, 32), true_cfg_scale=2.0)
        given["negative_prompt_embeds_mask"] = mask
    if name == "flux2":
        given["guidance_scale"] = 1.0
    if name in ("flux", "sd3"):
        given["pooled_prompt_embeds"] = embeddings(32)
    if name == "sd3":
        given.update(negative_prompt_embeds=embeddings(6, 32), negative_pooled_prompt_embeds=embeddings(32))
        given["guidance_scale"] = 3.0
    start = torch.Generator().manual_seed(1)
    return pipe(**given, generator=start, output_type=output, **options).images


def velocities_of(pipe):
    """Collects what the pipeline gives to its scheduler."""
    seen, step = [], pipe.scheduler.step
    pipe.scheduler.step = lambda v, *args, **kwargs: (seen.append(v.clone()), step(v, *args, **kwargs))[1]
    return seen


# ----------------------------------------------------------------------------------------------------------------------
# Pipelines


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MAKERS)
def test_without_noise_the_image_is_the_stock_one_to_the_bit(pipelines, name, dtype):
    pipe = pipelines(name, dtype)
    stock = run(name, pipe)
    for options in ({"eta": 0.0}, {"dynamics": "cps", "eta": 0.0}, {"dynamics": "ode"}):
        swap(pipelines(name, dtype), **options)
        assert torch.equal(run(name, pipe), stock), options
    assert stock.std() > 0.05  # an image, not a constant


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", MAKERS)
def test_a_rollout_is_recorded_as_it_was_sampled(pipelines, name, dtype):
    pipe = pipelines(name, dtype)
    scheduler = swap(pipe, eta=0.6, seed=9)
    seen = velocities_of(pipe)
    latents = run(name, pipe, output="latent")
    traj = scheduler.trajectory
    assert traj.done and traj.position == STEPS and traj.first_step == 0 and traj.sample_ids == [0, 1]
    assert traj.latents.dtype == dtype and traj.latents.shape == (BATCH, STEPS + 1, *seen[0].shape[1:])
    assert traj.log_probs.shape == traj.relative_l1.shape == (BATCH, STEPS - 1)
    assert torch.equal(traj.images, traj.latents[:, -1])
    # The pipeline decodes these; Flux 2 first puts the tokens in another order and undoes its normalisation, by 1 + 5e-5.
    images, decoded = traj.images.flatten().sort().values, latents.flatten().sort().values
    torch.testing.assert_close(images, decoded, rtol=1e-4 if name == "flux2" else 0, atol=0)

    # x' = a x + b v + s e with the library's noise for (seed, sample id, step), and its density, in float64
    x, v = traj.latents.double(), torch.stack(seen, dim=1).double()
    rounding = 1e-6 if dtype == torch.float32 else 2**-8
    for k in range(STEPS):
        a, b, s, _ = scheduler.sampler.coefficients(k)
        mean = a * x[:, k] + b * v[:, k]
        e = torch.from_numpy(cg.normal(mean.shape, 9, k, [0, 1])).double()
        expected = mean + (s * e if s else 0)
        assert ((x[:, k + 1] - expected).abs() <= rounding * (1 + expected.abs())).all()
        if k < STEPS - 1:
            square = (x[:, k + 1] - mean).square().flatten(1).mean(dim=1)
            density = -square / (2 * s * s) - np.log(s) - np.log(2 * np.pi) / 2
            torch.testing.assert_close(traj.log_probs[:, k], density, rtol=0, atol=2e-6)
            moved = (x[:, k + 1] - x[:, k]).abs().flatten(1).mean(1) / (x[:, k].abs().flatten(1).mean(1) + 1e-8)
            torch.testing.assert_close(torch.as_tensor(traj.relative_l1[:, k]), moved, rtol=1e-5, atol=0)
    assert scheduler.sampler.coefficients(STEPS - 1).s == 0  # last_step="ode"

    # On the policy that sampled, the ratio is exactly 1, whatever the storage type.
    new = cgt.log_probs(traj.sampler, traj.latents, torch.stack(seen[:-1], dim=1))
    assert torch.equal(new, traj.log_probs)


def test_image_to_image_is_recorded_from_where_it_begins(pipelines):
    pipe = diffusers.FluxImg2ImgPipeline.from_pipe(pipelines("flux"))
    pipe.set_progress_bar_config(disable=True)
    image = {"image": torch.rand(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(3)), "strength": 0.6}
    stock = run("flux", pipe, **image)
    swap(pipe, eta=0.0)
    assert torch.equal(run("flux", pipe, **image), stock)
    traj = pipe.scheduler.trajectory
    assert traj.first_step == 2 and traj.done and traj.latents.shape[1] == STEPS - 1


def test_inpainting_is_no_trajectory_but_runs_without_a_record(pipelines):
    pipe = diffusers.FluxInpaintPipeline.from_pipe(pipelines("flux"))
    pipe.set_progress_bar_config(disable=True)
    mask = torch.zeros(BATCH, 1, 32, 32)
    mask[:, :, :16] = 1
    task = {"image": torch.zeros(BATCH, 3, 32, 32), "mask_image": mask}
    stock = run("flux", pipe, **task)
    swap(pipe, eta=0.0, record=False)
    assert torch.equal(run("flux", pipe, **task), stock)
    swap(pipe, eta=0.5, record=True)
    with pytest.raises(cg.InvalidArgument, match="changed between steps"):
        run("flux", pipe, **task)


def test_training_goes_on_from_the_record(pipelines):
    pipe = pipelines("flux")
    scheduler = swap(pipe)
    seen = velocities_of(pipe)
    run("flux", pipe)
    traj, plan, adv = scheduler.trajectory, cg.ChunkPlan([1, 3]), [1.0, -1.0]
    v = torch.stack(seen[:-1], dim=1).requires_grad_()
    loss = cgt.chunk_loss(cgt.log_probs(traj.sampler, traj.latents, v), traj.log_probs, adv, plan).loss
    loss.backward()
    arrays = [np.ascontiguousarray(t.detach().numpy()) for t in (traj.latents, v, traj.log_probs)]
    plain = cg.chunk_loss(traj.sampler.log_probs(*arrays[:2]), arrays[2], adv, plan)
    assert loss.item() == plain.loss == 0  # -A at a ratio of 1, over both samples
    gradient = traj.sampler.log_probs_vjp(*arrays[:2], plain.grad_log_probs)
    assert np.abs(gradient).max() > 0
    np.testing.assert_array_equal(v.grad.numpy(), gradient)


# ----------------------------------------------------------------------------------------------------------------------
# Noise


def steps_by_hand(scheduler, x, velocity=lambda x, t: torch.tanh(x) * (0.3 + t / 1000), **options):
    for t in scheduler.timesteps[scheduler.begin_index or 0 :]:
        x = scheduler.step(velocity(x, t), t, x, return_dict=False, **options)[0]
    return x


def start(batch=3):
    return torch.randn(batch, 4, 6, generator=torch.Generator().manual_seed(2))


def made(steps=STEPS, **options):
    scheduler = FlowMatchSDEScheduler(shift=3.0, **options)
    scheduler.set_timesteps(steps)
    return scheduler


def test_every_run_takes_fresh_sample_ids_and_so_fresh_noise():
    scheduler, x = made(seed=4), start()
    first = steps_by_hand(scheduler, x)
    scheduler.set_timesteps(STEPS)
    second = steps_by_hand(scheduler, x)
    assert scheduler.trajectory.sample_ids == [3, 4, 5] and scheduler.next_sample_id == 6
    assert not torch.equal(first, second)

    again = made(seed=4)  # a run that goes on elsewhere
    again.next_sample_id = 3
    assert torch.equal(steps_by_hand(again, x), second)
    split = made(seed=4)  # the second sample of the second run, alone
    split.sample_ids = [4]
    assert torch.equal(steps_by_hand(split, x[1:2]), second[1:2]) and split.next_sample_id == 0
    assert not torch.equal(steps_by_hand(made(seed=5), x), first)


def test_noise_may_come_from_torch_generators():
    def one():
        return torch.Generator().manual_seed(8)

    def one_a_sample():
        return [torch.Generator().manual_seed(i) for i in range(3)]

    x = start()
    for generator in (one, one_a_sample):
        scheduler = made(last_step="as_others")
        scheduler.generator = generator()
        sampled, drawn = steps_by_hand(scheduler, x), generator()
        latents, sampler = scheduler.trajectory.latents.double(), scheduler.sampler
        for k, t in enumerate(scheduler.timesteps):
            a, b, s, _ = sampler.coefficients(k)
            v = torch.tanh(latents[:, k].float()) * (0.3 + t / 1000)
            e = diffusers.utils.torch_utils.randn_tensor(x.shape, generator=drawn)
            torch.testing.assert_close(latents[:, k + 1], a * latents[:, k] + b * v + s * e, rtol=1e-5, atol=1e-6)
        scheduler.set_timesteps(STEPS)
        assert torch.equal(steps_by_hand(scheduler, x, generator=generator()), sampled)  # as an argument of step


# ----------------------------------------------------------------------------------------------------------------------
# Configuration and schedules


CONFIGS = {
    "shift": ({"shift": 3.0}, {"num_inference_steps": 7}),
    "sigmas": ({"shift": 3.0}, {"sigmas": [1.0, 0.7, 0.4, 0.1]}),
    "dynamic": ({"use_dynamic_shifting": True}, {"sigmas": np.linspace(1, 1 / 6, 6), "mu": 0.8}),
    "linear": ({"use_dynamic_shifting": True, "time_shift_type": "linear"}, {"num_inference_steps": 6, "mu": 0.8}),
    "terminal": ({"shift_terminal": 0.1}, {"num_inference_steps": 6}),
    "karras": ({"use_karras_sigmas": True}, {"num_inference_steps": 6}),
    "exponential": ({"use_exponential_sigmas": True}, {"num_inference_steps": 6}),
    "beta": ({"use_beta_sigmas": True}, {"num_inference_steps": 6}),
    "timesteps": ({}, {"timesteps": [1000.0, 600.0, 100.0]}),
    "both": ({}, {"timesteps": [1000.0, 600.0, 100.0], "sigmas": [1.0, 0.5, 0.2]}),
    "training": ({"shift": 3.0}, {"num_inference_steps": 1000}),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_schedule_is_the_stock_one(name):
    config, how = CONFIGS[name]
    if "use_beta_sigmas" in config:
        pytest.importorskip("scipy")
    stock, ours = Stock(**config), FlowMatchSDEScheduler.from_config(Stock(**config).config)
    stock.set_timesteps(**how)
    ours.set_timesteps(**how)
    assert torch.equal(stock.sigmas, ours.sigmas) and torch.equal(stock.timesteps, ours.timesteps)
    np.testing.assert_array_equal(ours.sampler.schedule.sigmas, stock.sigmas.double())


def test_own_options_survive_saving_and_the_way_back_to_the_stock_scheduler(tmp_path):
    stock = Stock(shift=2.5, use_karras_sigmas=True)
    own = {"dynamics": "cps", "eta": 0.4, "log_prob": "squared_error", "window": [1, 2]}
    ours = FlowMatchSDEScheduler.from_config(stock.config, **own)
    ours.configure(seed=3)
    ours.save_pretrained(tmp_path)
    for loaded in (FlowMatchSDEScheduler.from_pretrained(tmp_path), FlowMatchSDEScheduler.from_config(ours.config)):
        for name in ("shift", "use_karras_sigmas", "dynamics", "eta", "log_prob", "window", "seed", "last_step"):
            assert loaded.config[name] == ours.config[name], name
    assert FlowMatchSDEScheduler.from_pretrained(tmp_path, eta=0.2).config.eta == 0.2
    back = Stock.from_config(ours.config)
    assert type(back) is Stock and back.config.shift == 2.5 and back.config.use_karras_sigmas


def test_a_pipeline_with_the_scheduler_saves_and_loads(pipelines, tmp_path):
    pipe = pipelines("sd3")
    swap(pipe, eta=0.3, seed=6)
    before = run("sd3", pipe)
    pipe.save_pretrained(tmp_path)
    empty = {name: None for name in pipe.components if name.startswith(("text_", "token", "image_", "feature_"))}
    loaded = diffusers.StableDiffusion3Pipeline.from_pretrained(tmp_path, **empty)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.scheduler) is FlowMatchSDEScheduler and loaded.scheduler.config.eta == 0.3
    assert torch.equal(run("sd3", loaded), before)


def test_options_change_between_runs_and_wrong_ones_leave_all_as_it_was():
    scheduler = made(eta=0.5)
    assert scheduler.sampler.stochastic_steps == [0, 1, 2, 3]
    scheduler.configure(window=[1, 2], eta=0.2)
    scheduler.set_timesteps(STEPS)
    assert scheduler.sampler.stochastic_steps == [1, 2] and scheduler.sampler.eta == 0.2
    steps_by_hand(scheduler, start())
    assert (scheduler.trajectory.log_probs == 0).tolist() == [[True, False, False, True]] * 3
    for wrong in ({"eta": -1.0}, {"dynamics": "sde"}, {"seed": -1}, {"stochastic_sampling": True}):
        config = scheduler.config
        with pytest.raises(cg.InvalidArgument, match=next(iter(wrong))):
            scheduler.configure(**wrong)
        assert scheduler.config == config
    with pytest.raises(cg.WrongType, match="'windo'. Did you mean 'window'"):
        scheduler.configure(windo=[1])
    assert scheduler.config == config


@pytest.mark.parametrize(
    "options",
    [
        {"dynamics": "dpm_sde"},
        {"dynamics": "dpm_ode"},
        {"window": [0, 1], "after": "dpm_ode", "eta": 0.5},
        {"dynamics": "cps", "log_prob": "squared_error"},
        {"dynamics": "dance_sde", "etas": [0.1, 0.2, 0.3, 0.2, 0.1]},
        {"dynamics": "wan_sde", "last_step": "as_others", "threads": 2},
    ],
    ids=str,
)
def test_every_dynamics_is_that_of_the_sampler(options):
    scheduler, x = made(seed=3, **options), start()
    steps_by_hand(scheduler, x)
    traj = scheduler.trajectory
    own = cg.Sampler(scheduler.sampler.schedule, **{"last_step": "ode", **options})
    timesteps = scheduler.timesteps

    def velocity(x, sigma, k):
        return (torch.tanh(torch.tensor(x)) * (0.3 + timesteps[k] / 1000)).numpy()

    rollout = own.rollout(velocity, x.numpy(), seed=3)
    np.testing.assert_allclose(traj.latents.numpy(), rollout.latents, rtol=0, atol=2e-6)
    np.testing.assert_allclose(traj.log_probs.numpy(), rollout.log_probs, rtol=0, atol=2e-5)
    np.testing.assert_allclose(np.asarray(traj.relative_l1), rollout.relative_l1, rtol=1e-4)


# ----------------------------------------------------------------------------------------------------------------------
# Runs


def test_a_run_may_begin_in_the_middle():
    whole, part = made(seed=1), made(seed=1)
    steps_by_hand(whole, start())
    part.set_begin_index(2)  # as image-to-image pipelines do
    steps_by_hand(part, whole.trajectory.latents[:, 2])
    traj = part.trajectory
    assert traj.first_step == 2 and torch.equal(traj.latents, whole.trajectory.latents[:, 2:])
    assert torch.equal(traj.log_probs, whole.trajectory.log_probs[:, 2:])


def test_a_run_can_be_looked_at_on_its_way():
    scheduler, x = made(), start()
    assert scheduler.trajectory is None
    x1 = scheduler.step(torch.tanh(x), scheduler.timesteps[0], x).prev_sample
    traj = scheduler.trajectory
    assert not traj.done and traj.position == 1 and "step 1 of 5" in repr(traj)
    assert torch.equal(traj.latents, torch.stack([x, x1], dim=1)) and traj.log_probs.shape == (3, 1)
    scheduler.set_timesteps(STEPS)
    assert scheduler.trajectory is None and torch.equal(traj.images, x1)  # a record is the caller's to keep


def test_without_recording_the_images_are_the_same():
    kept, unkept = made(), made(record=False)
    x = start()
    assert torch.equal(steps_by_hand(kept, x), steps_by_hand(unkept, x)) and unkept.trajectory is None
    unkept.set_timesteps(STEPS)
    for t in unkept.timesteps:  # in-painting
        x = unkept.step(torch.tanh(x), t, x + 1, return_dict=False)[0]


def test_nothing_is_differentiable_in_a_rollout():
    for options in ({}, {"eta": 0.0}):
        scheduler, x = made(**options), start().requires_grad_()
        out = scheduler.step(torch.tanh(x), scheduler.timesteps[0], x).prev_sample
        assert not out.requires_grad and not scheduler.trajectory.log_probs.requires_grad


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))], ids=["deepcopy", "pickle"])
def test_copies_sample_the_same(copied):
    scheduler, x = made(seed=2), start()
    other = copied(scheduler)
    assert torch.equal(steps_by_hand(other, x), steps_by_hand(scheduler, x))
    later = copied(scheduler)
    assert later.next_sample_id == 3 and later.trajectory is None
    copied(FlowMatchSDEScheduler()).set_timesteps(3)

    drawing = made()
    drawing.generator = torch.Generator().manual_seed(1)
    assert torch.equal(steps_by_hand(copied(drawing), x), steps_by_hand(drawing, x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_the_ratio_is_one_in_every_storage_type(dtype):
    for options in ({}, {"dynamics": "dance_sde", "eta": 0.3}, {"dynamics": "cps"}):
        scheduler, x, velocities = made(**options), start().to(dtype), []
        steps_by_hand(scheduler, x, lambda x, t: (velocities.append(torch.tanh(x)), velocities[-1])[1])
        traj = scheduler.trajectory
        new = cgt.log_probs(traj.sampler, traj.latents, torch.stack(velocities[:-1], dim=1))
        assert traj.latents.dtype == dtype and torch.equal(new, traj.log_probs)
        ratios = cgt.chunk_loss(new, traj.log_probs, [1.0, 0.0, -1.0], cg.ChunkPlan([2, 2])).ratios
        assert torch.equal(ratios, torch.ones_like(ratios))


def test_under_autocast_latents_stay_float32_and_the_ratio_one():
    scheduler, x = made(), start()
    velocities = []
    for t in scheduler.timesteps:
        velocities.append(torch.tanh(x).bfloat16())
        x = scheduler.step(velocities[-1], t, x, return_dict=False)[0]
        assert x.dtype == torch.float32
    traj = scheduler.trajectory
    new = cgt.log_probs(traj.sampler, traj.latents, torch.stack(velocities[:-1], dim=1))
    assert traj.latents.dtype == torch.float32 and torch.equal(new, traj.log_probs)


def test_wrong_use_is_refused():
    x = start()
    with pytest.raises(cg.InvalidArgument, match="set_timesteps"):
        FlowMatchSDEScheduler().step(x, 1000.0, x)
    not_taken = {"stochastic_sampling": True}, {"invert_sigmas": True}
    for wrong in (*not_taken, {"dynamics": "sde"}, {"eta": -0.1}, {"threads": -1}):
        with pytest.raises(cg.InvalidArgument, match=next(iter(wrong))):
            FlowMatchSDEScheduler(**wrong)
    unknown = r"FlowMatchSDEScheduler\(\) got an unexpected keyword argument"
    with pytest.raises(cg.WrongType, match=f"{unknown} 'noise_level'"):
        FlowMatchSDEScheduler.from_config(Stock().config, noise_level=0.7)
    for call in (FlowMatchSDEScheduler, lambda **options: FlowMatchSDEScheduler.from_config(Stock().config, **options)):
        with pytest.raises(cg.WrongType, match=f"{unknown} 'etta'. Did you mean 'eta'"):
            call(etta=0.3)
    with pytest.raises(TypeError, match="positional"):
        FlowMatchSDEScheduler(*Stock().config.values(), "cps")
    with pytest.raises(cg.InvalidArgument, match="sigmas"):
        made().set_timesteps(sigmas=[0.5, 0.7, 0.2])
    with pytest.raises(cg.InvalidArgument, match="etas"):
        made(etas=[0.1] * 4)

    scheduler = made()
    first = scheduler.timesteps[0]
    with pytest.raises(cg.InvalidArgument, match="index"):
        scheduler.step(x, 0, x)
    with pytest.raises(cg.InvalidArgument, match="shape"):
        scheduler.step(x[:, :2], first, x)
    with pytest.raises(cg.NonFinite):
        scheduler.step(x * float("nan"), first, x)
    assert scheduler.trajectory is None and scheduler.next_sample_id == 0  # no run has begun
    x1 = scheduler.step(x, first, x).prev_sample
    with pytest.raises(cg.NonFinite):
        scheduler.step(x1 * float("nan"), scheduler.timesteps[1], x1)
    assert scheduler.trajectory.position == scheduler.step_index == 1
    with pytest.raises(cg.InvalidArgument, match="began with"):
        scheduler.step(x1[:2], scheduler.timesteps[1], x1[:2])
    with pytest.raises(cg.InvalidArgument, match="changed between steps 0 and 1"):
        scheduler.step(x1, scheduler.timesteps[1], x1 + 1)
    scheduler.sample_ids = [1, 2]
    scheduler.set_timesteps(STEPS)
    with pytest.raises(cg.InvalidArgument, match="sample_ids"):
        scheduler.step(x, first, x)


def test_a_step_with_the_timestep_of_another_is_refused():
    scheduler, x = made(), start()
    x1 = scheduler.step(torch.tanh(x), scheduler.timesteps[0], x).prev_sample
    for wrong in (scheduler.timesteps[2], scheduler.timesteps[0], scheduler.timesteps[2:3], 0.5):
        with pytest.raises(cg.InvalidArgument, match="at step 1, whose timestep is"):
            scheduler.step(x1, wrong, x1)
    assert scheduler.trajectory.position == 1
    rounded = scheduler.timesteps[1].bfloat16()  # as models want it; the step is known
    assert rounded != scheduler.timesteps[1]
    assert torch.equal(scheduler.step(x1, rounded, x1).prev_sample, scheduler.trajectory.images)


def test_a_record_made_under_inference_mode_can_be_trained_on():
    net, x = torch.nn.Linear(6, 6), start()
    scheduler = FlowMatchSDEScheduler(shift=3.0)
    with torch.inference_mode():
        scheduler.set_timesteps(STEPS)
        steps_by_hand(scheduler, x, lambda x, t: net(x))
    traj = scheduler.trajectory
    v = torch.stack([net(traj.latents[:, k]) * scheduler.timesteps[k] / 1000 for k in range(STEPS - 1)], dim=1)
    (cgt.log_probs(traj.sampler, traj.latents, v) - traj.log_probs).sum().backward()
    assert net.weight.grad.abs().max() > 0


def test_the_record_of_a_run_of_one_step_has_no_trained_step():
    scheduler = made(1)
    steps_by_hand(scheduler, start())
    traj = scheduler.trajectory
    assert traj.done and traj.relative_l1.shape == traj.log_probs.shape == (3, 0)
    assert traj.relative_l1.dtype == torch.float64 and torch.equal(traj.current, traj.images)


@pytest.mark.parametrize(
    "copied",
    [copy.deepcopy, lambda t: pickle.loads(pickle.dumps(t)), "torch.save"],
    ids=["deepcopy", "pickle", "torch.save"],
)
def test_a_record_can_be_saved(copied, tmp_path):
    def saved(value):
        torch.save(value, tmp_path / "record.pt")
        return torch.load(tmp_path / "record.pt", weights_only=False)

    scheduler = made(seed=3)
    steps_by_hand(scheduler, start())
    traj = scheduler.trajectory
    other = saved(traj) if copied == "torch.save" else copied(traj)
    assert torch.equal(other.latents, traj.latents) and torch.equal(other.log_probs, traj.log_probs)
    assert other.sampler == traj.sampler and other.sample_ids == traj.sample_ids and other.done


def test_the_shift_of_a_flow_solver_is_taken_over():
    wan = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 5.0}
    for kind in (diffusers.UniPCMultistepScheduler, diffusers.DPMSolverMultistepScheduler):
        config = kind(**wan).config
        assert FlowMatchSDEScheduler.from_config(config).config.shift == 5.0
        assert FlowMatchSDEScheduler.from_config(config, shift=2.0).config.shift == 2.0
        scheduler = FlowMatchSDEScheduler.from_config(dict(config), eta=0.3)
        scheduler.set_timesteps(4)
        assert scheduler.sampler.eta == 0.3 and FlowMatchSDEScheduler.from_config(scheduler.config).config.shift == 5.0


def test_a_scheduler_that_is_no_flow_matching_one_is_refused():
    for kind, options, words in (
        (diffusers.DDIMScheduler, {}, "prediction_type 'epsilon'"),
        (diffusers.EulerDiscreteScheduler, {"prediction_type": "v_prediction"}, "prediction_type 'v_prediction'"),
        (diffusers.UniPCMultistepScheduler, {"use_flow_sigmas": True, "flow_shift": 5.0}, "prediction_type 'epsilon'"),
        (diffusers.UniPCMultistepScheduler, {"prediction_type": "flow_prediction"}, "use_flow_sigmas false"),
        (diffusers.KarrasVeScheduler, {}, "no 'shift'"),
        (diffusers.ScoreSdeVeScheduler, {}, "no 'shift'"),
    ):
        with pytest.raises(cg.InvalidArgument, match=words):
            FlowMatchSDEScheduler.from_config(kind(**options).config, dynamics="cps")
    assert FlowMatchSDEScheduler.from_config({"num_train_timesteps": 500}).config.num_train_timesteps == 500
    heun = diffusers.FlowMatchHeunDiscreteScheduler(shift=2.0)
    assert FlowMatchSDEScheduler.from_config(heun.config).config.shift == 2.0


def test_in_evaluation_the_generator_alone_makes_the_image_and_training_goes_on_as_if_there_were_none(pipelines):
    pipe = pipelines("flux")
    stock = run("flux", pipe)
    scheduler = swap(pipe, eta=0.7, seed=3, window=[0, 2])
    first = run("flux", pipe)
    traj, config = scheduler.trajectory, scheduler.config
    with scheduler.evaluation():
        assert torch.equal(run("flux", pipe), stock) and torch.equal(run("flux", pipe), stock)
        assert scheduler.trajectory is None
    assert scheduler.trajectory is traj and scheduler.config == config and scheduler.next_sample_id == BATCH
    second = run("flux", pipe)
    other = swap(pipelines("flux"), eta=0.7, seed=3, window=[0, 2])
    assert torch.equal(run("flux", pipe), first) and torch.equal(run("flux", pipe), second)
    with pytest.raises(KeyError), other.evaluation():
        raise KeyError
    assert other.config.dynamics == "flow_sde" and other.next_sample_id == 2 * BATCH


def test_processes_with_the_default_seed_are_told_that_their_noise_is_equal(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.warns(UserWarning, match="2 processes sample with the default seed"):
        made()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = start()
        ranks = [steps_by_hand(made(seed=rank), x) for rank in (0, 1)]
        assert not torch.equal(*ranks)
        made(seed=0)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
        made()


def test_the_default_device_of_torch_does_not_change_a_run():
    x = start()
    expected = steps_by_hand(made(seed=1), x)
    with torch.device("meta"):
        scheduler = FlowMatchSDEScheduler(shift=3.0, seed=1)
        scheduler.set_timesteps(STEPS, device="cpu")
        assert torch.equal(steps_by_hand(scheduler, x), expected)
        assert scheduler.trajectory.relative_l1.device.type == "cpu"


def test_a_run_ends_after_its_last_step():
    scheduler = made()
    x = steps_by_hand(scheduler, start())
    with pytest.raises(cg.InvalidArgument, match="all its 5 steps"):
        scheduler.step(x, scheduler.timesteps[-1], x)


def test_timesteps_of_single_tokens_need_deterministic_dynamics():
    x, per_token = start(), torch.full((3, 4), 800.0)
    ours, stock = made(dynamics="ode"), Stock(shift=3.0)
    stock.set_timesteps(STEPS)
    t = stock.timesteps[1]
    expected = stock.step(torch.tanh(x), t, x, per_token_timesteps=per_token).prev_sample
    assert torch.equal(ours.step(torch.tanh(x), t, x, per_token_timesteps=per_token).prev_sample, expected)
    with pytest.raises(cg.InvalidArgument, match="per_token_timesteps"):
        made().step(torch.tanh(x), t, x, per_token_timesteps=per_token)


def test_type_hints_can_be_read():
    for method in ("__init__", "from_config", "configure", "step", "set_timesteps"):
        member = getattr(FlowMatchSDEScheduler, method)
        assert typing.get_type_hints(inspect.unwrap(getattr(member, "__func__", member)))
