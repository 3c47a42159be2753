"""The self-check names the cause that was made, and is quiet where there is none."""

from __future__ import annotations

import copy
import math
import pickle
import warnings
from types import SimpleNamespace

import pytest

import chunkgrpo as cg

torch = pytest.importorskip("torch")
import chunkgrpo.torch as cgt  # noqa: E402

SCHEDULE, PLAN = cg.Schedule.shifted(9, 3.0), cg.ChunkPlan([2, 3, 3])
SIGMAS = SCHEDULE.sigmas.tolist()


def network(dropout=0.0):
    torch.manual_seed(0)
    layers = torch.nn.Linear(65, 32), torch.nn.Tanh(), torch.nn.Dropout(dropout), torch.nn.Linear(32, 64)
    return torch.nn.Sequential(*layers)


def velocity_of(net, rounded=lambda sigma: sigma):
    """A model that is sensitive to sigma, as a timestep embedding is."""
    return lambda x, sigma, step: net(torch.cat([x, torch.full_like(x[:, :1], math.sin(300 * rounded(sigma)))], 1))


def rollout(velocity, sampler=None):
    sampler = sampler or cg.Sampler(SCHEDULE, eta=0.7)
    return sampler, sampler.rollout(velocity, cg.initial_noise((4, 64), 1, like=torch.empty(0)), seed=1)


def told(sampler, velocity, latents, old, **options):
    """The report; the same cause is in the warning of the first loss of a sampler, and the second loss is silent."""
    report = cg.check_on_policy(sampler, SimpleNamespace(latents=latents, log_probs=old), velocity, **options)
    advantages = torch.tensor([1.0, -1.0, 0.5, -0.5])
    call = lambda: cgt.streamed_backward(velocity, sampler, latents, old, advantages, PLAN, **options)  # noqa: E731
    with pytest.warns(cg.RatioWarning) as caught:
        call()
    assert not report.ok and len(report.causes) == 1 and report.causes[0] in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call()
    return report.causes[0]


def test_a_rollout_on_policy_is_found_again_without_a_warning():
    velocity = velocity_of(network())
    sampler, trajectory = rollout(velocity)
    report = cg.check_on_policy(sampler, trajectory, velocity)
    assert report.ok and not report.causes and report.changes.max() < 1e-7 and "8 steps are 1" in str(report)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        v = torch.stack([velocity(trajectory.latents[:, k], SIGMAS[k], k) for k in range(8)], 1)
        arguments = trajectory.log_probs, torch.ones(4), PLAN
        cgt.chunk_policy_loss(sampler, trajectory.latents, v, *arguments)
        cgt.streamed_backward(velocity, cg.Sampler(SCHEDULE, eta=0.7), trajectory.latents, *arguments)


@pytest.mark.parametrize("where", ["here and not in the rollout", "in the rollout and not here"])
@pytest.mark.parametrize(
    "how, rounded",
    [
        ("truncated", lambda sigma: int(1000 * sigma) / 1000),
        ("bfloat16 timestep", lambda sigma: torch.tensor(1000 * sigma).bfloat16().item() / 1000),
    ],
)
def test_truncated_and_cast_timesteps_are_named(how, rounded, where):
    net = network()
    models = velocity_of(net), velocity_of(net, rounded)
    sampling, training = models if where.startswith("here") else models[::-1]
    sampler, trajectory = rollout(sampling)
    cause = told(sampler, training, trajectory.latents, trajectory.log_probs)
    assert cause.startswith("timesteps") and how in cause and where in cause


def test_cast_latents_are_named():
    velocity = velocity_of(network())
    sampler, trajectory = rollout(velocity)
    cause = told(sampler, velocity, trajectory.latents.bfloat16().float(), trajectory.log_probs)
    assert cause == "latents cast: they are float32, but hold numbers of bfloat16 alone"
    sampler = cg.Sampler(SCHEDULE, eta=0.7)
    assert "float16 alone" in told(sampler, velocity, trajectory.latents.half().float(), trajectory.log_probs)


def test_edited_latents_are_named_with_their_steps():
    velocity = velocity_of(network())
    sampler, trajectory = rollout(velocity)
    latents = trajectory.latents.clone()
    latents[:, 4] *= 1.01
    cause = told(sampler, velocity, latents, trajectory.log_probs)
    assert cause.startswith("latents edited: the steps 3, 4 have changed")


def test_another_guidance_is_named_with_the_rollouts():
    net, other = network(), network()
    torch.nn.init.normal_(other[3].weight, std=0.3)
    first, second = velocity_of(net), velocity_of(other)
    pair = lambda x, sigma, step: (first(x, sigma, step), second(x, sigma, step))  # noqa: E731
    guided = lambda *at: second(*at) + 4.5 * (first(*at) - second(*at))  # noqa: E731
    sampler, trajectory = rollout(guided)
    cause = told(sampler, pair, trajectory.latents, trajectory.log_probs, guidance=1.0)
    assert cause == "other guidance: the rollout had 4.5, and this is 1"


def test_dropout_is_named():
    net = network(dropout=0.1).eval()
    sampler, trajectory = rollout(velocity_of(net))
    assert told(sampler, velocity_of(net.train()), trajectory.latents, trajectory.log_probs).startswith("dropout on")


def test_frames_shifted_by_one_are_named():
    velocity = velocity_of(network())
    sampler, trajectory = rollout(velocity)
    cause = told(sampler, velocity, trajectory.latents[:, 1:], trajectory.log_probs)
    assert cause == "frames shifted by one: latents[:, 0] is one step too late for the log-probabilities"


def test_a_forgotten_first_step_is_named():
    velocity, plan = velocity_of(network()), cg.ChunkPlan([2, 3])
    sampler, trajectory = rollout(velocity)
    late, old = trajectory.latents[:, 3:], trajectory.log_probs[:, 3:]
    v = torch.stack([velocity(trajectory.latents[:, k], SIGMAS[k], k) for k in range(3, 8)], 1)
    words = r"another first_step: latents\[:, 0\] is what step 3 takes, and this is 0"
    with pytest.warns(cg.RatioWarning, match=words):
        cgt.chunk_policy_loss(cg.Sampler(SCHEDULE), late, v, old, torch.ones(4), plan)
    record = SimpleNamespace(latents=late, log_probs=old)
    assert cg.check_on_policy(sampler, record, velocity, first_step=3).ok
    assert words.replace("\\", "") in str(cg.check_on_policy(sampler, record, velocity))


def test_reports_and_results_are_compared_without_error():
    velocity = velocity_of(network())
    sampler, trajectory = rollout(velocity)
    report, other = (cg.check_on_policy(sampler, trajectory, velocity) for _ in range(2))
    assert report == other == pickle.loads(pickle.dumps(report)) and hash(report) == hash(other)
    assert report != cg.check_on_policy(sampler, trajectory, velocity, tolerance=1.0) and report != 1
    out = cgt.chunk_loss(trajectory.log_probs, trajectory.log_probs, torch.ones(4), PLAN)
    assert out == out and out != copy.deepcopy(out)  # tensors have no one answer


@pytest.mark.parametrize("dynamics, eta", [("flow_sde", 0.3), ("dance_sde", 0.7), ("cps", 0.5)])
def test_another_sampler_is_named(dynamics, eta):
    velocity = velocity_of(network())
    _, trajectory = rollout(velocity, cg.Sampler(SCHEDULE, dynamics, eta))
    cause = told(cg.Sampler(SCHEDULE, eta=0.7), velocity, trajectory.latents, trajectory.log_probs)
    assert cause.startswith(f"another sampler: the rollout's was {dynamics!r} with eta={eta}, and this is Sampler")


def test_another_schedule_is_named():
    velocity = velocity_of(network())
    _, trajectory = rollout(velocity, cg.Sampler(cg.Schedule.shifted(9, 1.0), eta=0.7))
    cause = told(cg.Sampler(SCHEDULE, eta=0.7), velocity, trajectory.latents, trajectory.log_probs)
    assert cause.startswith("another sampler or schedule: the rollout's noise in step")


def test_changed_weights_are_named_with_the_change_of_each_step():
    net = network()
    sampler, trajectory = rollout(velocity_of(net))
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    velocity = velocity_of(net)
    cause = told(sampler, velocity, trajectory.latents, trajectory.log_probs)
    assert cause.startswith("another velocity: weights changed")
    report = cg.check_on_policy(sampler, trajectory, velocity)
    for k in range(8):
        x, end = trajectory.latents[:, k], trajectory.latents[:, k + 1]
        new = sampler.log_prob(k, x, velocity(x, SIGMAS[k], k).detach(), end)
        assert report.changes[k] == pytest.approx((new - trajectory.log_probs[:, k]).abs().max().item(), abs=1e-6)
        assert f"{k}: {report.changes[k]:.2g}" in str(report)


def test_the_loss_of_given_velocities_warns_too_and_can_be_told_not_to():
    velocity = velocity_of(network())
    _, trajectory = rollout(velocity, cg.Sampler(SCHEDULE, "dance_sde", 0.3))
    v = torch.stack([velocity(trajectory.latents[:, k], SIGMAS[k], k) for k in range(8)], 1)
    arguments = trajectory.latents, v, trajectory.log_probs, torch.ones(4), PLAN
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cgt.chunk_policy_loss(cg.Sampler(SCHEDULE, eta=0.7), *arguments, check=False)
    with pytest.warns(cg.RatioWarning, match="'dance_sde' with eta=0.3"):
        cgt.chunk_policy_loss(cg.Sampler(SCHEDULE, eta=0.7), *arguments)
