"""Our samplers as UniRL's SDE strategies: against UniRL's own, and inside its stage."""

from __future__ import annotations

import numpy as np
import pytest

import chunkgrpo as cg

pytest.importorskip("unirl", reason="unirl is not installed: scripts/setup python")
torch = pytest.importorskip("torch")
import unirl_tiny as tiny  # noqa: E402
from unirl.sde.kernels import CPSSDEStrategy, DanceSDEStrategy, FlowSDEStrategy  # noqa: E402

from chunkgrpo.unirl import SamplerStrategy  # noqa: E402

SCHEDULE = cg.Schedule.shifted(8, shift=3.0)
SIGMAS = torch.tensor(SCHEDULE.sigmas, dtype=torch.float32)
NOISY = ["flow_sde", "dance_sde", "cps", "wan_sde", "precise", "precise_dance", "sage", "flash_sde", "edm_churn", "dpm_sde"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    yield from tiny.one_thread()


def tensors(*seeds):
    return [torch.randn(3, 4, 5, 5, generator=torch.Generator().manual_seed(seed)) for seed in seeds]


def arguments(step, eta, prev_sample):
    x, v = tensors(0, 1)
    given = {"noise_pred": v, "sample": x, "sigma": SIGMAS[step], "sigma_next": SIGMAS[step + 1], "eta": eta}
    own = {"sigma_max": SIGMAS[1], "step_index": step, "prev_sample": prev_sample}
    return {**given, **own, "generator": torch.Generator().manual_seed(3)}


@pytest.mark.parametrize("eta", [0.0, 0.3, 0.7])
@pytest.mark.parametrize(
    "theirs, ours",
    [
        (FlowSDEStrategy(), SamplerStrategy("flow_sde")),
        (DanceSDEStrategy(), SamplerStrategy("dance_sde")),
        (CPSSDEStrategy(), SamplerStrategy("cps", log_prob="squared_error")),
    ],
    ids=["flow", "dance", "cps"],
)
def test_unirls_strategies_are_ours(theirs, ours, eta):
    assert ours.log_prob_no_const == theirs.log_prob_no_const
    for step in range(8):
        for prev_sample in (None, *tensors(2)):
            expected, found = (kind.denoise(**arguments(step, eta, prev_sample)) for kind in (theirs, ours))
            for a, b in zip(expected, found):
                if a is None or not a.isfinite().all():
                    assert b is None or not torch.is_tensor(a) or not b.isfinite().all()
                else:
                    torch.testing.assert_close(b, a, rtol=2e-5, atol=2e-5)
        if eta > 0:
            where = {"sigma": SIGMAS[step : step + 1], "sigma_next": SIGMAS[step + 1 : step + 2], "sigma_max": SIGMAS[1]}
            expected, found = (kind.transition_std(eta=eta, **where) for kind in (theirs, ours))
            torch.testing.assert_close(found, expected, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("dynamics", NOISY)
def test_every_sampler_steps_and_judges_as_itself(dynamics):
    options = {"dpm_order": 1} if dynamics == "dpm_sde" else {}
    sampler, strategy = cg.Sampler(SCHEDULE, dynamics, eta=0.5, **options), SamplerStrategy(dynamics)
    x, v, noise, other = tensors(0, 1, 4, 5)
    for step in range(7):
        given = arguments(step, 0.5, None)
        mean = strategy.step(**{**given, "sigma": SIGMAS[step], "sigma_next": SIGMAS[step + 1]})[1]
        coefficients = sampler.coefficients(step)
        expected, _ = sampler.step(step, x.numpy(), v.numpy(), noise=noise.numpy())
        np.testing.assert_allclose((mean + coefficients.s * noise).numpy(), expected, rtol=1e-5, atol=1e-5)
        found = strategy.denoise(**arguments(step, 0.5, other))[1]
        np.testing.assert_allclose(found.numpy(), sampler.log_prob(step, x.numpy(), v.numpy(), other.numpy()), rtol=3e-5)


@pytest.mark.parametrize("dynamics", ["flow_sde", "precise", "sage"])
@pytest.mark.parametrize("batched", [False, True])
def test_a_rollout_of_unirls_stage_replays_with_ratios_of_one(dynamics, batched):
    sampling = tiny.params()
    stage = tiny.stage(tiny.transformer(), SamplerStrategy(dynamics), batch_replay_steps=batched)
    segment = tiny.segment(stage, 4, sampling)
    with torch.no_grad():
        new = stage.replay(tiny.conditions(4), segment=segment, params=sampling, step_indices=[0, 1, 2, 3, 4])
    torch.testing.assert_close(new.log_probs, segment.sde_logp, rtol=1e-5 if batched else 0, atol=0)
    images = cg.Sampler(segment.sigmas.double().numpy(), dynamics, eta=0.7)
    latents = segment.latents
    velocities = np.stack([_velocity(stage, segment, step) for step in range(5)], 1)
    expected = images.log_probs(latents[:, :6].numpy(), velocities)
    np.testing.assert_allclose(segment.sde_logp.numpy(), expected, rtol=1e-4, atol=1e-5)


def _velocity(stage, segment, step):
    with torch.no_grad():
        found = stage.step.predict_noise(
            stage.model, segment.latents[:, step], segment.sigmas[step], tiny.conditions(4), guidance_scale=1.0
        )
    return found.numpy()


def test_a_step_without_noise_has_no_log_probability():
    with pytest.raises(cg.InvalidArgument, match="step 7 of 'cps' ends without noise"):
        SamplerStrategy("cps").denoise(**arguments(7, 0.7, None))
    prev_sample, log_prob, _ = SamplerStrategy("cps").denoise(**arguments(7, 0.0, None))
    x, v = tensors(0, 1)
    assert log_prob is None
    torch.testing.assert_close(prev_sample, x + v * (SIGMAS[8] - SIGMAS[7]))


@pytest.mark.parametrize(
    "given, sentence",
    [
        ({"dynamics": "ode"}, "it has no noise"),
        ({"dynamics": "dpm_ode"}, "DPM2Strategy"),
        ({"dynamics": "flow"}, "dynamics is 'flow'; it must be one of"),
        ({"eta": 0.7}, "eta cannot be given to SamplerStrategy, .*sampling.eta"),
        ({"window": [1]}, "sampling.scheduler"),
        ({"log_prob": "sum"}, "log_prob"),
        ({"wan_sigma_min": 2.0}, "wan_sigma_min"),
    ],
    ids=str,
)
def test_options_that_unirl_has_elsewhere_are_refused(given, sentence):
    with pytest.raises(cg.InvalidArgument, match=sentence):
        SamplerStrategy(**given)


def test_copies_are_equal():
    import copy
    import pickle

    strategy = SamplerStrategy("cps", log_prob="squared_error")
    for other in (copy.deepcopy(strategy), pickle.loads(pickle.dumps(strategy))):
        assert other == strategy and hash(other) == hash(strategy) and other.log_prob_no_const
    assert strategy != SamplerStrategy("cps") and repr(strategy) == "SamplerStrategy('cps', log_prob='squared_error')"
