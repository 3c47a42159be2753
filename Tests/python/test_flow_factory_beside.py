"""chunkgrpo.flow_factory beside Flow-Factory, where CHUNKGRPO_FLOW_FACTORY names its folder src."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import ROOT as _  # noqa: F401  (puts the package on the path)

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

from flow_factory_policy import ROOT, Adapter, T, arguments, cff, gradient, rollouts, trained, trainer_of  # noqa: E402
from flow_factory.trainers.grpo import GRPOTrainer  # noqa: E402  # isort: skip


real = pytest.mark.skipif(not ROOT, reason="CHUNKGRPO_FLOW_FACTORY names no repository of Flow-Factory")


@real
@pytest.mark.parametrize("kl", [{}, {"kl_beta": 0.3, "kl_type": "v-based"}, {"kl_beta": 0.3, "kl_type": "x-based"}])
@pytest.mark.parametrize("clip", [1e-4, 0.2])
def test_chunks_of_one_step_are_flow_factorys_grpo(clip, kl):
    from flow_factory.scheduler import FlowMatchEulerDiscreteSDEScheduler

    own, adapter, samples = trained({"chunks": 1, "clip_range": clip, **kl})
    theirs = Adapter(FlowMatchEulerDiscreteSDEScheduler(noise_level=0.7, sde_steps=[1, 2, 3, 4, 5, 6], num_sde_steps=6))
    theirs.net.load_state_dict(adapter.net.state_dict())
    theirs.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / T, T), device="cpu")
    other = trainer_of(GRPOTrainer, arguments(clip_range=clip, **kl), theirs)
    other.optimize(samples)
    (mine,), (reference,) = own.logged, other.logged
    assert abs(float(mine["train/loss"]) + float(mine.get("train/kl_loss", 0)) - float(reference["train/loss"])) < 1e-6
    assert (gradient(adapter) - gradient(theirs)).norm() < 1e-5 * gradient(theirs).norm()


@real
@pytest.mark.parametrize("name", ["Flow-SDE", "Dance-SDE", "CPS"])
def test_rollouts_are_flow_factorys_of_the_same_seed(name):
    from flow_factory.scheduler import FlowMatchEulerDiscreteSDEScheduler

    options = {"noise_level": 0.7, "sde_steps": [1, 2, 3, 4, 5, 6], "num_sde_steps": 6, "dynamics_type": name}
    kinds = cff.ChunkSDEScheduler, FlowMatchEulerDiscreteSDEScheduler
    own, theirs = (rollouts(Adapter(kind(**options))) for kind in kinds)
    for mine, other in zip(own, theirs):
        assert torch.allclose(mine.all_latents, other.all_latents, atol=1e-5)
        assert torch.allclose(mine.log_probs[1:7], other.log_probs[1:7], atol=1e-5)


@real
def test_grpo_guard_is_flow_factorys_in_its_ratios():
    """Its loss at chunks of one step."""
    from flow_factory.scheduler import FlowMatchEulerDiscreteSDEScheduler
    from flow_factory.trainers.grpo import GRPOGuardTrainer

    own, adapter, samples = trained({"chunks": 1, "clip_range": 0.2, "ratio_norm": "grpo_guard"}, means=True)
    theirs = Adapter(FlowMatchEulerDiscreteSDEScheduler(noise_level=0.7, sde_steps=[1, 2, 3, 4, 5, 6], num_sde_steps=6))
    theirs.net.load_state_dict(adapter.net.state_dict())
    theirs.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / T, T), device="cpu")
    other = trainer_of(GRPOGuardTrainer, arguments(clip_range=0.2), theirs)
    other.optimize(samples)
    assert abs(float(own.logged[0]["train/loss"]) - float(other.logged[0]["train/loss"])) < 1e-6
    assert (gradient(adapter) - gradient(theirs)).norm() < 1e-5 * gradient(theirs).norm()


@real
def test_a_scheduler_of_theirs_may_stay():
    """Wan's: the trainer takes the log-probabilities that a scheduler gives."""
    from flow_factory.scheduler import UniPCMultistepSDEScheduler

    found = []
    for kind, options in ((cff.ChunkGRPOTrainer, {"chunks": 1}), (GRPOTrainer, {})):
        given = {"noise_level": 0.7, "sde_steps": [1, 2, 3, 4, 5, 6], "num_sde_steps": 6, "flow_shift": 3.0}
        adapter = Adapter(UniPCMultistepSDEScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", **given))
        adapter.schedule = {"num_inference_steps": T}
        samples = rollouts(adapter)
        trainer_of(kind, arguments(clip_range=0.2, **options), adapter).optimize(samples)
        found.append(gradient(adapter))
    assert (found[0] - found[1]).norm() < 1e-5 * found[1].norm() > 0
