"""docs/migration.md: every "after" runs as it is printed, against tiny transformers and stand-ins for the scripts'
variables, and gives the gradient that the scripts' own loop gives with the drop-in functions."""

from __future__ import annotations

import contextlib
import re
import sys
import textwrap
from types import SimpleNamespace

import numpy as np
import pytest

from conftest import ROOT

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("peft")
sys.path.insert(0, str(ROOT / "examples" / "python"))

import tiny_models  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*CUDA is not available")
PAGE = (ROOT / "docs" / "migration.md").read_text()
BLOCK = re.compile(r"<!-- after: (.*?) -->\n```python\n(.*?)```", re.DOTALL)
AFTER = {name: textwrap.dedent(code) for name, code in BLOCK.findall(PAGE)}
ran = set()


def run(name, variables):
    ran.add(name)
    exec(compile(AFTER[name], f"docs/migration.md, {name}", "exec"), variables)
    return variables


def gradients(model):
    found = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    assert any(gradient.abs().max() > 0 for gradient in found.values())
    return found


def same(a, b, tolerance=2e-5):
    """Relative to the whole gradient: the scripts run other batch shapes, which a float32 model answers differently."""
    assert a.keys() == b.keys()
    distance = sum((a[name] - b[name]).double().square().sum() for name in a).sqrt()
    size = sum(a[name].double().square().sum() for name in a).sqrt()
    assert distance <= tolerance * size


def clipped(ratio, advantage, low, high):
    return torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - low, 1 + high)).mean()


# ----------------------------------------------------------------------------------------------------------------------
# GCPO and DanceGRPO: FLUX, one sample per call, a schedule of their own


def flux_script(step, eta=0.7, steps=6, batch=3):
    """The variables of `train_one_step` after the rollout, which is made with the script's step function."""
    torch.manual_seed(0)
    transformer = tiny_models.tiny_flux().transformer
    sigma_schedule = torch.linspace(1, 0, steps + 1)
    sigma_schedule = 3 * sigma_schedule / (1 + 2 * sigma_schedule)
    v = {
        "torch": torch,
        "transformer": transformer,
        "sigma_schedule": sigma_schedule,
        "batch_size": batch,
        "encoder_hidden_states": torch.randn(batch, 5, 32),
        "pooled_prompt_embeds": torch.randn(batch, 32),
        "text_ids": torch.zeros(batch, 3),
        "all_image_ids": torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0)).repeat(batch, 1, 1),
        "step": 4,
        "dist": SimpleNamespace(get_rank=lambda: 1, get_world_size=lambda: 2),
    }
    timesteps = torch.tensor([int(sigma * 1000) for sigma in sigma_schedule[:-1]]).expand(batch, -1)
    z, latents, log_probs = torch.randn(batch, 16, 16), [], []
    latents.append(z)
    with torch.no_grad():
        for k in range(steps):
            rows = [predict(v, z[i : i + 1], i, timesteps[i : i + 1, k]) for i in range(batch)]
            z, _, log_prob = step(torch.cat(rows), z, eta, sigma_schedule, k, None, grpo=True, sde_solver=True)
            latents.append(z)
            log_probs.append(log_prob)
    v["all_latents"] = torch.stack(latents, dim=1)
    noise = 3e-4 * torch.randn(batch, steps - 1)  # as if the weights had moved since: some ratios are clipped
    v["samples"] = {
        "timesteps": timesteps[:, :-1],
        "latents": v["all_latents"][:, :-2],
        "next_latents": v["all_latents"][:, 1:-1],
        "log_probs": torch.stack(log_probs, dim=1)[:, :-1] + noise,
        "advantages": torch.randn(batch),
    }
    v["args"] = SimpleNamespace(
        **{"eta": eta, "sampling_steps": steps, "adv_clip_max": 5.0, "gradient_accumulation_steps": 4},
        **{"clip_range": 1e-4, "right_clip_range": 2e-4, "kl_coeff": 0.1, "timestep_fraction": 0.7},
        **{"sample_weight": True, "use_reweight": True},
    )
    return run("all", v)


def predict(v, x, i, timesteps):
    """The scripts' call of the transformer for sample i, at one latent or at all those of a chunk."""
    n = len(x)
    return v["transformer"](
        hidden_states=x,
        encoder_hidden_states=v["encoder_hidden_states"][i : i + 1].expand(n, -1, -1),
        timestep=timesteps / 1000,
        guidance=torch.tensor([3.5]),
        txt_ids=v["text_ids"][i : i + 1].repeat(5, 1),
        pooled_projections=v["pooled_prompt_embeds"][i : i + 1].expand(n, -1),
        img_ids=v["all_image_ids"][i],
        return_dict=False,
    )[0]


@pytest.mark.parametrize("mode", ["flow", "dance"])
def test_gcpo(mode):
    step = run("gcpo a", {})["flow_grpo_step" if mode == "flow" else "flux_step"]
    v = flux_script(step)
    args, samples, sigmas = v["args"], v["samples"], v["sigma_schedule"]
    args.grpo_step_mode = mode
    v["chunk_sizes"] = [2, 3]
    c = gradients(run("gcpo c", v)["transformer"])
    chosen = np.asarray(v["chosen"])
    assert chosen.sum(axis=1).tolist() == [1, 1, 1] and chosen.any(axis=0).all()

    for level in ("a", "b"):
        for i in range(v["batch_size"]):
            (chunk,) = np.flatnonzero(chosen[i])
            steps = [[0, 1], [2, 3, 4]][chunk]
            latents, pre_latents = samples["latents"][i, steps], samples["next_latents"][i, steps]
            pred = predict(v, latents, i, samples["timesteps"][i, steps])
            old = samples["log_probs"][i, steps].mean()
            weight = ((args.sampling_steps - steps[len(steps) // 2]) / steps[len(steps) // 2]) ** 0.5
            if level == "a":
                rows = [slice(j, j + 1) for j in range(len(steps))]
                each = [
                    step(pred[j], latents[j], args.eta, sigmas, k, pre_latents[j], grpo=True, sde_solver=True)[2]
                    for j, k in zip(rows, steps)
                ]
                new, advantage = torch.stack(each).mean(dim=0), samples["advantages"][i]
                loss = clipped((new - old).exp(), advantage, args.clip_range, args.right_clip_range) * weight
                loss = loss + args.kl_coeff * ((old - new).exp() - 1 - (old - new)).mean()
                (loss / args.gradient_accumulation_steps).backward()
                continue
            inside = {**v, "mul_try": True, "latents": latents, "pre_latents": pre_latents, "pred": pred, "i": steps}
            new = run("gcpo b log_prob", inside)["log_prob"]
            train = {"new_chunk_log_prob": new, "old_chunk_log_prob": old, "train_chunks": 1, "reweight_factor": weight}
            run("gcpo b loss", {**v, **train, "advantages": samples["advantages"][i]})
        same(gradients(v["transformer"]), c)


def test_dancegrpo():
    step = run("dance a", {})["flux_step"]
    v = flux_script(step, eta=0.3)
    args, samples, sigmas = v["args"], v["samples"], v["sigma_schedule"]
    args.timestep_fraction = 0.6
    c = gradients(run("dance c", v)["transformer"])
    chosen = np.asarray(v["chosen"])
    assert v["plan"].sizes.tolist() == [1] * 5 and chosen.sum(axis=1).tolist() == [3, 3, 3]

    for level in ("a", "b"):
        for i in range(v["batch_size"]):
            for k in np.flatnonzero(chosen[i]):
                x, next_x = samples["latents"][i : i + 1, k], samples["next_latents"][i : i + 1, k]
                pred = predict(v, x, i, samples["timesteps"][i : i + 1, k])
                new = step(pred, x, args.eta, sigmas, torch.tensor(k), next_x, grpo=True, sde_solver=True)[2]
                advantage = samples["advantages"][i : i + 1]
                if level == "a":
                    old = samples["log_probs"][i : i + 1, k]
                    loss = clipped((new - old).exp(), advantage, args.clip_range, args.clip_range)
                    (loss / (args.gradient_accumulation_steps * 3)).backward()
                    continue
                sample = {"log_probs": samples["log_probs"][i : i + 1]}
                inside = {"new_log_probs": new, "advantages": advantage, "sample": sample, "_": int(k)}
                run("dance b", {**v, **inside, "clip_range": args.clip_range, "train_timesteps": 3})
        same(gradients(v["transformer"]), c)


# ----------------------------------------------------------------------------------------------------------------------
# Flow-GRPO: SD3, guided, diffusers' schedule


@pytest.mark.parametrize("beta", [0.0, 0.04])
def test_flow_grpo(beta):
    torch.manual_seed(0)
    pipeline = tiny_models.tiny_sd3()
    pipeline.set_progress_bar_config(disable=True)
    batch, steps = 3, 5
    sample = SimpleNamespace(noise_level=0.7, num_steps=steps, guidance_scale=3.0)
    train = SimpleNamespace(clip_range=1e-4, adv_clip_max=5, gradient_accumulation_steps=1)
    train.max_grad_norm, train.beta = 1e9, beta
    v = run("all", {"torch": torch, "pipeline": pipeline, "transformer": pipeline.transformer, "i": 0})
    v["config"] = SimpleNamespace(sample=sample, train=train, resolution=16)
    v["accelerator"] = SimpleNamespace(process_index=1, scaler=None, clip_grad_norm_=torch.nn.utils.clip_grad_norm_)
    for name in ("prompt_embeds", "sample_neg_prompt_embeds"):
        v[name] = torch.randn(batch, 5, 32)
        v[name.replace("prompt", "pooled_prompt")] = torch.randn(batch, 32)
    v["generator"] = [torch.Generator().manual_seed(4)] * batch
    run("flow b scheduler", v)
    run("flow b rollout", v)
    latents, log_probs = v["latents"], v["log_probs"]
    assert latents.shape == (batch, steps + 1, 4, 8, 8) and log_probs.shape == (batch, steps - 1)

    sde_step_with_logprob = run("flow a", v)["sde_step_with_logprob"]
    scheduler = pipeline.scheduler
    v["sample"] = {
        "latents": latents[:, :-1],
        "next_latents": latents[:, 1:],
        "timesteps": scheduler.timesteps.repeat(batch, 1),
        "log_probs": log_probs + 3e-4 * torch.randn(batch, steps - 1),
        "advantages": torch.randn(batch, 1).repeat(1, steps),
    }
    v["embeds"] = torch.cat([v["sample_neg_prompt_embeds"], v["prompt_embeds"]])
    v["pooled_embeds"] = torch.cat([v["sample_neg_pooled_prompt_embeds"], v["pooled_prompt_embeds"]])
    v["autocast"], v["num_train_timesteps"] = contextlib.nullcontext, steps - 1
    kept = []
    v["optimizer"] = SimpleNamespace(
        step=lambda: kept.append(gradients(pipeline.transformer)), zero_grad=pipeline.transformer.zero_grad
    )
    reference = torch.randn(pipeline.transformer.proj_out.bias.shape) / 10

    @contextlib.contextmanager
    def disable_adapter():  # another model, as the reference without the adapter is
        trained = pipeline.transformer.proj_out.bias.data
        pipeline.transformer.proj_out.bias.data = trained + reference
        yield
        pipeline.transformer.proj_out.bias.data = trained

    pipeline.transformer.module = SimpleNamespace(disable_adapter=disable_adapter)
    run("flow c sampler", v)
    run("flow c", v)
    assert v["sampler"].coefficients(2) == scheduler.sampler.coefficients(2)

    for level in ("a", "b"):
        for j in range(steps - 1):
            given = v["sample"]
            x, next_x = given["latents"][:, j], given["next_latents"][:, j]

            def compute_log_prob():
                noise_pred = v["velocity"](x, None, j)
                return sde_step_with_logprob(scheduler, noise_pred, given["timesteps"][:, j], x, prev_sample=next_x)

            _, log_prob, mean, std_dev_t = compute_log_prob()
            with torch.no_grad(), disable_adapter():
                mean_ref = compute_log_prob()[2]
            kl = ((mean - mean_ref) ** 2).mean(dim=(1, 2, 3), keepdim=True) / (2 * std_dev_t**2)
            if j < steps - 2:
                drift = (log_prob - log_probs[:, j]).abs().max()
                assert drift < 1e-5  # the pipeline's own log-probabilities: only the guidance is rounded differently
            advantages = given["advantages"][:, j]
            if level == "a":
                loss = clipped((log_prob - given["log_probs"][:, j]).exp(), advantages, 1e-4, 1e-4)
            else:
                loss = run("flow b loss", {**v, "log_prob": log_prob, "j": j, "advantages": advantages})["policy_loss"]
            ((loss + beta * kl.mean()) / (steps - 1)).backward()
        same(gradients(pipeline.transformer), kept[0])


def test_flow_grpo_wan():
    from chunkgrpo.compat import flow_grpo

    assert run("flow a wan", {})["sde_step_with_logprob"] is flow_grpo.wan_sde_step_with_logprob


def test_every_after_on_the_page_was_run():
    assert len(AFTER) == PAGE.count("<!-- after:") == 15
    if len(ran) > 1:  # not when this test is asked for alone
        assert ran == set(AFTER)
