"""Bad input gets an exception of the promised class whose sentence names the argument, and changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

import chunkgrpo as cg
from chunkgrpo import forward
from conftest import velocity

SCHEDULE = cg.Schedule.shifted(17, 3.0)
SAMPLER = cg.Sampler(SCHEDULE)
PLAN = cg.ChunkPlan([2, 3, 4, 7])
X = np.ones((2, 3, 4), np.float32)
LOG_PROBS = np.zeros((2, 16))
HUGE = 10**30
NAN = float("nan")


def with_nan(array, *index):
    array = np.array(array)
    array[index] = NAN
    return array


def loss(new=LOG_PROBS, old=LOG_PROBS, advantages=(1, -1), plan=PLAN, **options):
    return cg.chunk_loss(new, old, advantages, plan, **options)


# name of what is wrong: (call, class, words of the message)
CASES = {
    # Schedules
    "steps zero": (lambda: cg.Schedule.linear(0), ValueError, "steps"),
    "steps negative": (lambda: cg.Schedule.shifted(-3, 3), ValueError, "steps"),
    "steps huge": (lambda: cg.Schedule.linear(2**62), ValueError, "steps"),
    "steps beyond 64 bits": (lambda: cg.Schedule.linear(HUGE), ValueError, "steps"),
    "steps no integer": (lambda: cg.Schedule.linear(17.5), TypeError, "steps"),
    "shift zero": (lambda: cg.Schedule.shifted(17, 0), ValueError, "shift"),
    "shift NaN": (lambda: cg.Schedule.shifted(17, NAN), ValueError, "shift"),
    "shift no number": (lambda: cg.Schedule.shifted(17, "3"), TypeError, "shift"),
    "shift too large a number": (lambda: cg.Schedule.shifted(17, 10**400), ValueError, "shift"),
    "sigmas rise": (lambda: cg.Schedule([1, 0.5, 0.6, 0]), ValueError, "sigma"),
    "sigmas repeat": (lambda: cg.Schedule([1, 0.5, 0.5, 0]), ValueError, "sigma"),
    "sigmas beyond 1": (lambda: cg.Schedule([1.5, 0.5, 0]), ValueError, "sigma"),
    "sigmas negative": (lambda: cg.Schedule([1, 0.5, -0.1]), ValueError, "sigma"),
    "sigmas NaN": (lambda: cg.Schedule([1, NAN, 0]), cg.Error, "sigma"),
    "sigmas too few": (lambda: cg.Schedule([1.0]), ValueError, "sigma"),
    "sigmas none": (lambda: cg.Schedule([]), ValueError, "sigma"),
    "sigmas a matrix": (lambda: cg.Schedule([[1, 0.5], [0.2, 0]]), ValueError, "sigmas has shape"),
    "sigmas complex": (lambda: cg.Schedule(np.array([1, 0], complex)), TypeError, "sigmas"),
    "sigmas no array": (lambda: cg.Schedule([[1], [1, 2]]), ValueError, "sigmas"),
    # Samplers
    "eta negative": (lambda: cg.Sampler(SCHEDULE, eta=-0.1), ValueError, "eta"),
    "eta NaN": (lambda: cg.Sampler(SCHEDULE, eta=NAN), ValueError, "eta"),
    "eta infinite": (lambda: cg.Sampler(SCHEDULE, eta=float("inf")), ValueError, "eta"),
    "eta above 1 for CPS": (lambda: cg.Sampler(SCHEDULE, "cps", eta=1.1), ValueError, "eta"),
    "eta None": (lambda: cg.Sampler(SCHEDULE, eta=None), TypeError, "eta"),
    "dynamics unknown": (lambda: cg.Sampler(SCHEDULE, "euler"), ValueError, "dynamics"),
    "dynamics None": (lambda: cg.Sampler(SCHEDULE, None), ValueError, "dynamics"),
    "form unknown": (lambda: cg.Sampler(SCHEDULE, log_prob="sum"), ValueError, "log_prob"),
    "last step unknown": (lambda: cg.Sampler(SCHEDULE, last_step="skip"), ValueError, "last_step"),
    "threads negative": (lambda: cg.Sampler(SCHEDULE, threads=-1), ValueError, "threads"),
    "threads huge": (lambda: cg.Sampler(SCHEDULE, threads=HUGE), ValueError, "threads"),
    "schedule unsorted": (lambda: cg.Sampler([0.1, 0.5]), ValueError, "sigma"),
    # Steps
    "step too large": (lambda: SAMPLER.step(17, X, X, seed=0), ValueError, "17"),
    "step negative": (lambda: SAMPLER.step(-1, X, X, seed=0), ValueError, "-1"),
    "step huge": (lambda: SAMPLER.coefficients(HUGE), ValueError, "step is"),
    "step no integer": (lambda: SAMPLER.step(1.0, X, X, seed=0), TypeError, "step must"),
    "no noise": (lambda: SAMPLER.step(0, X, X), ValueError, "noise"),
    "noise and seed": (lambda: SAMPLER.step(0, X, X, noise=X, seed=0), ValueError, "noise and seed"),
    "ids without seed": (lambda: SAMPLER.step(0, X, X, noise=X, sample_ids=[0, 1]), ValueError, "sample_ids"),
    "seed negative": (lambda: SAMPLER.step(0, X, X, seed=-1), ValueError, "seed"),
    "seed beyond 64 bits": (lambda: SAMPLER.step(0, X, X, seed=2**64), ValueError, "seed"),
    "seed no integer": (lambda: SAMPLER.step(0, X, X, seed=0.5), TypeError, "seed"),
    "ids too few": (lambda: SAMPLER.step(0, X, X, seed=0, sample_ids=[0]), ValueError, "sample_ids"),
    "ids negative": (lambda: SAMPLER.step(0, X, X, seed=0, sample_ids=[0, -1]), ValueError, "sample_ids"),
    "ids no integers": (lambda: SAMPLER.step(0, X, X, seed=0, sample_ids=[0.0, 1.0]), TypeError, "sample_ids"),
    "ids a matrix": (lambda: SAMPLER.step(0, X, X, seed=0, sample_ids=[[0], [1]]), ValueError, "sample_ids"),
    "ids beyond 64 bits": (lambda: SAMPLER.step(0, X, X, seed=0, sample_ids=[0, HUGE]), ValueError, "sample_ids"),
    "x integers": (lambda: SAMPLER.step(0, X.astype(int), X, seed=0), TypeError, "latents has element type int64"),
    "x complex": (lambda: SAMPLER.step(0, X.astype(complex), X, seed=0), TypeError, "latents has element type"),
    "x objects": (lambda: SAMPLER.step(0, X.astype(object), X, seed=0), TypeError, "latents has element type object"),
    "x text": (lambda: SAMPLER.step(0, "latents", X, seed=0), TypeError, "latents has element type"),
    "x None": (lambda: SAMPLER.step(0, None, X, seed=0), TypeError, "latents has element type"),
    "x long double": (lambda: SAMPLER.step(0, X.astype(np.longdouble), X, seed=0), TypeError, "latents has element"),
    "x a number": (lambda: SAMPLER.step(0, np.float32(1), X, seed=0), ValueError, "latents has shape"),
    "x empty": (lambda: SAMPLER.step(0, X[:0], X[:0], seed=0), ValueError, "latents has shape"),
    "x without elements": (lambda: SAMPLER.step(0, X[:, :0], X[:, :0], seed=0), ValueError, "latents has shape"),
    "v of another shape": (lambda: SAMPLER.step(0, X, X[:1], seed=0), ValueError, "velocity has shape"),
    "v transposed": (lambda: SAMPLER.step(0, X, X.reshape(2, 4, 3), seed=0), ValueError, "velocity has shape"),
    "v of another type": (lambda: SAMPLER.step(0, X, X.astype(np.float64), seed=0), TypeError, "velocity"),
    "noise of another shape": (lambda: SAMPLER.step(0, X, X, noise=X[:1]), ValueError, "noise has shape"),
    "noise of another type": (lambda: SAMPLER.step(0, X, X, noise=X.astype(np.float16)), TypeError, "noise"),
    "x NaN": (lambda: SAMPLER.step(3, with_nan(X, 1, 0, 0), X, seed=0), cg.NonFinite, "sample 1 at step 3"),
    "v infinite": (lambda: SAMPLER.step(3, X, X * np.inf, seed=0), cg.NonFinite, "sample 0 at step 3"),
    "noise NaN": (lambda: SAMPLER.step(3, X, X, noise=with_nan(X, 1, 2, 3)), cg.NonFinite, "sample 1 at step 3"),
    "next x NaN": (lambda: SAMPLER.log_prob(3, X, X, with_nan(X, 1, 2, 3)), cg.NonFinite, "sample 1 at step 3"),
    "next x of another shape": (lambda: SAMPLER.log_prob(3, X, X, X[:, :2]), ValueError, "next_latents has shape"),
    "gradient too short": (lambda: SAMPLER.log_prob_vjp(3, X, X, X, [1]), ValueError, "grad_log_prob has shape"),
    "gradient NaN": (lambda: SAMPLER.log_prob_vjp(3, X, X, X, [1, NAN]), cg.NonFinite, "grad_log_prob"),
    "gradient complex": (lambda: SAMPLER.log_prob_vjp(3, X, X, X, [1j, 0]), TypeError, "grad_log_prob"),
    # Trajectories
    "latents too short": (lambda: SAMPLER.log_probs(X[:, :3], X[:, :3]), ValueError, "velocities has shape"),
    "velocities of another batch": (lambda: SAMPLER.log_probs(X, X[:1, :2]), ValueError, "velocities has shape"),
    "velocities without steps": (lambda: SAMPLER.log_probs(X, X[:, :0]), ValueError, "velocities"),
    "latents flat": (lambda: SAMPLER.log_probs(X[0, 0], X[0, 0]), ValueError, "latents has shape"),
    "first step too late": (lambda: SAMPLER.log_probs(X, X[:, :2], first_step=16), ValueError, "16"),
    "gradients of another shape": (
        lambda: SAMPLER.log_probs_vjp(X, X[:, :2], np.ones((2, 3))),
        ValueError,
        "grad_log_probs has shape",
    ),
    "relative L1 of NaN": (lambda: cg.relative_l1(with_nan(X, 1, 1, 0)), cg.NonFinite, "sample 1"),
    "x_init integers": (lambda: SAMPLER.begin([[1, 2]], seed=0), TypeError, "x_init"),
    "x_init empty": (lambda: SAMPLER.begin(X[:0], seed=0), ValueError, "x_init"),
    "x_init NaN": (lambda: SAMPLER.rollout(velocity, with_nan(X, 1, 0, 0), seed=0), cg.NonFinite, "sample 1 at step 0"),
    "position beyond the end": (lambda: SAMPLER.begin(X, seed=0, position=18), ValueError, "position"),
    "position negative": (lambda: SAMPLER.begin(X, seed=0, position=-1), ValueError, "position"),
    "rollout without noise": (lambda: SAMPLER.rollout(velocity, X), ValueError, "noise"),
    "rollout with noise too short": (
        lambda: SAMPLER.rollout(velocity, X, noise=np.zeros((2, 16, 3, 4), np.float32)),
        ValueError,
        "noise has shape",
    ),
    "until too far": (lambda: SAMPLER.begin(X, seed=0).advance(velocity, until=18), ValueError, "until"),
    "until not ahead": (lambda: SAMPLER.begin(X, seed=0, position=3).advance(velocity, until=3), ValueError, "until"),
    "until and steps": (lambda: SAMPLER.begin(X, seed=0).advance(velocity, until=3, steps=3), ValueError, "until and"),
    "no steps": (lambda: SAMPLER.begin(X, seed=0).advance(velocity, steps=0), ValueError, "steps"),
    "steps beyond the end": (lambda: SAMPLER.begin(X, seed=0).advance(velocity, steps=HUGE), ValueError, "steps"),
    "nothing left to do": (lambda: SAMPLER.begin(X, seed=0, position=17).advance(velocity), ValueError, "all its 17"),
    "velocity no function": (lambda: SAMPLER.rollout(X, X, seed=0), TypeError, "callable"),
    # Noise
    "shape empty": (lambda: cg.normal((), 0, 0), ValueError, "shape"),
    "shape zero": (lambda: cg.normal((2, 0), 0, 0), ValueError, "shape"),
    "shape negative": (lambda: cg.normal((-2, 3), 0, 0), ValueError, "shape"),
    "shape that overflows": (lambda: cg.normal((2**40, 2**40), 0, 0), ValueError, "shape"),
    "shape beyond 64 bits": (lambda: cg.normal((HUGE,), 0, 0), ValueError, "shape"),
    "shape beyond memory": (lambda: cg.normal((2**50,), 0, 0), MemoryError, "no memory"),
    "shape no integers": (lambda: cg.normal((2.0, 3), 0, 0), TypeError, "shape"),
    "noise of integers": (lambda: cg.normal((2,), 0, 0, dtype=int), TypeError, "dtype"),
    "noise of no type": (lambda: cg.normal((2,), 0, 0, dtype="wide"), TypeError, "dtype"),
    "noise step -2": (lambda: cg.normal((2,), 0, -2), ValueError, "step"),
    "noise step too large": (lambda: cg.normal((2,), 0, 2**31), ValueError, "step"),
    "group does not divide": (lambda: cg.initial_noise((8, 2), 0, group_size=3), ValueError, "group_size"),
    "group zero": (lambda: cg.initial_noise((8, 2), 0, group_size=0), ValueError, "group_size"),
    # Chunks
    "sizes empty": (lambda: cg.ChunkPlan([]), ValueError, "sizes"),
    "sizes zero": (lambda: cg.ChunkPlan([2, 0]), ValueError, "sizes"),
    "sizes negative": (lambda: cg.ChunkPlan([2, -1]), ValueError, "sizes"),
    "sizes no integers": (lambda: cg.ChunkPlan([2.5]), TypeError, "sizes"),
    "sizes that overflow": (lambda: cg.ChunkPlan([2**62, 2**62]), ValueError, "sizes"),
    "sizes beyond 64 bits": (lambda: cg.ChunkPlan([HUGE]), ValueError, "sizes"),
    "fixed size zero": (lambda: cg.ChunkPlan.fixed(16, 0), ValueError, "size"),
    "fixed steps huge": (lambda: cg.ChunkPlan.fixed(2**62, 1), ValueError, "steps"),
    "adaptive of one row": (lambda: cg.ChunkPlan.adaptive([1, 2, 3]), ValueError, "relative_l1"),
    "adaptive NaN": (lambda: cg.ChunkPlan.adaptive([[1, NAN, 3]]), cg.NonFinite, "relative_l1"),
    "adaptive minimum above maximum": (lambda: cg.ChunkPlan.adaptive([[1, 2]], 2, 3), ValueError, "min_size"),
    "weights of other steps": (lambda: PLAN.weights(np.ones((2, 15))), ValueError, "15"),
    "fraction zero": (lambda: PLAN.select(2, 0, seed=1), ValueError, "fraction"),
    "fraction above one": (lambda: PLAN.select(2, 1.5, seed=1), ValueError, "fraction"),
    "fraction of no chunk": (lambda: PLAN.select(2, 0.1, seed=1), ValueError, "fraction"),
    "fraction NaN": (lambda: PLAN.select(2, NAN, seed=1), ValueError, "fraction"),
    "weights of another shape": (lambda: PLAN.select(2, 0.5, np.ones((2, 3)), seed=1), ValueError, "weights has shape"),
    "weights negative": (lambda: PLAN.select(2, 0.5, [1, -1, 1, 1], seed=1), ValueError, "weights"),
    "weights NaN": (lambda: PLAN.select(2, 0.5, [1, NAN, 1, 1], seed=1), cg.NonFinite, "weights"),
    "weighting unknown": (lambda: PLAN.select(2, weighting="soft"), ValueError, "weighting"),
    "batch zero": (lambda: PLAN.select(0), ValueError, "batch"),
    "batch huge": (lambda: PLAN.select(2**62), ValueError, "shape"),
    "chunk beyond the plan": (lambda: PLAN.select(2, chunks=[4]), ValueError, "4"),
    "no chunks": (lambda: PLAN.select(2, chunks=[]), ValueError, "chunks is empty"),
    "chunks and a fraction": (lambda: PLAN.select(2, 0.5, chunks=[1]), ValueError, "fraction"),
    "chunks and a seed": (lambda: PLAN.select(2, chunks=[1], seed=3), ValueError, "seed is of a draw"),
    "chunks and ids": (lambda: PLAN.select(2, chunks=[1], sample_ids=[0, 1]), ValueError, "sample_ids is of a draw"),
    "chunks and weights": (lambda: PLAN.select(2, chunks=[1], weights=[1.0] * len(PLAN)), ValueError, "weights is of a draw"),
    "no window": (lambda: cg.Sampler(cg.Schedule.linear(4), window=[]), ValueError, "window is empty"),
    "optimal count negative": (
        lambda: cg.ChunkPlan.optimal([[1, 2, 3]], -1),
        ValueError,
        "^count is -1; it must be positive, or None",
    ),
    "terminal negative": (lambda: cg.Schedule.make(4, terminal=-0.1), ValueError, "^terminal is -0.1; it must be pos"),
    # Objective
    "rewards NaN": (lambda: cg.advantages([1, NAN], 2), cg.NonFinite, "rewards"),
    "rewards infinite": (lambda: cg.advantages([1, float("inf")], 2), cg.NonFinite, "rewards"),
    "rewards none": (lambda: cg.advantages([], 1), ValueError, "count|rewards"),
    "rewards a cube": (lambda: cg.advantages([[[1, 2]]]), ValueError, "rewards has shape"),
    "rewards text": (lambda: cg.advantages(["good", "bad"]), TypeError, "rewards"),
    "rewards None": (lambda: cg.advantages(None), TypeError, "rewards"),
    "rewards of an odd group": (lambda: cg.advantages([1, 2, 3], group_size=2), ValueError, "group_size"),
    "group negative": (lambda: cg.advantages([1, 2], -1), ValueError, "^group_size is -1; it must be positive, or None"),
    "group beyond 64 bits": (lambda: cg.advantages([1, 2], group_size=HUGE), ValueError, "group_size"),
    "clamp zero": (lambda: cg.advantages([1, 2], 2, clamp=0), ValueError, "clamp"),
    "clamp NaN": (lambda: cg.advantages([1, 2], 2, clamp=NAN), ValueError, "clamp"),
    "epsilon negative": (lambda: cg.advantages([1, 2], 2, epsilon=-1), ValueError, "epsilon"),
    "plan of other steps": (lambda: loss(plan=[2, 3, 4]), ValueError, "9"),
    "old of another shape": (lambda: loss(old=LOG_PROBS[:, :15]), ValueError, "old_log_probs has shape"),
    "new flat": (lambda: loss(new=LOG_PROBS[0]), ValueError, "new_log_probs has shape"),
    "new NaN": (lambda: loss(new=with_nan(LOG_PROBS, 1, 3)), cg.NonFinite, "new_log_probs of sample 1 at step 3"),
    "advantages too many": (lambda: loss(advantages=[1, 2, 3]), ValueError, "advantages has shape"),
    "advantages NaN": (lambda: loss(advantages=[1, NAN]), cg.NonFinite, "advantages"),
    "clip of three": (lambda: loss(clip=(1, 2, 3)), ValueError, "clip"),
    "clip negative": (lambda: loss(clip=-0.1), ValueError, "clip"),
    "clip above one": (lambda: loss(clip=(1.5, 0.1)), ValueError, "clip"),
    "clip no number": (lambda: loss(clip="narrow"), TypeError, "clip"),
    "normaliser negative": (lambda: loss(normaliser=-1), ValueError, "^normaliser is -1; it must be positive, or None"),
    "kl negative": (lambda: loss(kl=-1), ValueError, "kl"),
    "ratio that overflows": (lambda: loss(new=LOG_PROBS + 1e4), cg.NonFinite, "ratio"),
    "nothing selected": (lambda: loss(selection=np.zeros((2, 4), bool)), ValueError, "selection"),
    "mask of another shape": (lambda: loss(selection=np.ones((2, 3), bool)), ValueError, "selection has shape"),
    "lists for another batch": (lambda: loss(selection=[[0]]), ValueError, "selection has 1 lists"),
    "index beyond the plan": (lambda: loss(selection=[[0], [4]]), ValueError, r"selection\[1\]"),
    "index negative": (lambda: loss(selection=[[0], [-1]]), ValueError, r"selection\[1\]"),
    "index twice": (lambda: loss(selection=[[0, 0], [1]]), ValueError, r"selection\[0\] names chunk 0 twice"),
    "index no integer": (lambda: loss(selection=[[0.5], [1]]), TypeError, "a mask must be bool"),
    "selection a number": (lambda: loss(selection=3), TypeError, "selection"),
}


@pytest.mark.parametrize("call, kind, words", CASES.values(), ids=CASES.keys())
def test_bad_input(call, kind, words):
    with pytest.raises(kind, match=words) as caught:
        call()
    assert isinstance(caught.value, cg.Error)
    assert len(str(caught.value)) > 10


def _distances():
    return forward.distances(np.ones((2, 4)), np.ones((2, 4)), seed=1, old_velocity=np.ones((2, 4)), reference_velocity=np.ones((2, 4)))


FLAGS = {
    "adaptive": lambda flag: forward.crd_loss(_distances(), [1, -1], adaptive=flag),
    "clip_kl": lambda flag: forward.dgpo_loss(_distances(), [1, -1], clip=0.1, clip_kl=flag),
    "geometric": lambda flag: cg.importance_weights(LOG_PROBS, LOG_PROBS, PLAN, geometric=flag),
    "stratified": lambda flag: forward.times(2, 3, seed=1, stratified=flag),
    "subtract_median": lambda flag: cg.advantages([1, 2], 2, subtract_median=flag),
    "truncated": lambda flag: SCHEDULE.timesteps(truncated=flag),
    "weighted_selection": lambda flag: cg.Trainer(2, 2, width=8, blocks=1, embedding_size=4, weighted_selection=flag),
}


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("value", ["no", "False", None, 2, 0.5, [False]])
def test_a_flag_is_true_or_false_and_nothing_that_python_takes_for_it(name, value):
    with pytest.raises(cg.WrongType, match=f"{name} is .*; it must be True or False"):
        FLAGS[name](value)
    for flag in (False, True, np.bool_(False), np.array(True), 0, 1):
        FLAGS[name](flag)


@pytest.mark.parametrize(
    "name, call",
    [
        ("step", lambda value: SAMPLER.coefficients(value)),
        ("step", lambda value: SAMPLER.step(value, X, X, seed=1)),
        ("step", lambda value: SAMPLER.log_prob(value, X, X, X)),
        (r"step\[0\]", lambda value: SAMPLER.log_prob([value, 3], X, X, X)),
        ("first_step", lambda value: SAMPLER.log_probs(np.ones((2, 4, 3)), np.ones((2, 3, 3)), value)),
        ("seed", lambda value: SAMPLER.step(0, X, X, seed=value)),
        ("group_size", lambda value: cg.advantages([1, 2], value)),
        ("eta", lambda value: cg.Sampler(SCHEDULE, eta=value)),
        (r"clip", lambda value: loss(clip=value)),
    ],
)
def test_a_bool_is_no_number(name, call):
    with pytest.raises(cg.WrongType, match=f"^{name} must be .*not bool"):
        call(True)


@pytest.mark.parametrize(
    "words, call",
    [
        ("groups and group_size exclude", lambda: cg.advantages([1, 2], 2, groups=[1, 1])),
        ("groups and group_size = 2 exclude", lambda: forward.dgpo_loss(_distances(), [1, -1], group_size=2, groups=[1, 1])),
        ("beta = inf must be", lambda: forward.distances(X, X, seed=1, old_velocity=X, beta=float("inf"))),
        ("guidance needs the unconditional", lambda: SAMPLER.step(0, X, X, seed=1, guidance=[1, 2])),
        (r"guidance\[1\] = inf", lambda: SAMPLER.step(0, X, X, seed=1, unconditional=X, guidance=[1, np.inf])),
        (r"^advantages\[1\] = nan", lambda: forward.pairs([1, NAN], 2)),
        (r"^weights\[1\] = nan", lambda: cg.advantages([[1, 2], [2, 3]], 2, weights=[1, NAN])),
        ("^count = 3", lambda: cg.ChunkPlan.optimal([[1.0, 2, 3, 4]], count=3, min_size=2)),
        ("^reference of sample 0", lambda: cg.norm_hinge(X, with_nan(X, 0, 0, 0))),
    ],
)
def test_a_refusal_calls_an_argument_as_python_does(words, call):
    with pytest.raises(cg.Error, match=words) as refused:
        call()
    of_c = ("group_ids", "nft_beta", "guidances", "scores", "reward_weights", "chunk_count", "reference_velocity")
    assert not any(name in str(refused.value) for name in of_c)


def test_options_that_another_lacks_are_refused_and_not_ignored():
    with pytest.raises(cg.InvalidArgument, match="kl_weights are factors of kl, which is 0"):
        loss(kl_weights=[1, 1])
    with pytest.raises(cg.InvalidArgument, match="clip_kl is of clipped distances, but clip is None"):
        forward.dgpo_loss(_distances(), [1, -1], clip_kl=True)


def test_every_status_has_a_class_that_is_also_the_usual_one():
    for kind, usual, status in (
        (cg.InvalidArgument, ValueError, 1),
        (cg.WrongType, TypeError, 2),
        (cg.NonFinite, ArithmeticError, 3),
        (cg.OutOfMemory, MemoryError, 4),
        (cg.CallbackFailed, RuntimeError, 5),
        (cg.IOFailure, OSError, 6),
    ):
        assert issubclass(kind, usual) and issubclass(kind, cg.Error)
        assert kind("words").status == status and str(kind("words")) == "words"


def test_arguments_are_never_written_to():
    arrays = [X.copy(), X.copy(), X.copy(), np.ones(2)]
    for array in arrays:
        array.flags.writeable = False
    x, v, next_x, grad = arrays
    SAMPLER.step(0, x, v, noise=next_x)
    SAMPLER.log_prob_vjp(0, x, v, next_x, grad)
    SAMPLER.rollout(velocity, x, seed=0)
    for array in arrays:
        np.testing.assert_array_equal(array, 1)


# ----------------------------------------------------------------------------------------------------------------------
# Found by review: each of these once ended the process, or gave numbers without meaning.

CURVE = np.array([[0.1, 0.2, 0.3, 0.4, 0.5]])


@pytest.mark.parametrize(
    "error, words, call",
    [
        (cg.InvalidArgument, "max_size", lambda: cg.ChunkPlan.optimal(CURVE, min_size=3, max_size=3)),
        (cg.InvalidArgument, "min_size", lambda: cg.ChunkPlan.optimal(CURVE[:, :3], min_size=5, max_size=10)),
        (cg.InvalidArgument, "max_size", lambda: cg.ChunkPlan.optimal(CURVE, max_size=-1)),
        (cg.NonFinite, "advantage", lambda: cg.advantages([1e308, 1e308, -1e308], 3, scale="none")),
        (cg.NonFinite, "weighted sum", lambda: cg.advantages([[1e200, 1], [1e201, 1]], 2, weights=[1e200, 1])),
        (cg.NonFinite, "relative_l1", lambda: cg.ChunkPlan([2]).weights([[1e308, 1e308]])),
        (cg.InvalidArgument, "min_count", lambda: cg.RewardHistory(3, 5)),
    ],
)
def test_what_overflows_or_fits_nothing_is_refused(error, words, call):
    with pytest.raises(error, match=words):
        call()


def test_a_history_that_refuses_rewards_forgets_them():
    history = cg.RewardHistory(4, 2)
    history.update([1, 2], [1.0, 2.0])
    with pytest.raises(cg.NonFinite):
        history.update([1, 2, 1], [1e308, 1e308, -1e308])
    np.testing.assert_allclose(history.update([1], [3.0]), [1.0], atol=1e-5)


def test_chunks_without_weight_are_never_drawn_and_far_softmax_weights_are():
    plan = cg.ChunkPlan([1, 1])
    assert plan.select(1, 0.5, weights=[[0.0, 1e-320]], seed=1).tolist() == [[False, True]]
    assert plan.select(1, 1.0, weights=[[0.0, -800.0]], weighting="softmax").tolist() == [[True, True]]


def test_a_chunk_that_is_not_selected_may_have_moved_far():
    out = cg.chunk_loss([[0.0, -800.0]], [[0.0, 0.0]], [1.0], cg.ChunkPlan([1, 1]), selection=[[0]])
    assert out.loss == -1 and out.ratios.tolist() == [[1.0, 0.0]]
    with pytest.raises(cg.NonFinite, match="KL estimate of sample 0, chunk 1"):
        cg.chunk_loss([[0.0, -800.0]], [[0.0, 0.0]], [1.0], cg.ChunkPlan([1, 1]), kl=0.1)
