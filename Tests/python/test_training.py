"""The embedded policy: it learns, its checkpoints go on bit for bit, and what fails leaves it as it was."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import chunkgrpo as cg
from conftest import ROOT

SMALL = dict(width=32, blocks=1, embedding_size=16, group_size=8, seed=3, threads=1)
CONDITIONS = np.eye(2, dtype=np.float32)


def data(count=512):
    """Two clouds in 4 dimensions, one per condition."""
    rng = np.random.default_rng(0)
    label = rng.integers(2, size=count)
    images = np.where(label[:, None] == 0, 0.5, -0.5) + 0.5 * rng.normal(size=(count, 4))
    return images.astype(np.float32), CONDITIONS[label]


def reward(images, prompt):
    """Larger numbers for the first condition, smaller ones for the second."""
    return np.where(prompt == 0, images.mean(1), -images.mean(1))


def make(**options):
    return cg.Trainer(4, 2, **{**SMALL, **options})


@pytest.fixture
def trainer():
    with make() as trainer:
        trainer.pretrain(*data(), steps=60, batch_size=64)
        yield trainer


def state(trainer):
    """All that can be seen of a trainer."""
    x = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
    which = "trained", "averaged"
    return [trainer.velocity(x, 0.5, CONDITIONS, parameters=name).tobytes() for name in which] + [
        trainer.iterations
    ]


def mean_reward(trainer):
    conditions = np.repeat(CONDITIONS, 200, axis=0)
    images = trainer.sample(conditions, seed=99)
    return reward(images, np.repeat([0, 1], 200)).mean()


def test_pretraining_lowers_the_loss_and_reports_its_progress():
    seen = []
    with make() as trainer:
        trainer.pretrain(*data(), steps=300, batch_size=64, progress=lambda *numbers: seen.append(numbers))
        assert trainer.iterations == 0 and trainer.parameter_count > 1000
    done, total, loss = zip(*seen)
    assert set(total) == {300} and list(done) == sorted(set(done)) and done[-1] == 300
    assert loss[-1] < 0.8 * loss[0]


def test_training_raises_the_reward(trainer):
    before = mean_reward(trainer)
    reports = [trainer.iterate(CONDITIONS[[0, 1, 0, 1]], reward) for _ in range(60)]
    assert [report.iteration for report in reports] == list(range(1, 61)) and trainer.iterations == 60
    first, last = (np.mean([report.reward_mean for report in part]) for part in (reports[:5], reports[-5:]))
    assert last > first + 0.2
    assert mean_reward(trainer) > before + 0.2
    report = reports[0]
    assert report.reward_std > 0 and report.grad_norm > 0 and np.isfinite(report.loss)
    assert report.stats.selected > 0 and 0 < report.stats.effective_sample_size <= 1
    assert min(report.rollout_seconds, report.reward_seconds, report.update_seconds) >= 0


def test_the_reward_gets_fresh_images_and_the_row_of_each_prompt(trainer):
    kept = []

    def keeper(images, prompt):
        assert images.shape == (24, 4) and images.dtype == np.float32
        assert prompt.dtype == np.int64 and prompt.tolist() == [0] * 8 + [1] * 8 + [2] * 8
        kept.append((images, images.copy()))
        return [0.1] * 24  # a list will do

    trainer.iterate(CONDITIONS[[0, 1, 1]], keeper)
    trainer.iterate(CONDITIONS[[0, 1, 1]], keeper)
    for images, copy in kept:
        np.testing.assert_array_equal(images, copy)


def test_training_is_a_function_of_the_seed():
    def run(seed):
        with make(seed=seed) as trainer:
            trainer.pretrain(*data(), steps=10, batch_size=64)
            trainer.iterate(CONDITIONS, reward)
            return state(trainer)

    assert run(3) == run(3) != run(4)


def test_a_checkpoint_goes_on_bit_for_bit(trainer, tmp_path):
    trainer.iterate(CONDITIONS, reward)
    trainer.save(tmp_path / "check")
    with cg.Trainer.load(tmp_path / "check") as loaded:
        assert state(loaded) == state(trainer)
        assert loaded.parameter_count == trainer.parameter_count and loaded.latent_size == 4
        for _ in range(3):
            ours, theirs = trainer.iterate(CONDITIONS, reward), loaded.iterate(CONDITIONS, reward)
            assert (ours.iteration, ours.loss, ours.grad_norm, ours.stats) == (
                theirs.iteration,
                theirs.loss,
                theirs.grad_norm,
                theirs.stats,
            )
        assert state(loaded) == state(trainer)
        np.testing.assert_array_equal(loaded.sample(CONDITIONS, seed=1), trainer.sample(CONDITIONS, seed=1))


def test_a_checkpoint_can_be_written_over(trainer, tmp_path):
    trainer.save(tmp_path)
    trainer.iterate(CONDITIONS, reward)
    trainer.save(str(tmp_path))
    with cg.Trainer.load(str(tmp_path)) as loaded:
        assert state(loaded) == state(trainer)


def test_a_checkpoint_that_is_none_is_an_io_failure(tmp_path, trainer):
    with pytest.raises(cg.IOFailure, match="nowhere"):
        cg.Trainer.load(tmp_path / "nowhere")
    trainer.save(tmp_path)
    for path in tmp_path.iterdir():
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(cg.IOFailure):
            cg.Trainer.load(tmp_path)
        path.write_bytes(whole)
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(cg.IOFailure):
        trainer.save(tmp_path / "file")


@pytest.mark.parametrize("space", [b" ", b"\t", b"\f", b"\v", b"\x85", b"\0"])
def test_white_space_that_is_none_in_json_is_an_io_failure(tmp_path, trainer, space):
    trainer.save(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little") + 1
    path.write_bytes(length.to_bytes(8, "little") + whole[8:].replace(b'":{"', b'":' + space + b'{"', 1))
    if space in b" \t":
        with cg.Trainer.load(tmp_path) as loaded:
            assert state(loaded) == state(trainer)
        return
    with pytest.raises(cg.IOFailure, match="no JSON object"):
        cg.Trainer.load(tmp_path)


class Mine(Exception):
    pass


def raising(error):
    def broken(*_):
        raise error

    return broken


@pytest.mark.parametrize("error", [Mine("mine"), KeyboardInterrupt()])
def test_a_reward_that_raises_leaves_the_trainer_as_it_was(trainer, error):
    with make() as twin:
        twin.pretrain(*data(), steps=60, batch_size=64)
        before = state(trainer)
        with pytest.raises(type(error)) as caught:
            trainer.iterate(CONDITIONS, raising(error))
        assert caught.value is error and caught.traceback[-1].name == "broken"
        assert state(trainer) == before
        trainer.iterate(CONDITIONS, reward)
        twin.iterate(CONDITIONS, reward)
        assert state(trainer) == state(twin)  # nor has it moved on in its draws


@pytest.mark.parametrize(
    "value, kind, words",
    [
        (lambda images: np.full(len(images), np.nan), cg.NonFinite, "reward"),
        (lambda images: images, ValueError, r"reward returned has shape \(16, 4\); it must be \(16,\)"),
        (lambda images: 1.0, TypeError, "reward returned a float"),
        (lambda images: ["good"] * len(images), TypeError, "reward returned has element type"),
        (lambda images: None, TypeError, "reward returned None"),
    ],
)
def test_a_wrong_reward_leaves_the_trainer_as_it_was(trainer, value, kind, words):
    before = state(trainer)
    with pytest.raises(cg.Error, match=words) as caught:
        trainer.iterate(CONDITIONS, lambda images, prompt: value(images))
    assert isinstance(caught.value, kind)
    assert state(trainer) == before


def test_progress_can_stop_pretraining_and_the_trainer_is_as_it_was(trainer):
    before = state(trainer)
    with pytest.raises(cg.CallbackFailed, match="progress"):
        trainer.pretrain(*data(), steps=500, batch_size=64, progress=lambda done, total, loss: True)
    assert state(trainer) == before
    for error in (Mine("mine"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught:
            trainer.pretrain(*data(), steps=500, batch_size=64, progress=raising(error))
        assert caught.value is error
        assert state(trainer) == before


INTERRUPTED = """
import os, signal, sys, threading
import numpy as np
sys.path.insert(0, {package!r})
import chunkgrpo as cg
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts with &
trainer = cg.Trainer(4, 2, width=32, blocks=1, embedding_size=16)
threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    trainer.pretrain(np.ones((8, 4)), np.ones((8, 2)), steps=1_000_000)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_control_c_ends_pretraining():
    code = INTERRUPTED.format(package=str(ROOT / "bindings/python"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("interrupted\n", "")


def test_samples_depend_on_seed_and_parameters_and_follow_their_condition(trainer):
    conditions = np.repeat(CONDITIONS, 100, axis=0)
    images = trainer.sample(conditions, seed=1)
    assert images.shape == (200, 4) and images.dtype == np.float32
    np.testing.assert_array_equal(trainer.sample(conditions, seed=1), images)
    assert (trainer.sample(conditions, seed=2) != images).any()
    assert (trainer.sample(conditions, seed=1, eta=0) != images).any()
    np.testing.assert_array_equal(trainer.sample(conditions, seed=1, eta=0.7), images)  # the trainer's
    np.testing.assert_allclose(trainer.sample(conditions[:7], seed=1), images[:7], atol=1e-4)  # ids are rows
    assert images[:100].mean() > images[100:].mean() + 0.3


def test_the_network_alone_serves_a_rollout_of_ones_own(trainer):
    conditions = np.repeat(CONDITIONS, 5, axis=0)
    sampler = cg.Sampler(cg.Schedule.shifted(17, 3.0), "ode")
    x_init = cg.initial_noise((10, 4), seed=4)
    own = sampler.rollout(lambda x, sigma, step: trainer.velocity(x, sigma, conditions), x_init).images
    np.testing.assert_allclose(own, trainer.sample(conditions, eta=0, seed=4), rtol=1e-5, atol=1e-5)


def test_a_closed_trainer_says_so():
    trainer = make()
    trainer.close()
    trainer.close()
    for call in (
        lambda: trainer.iterations,
        lambda: trainer.sample(CONDITIONS),
        lambda: trainer.iterate(CONDITIONS, reward),
        lambda: trainer.save("."),
    ):
        with pytest.raises(cg.Error, match="closed"):
            call()


def test_a_trainer_takes_no_call_from_its_own_callback(trainer):
    for call in (trainer.close, lambda: trainer.iterate(CONDITIONS, reward), lambda: trainer.sample(CONDITIONS)):
        with pytest.raises(cg.Error, match="one at a time"):
            trainer.iterate(CONDITIONS, lambda images, prompt: call())
    assert trainer.iterations == 0


BAD = {
    "latent size zero": (lambda: cg.Trainer(0, 2), ValueError, "latent_?[sS]ize"),
    "latent size negative": (lambda: cg.Trainer(-1, 2), ValueError, "latent_?[sS]ize"),
    "condition size huge": (lambda: cg.Trainer(4, 2**62), ValueError, "condition_size"),
    "width that overflows": (lambda: make(width=2**40), ValueError, "width"),
    "width beyond 64 bits": (lambda: make(width=10**30), ValueError, "width"),
    "width no integer": (lambda: make(width=2.5), TypeError, "width"),
    "embedding odd": (lambda: make(embedding_size=15), ValueError, "embedding_?[sS]ize"),
    "steps one": (lambda: make(steps=1), ValueError, "steps"),
    "shift negative": (lambda: make(shift=-1), ValueError, "shift"),
    "eta negative": (lambda: make(eta=-1), ValueError, "eta"),
    "dynamics unknown": (lambda: make(dynamics="euler"), ValueError, "dynamics"),
    "group of one": (lambda: make(group_size=1), ValueError, "group_size"),
    "chunks that do not sum": (lambda: make(chunk_sizes=[2, 3, 4]), ValueError, "chunk|sizes"),
    "fraction zero": (lambda: make(chunk_fraction=0), ValueError, "fraction"),
    "clip negative": (lambda: make(clip=-1), ValueError, "clip"),
    "kl NaN": (lambda: make(kl=float("nan")), ValueError, "kl"),
    "learning rate NaN": (lambda: make(learning_rate=float("nan")), ValueError, "learning_rate"),
    "ema decay one": (lambda: make(ema_decay=1), ValueError, "ema_decay"),
    "seed negative": (lambda: make(seed=-1), ValueError, "seed"),
}


def test_bounds_are_no_clip_range_of_a_trainer():
    with pytest.raises(cg.InvalidArgument, match="which look like bounds; it has the distances from 1"):
        cg.Trainer(4, 2, clip=(0.999, 1.001))


@pytest.mark.parametrize("call, kind, words", BAD.values(), ids=BAD.keys())
def test_bad_options(call, kind, words):
    with pytest.raises(kind, match=words) as caught:
        call()
    assert isinstance(caught.value, cg.Error)


BAD_CALLS = {
    "images too wide": (lambda t: t.pretrain(np.ones((3, 5)), np.ones((3, 2))), ValueError, "images"),
    "conditions too many": (lambda t: t.pretrain(np.ones((3, 4)), np.ones((4, 2))), ValueError, "conditions"),
    "images NaN": (lambda t: t.pretrain(np.full((3, 4), np.nan), np.ones((3, 2)), steps=2), cg.NonFinite, "images"),
    "images text": (lambda t: t.pretrain([["a"] * 4], np.ones((1, 2))), TypeError, "images"),
    "pretraining of no steps": (lambda t: t.pretrain(*data(), steps=0), ValueError, "steps"),
    "batch zero": (lambda t: t.pretrain(*data(), batch_size=0), ValueError, "batch_size"),
    "no prompts": (lambda t: t.iterate(CONDITIONS[:0], reward), ValueError, "conditions"),
    "prompts too wide": (lambda t: t.iterate(np.ones((2, 3)), reward), ValueError, "conditions"),
    "prompts NaN": (lambda t: t.iterate(CONDITIONS * np.nan, reward), cg.NonFinite, "conditions"),
    "prompt a number": (lambda t: t.sample(1.0), ValueError, "conditions"),
    "parameters unknown": (lambda t: t.sample(CONDITIONS, parameters="best"), ValueError, "parameters"),
    "sample eta negative": (lambda t: t.sample(CONDITIONS, eta=-1), ValueError, "eta"),
    "sample seed negative": (lambda t: t.sample(CONDITIONS, seed=-1), ValueError, "seed"),
    "latents of another batch": (lambda t: t.velocity(np.ones((3, 4)), 0.5, CONDITIONS), ValueError, "latents"),
    "sigma NaN": (lambda t: t.velocity(np.ones((2, 4)), float("nan"), CONDITIONS), cg.Error, "sigma"),
    "directory empty": (lambda t: t.save(""), ValueError, "directory"),
    "directory no path": (lambda t: t.save(3.5), TypeError, "directory"),
}


@pytest.mark.parametrize("call, kind, words", BAD_CALLS.values(), ids=BAD_CALLS.keys())
def test_bad_calls(trainer, call, kind, words):
    before = state(trainer)
    with pytest.raises(kind, match=words) as caught:
        call(trainer)
    assert isinstance(caught.value, cg.Error)
    assert state(trainer) == before


def test_the_options_of_a_trainer_make_its_equal(tmp_path):
    trainer = make(eta=0.25, chunk_sizes=[8, 8], chunk_weights=[0.5, 3], clip=(0.1, 0.2))
    options = trainer.options
    assert (options["eta"], options["chunk_sizes"], options["clip"]) == (0.25, [8, 8], (0.1, 0.2))
    assert options["chunk_weights"] == [0.5, 3]
    twin = cg.Trainer(**options)
    np.testing.assert_array_equal(twin.sample(CONDITIONS), trainer.sample(CONDITIONS))
    trainer.save(tmp_path)
    assert cg.Trainer.load(tmp_path).options == twin.options == options
    options["eta"] = 0.0
    assert trainer.options["eta"] == 0.25
