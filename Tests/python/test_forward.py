"""chunkgrpo.forward: noised latents, distances and their gradient against their formulas; what is refused."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest

import chunkgrpo as cg
from chunkgrpo import forward
from conftest import as_dtype, dtypes

RNG = np.random.default_rng(5)
B, SHAPE = 6, (3, 4)
CLEAN, NOISE, V, OLD, REF = RNG.normal(size=(5, B, *SHAPE))
T = np.array([0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
OTHERS = {"old_velocity": OLD, "reference_velocity": REF, "beta": 0.3}


def mean(x):
    return x.reshape(len(x), -1).mean(1)


def formulas(v=V, e=NOISE, beta=0.3):
    u = e - CLEAN
    plus, minus = (1 - beta) * OLD + beta * v, (1 + beta) * OLD - beta * v
    named = {"": v, "old_": OLD, "reference_": REF, "positive_": plus, "negative_": minus}
    found = {f"{name}distance": mean((w - u) ** 2) for name, w in named.items()}
    found.update({f"{name}absolute": mean(abs(w - u)) for name, w in named.items() if name != "reference_"})
    return {**found, "old_divergence": mean((v - OLD) ** 2), "reference_divergence": mean((v - REF) ** 2)}


def test_the_distances_are_those_of_their_formulas():
    d = forward.distances(CLEAN, V, noise=NOISE, **OTHERS)
    expected = formulas()
    assert expected.keys() == {name for name, value in vars(d).items() if value is not None} - {"beta"}
    for name, value in expected.items():
        np.testing.assert_allclose(getattr(d, name), value, rtol=1e-14, err_msg=name)


def test_what_has_no_velocity_has_no_number():
    d = forward.distances(CLEAN, V, noise=NOISE)
    assert {name for name, value in vars(d).items() if value is not None} == {"distance", "absolute"}


def test_noised_latents_are_those_of_the_noise_that_is_made_again():
    x = forward.noised(CLEAN, T, seed=7, draw=3)
    e = forward.noised(np.zeros_like(CLEAN), 1.0, seed=7, draw=3)  # at t = 1 there is noise alone
    t = T[:, None, None]
    np.testing.assert_allclose(x, (1 - t) * CLEAN + t * e, rtol=1e-14, atol=1e-15)
    np.testing.assert_array_equal(x, forward.noised(CLEAN, T, noise=e))
    d = forward.distances(CLEAN, V, seed=7, draw=3)
    np.testing.assert_allclose(d.distance, formulas(e=e)["distance"], rtol=1e-14)


def test_the_noise_is_of_the_sample_and_the_draw_and_of_no_step():
    zeros = np.zeros((4, 50))
    e = forward.noised(zeros, 1.0, seed=7, sample_ids=[5, 5, 9, 2])
    np.testing.assert_array_equal(e[0], e[1])
    assert not np.isin(e[2:], e[0]).any()
    np.testing.assert_array_equal(e[3:], forward.noised(zeros[:1], 1.0, seed=7, sample_ids=[2]))
    assert not np.isin(forward.noised(zeros, 1.0, seed=7, sample_ids=[5, 5, 9, 2], draw=1), e).any()
    steps = [cg.normal((4, 50), 7, step, [5, 5, 9, 2], dtype=np.float64) for step in range(-1, 20)]
    assert not np.isin(e, steps).any()


def test_the_gradient_is_that_of_finite_differences():
    weights = {name: RNG.normal(size=B) for name in ("distance", "positive_distance", "negative_distance")}
    weights.update({name: RNG.normal(size=B) for name in ("old_divergence", "reference_divergence")})
    grad = forward.distances_vjp(CLEAN, V, forward.Distances(**weights), noise=NOISE, **OTHERS)

    def value(v):
        found = formulas(v)
        return sum((weight * found[name]).sum() for name, weight in weights.items())

    for index in [(0, 0, 0), (2, 1, 3), (5, 2, 2)]:
        step = np.zeros_like(V)
        step[index] = 1e-5
        slope = (value(V + step) - value(V - step)) / 2e-5
        np.testing.assert_allclose(grad[index], slope, rtol=1e-8, atol=1e-9)


@dtypes()
def test_element_types_and_batch_splits(dtype_name):
    dtype = as_dtype(dtype_name)
    clean, v, old = (array.astype(dtype) for array in (CLEAN, V, OLD))
    given = {"seed": 3, "old_velocity": old, "beta": 0.5}
    d = forward.distances(clean, v, **given)
    grads = forward.Distances(distance=np.ones(B), positive_distance=T)
    g = forward.distances_vjp(clean, v, grads, **given)
    x = forward.noised(clean, T, seed=3)
    assert x.dtype == g.dtype == dtype and d.distance.dtype == np.float64
    for i in range(B):
        row = slice(i, i + 1)
        own = {"seed": 3, "sample_ids": [i], "old_velocity": old[row], "beta": 0.5}
        np.testing.assert_array_equal(x[row], forward.noised(clean[row], T[row], seed=3, sample_ids=[i]))
        one = forward.distances(clean[row], v[row], **own)
        assert all(
            getattr(one, name) == getattr(d, name)[i] for name in ("distance", "positive_absolute", "old_divergence")
        )
        part = forward.Distances(distance=np.ones(1), positive_distance=T[row])
        np.testing.assert_array_equal(forward.distances_vjp(clean[row], v[row], part, **own), g[row])


def test_draws_are_stacked_and_taken_apart():
    draws = [forward.distances(CLEAN, V, seed=3, draw=j, **OTHERS) for j in range(3)]
    d = forward.Distances.stack(draws)
    assert d.distance.shape == (B, 3) and d.beta == 0.3
    for j, draw in enumerate(draws):
        np.testing.assert_array_equal(d.draw(j).negative_absolute, draw.negative_absolute)
    with pytest.raises(cg.InvalidArgument, match="some have old_distance and some have not"):
        forward.Distances.stack([draws[0], forward.distances(CLEAN, V, seed=3)])


def test_distances_pickle_copy_and_are_immutable():
    d = forward.distances(CLEAN, V, noise=NOISE, **OTHERS)
    for twin in (pickle.loads(pickle.dumps(d)), copy.deepcopy(d)):
        np.testing.assert_array_equal(twin.positive_distance, d.positive_distance)
    with pytest.raises(AttributeError):
        d.distance = T


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: forward.noised(CLEAN, T), "there is no noise; give seed, or noise like clean"),
        (lambda: forward.noised(CLEAN, T[:3], seed=1), r"times has shape \(3,\); it must be \(6,\)"),
        (lambda: forward.noised(CLEAN, 0 * T, seed=1), "times.*0"),
        (lambda: forward.noised(CLEAN, 1.5, seed=1), "times.*1.5"),
        (lambda: forward.noised(CLEAN, T, seed=1, noise=NOISE), "exclude each other"),
        (lambda: forward.noised(CLEAN, T, seed=1, draw=-1), "draw = -1 is outside"),
        (lambda: forward.noised(CLEAN, T, seed=1, draw=2**29), "draw = 536870912 is outside"),
        (lambda: forward.distances(CLEAN, V[:, :2], seed=1), r"velocity has shape \(6, 2, 4\)"),
        (lambda: forward.distances(CLEAN, V, seed=1, beta=1.0), "no old_velocity"),
        (lambda: forward.distances(CLEAN, V, seed=1, old_velocity=OLD, beta=0.0), "beta is 0.0; it must be > 0"),
        (lambda: forward.distances(CLEAN, V * np.inf, seed=1), "sample 0"),
        (lambda: forward.distances_vjp(CLEAN, V, forward.Distances(), seed=1), "grads has no number"),
        (
            lambda: forward.distances_vjp(CLEAN, V, forward.Distances(absolute=T), seed=1),
            "absolute, which is a constant",
        ),
        (lambda: forward.distances_vjp(CLEAN, V, T, seed=1), "grads must be a Distances"),
        (
            lambda: forward.nft_loss(forward.distances(CLEAN, V, seed=1), T, times=T),
            "no positive_distance; take them with",
        ),
        (lambda: forward.nft_loss(forward.distances(CLEAN, V, seed=1, **OTHERS), T), "there are no times"),
        (
            lambda: forward.awm_loss(forward.distances(CLEAN, V, seed=1), T),
            "no old_distance; take them with old_velocity",
        ),
        (
            lambda: forward.dgpo_loss(forward.distances(CLEAN, V, seed=1, **OTHERS), T[:2]),
            r"advantages has shape \(2,\)",
        ),
        (lambda: forward.dpo_loss(forward.distances(CLEAN, V, seed=1, **OTHERS), [0, 1]), r"pairs has shape \(2,\)"),
        (lambda: forward.dpo_loss(forward.distances(CLEAN, V, seed=1, **OTHERS), [[0, 6]]), "pairs is 6"),
        (lambda: forward.pairs(T, 4), "group_size = 4"),
        (lambda: forward.pairs(T), "give group_size or groups"),
    ],
)
def test_a_wrong_argument_is_named(call, message):
    with pytest.raises(cg.Error, match=message):
        call()


def test_a_group_without_a_difference_has_no_pair():
    assert forward.pairs([1.0, 1.0, 0.5, 2.0], 2).tolist() == [[3, 2]]
    assert forward.pairs([1.0, 1.0], 2).shape == (0, 2)


def test_the_same_in_every_framework():
    torch, jnp = pytest.importorskip("torch"), pytest.importorskip("jax.numpy")
    clean, v = CLEAN.astype(np.float32), V.astype(np.float32)
    expected = forward.distances(clean, v, seed=3).distance
    for like in (torch.from_numpy, jnp.asarray):
        d = forward.distances(like(clean), like(v), seed=3).distance
        assert type(d) is type(like(clean))
        np.testing.assert_allclose(np.asarray(d), expected, rtol=1e-7)


@pytest.mark.parametrize("name", forward.METHODS)
def test_a_method_by_its_name_has_the_keywords_of_its_loss_and_times(name):
    method = forward.METHODS[name]
    assert method.name == name and method == pickle.loads(pickle.dumps(method))
    schedule = cg.Schedule.shifted(method.steps, 3.0)
    ids = np.zeros(32) if method.shares_noise else np.arange(32)
    t = forward.times(32, method.draws, seed=1, sample_ids=ids.astype(int), **method.times(schedule))
    clean, v, old, ref = RNG.normal(size=(4, 32, 5))
    others = {"old_velocity": old, "reference_velocity": ref, "beta": method.beta, "sample_ids": ids.astype(int)}
    d = forward.Distances.stack([forward.distances(clean, v, seed=1, draw=j, **others) for j in range(method.draws)])
    advantages = cg.advantages(RNG.normal(size=32), 16)
    if name == "dpo":
        out = forward.dpo_loss(d, forward.pairs(advantages, method.group_size), **method.loss)
    else:
        loss = getattr(forward, {"fpo": "awm"}.get(name, name) + "_loss")
        times = {} if name in ("dgpo", "crd") else {"times": t}
        out = loss(d, advantages, **times, **method.loss)
    assert np.isfinite(out.loss) and any(
        getattr(out.grads, number) is not None for number in ("distance", "positive_distance")
    )
    assert not method.shares_noise or (t == t[0]).all()


SCRIPTS = {  # what the scripts that `source` names say
    "nft": (10, 24, 9, 3e-4, {"advantage_clip": 5, "kl": 1e-4}, (0, 9)),
    "awm": (14, 24, 6, 3e-4, {"weighting": "generalised_huber", "power": 0.25, "clip": (1, 1), "reference_kl": 1e-3}, (1, 13)),
    "fpo": (10, 1, 8, 3e-4, {"plan": (8,), "clip": (0.05, 0.05)}, None),
    "dgpo": (10, 16, 4, 3e-4, {"beta": 100, "group_size": 16, "clip": (1e-2, 1e-2), "kl": 0.02}, (0, 4)),
    "crd": (10, 24, 20, 3e-4, {"beta": 1, "adaptive": True, "kl": 0.1, "kl_least": 1e-4}, (0, 10)),
    "dpo": (40, 4, 1, 1e-5, {"beta": 100}, None),
}


def test_the_numbers_of_a_method_are_those_of_its_scripts():
    assert list(forward.METHODS) == list(SCRIPTS)
    for name, (steps, group_size, draws, rate, loss, of_steps) in SCRIPTS.items():
        m = forward.METHODS[name]
        assert (m.steps, m.group_size, m.draws, m.learning_rate, m.loss) == (steps, group_size, draws, rate, loss)
        assert m.shares_noise is (name in ("dgpo", "dpo")) and m.beta == (1 if name == "nft" else None) and m.notes
        assert str(m).startswith(f"{name}  ({m.source})\n") and all(note in str(m) for note in m.notes)
        schedule = cg.Schedule.shifted(steps, 3.0)
        if of_steps is None:
            assert m.times(schedule) == ({"distribution": "logit_normal"} if name == "dpo" else {})
        else:
            values = schedule.sigmas[slice(*of_steps)].tolist()
            assert m.times(schedule) == {"distribution": "discrete", "values": values}
            with pytest.raises(cg.InvalidArgument, match=f"make one of {steps}"):
                m.times(cg.Schedule.shifted(of_steps[1] - 1, 3.0))


def test_times_are_of_the_sample_and_stratified():
    t = forward.times(5, 8, seed=3, sample_ids=[4, 4, 7, 9, 11])
    np.testing.assert_array_equal(t[0], t[1])
    assert len(np.unique(t[1:])) == 32 and (t > 0).all() and (t <= 1).all()
    np.testing.assert_array_equal(np.sort(t, 1) * 8 // 1, np.tile(np.arange(8), (5, 1)))  # one of each eighth
    np.testing.assert_array_equal(t[2:3], forward.times(1, 8, seed=3, sample_ids=[7]))
    values = cg.Schedule.shifted(4, 3.0).sigmas[:-1]
    assert set(forward.times(9, 4, seed=3, distribution="discrete", values=values)[0]) == set(values.tolist())
    drawn = forward.times(4000, 1, seed=3, distribution="logit_normal", mean=0.5, std=2.0)
    logit = np.log(drawn / (1 - drawn))
    assert abs(logit.mean() - 0.5) < 0.1 and abs(logit.std() - 2.0) < 0.1


def test_distances_put_together_wrongly_are_refused_by_name():
    d = forward.distances(CLEAN, V, seed=1, **OTHERS)
    both = forward.Distances.stack([d, d])
    cases = [
        (lambda: forward.Distances.stack(d), cg.WrongType, "draws is one Distances; give a list"),
        (lambda: forward.Distances.stack([d, T]), cg.WrongType, r"draws\[1\] must be a Distances, not ndarray"),
        (lambda: both.draw(2), cg.InvalidArgument, r"j is 2; it must be in -2 \.\.\. 1"),
        (lambda: d.draw(0), cg.InvalidArgument, r"distance has shape \(6,\); .*\(B, N\)"),
        (
            lambda: forward.nft_loss(forward.Distances(positive_distance=T, negative_distance=T), T, times=T, weighting="image"),
            *(cg.InvalidArgument, "distances has no beta; give that"),
        ),
        (lambda: forward.dpo_loss(d, [[0, 1], [2, 2]]), cg.InvalidArgument, r"pairs\[1\] is sample 2 twice"),
    ]
    for call, kind, words in cases:
        with pytest.raises(kind, match=words):
            call()
    np.testing.assert_array_equal(both.draw(-1).distance, d.distance)


def test_numpy_torch_and_jax_have_the_same_names():
    pytest.importorskip("torch")
    pytest.importorskip("jax")
    import chunkgrpo.jax.forward as of_jax
    import chunkgrpo.torch.forward as of_torch

    streamed = {"Streamed", "streamed_backward"}
    assert set(of_torch.__all__) - streamed == set(forward.__all__) - {"distances_vjp"} == set(of_jax.__all__)
    for module in (of_torch, of_jax):
        assert all(hasattr(module, name) for name in module.__all__)
