"""The forward-process losses against numbers that the methods' own code printed: NFT, AWM, DGPO, CRD, DPO and FPO,
value and gradient in the velocity, by numpy and by PyTorch's autograd."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from chunkgrpo import forward
from conftest import reference

TENSORS, *CASES = reference("forward")
ARRAYS = {name: np.array(value) for name, value in TENSORS["inputs"].items()}
T = ARRAYS["t"]
BATCH = len(T)
LOSSES = [case for case in CASES if case["kind"] != "pairs"]
WEIGHTINGS = {
    **{"Uniform": "uniform", "t": "time", "t**2": "time_squared"},
    **{"huber": "huber", "ghuber": "generalised_huber"},
}


def name(case):
    options = [f"{value}" for key, value in case["inputs"].items() if not isinstance(value, list) and value is not None]
    return "-".join([case["source"].split()[0].split("/")[1], case["kind"], *options])


each_loss = pytest.mark.parametrize("case", LOSSES, ids=[f"{i}-{name(case)}" for i, case in enumerate(LOSSES)])


def rows_of(case):
    """The rows (B, N) of the fixture's tensors that are the draws of each sample, and their clean latents and noise."""
    o, clean, noise = case["inputs"], ARRAYS["clean"], ARRAYS["noise"]
    if case["kind"] == "awm_times":  # times first
        return np.arange(BATCH).reshape(o["times"], o["samples"]).T, clean, noise
    if case["kind"] == "fpo":  # one action, several times
        return (
            np.arange(BATCH).reshape(o["samples"], o["times"]),
            np.repeat(o["clean"], o["times"], 0).reshape(clean.shape),
            noise,
        )
    if case["kind"] == "dpo":
        return np.arange(BATCH)[:, None], clean, noise[[0, 1, 2, 0, 1, 2]]
    return np.arange(BATCH)[:, None], clean, noise


def loss_of(forward, case, d, rows):
    """The loss of distances (B, N)."""
    o, kind, t = case["inputs"], case["kind"], T[rows]
    kl = o.get("kl_beta", 0.0)
    if kind == "nft":
        options = {"advantage_clip": o["adv_clip_range"][1], "mode": o.get("adv_mode", "all"), "kl": kl}
        return forward.nft_loss(d, o["advantages"], times=t, **options)
    if kind == "dgpo":
        clip = -o["clip_range"][0], o["clip_range"][1]
        taken = replace(d, reference_distance=d.old_distance) if o["use_ema_ref"] else d
        options = {"clip": clip if o["clip_dsm"] or o["clip_kl"] else None, "clip_kl": o["clip_kl"], "kl": kl}
        options["clip_distance"] = o["clip_dsm"]
        return forward.dgpo_loss(taken, o["advantages"], groups=o["groups"], beta=o["beta"], **options)
    if kind == "crd":
        temperature = o["weight_temp"] if o["weight_temp"] >= 0 else float("inf")
        regression = {"mse": "mean_square", "bce": "cross_entropy"}[o["loss_type"]]
        options = {"regression": regression, "adaptive": o["adaptive_logp"], "temperature": temperature, "kl": kl}
        least = 1e-4 if o["reward_adaptive_kl"] else -1.0
        return forward.crd_loss(d, o["advantages"], beta=o["beta"], kl_least=least, **options)
    if kind == "dpo":
        return forward.dpo_loss(d, list(zip(o["chosen"], o["rejected"])), beta=o["beta"])
    advantages = np.array(o["advantages"])
    if kind == "fpo":
        plan = [o["times"]] if o["average_losses_before_exp"] else None
        return forward.awm_loss(d, advantages, plan, clip=o["clip_range"])
    clip, plan = o["clip_range"], None
    if kind == "awm":
        advantages, clip = np.clip(advantages, *o["adv_clip_range"]), (-clip[0], clip[1])
    else:
        advantages = np.clip(advantages, -o["adv_clip_max"], o["adv_clip_max"])
        advantages = advantages if o["advantage_max"] is None else advantages / o["adv_clip_max"] * o["advantage_max"]
        plan = [o["times"]] if o["loss_type"] == "sum_first" else None
    weighting = {"weighting": WEIGHTINGS[o["weighting"]], "power": o["ghuber_power"], "times": t}
    return forward.awm_loss(d, advantages, plan, clip=clip, reference_kl=kl, **weighting)


def others(case, rows):
    beta = {"beta": case["inputs"]["beta"]} if case["kind"] == "nft" else {}
    return {
        "old_velocity": ARRAYS["old_velocity"][rows],
        "reference_velocity": ARRAYS["reference_velocity"][rows],
        **beta,
    }


def close(actual, expected, relative):
    expected = np.asarray(expected, np.float64)
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=relative, atol=relative * np.abs(expected).max())


def gradient_of(case, rows, clean, noise):
    """Loss, gradient in the velocity, ratios: by numpy."""
    velocity, grad = ARRAYS["velocity"], np.empty_like(ARRAYS["velocity"])
    taken = [{"noise": noise[r], **others(case, r)} for r in rows.T]
    draws = [forward.distances(clean[r], velocity[r], **at) for r, at in zip(rows.T, taken)]
    out = loss_of(forward, case, forward.Distances.stack(draws), rows)
    for j, (r, at) in enumerate(zip(rows.T, taken)):
        grad[r] = forward.distances_vjp(clean[r], velocity[r], out.grads.draw(j), **at)
    return out.loss, grad, out.ratios


@each_loss
def test_value_and_gradient_are_those_of_the_methods_own_code(case):
    rows, clean, noise = rows_of(case)
    loss, grad, ratios = gradient_of(case, rows, clean, noise)
    weight, expected = case["inputs"].get("ema_kl_beta", 0.0), case["expected"]
    if weight:  # AWM's KL to a moving average: another pair of velocities
        at = {"noise": noise, "old_velocity": ARRAYS["ema_velocity"]}
        loss += weight * forward.distances(clean, ARRAYS["velocity"], **at).old_divergence.mean()
        slope = forward.Distances(old_divergence=np.full(BATCH, weight / BATCH))
        grad += forward.distances_vjp(clean, ARRAYS["velocity"], slope, **at)
    close(loss, expected["loss"], 1e-12)
    close(grad, expected["grad_velocity"], 1e-10)
    if "ratio" in expected:
        close((ratios.T if case["kind"] == "awm_times" else ratios).ravel(), np.ravel(expected["ratio"]), 1e-12)


@each_loss
def test_autograd_gives_the_same_gradient(case):
    torch = pytest.importorskip("torch")
    import chunkgrpo.torch.forward as cgf

    rows, clean, noise = rows_of(case)
    velocity = torch.tensor(ARRAYS["velocity"], requires_grad=True)
    draws = []
    for r in rows.T:
        given = {key: torch.tensor(value) if np.ndim(value) else value for key, value in others(case, r).items()}
        draws.append(cgf.distances(torch.tensor(clean[r]), velocity[r], noise=torch.tensor(noise[r]), **given))
    loss = loss_of(cgf, case, cgf.Distances.stack(draws), rows).loss
    (grad,) = torch.autograd.grad(loss, velocity)
    value, expected, _ = gradient_of(case, rows, clean, noise)
    assert loss.item() == value
    np.testing.assert_allclose(grad.numpy(), expected, rtol=1e-14)


@pytest.mark.parametrize("case", [case for case in CASES if case["kind"] == "pairs"], ids=["neighbours", "mixed"])
def test_pairs_are_those_of_flow_factory(case):
    o = case["inputs"]
    ours = forward.pairs(o["advantages"], groups=o["groups"]).tolist()
    theirs = [pair for pair in case["expected"]["pairs"] if o["advantages"][pair[0]] > o["advantages"][pair[1]]]
    assert sorted(ours) == sorted(theirs) and len(ours) >= 1
