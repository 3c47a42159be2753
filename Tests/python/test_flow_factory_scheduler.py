"""The scheduler of chunkgrpo.flow_factory: the papers' steps, exact ratios, refusals."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
from conftest import ROOT as _  # noqa: F401  (puts the package on the path)

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

from flow_factory_policy import (  # noqa: E402
    ROOT, SCHEDULERS, SHAPE, T, Adapter, cff, cg, log_probs_of, rollouts, scheduler,
)


def test_the_import_puts_the_scheduler_behind_that_of_diffusers():
    path = "chunkgrpo.flow_factory.ChunkSDEScheduler"
    if ROOT:
        from flow_factory.scheduler import list_registered_schedulers

        assert list_registered_schedulers()["FlowMatchEulerDiscreteScheduler"] == path
    else:
        assert SCHEDULERS == {"FlowMatchEulerDiscreteScheduler": path}


def gaussian(x, mean, s):
    return (-((x - mean) ** 2) / (2 * s**2) - math.log(s) - 0.5 * math.log(2 * math.pi)).flatten(1).mean(1)


def by_hand(name, x, v, sigma, following, level, first):
    """Mean and deviation, as the papers write them: Flow-GRPO eq. 9, DanceGRPO eq. 8, Flow-CPS."""
    dt = following - sigma
    if name == "Flow-SDE":
        g = math.sqrt(sigma / (1 - (first if sigma == 1 else sigma))) * level
        return x * (1 + g**2 / (2 * sigma) * dt) + v * (1 + g**2 * (1 - sigma) / (2 * sigma)) * dt, g * math.sqrt(-dt)
    if name == "Dance-SDE":
        drift = 0.5 * level**2 * (x - (x - sigma * v) * (1 - sigma)) / sigma**2
        return x + (v + drift) * dt, level * math.sqrt(-dt)
    s = following * math.sin(level * math.pi / 2)
    return (x - sigma * v) * (1 - following) + (x + v * (1 - sigma)) * math.sqrt(following**2 - s**2), s


@pytest.mark.parametrize("name", ["Flow-SDE", "Dance-SDE", "CPS"])
@pytest.mark.parametrize("index", [0, 3])
def test_a_step_is_that_of_the_paper(name, index):
    own = scheduler(dynamics_type=name)
    own.set_timesteps(sigmas=np.linspace(1, 1 / T, T), device="cpu")
    x, v = torch.randn(2, *SHAPE).double(), torch.randn(2, *SHAPE).double()
    t, following = own.timesteps[index], own.timesteps[index + 1]
    out = own.step(v.float(), t, x.float(), timestep_next=following, noise_level=0.7)
    given = x.float().double(), v.float().double(), float(t) / 1000, float(following) / 1000, 0.7, float(own.sigmas[1])
    mean, s = by_hand(name, *given)
    assert torch.allclose(out.next_latents_mean.double(), mean, atol=1e-6)
    moved = out.next_latents.double()
    want = -((moved - mean) ** 2).flatten(1).mean(1) if name == "CPS" else gaussian(moved, mean, s)
    assert torch.allclose(out.log_prob.double(), want, atol=1e-5)
    whole = out.std_dev_t if name == "CPS" else out.std_dev_t * torch.sqrt(-out.dt)
    assert whole.shape == (2, 1, 1, 1) and torch.allclose(whole.double(), torch.full_like(whole, s).double(), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["flow_sde", "precise", "sage", "wan_sde", "consistency"])
def test_the_policy_that_sampled_has_ratios_of_exactly_one(name, dtype):
    own = scheduler(dynamics=name)
    adapter = Adapter(own, dtype)
    samples = rollouts(adapter, moved=0.0)
    assert torch.equal(log_probs_of(adapter, samples, range(1, 7)), torch.stack([s.log_probs[1:7] for s in samples]))


@pytest.mark.parametrize("name", ["wan_sde", "flash_sde", "flow_sde", "sage", "precise_dance", "edm_churn"])
def test_steps_are_those_of_a_sampler_of_the_whole_schedule(name):
    own = scheduler(dynamics=name, shift=2.7)
    own.set_timesteps(sigmas=np.linspace(0.97, 1 / T, T), device="cpu")
    whole = cg.Sampler(cg.Schedule(own.sigmas.tolist()), name, 0.7)
    x, v, y = torch.randn(3, 2, *SHAPE)
    for k in range(T - 1):
        found = own.step(v, own.timesteps[k], x, y, own.timesteps[k + 1], noise_level=0.7).log_prob
        assert torch.allclose(found.double(), whole.log_prob(k, x, v, y), rtol=1e-4)
    if name in ("wan_sde", "flash_sde"):
        with pytest.raises(cg.InvalidArgument, match="need the whole schedule"):
            own.step(v, torch.tensor(432.1), x, y, torch.tensor(400.0), noise_level=0.7)


def test_samples_of_a_batch_may_be_at_steps_of_their_own():
    own = scheduler()
    own.set_timesteps(sigmas=np.linspace(1, 1 / T, T), device="cpu")
    x, v, y = (torch.randn(3, *SHAPE, requires_grad=i == 1) for i in range(3))
    times, following = own.timesteps[[1, 4, 1]], own.timesteps[[2, 5, 2]]
    whole = own.step(v, times, x, y, following, noise_level=0.7)
    (slopes,) = torch.autograd.grad(whole.log_prob.sum(), v)
    for i in range(3):
        alone = own.step(v[i : i + 1], times[i], x[i : i + 1], y[i : i + 1], following[i], noise_level=0.7)
        (slope,) = torch.autograd.grad(alone.log_prob.sum(), v)
        for name in ("log_prob", "next_latents_mean", "std_dev_t", "dt"):
            assert torch.equal(getattr(whole, name)[i : i + 1], getattr(alone, name))
        assert torch.equal(slope[i], slopes[i])


@pytest.mark.parametrize("options", [{}, {"dynamics": "flash_sde", "wan_sigma_min": 0.1}, {"dynamics_type": "CPS"}])
def test_evaluation_takes_eulers_steps(options):
    own = scheduler(**options)
    own.set_timesteps(sigmas=np.linspace(1, 1 / T, T), device="cpu")
    own.train(False)
    x, v = torch.randn(2, *SHAPE), torch.randn(2, *SHAPE)
    out = own.step(v, own.timesteps[2], x, timestep_next=own.timesteps[3])
    assert torch.allclose(out.next_latents, x + v * (own.sigmas[3] - own.sigmas[2]), atol=1e-6)
    assert out.log_prob.tolist() == [0, 0]


def test_a_copy_takes_the_same_steps():
    own = scheduler(dynamics="flash_sde", wan_sigma_min=0.1)
    own.set_timesteps(sigmas=np.linspace(1, 1 / T, T), device="cpu")
    x, v, y = torch.randn(3, 2, *SHAPE)
    for other in (copy.deepcopy(own), pickle.loads(pickle.dumps(own))):
        steps = [s.step(v, s.timesteps[2], x, y, s.timesteps[3], noise_level=0.7).log_prob for s in (own, other)]
        assert torch.equal(*steps)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"nois_level": 0.7}, "unexpected keyword argument 'nois_level'. Did you mean 'noise_level'"),
        ({"dynamics": "dpm_sde"}, "needs the step before"),
        ({"dynamics": "swirl"}, "dynamics is 'swirl'"),
        ({"dynamics": "sage", "dynamics_type": "CPS"}, "give one of them"),
        ({"wan_sigma_min": 2.0, "dynamics": "wan_sde"}, "wan_sigma_min"),
    ],
)
def test_the_scheduler_refuses_what_it_would_not_follow(options, message):
    with pytest.raises(cg.errors.Error, match=message.replace("(", r"\(")):
        scheduler(**options)
