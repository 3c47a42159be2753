"""Every function on the device against the CPU's, bit by bit: one element type of the latents per process.

    python bits.py float32
"""

from __future__ import annotations

import itertools
import sys
from typing import Any, Callable

import torch
from common import MODE, Tally, part

import chunkgrpo as cg

TYPE = getattr(torch, sys.argv[1])
SCHEDULE = cg.Schedule.shifted(steps=8, shift=3.0)
SAMPLER = cg.Sampler(SCHEDULE)
SIZES = [(1, 1), (2, 3), (3, 63), (2, 64), (3, 5, 13), (2, 1000), (3, 1023), (2, 1024), (3, 1025), (2, 33, 127), (1, 65537)]
LARGE = [(3, 2025, 64)]
if MODE == "emulated":  # a kernel takes its time on the CPU
    SIZES, LARGE = SIZES[:-1], []
DYNAMICS = ["flow_sde", "dance_sde", "cps", "ode", "dpm_sde", "dpm_ode", "wan_sde", "precise", "precise_dance", "sage"]
DYNAMICS += ["flash_sde", "edm_churn", "consistency"]
WITHOUT_ETA = ("dpm_sde", "dpm_ode", "wan_sde", "consistency")
KINDS = ["gaussian", "gaussian_per_time", "mean", "velocity"]


def randoms(shape: tuple[int, ...], count: int, kind: torch.dtype = TYPE) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(sum(shape) + count)
    return [torch.randn(shape, generator=draw).to(kind) for _ in range(count)]


def upstream(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


def sampler_of(dynamics: str, **options: Any) -> cg.Sampler:
    return cg.Sampler(SCHEDULE, dynamics, **({} if dynamics in WITHOUT_ETA else {"eta": 0.6}), **options)


def steps(tally: Tally, sampler: cg.Sampler, label: str, shape: tuple[int, ...], step: Any = 3, **extras: Any) -> None:
    """A step by seed and by given noise, its log-probability and gradient, the predicted image."""
    x, v, e, u, image = randoms(shape, 5)
    second = any(sampler.coefficients(k).c for k in range(8))
    given: dict[str, Any] = {**extras, **({"previous_image": image} if second else {})}
    if extras:
        given["unconditional"] = u
    ids = [2**40 + 7 * i for i in range(shape[0])]
    tally.compare(f"{label} step", lambda at: sampler.step(step, at(x), at(v), seed=11, sample_ids=ids, **at(given)))
    tally.compare(f"{label} step, noise", lambda at: sampler.step(step, at(x), at(v), noise=at(e), **at(given)))
    plain = {name: value for name, value in given.items() if name != "previous_image"}
    tally.compare(f"{label} image", lambda at: sampler.predicted_image(step, at(x), at(v), **at(plain)))
    tally.compare(f"{label} log_prob", lambda at: sampler.log_prob(step, at(x), at(v), at(e), **at(given)))
    grad = upstream(shape[0])
    tally.compare(
        f"{label} vjp", lambda at: sampler.log_prob_vjp(step, at(x), at(v), at(e), at(grad), **at(given))
    )

    def kept(at: Any) -> list[Any]:
        value, residual = cg.log_prob_residual(sampler, step, at(x), at(v), at(e), **at(given))
        scales = {"guided": bool(extras), "guidance": extras.get("guidance", 1.0)}
        grads = cg.residual_vjp(sampler, step, residual, at(grad), **scales)
        return [value, residual, *(grads if extras else [grads])]

    if TYPE in (torch.float32, torch.float64):
        tally.compare(f"{label} residual", kept)


def trajectories(tally: Tally, sampler: cg.Sampler, label: str, shape: tuple[int, ...]) -> None:
    x, e = randoms(shape, 2)

    def rollout(at: Callable[[Any], Any]) -> Any:
        t = sampler.rollout(lambda x, sigma, k: (x * (0.2 + sigma)).to(x.dtype), at(x), seed=5)
        fork = t.fork(2, 2) if not sampler.coefficients(2).c else t
        return t.latents, t.log_probs, t.relative_l1, fork.latents

    tally.compare(f"{label} rollout", rollout)
    noise = torch.stack([e] * 8, 1)
    model = lambda x, sigma, k: x * 0.5  # noqa: E731
    tally.compare(f"{label} rollout, noise", lambda at: sampler.rollout(model, at(x), noise=at(noise)).latents)
    latents = sampler.rollout(model, x, seed=5).latents
    tally.compare(f"{label} relative_l1", lambda at: cg.relative_l1(at(latents)))
    stochastic = sampler.stochastic_steps
    if not stochastic or any(sampler.coefficients(k).c for k in range(8)):
        return
    count = min(3, len(stochastic))
    first = stochastic[0]
    some, grad = latents[:, first : first + count + 1], upstream(shape[0], count)
    v = (some[:, :count] * 0.45).contiguous()
    w = v.transpose(0, 1).contiguous().transpose(0, 1)  # steps outside, as a trajectory's own latents have them
    for name, velocity in (("", v), (", strides", w)):
        tally.compare(f"{label} log_probs{name}", lambda at: sampler.log_probs(at(some), at(velocity), first))
        tally.compare(
            f"{label} log_probs_vjp{name}", lambda at: sampler.log_probs_vjp(at(some), at(velocity), at(grad), first)
        )


def divergences(tally: Tally, shape: tuple[int, ...]) -> None:
    v, w = randoms((shape[0], 3, *shape[1:]), 2)
    latents, grad = randoms((shape[0], 4, *shape[1:]), 1)[0], upstream(shape[0], 3)
    for kind in KINDS:
        option: Any = {"kind": kind, "first_step": 1}
        tally.compare(f"divergences {kind}", lambda at: cg.divergences(SAMPLER, at(v), at(w), **option))
        tally.compare(f"divergences_vjp {kind}", lambda at: cg.divergences_vjp(SAMPLER, at(v), at(w), at(grad), **option))
        sampled = {**option, "seed": 4}
        tally.compare(
            f"from sampled {kind}", lambda at: cg.divergences_from_sampled(SAMPLER, at(latents), at(v), **sampled)
        )
        tally.compare(
            f"from sampled vjp {kind}",
            lambda at: cg.divergences_from_sampled_vjp(SAMPLER, at(latents), at(v), at(grad), **sampled),
        )
        each: Any = list(range(shape[0]))
        tally.compare(
            f"divergence {kind}", lambda at: cg.divergence(SAMPLER, each, at(v[:, 0]), at(w[:, 0]), kind=kind)
        )


def forward(tally: Tally, shape: tuple[int, ...]) -> None:
    x, v, old, reference, e = randoms(shape, 5)
    times = cg.forward.times(shape[0], 1, seed=2)[:, 0]
    t = torch.from_numpy(times.copy())
    grads = {name: upstream(shape[0]) for name in ("distance", "old_divergence", "reference_divergence")}
    nft = {name: upstream(shape[0]) for name in ("positive_distance", "negative_distance")}
    for source in ({"seed": 3, "draw": 5}, {"noise": e}):
        name = next(iter(source))
        tally.compare(f"noised {name}", lambda at: cg.forward.noised(at(x), at(t), **at(source)))
        for count, others in enumerate(({}, {"old_velocity": old}, {"old_velocity": old, "beta": 0.3}, {"reference_velocity": reference}, {"old_velocity": old, "reference_velocity": reference, "beta": 1.5})):
            given: Any = {**source, **others}
            label = f"{name}, {'+'.join(others) or 'alone'}"
            tally.compare(f"distances {label}", lambda at: cg.forward.distances(at(x), at(v), **at(given)))
            wanted = {"distance": grads["distance"]}
            wanted.update({"old_divergence": grads["old_divergence"]} if "old_velocity" in others else {})
            wanted.update({"reference_divergence": grads["reference_divergence"]} if "reference_velocity" in others else {})
            wanted.update(nft if "beta" in others else {})
            for part_of in (wanted, {"distance": grads["distance"]}):
                slopes: Any = cg.forward.Distances(**part_of)
                tally.compare(
                    f"distances_vjp {label}", lambda at: cg.forward.distances_vjp(at(x), at(v), at(slopes), **at(given))
                )


def layouts(tally: Tally) -> None:
    """Batches with gaps, and elements that have to be made contiguous."""
    whole = randoms((4, 3, 6, 50), 3)
    gaps = [tensor[::2, 1] for tensor in whole]
    turned = [tensor[:, 0].transpose(1, 2) for tensor in whole]
    for name, (x, v, e) in (("gaps", gaps), ("turned", turned)):
        tally.compare(f"{name} step", lambda at: SAMPLER.step(2, at(x), at(v), seed=1))
        tally.compare(f"{name} log_prob", lambda at: SAMPLER.log_prob(2, at(x), at(v), at(e)))
        tally.compare(f"{name} vjp", lambda at: SAMPLER.log_prob_vjp(2, at(x), at(v), at(e), [1.0] * len(x)))


def sampled(trajectory: Any) -> Any:
    return trajectory.latents, trajectory.log_probs, trajectory.relative_l1


def mixed(tally: Tally) -> None:
    """Velocities of 16 bits beside latents in float32."""
    for kind, shape in itertools.product((torch.bfloat16, torch.float16), ((3, 1025), (2, 33, 127))):
        x, e = randoms(shape, 2)
        v, u = randoms(shape, 2, kind)
        label = f"{str(kind)[6:]} velocity"
        for dynamics in ("flow_sde", "dpm_sde"):
            model = lambda x, sigma, k: (x * 0.5).to(kind)  # noqa: E731
            tally.compare(f"{label} rollout, {dynamics}", lambda at: sampled(sampler_of(dynamics).rollout(model, at(x), seed=2)))
        tally.compare(f"{label} step", lambda at: SAMPLER.step(3, at(x), at(v), seed=11))
        tally.compare(f"{label} log_prob", lambda at: SAMPLER.log_prob(3, at(x), at(v), at(e)))
        tally.compare(f"{label} vjp", lambda at: SAMPLER.log_prob_vjp(3, at(x), at(v), at(e), upstream(shape[0])))
        more: Any = {"unconditional": u, "guidance": 2.5}
        tally.compare(f"{label} vjp, guided", lambda at: SAMPLER.log_prob_vjp(3, at(x), at(v), at(e), upstream(shape[0]), **at(more)))
        tally.compare(f"{label} distances", lambda at: cg.forward.distances(at(x), at(v), seed=3))


def run(name: str, work: Callable[[Tally], None]) -> None:
    tally = Tally(f"bits {sys.argv[1]} {name}")
    with part(tally.name):
        work(tally)
    tally.report()


def every_size(tally: Tally) -> None:
    for shape in (*SIZES, *LARGE):
        steps(tally, SAMPLER, str(shape), shape)


def every_sampler(tally: Tally) -> None:
    for dynamics in DYNAMICS:
        for options in ({}, {"log_prob": "squared_error"}) if dynamics in ("flow_sde", "cps") else ({},):
            steps(tally, sampler_of(dynamics, **options), f"{dynamics} {options or ''}", (2, 33, 31))


def every_option(tally: Tally) -> None:
    for shape in ((3, 500), (3, 1025)):
        steps(tally, SAMPLER, "guided", shape, guidance=2.5)
        steps(tally, SAMPLER, "guided by each", shape, guidance=[0.5, 1.0, 4.0])
        steps(tally, SAMPLER, "steps", shape, [0, 3, 5])
        steps(tally, SAMPLER, "steps, guided", shape, [6, 3, 0], guidance=[0.5, 1.0, 4.0])
        steps(tally, SAMPLER, "last step", shape, 7)
    for each in (1, 300):  # more samples than the parameters of a kernel hold
        steps(tally, SAMPLER, f"{each} samples", (each, 70), [k % 6 for k in range(each)])


def noise(tally: Tally) -> None:
    for shape in (*SIZES, *LARGE):
        like = torch.empty(0, dtype=TYPE)
        tally.compare(f"normal {shape}", lambda at: cg.normal(shape, 9, 4, like=at(like)))
    if MODE != "pretended":
        x, v = randoms((3, 500), 2)
        seed, ids = torch.tensor([2**45 + 3]), torch.tensor([7, 8, 2**40])
        tally.compare("seed there", lambda at: SAMPLER.step(2, at(x), at(v), seed=at(seed), sample_ids=at(ids)))
        tally.compare("ids there", lambda at: SAMPLER.step(2, at(x), at(v), seed=5, sample_ids=at(ids)))
        like = torch.empty(0, dtype=TYPE)
        tally.compare("normal, seed there", lambda at: cg.normal((3, 90), at(seed), 1, at(ids), like=at(like)))
        tally.compare("noised, ids there", lambda at: cg.forward.noised(at(x), 0.3, seed=at(seed), sample_ids=at(ids)))
    tally.compare("initial_noise", lambda at: cg.initial_noise((6, 70), 9, group_size=3, like=at(torch.empty(0, dtype=TYPE))))


def whole(tally: Tally) -> None:
    for dynamics in DYNAMICS:
        trajectories(tally, sampler_of(dynamics), dynamics, (2, 3, 70))
    for shape in LARGE:
        trajectories(tally, SAMPLER, "large", shape)


if __name__ == "__main__":
    run("sizes", every_size)
    run("noise", noise)
    run("samplers", every_sampler)
    run("options", every_option)
    run("trajectories", whole)
    run("layouts", layouts)
    run("divergences", lambda tally: [divergences(tally, shape) for shape in ((3, 70), (2, 1025), (2, 33, 127))][-1])
    run("forward", lambda tally: [forward(tally, shape) for shape in ((3, 70), (2, 1025), (2, 33, 127))][-1])
    if TYPE is torch.float32:
        run("mixed types", mixed)
