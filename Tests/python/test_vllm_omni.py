"""chunkgrpo.vllm_omni at the interfaces of vLLM-Omni: its scheduler registry and trajectory collector (pull requests 6277
and 7550), and its pipelines' forward and step-wise execution (0.30.0). With CHUNKGRPO_VLLM_OMNI, a folder that holds
vllm_omni/, as an unpacked wheel does, beside its own classes."""

from __future__ import annotations

import ast
import copy
import importlib.util
import os
import pickle
import sys
import types
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pytest
from conftest import ROOT

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

import chunkgrpo as cg  # noqa: E402
from chunkgrpo.vllm_omni import FlowMatchSDEScheduler, recording  # noqa: E402

WHEEL = os.environ.get("CHUNKGRPO_VLLM_OMNI")
T = 6


@runtime_checkable
class TrajectoryCollector(Protocol):
    """As pull request 7550 has it."""

    def configure(self, **kwargs: Any) -> None: ...

    def reset(self) -> None: ...

    def get_trajectory(self) -> dict[str, Any]: ...


def model(x, t):
    return torch.tanh(x) * (0.3 + t / 1000)


def run(scheduler, x, **options):
    """The denoising loop of vLLM-Omni's pipelines."""
    for t in scheduler.timesteps:
        x = scheduler.step(model(x, t), t, x, return_dict=False, **options)[0]
    return x


def begun(**options):
    scheduler = FlowMatchSDEScheduler(**{"dynamics": "flow_sde", "eta": 0.7, "seed": 5, **options})
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / T, T), device="cpu")
    return scheduler


def test_the_entry_point_is_the_class():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "bindings" / "python" / "pyproject.toml").read_text())["project"]
    name, _, kind = project["entry-points"]["vllm_omni.schedulers"]["chunkgrpo"].partition(":")
    assert getattr(importlib.import_module(name), kind) is FlowMatchSDEScheduler


def test_it_is_built_from_a_model_s_folder(tmp_path):
    diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(tmp_path / "scheduler")
    options = {"subfolder": "scheduler", "local_files_only": True, "dynamics": "cps", "eta": 0.4}
    scheduler = FlowMatchSDEScheduler.from_pretrained(str(tmp_path), **options)
    assert (scheduler.config.shift, scheduler.config.dynamics, scheduler.config.eta) == (3.0, "cps", 0.4)
    with pytest.raises(cg.WrongType, match="'etta'. Did you mean 'eta'"):
        FlowMatchSDEScheduler.from_pretrained(str(tmp_path), **{**options, "etta": 0.4})


def test_a_request_comes_back_with_its_trajectory():
    scheduler = begun()
    assert isinstance(scheduler, TrajectoryCollector)
    scheduler.configure(sample_ids=[40, 41, 42])
    x = torch.randn(3, 4, 5)
    last = run(scheduler, x)
    found = scheduler.get_trajectory()
    sampler = cg.Sampler(cg.Schedule(scheduler.sigmas.tolist()), "flow_sde", 0.7, last_step="ode")
    whole = sampler.rollout(lambda x, sigma, k: model(x, 1000 * sigma), x, seed=5, sample_ids=[40, 41, 42])
    assert torch.allclose(found["latents"], whole.latents, atol=1e-6) and torch.equal(found["latents"][:, -1], last)
    velocities = torch.stack([model(found["latents"][:, k], t) for k, t in enumerate(scheduler.timesteps[:-1])], 1)
    assert torch.equal(sampler.log_probs(found["latents"], velocities), found["log_probs"])
    assert found["timesteps"].tolist() == scheduler.timesteps.tolist() and found["sigmas"][-1] == 0
    assert found["sample_ids"].tolist() == [40, 41, 42]


def test_reset_brings_back_what_the_engine_has():
    scheduler = begun(window=[1, 2])
    scheduler.configure(eta=0.3, dynamics="cps", window=None, sample_ids=[7])
    first = run(scheduler, torch.zeros(1, 8))
    scheduler.reset()
    assert scheduler.get_trajectory() == dict.fromkeys(("latents", "log_probs", "timesteps", "sigmas", "sample_ids"))
    assert (scheduler.config.eta, scheduler.config.dynamics, scheduler.config.window) == (0.7, "flow_sde", [1, 2])
    assert scheduler.sample_ids is None and scheduler.sampler.stochastic_steps == [1, 2]
    scheduler.configure(eta=0.3, dynamics="cps", window=None, sample_ids=[7])
    assert torch.equal(run(scheduler, torch.zeros(1, 8)), first)


def test_options_count_after_set_timesteps_too():
    """Step-wise execution copies a scheduler with its timesteps, then configures the copy."""
    template = begun()
    own = copy.deepcopy(template)
    own.set_begin_index(0)
    own.reset()
    own.configure(eta=0.2, sample_ids=[3])
    other = begun(eta=0.2)
    other.sample_ids = [3]
    x = torch.randn(1, 8)
    assert torch.equal(run(own, x), run(other, x))
    assert template.config.eta == 0.7 and template.trajectory is None


def test_copies_draw_other_noise_unless_told():
    template = begun()
    x = torch.zeros(1, 8)
    copies = [copy.deepcopy(template) for _ in range(3)]
    images = [run(own, x) for own in copies]
    ids = [int(own.get_trajectory()["sample_ids"][0]) for own in copies]
    assert len(set(ids)) == 3 and not torch.equal(images[0], images[1])
    again = copy.deepcopy(template)
    again.configure(sample_ids=ids[:1])
    assert torch.equal(run(again, x), images[0])


def test_a_request_s_generator_draws_its_noise():
    x = torch.zeros(2, 8)
    made = lambda: torch.Generator().manual_seed(3)  # noqa: E731
    assert torch.equal(run(begun(), x, generator=made()), run(begun(), x, generator=made()))
    pair = [torch.Generator().manual_seed(i) for i in (3, 4)]
    alone = run(begun(), x[:1], generator=torch.Generator().manual_seed(4))
    assert torch.equal(run(begun(), x, generator=pair)[1:], alone)


def test_the_names_of_verl_omni_are_taken():
    scheduler = begun()
    scheduler.configure(noise_level=0.3, sde_type="cps")
    assert (scheduler.config.eta, scheduler.config.dynamics) == (0.3, "cps")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"etta": 0.3}, "'etta'. Did you mean 'eta'"),
        ({"sample_ids": [1, 2], "generator": torch.Generator()}, "sample_ids and generator are given"),
        ({"shift": 3.0}, "unexpected keyword argument 'shift'"),
        ({"eta": -1.0}, "eta"),
        ({"sde_type": "ode"}, "sde_type is 'ode'; it must be sde or cps"),
        ({"eta": 0.3, "noise_level": 0.3}, "noise_level is eta"),
    ],
)
def test_configure_refuses_what_it_would_not_follow(options, message):
    scheduler = begun()
    with pytest.raises(cg.errors.Error, match=message):
        scheduler.configure(**options)
    assert scheduler.config.eta == 0.7


def test_configure_within_a_run_is_refused():
    scheduler = begun()
    x = torch.zeros(1, 8)
    scheduler.step(model(x, 1000), scheduler.timesteps[0], x)
    with pytest.raises(cg.InvalidArgument, match="after the first step"):
        scheduler.configure(eta=0.3)


def test_it_is_pickled_and_evaluates():
    scheduler = pickle.loads(pickle.dumps(begun(eta=0.4)))
    x = torch.randn(2, 8)
    run(scheduler, x)
    with scheduler.evaluation():
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / T, T), device="cpu")
        last = run(scheduler, x)
    euler = diffusers.FlowMatchEulerDiscreteScheduler()
    euler.set_timesteps(sigmas=np.linspace(1, 1 / T, T), device="cpu")
    assert torch.equal(last, run(euler, x)) and scheduler.config.eta == 0.4


# ----------------------------------------------------------------------------------------------------------------------
# A pipeline by class path


class Pipeline:
    """The interface of vLLM-Omni's pipelines: requests in a batch, or step by step."""

    def __init__(self, od_config=None):
        self.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)

    def latents(self, count, seed):
        self.scheduler.set_timesteps(sigmas=np.linspace(1, 1 / T, T), device="cpu")
        return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed))

    def forward(self, req):
        count = len(req.sampling_params_list) * req.sampling_params_list[0].num_outputs_per_prompt
        images = run(self.scheduler, self.latents(count, 1))
        return [types.SimpleNamespace(output=part) for part in images.chunk(len(req.sampling_params_list))]

    def prepare_encode(self, state):
        state.latents = self.latents(1, state.seed)
        state.scheduler = copy.deepcopy(self.scheduler)
        state.scheduler.set_begin_index(0)
        return state

    def post_decode(self, state):
        return types.SimpleNamespace(output=state.latents)


def request(**options):
    return types.SimpleNamespace(num_outputs_per_prompt=2, extra_args={"scheduler_configure": options})


def test_a_pipeline_gives_each_request_its_rows():
    pipeline = recording(Pipeline, dynamics="flow_sde", eta=0.7)(od_config=None)
    batch = types.SimpleNamespace(sampling_params_list=[request(sample_ids=[1, 2]), request(sample_ids=[8, 9])])
    outputs = pipeline.forward(batch)
    for output in outputs:
        assert torch.equal(output.trajectory_latents[:, -1], output.output)
        assert output.trajectory_latents.shape == (2, T + 1, 8) and output.trajectory_log_probs.shape == (2, T - 1)
    assert pipeline.scheduler.config.shift == 3.0
    # Rows of the same ids in another batch have the same noise.
    (alone,) = pipeline.forward(types.SimpleNamespace(sampling_params_list=[request(sample_ids=[1, 2])]))
    assert torch.equal(alone.trajectory_latents[:, 0], outputs[0].trajectory_latents[:, 0])
    assert torch.equal(alone.output, outputs[0].output)


def test_requests_of_a_batch_must_agree():
    pipeline = recording(Pipeline)(od_config=None)
    mixed = types.SimpleNamespace(sampling_params_list=[request(eta=0.3), request(eta=0.4)])
    with pytest.raises(cg.InvalidArgument, match="give the same"):
        pipeline.forward(mixed)
    mixed = types.SimpleNamespace(sampling_params_list=[request(sample_ids=[1, 2]), request()])
    with pytest.raises(cg.InvalidArgument, match="all must"):
        pipeline.forward(mixed)


def test_requests_run_step_by_step_beside_each_other():
    pipeline = recording(Pipeline, eta=0.7)(od_config=None)
    states = []
    for i in range(2):
        sampling = types.SimpleNamespace(extra_args={"scheduler_configure": {"sample_ids": [i], "eta": 0.5 + i}})
        states.append(pipeline.prepare_encode(types.SimpleNamespace(sampling=sampling, seed=i)))
    for k in range(T):
        for state in states:
            t = state.scheduler.timesteps[k]
            state.latents = state.scheduler.step(model(state.latents, t), t, state.latents, return_dict=False)[0]
    for i, state in enumerate(states):
        output = pipeline.post_decode(state)
        assert torch.equal(output.trajectory_latents[:, -1], state.latents)
        sampler = cg.Sampler(cg.Schedule(state.scheduler.sigmas.tolist()), "flow_sde", 0.5 + i, last_step="ode")
        x = output.trajectory_latents
        velocities = torch.stack([model(x[:, k], t) for k, t in enumerate(state.scheduler.timesteps[:-1])], 1)
        assert torch.equal(sampler.log_probs(x, velocities), output.trajectory_log_probs)


def test_wrong_options_of_a_pipeline_are_refused_where_they_are_written():
    with pytest.raises(cg.WrongType, match="'etta'"):
        recording(Pipeline, etta=0.7)
    with pytest.raises(cg.InvalidArgument, match="must be a class"):
        recording("Pipeline")


# ----------------------------------------------------------------------------------------------------------------------
# Beside vLLM-Omni's own classes

real = pytest.mark.skipif(not WHEEL, reason="CHUNKGRPO_VLLM_OMNI names no folder with vllm_omni/")


def theirs(path):
    """A module of theirs by its file: the package itself imports vLLM, which needs a GPU."""
    file = Path(WHEEL, "vllm_omni", path)
    if not file.exists():
        pytest.skip(f"this vLLM-Omni has no {path}")
    spec = importlib.util.spec_from_file_location(f"of_vllm_omni_{file.stem}", file)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@real
def test_without_noise_the_images_are_those_of_their_scheduler():
    kind = theirs("diffusion/models/schedulers/scheduling_flow_match_euler_discrete.py").FlowMatchEulerDiscreteScheduler
    own, other = begun(dynamics="ode"), kind()
    other.set_timesteps(sigmas=np.linspace(1, 1 / T, T), device="cpu")
    x = torch.randn(2, 8)
    assert torch.equal(own.timesteps, other.timesteps) and torch.equal(run(own, x), run(other, x))


@real
def test_our_step_and_set_timesteps_take_what_theirs_take():
    import inspect

    kind = theirs("diffusion/models/schedulers/scheduling_flow_match_euler_discrete.py").FlowMatchEulerDiscreteScheduler
    for name in ("step", "set_timesteps"):
        assert list(inspect.signature(getattr(kind, name)).parameters) == list(
            inspect.signature(getattr(FlowMatchSDEScheduler, name)).parameters
        )


@real
def test_their_outputs_have_the_fields_that_are_filled():
    tree = ast.parse(Path(WHEEL, "vllm_omni", "diffusion", "data.py").read_text())
    (output,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "DiffusionOutput"]
    fields = {node.target.id for node in output.body if isinstance(node, ast.AnnAssign)}
    assert {"trajectory_latents", "trajectory_log_probs", "trajectory_timesteps"} <= fields


@real
def test_their_registry_builds_it(tmp_path):
    registry = theirs("diffusion/models/schedulers/registry.py")
    diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0).save_pretrained(tmp_path / "scheduler")
    path = "chunkgrpo.vllm_omni.FlowMatchSDEScheduler"
    config = types.SimpleNamespace(scheduler=path, scheduler_kwargs={"eta": 0.4}, model=str(tmp_path))
    scheduler = registry.build_pipeline_scheduler(config)
    assert type(scheduler) is FlowMatchSDEScheduler and scheduler.config.eta == 0.4 and scheduler.config.shift == 3.0


@real
def test_their_collector_configures_and_attaches(monkeypatch):
    for name in ("vllm_omni", "vllm_omni.diffusion", "vllm_omni.diffusion.data"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["vllm_omni.diffusion.data"].DiffusionOutput = types.SimpleNamespace
    module = theirs("diffusion/models/schedulers/trajectory.py")
    scheduler = begun()
    sampling = types.SimpleNamespace(extra_args={"scheduler_configure": {"noise_level": 0.3, "sample_ids": [4]}})
    module.configure_scheduler_for_request(scheduler, sampling)
    last = run(scheduler, torch.zeros(1, 8))
    output = module.attach_scheduler_trajectory(types.SimpleNamespace(), scheduler)
    assert torch.equal(output.trajectory_latents[:, -1], last) and output.trajectory_log_probs.shape == (1, T - 1)
    assert len(output.trajectory_timesteps) == T
