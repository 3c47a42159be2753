"""What the arguments of chunkgrpo.flow_factory refuse, before a model is loaded."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import types

import pytest
from conftest import ROOT as REPOSITORY

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

from flow_factory_policy import ROOT, Adapter, arguments, cff, cg, scheduler  # noqa: E402


@pytest.mark.parametrize(
    "options, message",
    [
        ({"chunks": [2, 2]}, "chunks has 4 steps; 6 are trained"),
        ({"chunks": 0}, "chunks is 0"),
        ({"chunks": "clever"}, "chunks is 'clever'"),
        ({"chunk_fraction": 0.0}, "chunk_fraction is 0.0"),
        ({"chunk_fraction": 0.1, "chunks": 3}, "of 2 chunks that leaves none"),
        ({"chunk_weighting": "heavy"}, "chunk_weighting is 'heavy'"),
        ({"chunk_weighting": "relative_l1"}, "a chunk_fraction of 1 takes every chunk"),
        ({"loss": {"surogate": "spo"}}, "loss: .*'surogate'. Did you mean 'surrogate'"),
        ({"loss": {"surrogate": "spot"}}, "loss: surrogate is 'spot'"),
        ({"loss": {"clip": 0.1}}, "clip_range says the clip"),
        ({"loss": {"mask": [1]}}, "loss.mask is made by the trainer"),
        ({"loss": {"surrogate": "sapo"}, "clip_range": 0.2}, "does not clip"),
        ({"loss": ["spo"]}, "loss must hold options"),
        ({"kl_reference": "reference"}, "no loss.kl"),
        ({"ratio_norm": "guard"}, "ratio_norm is 'guard'"),
        ({"advantages": {"baselin": "batch"}}, "advantages: .*'baselin'"),
        ({"advantages": {"weights": [1]}}, "advantages.weights is made by the trainer"),
        ({"advantages": {}, "global_std": False}, "global_std is False, but advantages is given"),
        ({"chunks": [2, 4], "chunk_fraction": 0.5, "loss": {"average": "step"}}, "loss.average is 'step'"),
        ({"chunks": "optimal", "chunk_fraction": 0.5, "loss": {"average": "step"}}, "loss.average is 'step'"),
        ({"gradient_accumulation_steps": 4}, "must be a multiple of the 6 trained steps"),
    ],
)
def test_arguments_refuse_what_is_wrong_or_would_be_ignored(options, message):
    with pytest.raises(cg.errors.Error, match=message):
        arguments(**options).check(6, "Flow-SDE")


def test_deterministic_dynamics_are_refused():
    with pytest.raises(cg.InvalidArgument, match="have no log-probability"):
        arguments().check(6, "ODE")


def test_keys_that_nobody_reads_are_refused():
    from chunkgrpo.flow_factory._arguments import refuse_ignored

    def config(**extras):
        names = "eval_args", "data_args", "log_args"
        sections = {name: types.SimpleNamespace(extra_kwargs={}, keys=list) for name in names}
        return types.SimpleNamespace(training_args=arguments(extra_kwargs=extras), **sections)

    adapter = Adapter(scheduler())
    refuse_ignored(config(means=True), adapter)
    with pytest.raises(cg.WrongType, match="argument 'chunk_fractoin'. Did you mean 'chunk_fraction'"):
        refuse_ignored(config(chunk_fractoin=0.5), adapter)


def test_arguments_are_copied_and_compared():
    own = arguments(chunks=[1, 2, 3], loss={"kl": 0.1})
    assert copy.deepcopy(own) == own and copy.deepcopy(own) is not own
    assert pickle.loads(pickle.dumps(own)) == own != arguments(chunks=[3, 3])


def test_a_flow_factory_without_the_interface_is_named(monkeypatch):
    from chunkgrpo.flow_factory import _engine

    monkeypatch.delattr(_engine.GRPOTrainer, "compute_advantages")
    with pytest.raises(ImportError, match="has no GRPOTrainer.compute_advantages.*tried with X-GenGroup/Flow-Factory"):
        _engine.check_interface()


def test_the_example_configuration_is_taken():
    yaml = pytest.importorskip("yaml")
    given = yaml.safe_load((REPOSITORY / "examples" / "flow-factory" / "sd3_5_lora.yaml").read_text())
    known = {f.name for f in dataclasses.fields(cff.ChunkGRPO)}
    own = {name: value for name, value in given["train"].items() if name in known}
    assert own.pop("trainer_type") == "chunkgrpo.flow_factory.ChunkGRPO" and "chunks" in own
    cff.ChunkGRPO(**own).check(given["scheduler"]["num_sde_steps"], "Flow-SDE")
    options = {name: value for name, value in given["scheduler"].items() if name != "seed"}
    cff.ChunkSDEScheduler(**options)


@pytest.mark.skipif(not ROOT, reason="CHUNKGRPO_FLOW_FACTORY names no repository of Flow-Factory")
def test_the_launcher_checks_a_whole_file(tmp_path):
    from chunkgrpo.flow_factory.__main__ import check

    path = REPOSITORY / "examples" / "flow-factory" / "sd3_5_lora.yaml"
    arguments = check(str(path))
    assert isinstance(arguments.training_args, cff.ChunkGRPO) and not arguments.training_args.extra_kwargs
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(path.read_text() + "\nschedular: {noise_level: 1.0}\n")
    with pytest.raises(cg.WrongType, match="'schedular'. Did you mean 'scheduler'"):
        check(str(wrong))
