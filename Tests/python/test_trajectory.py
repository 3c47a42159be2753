"""Rollouts: whole, chunk by chunk, in another process; the ratio on the policy that sampled; nothing copied."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import chunkgrpo as cg
from chunkgrpo import _arrays
from conftest import ROOT, as_dtype, dtypes, velocities, velocity


def same(a, b):
    for name in ("latents", "log_probs", "relative_l1"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))


@dtypes()
@pytest.mark.parametrize(
    "dynamics, form", [("flow_sde", "gaussian"), ("dance_sde", "gaussian"), ("cps", "squared_error")]
)
def test_the_ratio_on_the_policy_that_sampled_is_exactly_one(schedule, dtype_name, dynamics, form):
    dtype = as_dtype(dtype_name)
    sampler = cg.Sampler(schedule, dynamics, log_prob=form, threads=2)
    x_init = cg.initial_noise((6, 3, 67), seed=1, group_size=3, dtype=dtype)
    trajectory = sampler.rollout(velocity, x_init, seed=2)
    assert trajectory.latents.dtype == dtype
    log_probs = sampler.log_probs(trajectory.latents, velocities(trajectory))
    np.testing.assert_array_equal(log_probs, trajectory.log_probs)
    out = cg.chunk_loss(log_probs, trajectory.log_probs, np.arange(6.0), cg.ChunkPlan([2, 3, 4, 7]), kl=0.1)
    assert (out.ratios == 1).all()
    assert out.stats.effective_sample_size == pytest.approx(1, abs=1e-15)
    assert (out.stats.ratio_std, out.stats.approximate_kl) == (0, 0)


def test_a_rollout_is_its_steps(sampler, x_init):
    trajectory = sampler.rollout(velocity, x_init, seed=8)
    x = x_init
    for k in range(17):
        np.testing.assert_array_equal(trajectory.latents[:, k], x)
        x, log_prob = sampler.step(k, x, velocity(x, sampler.schedule.sigmas[k], k), seed=8)
        if k < 16:
            np.testing.assert_array_equal(trajectory.log_probs[:, k], log_prob)
    np.testing.assert_array_equal(trajectory.images, x)
    np.testing.assert_array_equal(trajectory.relative_l1, cg.relative_l1(trajectory.latents)[:, :16])


def test_shapes_and_types(sampler, x_init):
    trajectory = sampler.rollout(velocity, x_init, seed=8)
    assert trajectory.latents.shape == (6, 18, 3, 4) and trajectory.latents.dtype == np.float32
    assert trajectory.log_probs.shape == trajectory.relative_l1.shape == (6, 16)
    assert trajectory.log_probs.dtype == trajectory.relative_l1.dtype == np.float64
    assert trajectory.images.shape == x_init.shape and trajectory.done and trajectory.position == 17


def test_chunk_by_chunk_is_the_whole_bit_for_bit(sampler, x_init):
    whole = sampler.rollout(velocity, x_init, seed=8)
    parts = sampler.begin(x_init, seed=8)
    positions = []
    parts.advance(velocity, steps=2)
    for end in (5, 9, 16):
        positions.append(parts.position)
        parts.advance(velocity, until=end)
    assert not parts.done
    parts.advance(velocity)
    assert positions == [2, 5, 9] and parts.done
    same(parts, whole)


def test_given_noise_is_taken_step_by_step(sampler, x_init):
    noise = np.stack([cg.normal(x_init.shape, 8, k) for k in range(17)], axis=1)
    same(sampler.rollout(velocity, x_init, noise=noise), sampler.rollout(velocity, x_init, seed=8))


def test_what_is_not_there_yet_is_nan(sampler, x_init):
    trajectory = sampler.begin(x_init, seed=8, position=2)
    trajectory.advance(velocity, until=5)
    assert np.isfinite(trajectory.log_probs[:, 2:5]).all() and np.isfinite(trajectory.latents[:, 2:6]).all()
    assert np.isnan(trajectory.log_probs[:, :2]).all() and np.isnan(trajectory.log_probs[:, 5:]).all()
    assert np.isnan(trajectory.latents[:, :2]).all() and np.isnan(trajectory.latents[:, 6:]).all()
    with pytest.raises(cg.InvalidArgument, match="step 5 of 17"):
        trajectory.images


OTHER_PROCESS = """
import sys
import numpy as np
sys.path[:0] = [{tests!r}, {package!r}]
import chunkgrpo as cg
from conftest import velocity
given = np.load({folder!r} + "/x.npz")
sampler = cg.Sampler(cg.Schedule(given["sigmas"]), threads=2)
seed, position = int(given["seed"]), int(given["position"])
trajectory = sampler.begin(given["x"], seed=seed, sample_ids=given["ids"], position=position)
trajectory.advance(velocity)
np.savez({folder!r} + "/y.npz", latents=trajectory.latents, log_probs=trajectory.log_probs)
"""


def test_going_on_in_another_process_is_the_whole_bit_for_bit(sampler, x_init, tmp_path):
    ids = np.array([5, 2**63, 7, 8, 9, 10], np.uint64)
    whole = sampler.rollout(velocity, x_init, seed=8, sample_ids=ids)
    here = sampler.begin(x_init, seed=8, sample_ids=ids)
    here.advance(velocity, until=5)
    x = here.latents[:, 5]
    np.savez(tmp_path / "x.npz", x=x, seed=8, ids=ids, position=5, sigmas=sampler.schedule.sigmas)
    code = OTHER_PROCESS.format(
        tests=str(ROOT / "Tests/python"), package=str(ROOT / "bindings/python"), folder=str(tmp_path)
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    there = np.load(tmp_path / "y.npz")
    np.testing.assert_array_equal(there["latents"][:, 5:], whole.latents[:, 5:])
    np.testing.assert_array_equal(there["log_probs"][:, 5:], whole.log_probs[:, 5:])


@dtypes()
def test_the_callback_gets_read_only_latents_that_it_may_keep(sampler, dtype_name):
    x_init = cg.initial_noise((2, 5), seed=1, dtype=as_dtype(dtype_name))
    kept = []

    def keeper(x, sigma, step):
        assert x.shape == x_init.shape and x.dtype == x_init.dtype and not x.flags.writeable
        assert sigma == sampler.schedule.sigmas[step]
        kept.append(x)
        return (x * 0).astype(np.float64)  # another type is converted

    trajectory = sampler.rollout(keeper, x_init, seed=2)
    for k, x in enumerate(kept):
        np.testing.assert_array_equal(x, trajectory.latents[:, k])


# ----------------------------------------------------------------------------------------------------------------------
# No copies where the layout allows


def test_arrays_are_borrowed_as_they_lie():
    base = np.zeros((4, 6, 3, 5), np.float32)
    one_axis = [base, base[::2], base[:, 0], base[::-1], np.broadcast_to(base[0], base.shape), base[:, 2:3]]
    for array in one_axis:
        assert _arrays.borrow(array, "x").array is array
        assert _arrays.tensor(array).data == array.ctypes.data
    for array in (base, np.moveaxis(base, 0, 1), base[::2, 1:], base[:, ::-1]):
        assert _arrays.borrow(array, "x", 2).array is array
        assert _arrays.tensor(array, 2).data == array.ctypes.data


def test_other_layouts_are_copied_and_give_the_same(sampler):
    rng = np.random.default_rng(0)
    x, v, next_x = rng.normal(size=(3, 4, 6, 5))
    expected = sampler.log_prob(3, x, v, next_x)
    for convert in (
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=2)[:, :, ::2],
        lambda a: a.astype(a.dtype.newbyteorder()),
        lambda a: np.frombuffer(b"." + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape),
        lambda a: a.tolist(),
    ):
        np.testing.assert_array_equal(sampler.log_prob(3, convert(x), convert(v), convert(next_x)), expected)


def test_strided_batches_and_steps_give_the_same(sampler):
    rng = np.random.default_rng(0)
    latents, velocities = rng.normal(size=(5, 17, 6)), rng.normal(size=(5, 16, 6))
    expected = sampler.log_probs(latents, velocities)
    by_step = np.moveaxis(np.ascontiguousarray(np.moveaxis(latents, 1, 0)), 0, 1)
    np.testing.assert_array_equal(sampler.log_probs(by_step, velocities), expected)
    np.testing.assert_array_equal(sampler.log_probs(latents[::-1], velocities[::-1]), expected[::-1])
    repeated = np.broadcast_to(velocities[:1], velocities.shape)
    np.testing.assert_array_equal(sampler.log_probs(latents, repeated)[0], expected[0])


def test_log_probs_of_a_large_trajectory_allocate_next_to_nothing(schedule):
    sampler = cg.Sampler(schedule)
    x_init = np.zeros((4, 100_000), np.float32)
    trajectory = sampler.rollout(lambda x, sigma, step: x, x_init, seed=0)
    current = np.moveaxis(np.zeros((16, 4, 100_000), np.float32), 0, 1)  # 25 MB
    tracemalloc.start()
    sampler.log_probs(trajectory.latents, current)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_results_are_fresh(sampler, x_init):
    plan = cg.ChunkPlan([2, 3, 4, 7])
    first, second = (sampler.step(0, x_init, x_init, seed=0) for _ in range(2))
    assert not np.shares_memory(first[0], second[0]) and not np.shares_memory(first[0], x_init)
    rewards = np.arange(6.0)
    assert not np.shares_memory(cg.advantages(rewards, len(rewards)), rewards)
    assert not np.shares_memory(plan.select(6), plan.select(6))


def test_samplers_can_be_shared_by_threads_and_freed_once(schedule, x_init):
    import copy
    from concurrent.futures import ThreadPoolExecutor

    sampler = cg.Sampler(schedule)
    twin = copy.copy(sampler)
    expected = sampler.rollout(velocity, x_init, seed=1).images
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: twin.rollout(velocity, x_init, seed=1).images, range(8)))
    del sampler
    runs.append(twin.rollout(velocity, x_init, seed=1).images)
    for images in runs:
        np.testing.assert_array_equal(images, expected)


def test_a_rollout_with_history_is_its_steps_and_goes_on_elsewhere():
    schedule = cg.Schedule.flash(10, 3.0, kept=4, ratio=0.8)
    sampler = cg.Sampler(schedule, eta=0.5, window=[1, 2, 3], after="dpm_ode")
    x = np.random.default_rng(1).standard_normal((3, 5))

    def velocity(x, sigma, step):
        return 0.5 * x - sigma

    whole = sampler.rollout(velocity, x, seed=4)
    image = None
    for k, sigma in enumerate(schedule.sigmas[:-1].tolist()):
        v = velocity(x, sigma, k)
        previous, image = image, sampler.predicted_image(k, x, v)
        np.testing.assert_array_equal(image, x + -sigma * v)
        x, log_prob = sampler.step(k, x, v, seed=4, previous_image=previous)
        np.testing.assert_array_equal(x, whole.latents[:, k + 1])
        if k < schedule.steps - 1:
            np.testing.assert_array_equal(log_prob, whole.log_probs[:, k])
    part = sampler.begin(whole.latents[:, 0], seed=4)
    part.advance(velocity, until=6)
    rest = sampler.begin(part.latents[:, 6], seed=4, position=6, previous_image=part.previous_image)
    rest.advance(velocity)
    np.testing.assert_array_equal(rest.images, whole.images)
    with pytest.raises(cg.InvalidArgument, match="previous_image"):
        sampler.begin(part.latents[:, 6], seed=4, position=6)


@dtypes()
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_trajectory_can_be_pickled_and_goes_on_as_it_would_have(sampler, dtype_name, copied):
    x = cg.initial_noise((3, 5), seed=2, dtype=as_dtype(dtype_name))
    whole = sampler.rollout(velocity, x, seed=4, sample_ids=[7, 8, 9])
    part = sampler.begin(x, seed=4, sample_ids=[7, 8, 9])
    part.advance(velocity, until=6)
    twin = copied(part)
    assert twin.position == 6 and twin.latents.dtype == part.latents.dtype
    for name in ("latents", "log_probs", "relative_l1"):
        assert getattr(twin, name).tobytes() == getattr(part, name).tobytes(), name
    part.advance(velocity)
    assert twin.position == 6
    twin.advance(velocity)
    for name in ("latents", "log_probs", "relative_l1"):
        assert getattr(twin, name).tobytes() == getattr(whole, name).tobytes() == getattr(part, name).tobytes(), name


def test_a_trajectory_of_second_order_steps_or_of_tensors_can_be_pickled():
    torch = pytest.importorskip("torch")
    sampler = cg.Sampler(cg.Schedule.shifted(8, 3.0), "dpm_ode")
    whole = sampler.rollout(lambda x, sigma, k: x / 2, torch.ones(2, 3, dtype=torch.bfloat16))
    part = sampler.begin(torch.ones(2, 3, dtype=torch.bfloat16))
    part.advance(lambda x, sigma, k: x / 2, until=4)
    twin = pickle.loads(pickle.dumps(part))
    twin.advance(lambda x, sigma, k: x / 2)
    assert torch.equal(twin.latents, whole.latents) and torch.equal(twin.previous_image, whole.previous_image)


class Own(cg.Trajectory):
    """At the module's level, for pickle."""


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_a_copy_has_the_class_and_the_sample_ids_that_the_trajectory_began_with(sampler, copied):
    ids = np.array([5, 6], np.int64)
    trajectory = Own(sampler, np.ones((2, 3), np.float32), 7, ids, None, 0, None)
    ids[:] = 0
    twin = copied(trajectory)
    assert type(twin) is Own
    for each in (trajectory, twin):
        each.advance(velocity)
    same(twin, trajectory)


def test_the_current_latents_are_those_that_the_next_step_takes(sampler, x_init):
    trajectory = sampler.begin(x_init, seed=1)
    np.testing.assert_array_equal(trajectory.current, x_init)
    seen = []
    trajectory.advance(lambda x, sigma, step: (seen.append(x.copy()), velocity(x, sigma, step))[1], steps=3)
    half = trajectory.current
    trajectory.advance(lambda x, sigma, step: (seen.append(x.copy()), velocity(x, sigma, step))[1])
    np.testing.assert_array_equal(half, seen[3])
    np.testing.assert_array_equal(trajectory.current, trajectory.images)


# ----------------------------------------------------------------------------------------------------------------------
# Some samples of a trajectory, and several trajectories

ROWS = [slice(1, 5, 2), [4, 0], np.array([True, False, False, True, True, False]), 3, -1, np.array([5, 5, 2])]


@pytest.mark.parametrize("ids", [None, [7, 2**63, 1, 0, 30, 31]], ids=["ids of their own", "given"])
@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_some_rows_go_on_as_they_would_in_the_whole(sampler, x_init, rows, ids):
    trajectory = sampler.begin(x_init, seed=8, sample_ids=ids)
    trajectory.advance(velocity, until=5)
    part = trajectory[rows]
    assert part.position == 5
    part.advance(velocity)
    trajectory.advance(velocity)
    numbers = np.atleast_1d(np.arange(6)[rows])
    assert len(trajectory) == 6 and len(part) == len(numbers)
    for name in ("latents", "log_probs", "relative_l1"):
        np.testing.assert_array_equal(getattr(part, name), getattr(trajectory, name)[numbers])
    same(trajectory[rows], part)


def test_rows_are_copies_with_the_noise_and_the_predicted_image_of_their_own(schedule, x_init):
    sampler = cg.Sampler(schedule, "dpm_ode")
    whole = sampler.rollout(velocity, x_init, seed=1)
    trajectory = sampler.begin(x_init, seed=1)
    trajectory.advance(velocity, until=4)
    part = trajectory[2:4]
    np.testing.assert_array_equal(part.previous_image, trajectory.previous_image[2:4])
    part.advance(velocity)
    np.testing.assert_array_equal(part.images, whole.images[2:4])
    part.latents[...] = 0
    assert np.abs(trajectory.latents[2:4, :5]).min() > 0

    noise = np.stack([cg.normal(x_init.shape, 8, k) for k in range(17)], axis=1)
    sampler = cg.Sampler(schedule)
    given = sampler.begin(x_init, noise=noise)[[5, 1]]
    given.advance(velocity)
    np.testing.assert_array_equal(given.images, sampler.rollout(velocity, x_init, noise=noise).images[[5, 1]])


@pytest.mark.parametrize("position", [0, 5, 17])
def test_runs_one_after_the_other_are_the_run_of_all(sampler, x_init, position):
    ids = [7, 2**63, 1, 0, 30, 31]
    whole = sampler.rollout(velocity, x_init, seed=8, sample_ids=ids)
    runs = []
    for rows in (slice(0, 1), slice(1, 4), slice(4, 6)):
        runs.append(sampler.begin(x_init[rows], seed=8, sample_ids=ids[rows]))
        if position:
            runs[-1].advance(velocity, until=position)
    both = cg.concatenate(runs)
    if position < 17:
        both.advance(velocity)
    same(both, whole)
    assert cg.concatenate(runs[:1]) is runs[0]


def test_runs_of_other_frameworks(sampler, x_init):
    torch = pytest.importorskip("torch")
    whole = sampler.rollout(velocity, x_init, seed=8)
    rollout = sampler.rollout(lambda x, sigma, k: torch.from_numpy(velocity(x.numpy(), sigma, k)), torch.from_numpy(x_init), seed=8)
    both = cg.concatenate([rollout[torch.tensor([3, 0])], rollout[[1]]])
    assert isinstance(both.latents, torch.Tensor)
    np.testing.assert_array_equal(both.latents, whole.latents[[3, 0, 1]])
    np.testing.assert_array_equal(both.to("cpu").log_probs, whole.log_probs[[3, 0, 1]])
    with pytest.raises(cg.WrongType, match="only tensors of PyTorch are moved"):
        whole.to("cpu")
    with pytest.raises(cg.InvalidArgument, match="latents of the trajectories have other types"):
        cg.concatenate([whole, rollout])


def test_runs_of_jax(sampler, x_init):
    jnp = pytest.importorskip("jax.numpy")
    rollout = sampler.rollout(lambda x, sigma, k: jnp.tanh(x), jnp.asarray(x_init), seed=8)
    both = cg.concatenate([rollout[[3, 0]], rollout[1:2]])
    assert type(both.latents) is type(rollout.latents)
    np.testing.assert_array_equal(both.latents, np.asarray(rollout.latents)[[3, 0, 1]])


def test_bad_rows_and_runs_are_refused(sampler, x_init):
    trajectory = sampler.rollout(velocity, x_init, seed=8)
    for rows, kind, words in (
        (6, cg.InvalidArgument, r"rows has 6; of 6 samples it must be in -6 ... 5"),
        (0.5, cg.WrongType, "element type float64; it must be integers, or bool of shape"),
        ((0, 1), cg.WrongType, "rows alone"),
        (None, cg.WrongType, "rows alone"),
        ([True, False], cg.InvalidArgument, r"shape \(2,\); a mask of these samples must be \(6,\)"),
        ([[0]], cg.InvalidArgument, r"shape \(1, 1\); it must have one dimension"),
        ([], cg.InvalidArgument, "rows has none of the 6 samples"),
        (slice(3, 3), cg.InvalidArgument, "rows has none of the 6 samples"),
    ):
        with pytest.raises(kind, match=words):
            trajectory[rows]
    assert [len(one) for one in trajectory] == [1] * 6  # an IndexError ends the loop

    half = sampler.begin(x_init, seed=8)
    other = sampler.begin(x_init, seed=9)
    cases = [
        ([trajectory, half], r"trajectories\[1\] has position 0, and trajectories\[0\] has 17"),
        ([half, other], "seeds 8 and 9, and steps to come"),
        ([half, sampler.begin(x_init, noise=np.zeros((6, 17, 3, 4), np.float32))], "some of the trajectories were given their noise"),
        ([half, sampler.begin(x_init[:, :2], seed=8)], "latents of the trajectories have other shapes"),
        ([half, sampler.begin(x_init.astype(np.float64), seed=8)], "latents of the trajectories have other element types"),
        ([half, cg.Sampler(sampler.schedule, eta=0.1).begin(x_init, seed=8)], "has sampler"),
    ]
    for runs, words in cases:
        with pytest.raises(cg.InvalidArgument, match=words):
            cg.concatenate(runs)
    replayed = cg.concatenate([trajectory, sampler.rollout(velocity, x_init, seed=9)])  # both done: a buffer of two runs
    for twins in (replayed, trajectory[[1, 1]]):
        with pytest.raises(cg.InvalidArgument, match="samples with one id, .* would fork alike: give sample_ids"):
            twins.fork(3, 2)
        assert len(twins.fork(3, 2, sample_ids=np.arange(2 * len(twins)))) == 2 * len(twins)
