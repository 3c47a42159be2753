"""Every object that holds options or state can be copied, pickled, saved by PyTorch and sent to a spawned process."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import numpy as np
import pytest

import chunkgrpo as cg
from conftest import velocity

SCHEDULE = cg.Schedule.shifted(9, 3.0)
OPTIONS = {"dynamics": "cps", "eta": 0.4, "window": [1, 3], "last_step": "ode", "log_prob": "squared_error"}


def saved(value):
    """The way of torch.save."""
    torch = pytest.importorskip("torch")
    import io

    file = io.BytesIO()
    torch.save({"value": value}, file)
    file.seek(0)
    return torch.load(file, weights_only=False)["value"]


def pickled(value):
    return pickle.loads(pickle.dumps(value))


WAYS = pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickled, saved])


def changed_recipe():
    recipe = cg.Recipe("mixgrpo")
    recipe.steps = 20
    recipe.optimiser["learning_rate"] = 1e-3
    return recipe


OBJECTS = {
    "schedule": (lambda: SCHEDULE, cg.Schedule.linear(9)),
    "sampler": (lambda: cg.Sampler(SCHEDULE, **OPTIONS), cg.Sampler(SCHEDULE, **{**OPTIONS, "window": [1, 2]})),
    "sampler of etas": (lambda: cg.Sampler([1, 0.5, 0], etas=[0.1, 0.2]), cg.Sampler([1, 0.5, 0], etas=[0.1, 0.3])),
    "sampler, another schedule": (lambda: cg.Sampler([1, 0.5, 0]), cg.Sampler([1, 0.6, 0])),
    "plan": (lambda: cg.ChunkPlan([2, 3]), cg.ChunkPlan([3, 2])),
    "window": (lambda: cg.SDEWindow(4, 23, stride=2), cg.SDEWindow(4, 23, stride=1)),
    "recipe": (lambda: cg.Recipe("gcpo"), cg.Recipe("dancegrpo")),
    "recipe, changed": (changed_recipe, cg.Recipe("mixgrpo")),
}


@WAYS
@pytest.mark.parametrize("name", OBJECTS)
def test_a_copy_is_equal_and_has_the_same_hash(name, way):
    make, other = OBJECTS[name]
    value = make()
    twin = way(value)
    assert type(twin) is type(value) and twin == value == make() and hash(twin) == hash(value) == hash(make())
    assert twin != other and value != other and value != "a sampler"


def test_equal_options_given_in_different_ways_are_equal():
    assert cg.Sampler(SCHEDULE) == cg.Sampler(SCHEDULE.sigmas, "flow_sde", 0.7, log_prob="gaussian")
    assert len({cg.Sampler(SCHEDULE), cg.Sampler(SCHEDULE), cg.Sampler(SCHEDULE, eta=0.1)}) == 2


def test_a_sampler_does_not_change():
    sampler = cg.Sampler(SCHEDULE)
    for name in ("schedule", "dynamics", "eta"):
        with pytest.raises(AttributeError):
            setattr(sampler, name, getattr(sampler, name))


@WAYS
def test_a_copied_recipe_makes_the_same_iterations(way):
    recipe = changed_recipe()
    twin = way(recipe)
    assert twin.steps == 20 and twin.optimiser == recipe.optimiser and twin.window == recipe.window
    assert twin.sampler(3) == recipe.sampler(3) and twin.sampler(3).schedule.steps == 20


@WAYS
def test_a_copied_history_goes_on_as_the_first_would(way):
    rng = np.random.default_rng(0)
    history = cg.RewardHistory(capacity=5, min_count=3)
    prompts = ["a", ("b", 2), 3]

    def batch(n=7):
        return [prompts[i] for i in rng.integers(3, size=n)], rng.normal(size=n)

    for _ in range(4):
        history.update(*batch())
    twin = way(history)
    assert (twin.capacity, twin.min_count) == (5, 3)
    for _ in range(4):
        given = batch()
        np.testing.assert_array_equal(twin.update(*given), history.update(*given))
    one = batch(1)
    twin.update(*one)  # a state of its own
    assert [rewards.tolist() for rewards in twin.latest.values()] != [r.tolist() for r in history.latest.values()]


def test_a_history_shows_the_latest_rewards_of_each_prompt():
    history = cg.RewardHistory(capacity=3, min_count=1)
    assert history.latest == {}
    history.update(["a", "b", "a"], [1.0, 2.0, 3.0])
    history.update(["a", "c", "a"], [4.0, 5.0, 6.0])
    with pytest.raises(cg.NonFinite):
        history.update(["d"], [np.nan])
    assert {prompt: own.tolist() for prompt, own in history.latest.items()} == {"a": [3, 4, 6], "b": [2], "c": [5]}
    assert pickled(cg.RewardHistory(2, 1)).latest == {}


def in_another_process(sampler, trajectory, history, plan, window, recipe):
    trajectory.advance(velocity)
    return sampler.eta, trajectory, history.update(["a"], [2.0]), plan, window, recipe


def test_objects_go_to_a_spawned_process_and_come_back():
    sampler, history = cg.Sampler(SCHEDULE, **OPTIONS), cg.RewardHistory(4, 1)
    history.update(["a", "a"], [1.0, 4.0])
    trajectory = sampler.begin(cg.initial_noise((2, 3, 4), seed=1), seed=2)
    trajectory.advance(velocity, steps=3)
    plan, window, recipe = cg.ChunkPlan([2, 6]), cg.SDEWindow(2, 8), changed_recipe()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        arguments = sampler, trajectory, history, plan, window, recipe
        eta, other, advantages, *rest = pool.apply(in_another_process, arguments)
    trajectory.advance(velocity)
    np.testing.assert_array_equal(other.latents, trajectory.latents)
    np.testing.assert_array_equal(other.log_probs, trajectory.log_probs)
    np.testing.assert_array_equal(advantages, history.update(["a"], [2.0]))
    assert eta == 0.4 and rest == [plan, window, recipe]


def test_an_object_that_was_not_made_is_freed_without_a_word(capfd):
    from chunkgrpo._handle import Handle

    Handle.__new__(Handle).__del__()
    with pytest.raises(cg.InvalidArgument):
        cg.Sampler(SCHEDULE, eta=-1.0)
    with pytest.raises(cg.WrongType, match="cannot be copied or pickled: save it"):
        copy.deepcopy(Handle(print))
    assert capfd.readouterr().err == ""


@WAYS
def test_a_copied_trainer_goes_on_as_the_first_would(way):
    rng = np.random.default_rng(1)
    conditions = np.eye(2, dtype=np.float32)
    trainer = cg.Trainer(3, 2, width=32, blocks=1, steps=5, chunk_sizes=[2, 2], group_size=4, seed=3)
    trainer.pretrain(rng.normal(size=(8, 3)), conditions[[0, 1] * 4], steps=5, batch_size=4)
    twin = way(trainer)
    assert twin.options == trainer.options
    for own in (trainer, twin):
        own.iterate(conditions, lambda images, prompt: images[:, 0])
    points = rng.normal(size=(2, 3)).astype(np.float32)
    np.testing.assert_array_equal(twin.velocity(points, 0.5, conditions), trainer.velocity(points, 0.5, conditions))
    assert twin.iterations == trainer.iterations == 1


@WAYS
def test_a_copied_fit_is_equal(way):
    curve = np.exp(-np.arange(16.0))[None] + 0.1
    fit = cg.ChunkPlan.optimal(curve, 4)
    assert way(fit) == fit and hash(way(fit)) == hash(fit) and fit != cg.ChunkPlan.optimal(curve, 3)
