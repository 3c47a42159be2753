"""The drop-in functions return what the unmodified functions of Flow-GRPO, DanceGRPO and GCPO printed (drop_in.json) for
the same generator state, with their gradients; and do what theirs cannot."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest

from conftest import reference

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import chunkgrpo as cg  # noqa: E402
from chunkgrpo.compat import dance_grpo, flow_grpo, gcpo  # noqa: E402

CASES = reference("drop_in")
FUNCTIONS = {
    f"{module.__name__.rsplit('.', 1)[1]}.{name}": getattr(module, name)
    for module, name in (
        (flow_grpo, "sde_step_with_logprob"),
        (flow_grpo, "wan_sde_step_with_logprob"),
        (dance_grpo, "flux_step"),
        (gcpo, "flux_step"),
        (gcpo, "flow_grpo_step"),
    )
}
RETURNS = {
    "flow_grpo.sde_step_with_logprob": ("prev_sample", "log_prob", "prev_sample_mean", "std_dev_t", "sqrt_dt"),
    "flow_grpo.wan_sde_step_with_logprob": ("prev_sample", "log_prob", "prev_sample_mean", "std_dev_t", "sqrt_dt"),
    "dance_grpo.flux_step": ("prev_sample", "pred_original_sample", "log_prob"),
    "gcpo.flux_step": ("prev_sample", "pred_original_sample", "log_prob"),
    "gcpo.flow_grpo_step": ("prev_sample", "pred_original_sample", "log_prob"),
}


def tensor(numbers):
    return torch.tensor(numbers["values"], dtype=torch.float32).view(numbers["shape"])


def scheduler(steps=8, shift=3.0):
    made = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    made.set_timesteps(steps)
    return made


def call(case, v):
    given = case["inputs"]
    x = tensor(given["x"])
    prev = tensor(given["prev_sample"]) if "prev_sample" in given else None
    function = FUNCTIONS[case["kind"]]
    if case["kind"].startswith("flow_grpo"):
        own = scheduler(given["set_timesteps"], given["shift"])
        generator = None if prev is not None else torch.Generator().manual_seed(given["seed"])
        options = given.get("options")
        if options is None:
            options = {name: given[name] for name in ("noise_level", "sde_type", "return_sqrt_dt")}
        return function(
            own, v, own.timesteps[given["steps"]], x, prev_sample=prev, generator=generator, **options
        )
    torch.manual_seed(given.get("seed", 0))
    solver = {"grpo": True, "sde_solver": given["sde_solver"]}
    return function(v, x, given["eta"], tensor(given["sigmas"]), given["index"], prev, **solver)


@pytest.mark.parametrize("case", CASES, ids=[f"{i}-{case['kind']}" for i, case in enumerate(CASES)])
def test_same_numbers_and_gradients_as_the_original(case):
    expected = case["expected_f32"]
    v = tensor(case["inputs"]["v"]).requires_grad_()
    returned = call(case, v)
    named = dict(zip(RETURNS[case["kind"]], returned))
    values = [name for name in expected if not name.startswith("grad_")]
    assert len(returned) == len(values) and set(values) == set(named)

    rows, elements = torch.linspace(-1, 1, len(v)), torch.linspace(-1, 1, v.numel()).view(v.shape)
    for name in expected:
        if name.startswith("grad_"):
            value = named[name[5:]]
            weighted = (value * (rows if value.dim() == 1 else elements)).sum()
            (actual,) = torch.autograd.grad(weighted, v, retain_graph=True)
        else:
            actual = named[name]
            assert actual.dtype == torch.float32
        wanted = tensor(expected[name])
        assert actual.shape == wanted.shape
        scale = max(1.0, wanted.abs().max().item())
        assert (actual - wanted).abs().max().item() <= 1e-6 * scale, name


def test_the_signatures_take_what_the_scripts_pass():
    names = {name: list(inspect.signature(function).parameters) for name, function in FUNCTIONS.items()}
    flux = "model_output latents eta sigmas index prev_sample grpo sde_solver".split()
    assert names["dance_grpo.flux_step"] == names["gcpo.flux_step"] == flux
    assert names["gcpo.flow_grpo_step"] == flux[:6] + ["generator", "grpo", "sde_solver"]
    july_2025 = "self model_output timestep sample noise_level prev_sample generator".split()
    assert names["flow_grpo.sde_step_with_logprob"] == july_2025 + ["sde_type", "return_sqrt_dt"]


@pytest.mark.parametrize("sde_type", ["sde", "cps"])
def test_packed_latents_are_judged_each_by_themselves(sde_type):
    # The version of July 2025 broadcasts (B, N, C) with (B, 1, 1, 1) to (B, B, N, C).
    own, x, v = scheduler(), torch.randn(3, 9, 4), torch.randn(3, 9, 4)
    prev = x + 0.1 * torch.randn(3, 9, 4)
    together = flow_grpo.sde_step_with_logprob(own, v, own.timesteps[[1, 4, 1]], x, prev_sample=prev, sde_type=sde_type)
    assert [tuple(t.shape) for t in together] == [(3, 9, 4), (3,), (3, 9, 4), (3, 1, 1)]
    for i, k in enumerate([1, 4, 1]):
        images = [t[i].view(1, 1, 9, 4) for t in (x, v, prev)]
        alone = flow_grpo.sde_step_with_logprob(
            own, images[1], own.timesteps[[k]], images[0], prev_sample=images[2], sde_type=sde_type
        )
        assert torch.equal(alone[1], together[1][i : i + 1]) and torch.equal(alone[2].view(9, 4), together[2][i])


def test_the_ratio_is_exactly_one_on_the_policy_that_sampled():
    own, x, v = scheduler(), torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
    for k in range(7):
        for sde_type in ("sde", "cps"):
            t = own.timesteps[[k]]
            prev, old, *_ = flow_grpo.sde_step_with_logprob(own, v, t, x, sde_type=sde_type)
            _, new, *_ = flow_grpo.sde_step_with_logprob(own, v, t, x, prev_sample=prev, sde_type=sde_type)
            assert torch.equal(new, old)
        for step in (gcpo.flux_step, dance_grpo.flux_step, gcpo.flow_grpo_step):
            prev, _, old = step(v, x, 0.3, own.sigmas, k, None, grpo=True, sde_solver=True)
            assert torch.equal(step(v, x, 0.3, own.sigmas, k, prev, grpo=True, sde_solver=True)[2], old)


def test_half_precision_is_judged_in_float32():
    own = scheduler()
    x, v = torch.randn(2, 4, 4, 4).bfloat16(), torch.randn(2, 4, 4, 4).bfloat16()
    prev = (x.float() + 0.1 * torch.randn(2, 4, 4, 4)).bfloat16()
    leaf = v.clone().requires_grad_()
    low = flow_grpo.sde_step_with_logprob(own, leaf, own.timesteps[[2]], x, prev_sample=prev)
    high = flow_grpo.sde_step_with_logprob(own, v.float(), own.timesteps[[2]], x.float(), prev_sample=prev.float())
    assert all(torch.equal(a, b) and a.dtype == torch.float32 for a, b in zip(low, high))
    low[1].sum().backward()
    assert leaf.grad.dtype == torch.bfloat16 and leaf.grad.abs().sum() > 0

    # Under autocast scripts pass a bfloat16 velocity beside float32 latents.
    mixed = gcpo.flux_step(v, x.float(), 0.3, own.sigmas, torch.tensor(2), prev.float(), grpo=True, sde_solver=True)
    exact = gcpo.flux_step(v.float(), x.float(), 0.3, own.sigmas, 2, prev.float(), grpo=True, sde_solver=True)
    assert all(torch.equal(a, b) and a.dtype == torch.float32 for a, b in zip(mixed, exact))


def test_without_noise_a_step_has_log_probability_zero_and_none_is_judged():
    own, x, v = scheduler(), torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
    t = own.timesteps[[3]]
    prev, log_prob, mean, std = flow_grpo.sde_step_with_logprob(own, v, t, x, noise_level=0)  # the scripts' evaluation
    torch.testing.assert_close(prev, x + (own.sigmas[4] - own.sigmas[3]) * v, rtol=0, atol=1e-6)
    assert torch.equal(log_prob, torch.zeros(2)) and torch.equal(std, torch.zeros(1, 1, 1, 1))
    with pytest.raises(cg.InvalidArgument, match="density|determin|s = 0|noise"):
        flow_grpo.sde_step_with_logprob(own, v, t, x, noise_level=0, prev_sample=prev)


def test_grpo_false_returns_the_mean_and_the_image():
    own, x, v = scheduler(), torch.randn(2, 9, 4), torch.randn(2, 9, 4)
    sigma, next_sigma = own.sigmas[2].item(), own.sigmas[3].item()
    for step in (gcpo.flux_step, dance_grpo.flux_step):
        mean, image = step(v, x, 0.3, own.sigmas, 2, None, grpo=False, sde_solver=False)
        torch.testing.assert_close(mean, x + (next_sigma - sigma) * v, rtol=0, atol=1e-6)
        torch.testing.assert_close(image, x - sigma * v, rtol=0, atol=1e-6)


def test_euler_steps_take_noise_in_dancegrpo_and_none_in_gcpo():
    own, x, v = scheduler(), torch.randn(2, 9, 4), torch.randn(2, 9, 4)
    euler, s = x + (own.sigmas[3] - own.sigmas[2]) * v, 0.3 * math.sqrt(own.sigmas[2] - own.sigmas[3])
    prev, _, log_prob = gcpo.flux_step(v, x, 0.3, own.sigmas, 2, None, grpo=True, sde_solver=False)
    torch.testing.assert_close(prev, euler, rtol=0, atol=1e-6)
    assert log_prob.tolist() == pytest.approx([-math.log(s) - math.log(2 * math.pi) / 2] * 2, abs=1e-6)
    torch.manual_seed(3)
    prev, _, _ = dance_grpo.flux_step(v, x, 0.3, own.sigmas, 2, None, grpo=True, sde_solver=False)
    torch.manual_seed(3)
    torch.testing.assert_close(prev, euler + s * torch.randn(2, 9, 4), rtol=0, atol=1e-6)


def test_wrong_arguments_are_named():
    own, x, v = scheduler(), torch.randn(3, 4), torch.randn(3, 4)
    for wrong, word in (
        ({"sde_type": "ode"}, "sde_type"),
        ({"timestep": own.timesteps[[1, 2]]}, "timesteps"),
        ({"timestep": own.timesteps[1]}, "timestep"),
        ({"sample": torch.randn(3, 5)}, "shape"),
    ):
        with pytest.raises(cg.InvalidArgument, match=word):
            flow_grpo.sde_step_with_logprob(
                own, v, **{"timestep": own.timesteps[[1]], "sample": x, "prev_sample": x, **wrong}
            )
    with pytest.raises(cg.InvalidArgument, match="exclude"):
        flow_grpo.wan_sde_step_with_logprob(own, v, own.timesteps[[1]], x, x, torch.Generator())


def test_one_sampler_serves_all_calls_over_the_same_sigmas():
    from chunkgrpo.compat import _step

    sigmas = scheduler().sigmas
    assert _step.sampler(sigmas, dynamics="cps", eta=0.5) is _step.sampler(sigmas.clone(), dynamics="cps", eta=0.5)
    np.testing.assert_array_equal(_step.sampler(sigmas, dynamics="cps", eta=0.5).schedule.sigmas, sigmas.double())


def test_a_rounded_timestep_is_refused_and_named():
    own, x = scheduler(), torch.randn(2, 3, 4)
    rounded = own.timesteps[3:4].bfloat16()
    for function in (flow_grpo.sde_step_with_logprob, flow_grpo.wan_sde_step_with_logprob):
        with pytest.raises(cg.InvalidArgument, match=r"timestep .*bfloat16\) is none of scheduler.timesteps"):
            function(own, x, rounded.expand(2), x)
