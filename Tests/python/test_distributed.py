"""Ranks have the numbers of one process, and hear of each other's errors. Here they are threads; test_distributed_torch
has processes."""

from __future__ import annotations

import copy
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from conftest import ROOT  # noqa: F401  (puts the package on the path)

import chunkgrpo as cg
import chunkgrpo.distributed as cgd

PLAN = cg.ChunkPlan([1, 2, 2, 3])
SIZES = [1, 2, 3, 4]


class Meeting:
    """An engine's all-gather, by threads."""

    def __init__(self, size):
        self.rows, self.barrier = [None] * size, threading.Barrier(size)

    def of(self, rank):
        def gather(values, seconds):
            self.rows[rank] = np.array(values)
            self.barrier.wait(seconds)
            rows = np.stack(self.rows)
            self.barrier.wait(seconds)
            return rows

        return gather


def run(size, program, **options):
    """What program(ranks) returns on each rank; an exception in its place."""
    meeting = Meeting(size)

    def of(rank):
        try:
            return program(cgd.Ranks(rank, size, meeting.of(rank), **options))
        except Exception as error:
            return error

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(of, range(size)))


def parts(total, size, seed=0):
    """The samples 0 ... total - 1, dealt to ranks at random, unequally, each rank's in any order."""
    order = np.random.default_rng(seed).permutation(total)
    cuts = sorted(np.random.default_rng(seed + 1).choice(np.arange(1, total), size - 1, replace=False))
    return np.split(order, cuts)


# ----------------------------------------------------------------------------------------------------------------------
# Samples


@pytest.mark.parametrize("size", SIZES)
def test_shares_are_the_whole_once(size):
    shares = [cgd.Ranks(i, size, Meeting(size).of(i)).share(14) for i in range(size)]
    assert [i for share in shares for i in range(14)[share]] == list(range(14))
    assert max(s.stop - s.start for s in shares) - min(s.stop - s.start for s in shares) <= 1


def test_ids_of_unequal_batches_follow_each_other():
    found = run(3, lambda ranks: ranks.sample_ids([2, 0, 5][ranks.rank], first=100).tolist())
    assert found == [[100, 101], [], [102, 103, 104, 105, 106]]


def test_seeds_of_ranks_differ_and_stay():
    seeds = [cgd.Ranks(i, 4, Meeting(4).of(i)).seed(7) for i in range(4)]
    assert len(set(seeds)) == 4 and all(0 <= seed < 2**63 for seed in seeds)
    assert seeds[0] == cgd.Ranks().seed(7) != cgd.Ranks().seed(8)
    expected = np.random.SeedSequence(7, spawn_key=(2,)).generate_state(1, np.uint64)[0] >> np.uint64(1)
    assert seeds[2] == expected


def test_rows_are_gathered_in_the_order_of_the_ranks_and_scattered_back():
    values = np.arange(14.0).reshape(7, 2)
    cuts = [slice(0, 1), slice(1, 1), slice(1, 7)]

    def program(ranks):
        whole = ranks.gather(values[cuts[ranks.rank]])
        return whole, ranks.scatter(whole, len(values[cuts[ranks.rank]]))

    for i, (whole, own) in enumerate(run(3, program)):
        np.testing.assert_array_equal(whole, values)
        np.testing.assert_array_equal(own, values[cuts[i]])


ADVANTAGES = {
    "group": {},
    "leave_one_out": {"baseline": "leave_one_out", "scale": "none"},
    "batch": {"scale": "batch", "deviation": "population"},
    "trimmed": {"trim": 0.3, "subtract_median": True},
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", ADVANTAGES.values(), ids=ADVANTAGES)
def test_advantages_have_the_bits_of_one_process_for_any_split(size, options):
    rewards, prompts = np.random.default_rng(3).normal(size=24), [f"prompt {i % 5}" for i in range(24)]
    expected = cg.advantages(rewards, groups=prompts, **options)
    own = parts(24, size)

    def program(ranks):
        ids = own[ranks.rank]
        return ranks.advantages(rewards[ids], groups=[prompts[i] for i in ids], sample_ids=ids, **options)

    for ids, found in zip(own, run(size, program)):
        np.testing.assert_array_equal(found, expected[ids])


def test_neighbours_by_id_are_a_group_on_whatever_ranks():
    rewards = np.random.default_rng(4).normal(size=(12, 2))
    present = np.random.default_rng(5).random((12, 2)) < 0.7
    present[:, 0] |= ~present[:, 1]
    rewards[~present] = np.nan
    options = {"weights": [1.0, 0.3], "mixing": "normalised_sum"}
    expected = cg.advantages(rewards, 4, present=present, **options)
    own = parts(12, 3)

    def program(ranks):
        ids = own[ranks.rank]
        return ranks.advantages(rewards[ids], 4, sample_ids=1000 + ids, present=present[ids], **options)

    for ids, found in zip(own, run(3, program)):
        np.testing.assert_array_equal(found, expected[ids])


def test_without_ids_the_order_is_that_of_the_ranks():
    rewards = np.random.default_rng(6).normal(size=12)
    cuts = [slice(0, 5), slice(5, 6), slice(6, 12)]
    found = run(3, lambda ranks: ranks.advantages(rewards[cuts[ranks.rank]], 4))
    np.testing.assert_array_equal(np.concatenate(found), cg.advantages(rewards, 4))


def test_advantages_are_of_the_rewards_framework():
    torch = pytest.importorskip("torch")
    found = run(2, lambda ranks: ranks.advantages(torch.tensor([1.0, 2.0]) * (1 + ranks.rank), groups=[(0, 1), (0, 1)]))
    assert torch.equal(torch.cat(found), cg.advantages(torch.tensor([1.0, 2, 2, 4]), 4))


# ----------------------------------------------------------------------------------------------------------------------
# The loss


@pytest.mark.parametrize("average", ["chunk", "sample", "step"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_and_gradient_of_unequal_selections_are_those_of_one_loss(average, reduction):
    random = np.random.default_rng(7)
    old, advantages = random.normal(size=(11, 8)), random.normal(size=11)
    new = old + 0.1 * random.normal(size=(11, 8))
    selection, mask = random.random((11, 4)) < 0.4, random.random((11, 8)) < 0.8
    selection[:2] = mask[0, 0] = True
    options = {"clip": 0.2, "kl": 0.1, "average": average}
    whole = cg.chunk_loss(new, old, advantages, PLAN, selection=selection, mask=mask, **options)
    own = [np.arange(0, 2), np.arange(2, 5), np.arange(5, 11)]

    def program(ranks):
        i = own[ranks.rank]
        given = {"selection": selection[i], "mask": mask[i]}
        n = ranks.normaliser(PLAN, average=average, reduction=reduction, **given)
        out = cg.chunk_loss(new[i], old[i], advantages[i], PLAN, normaliser=n, **given, **options)
        loss = (ranks.mean if reduction == "mean" else ranks.total)(out.loss)
        return loss, out.grad_log_probs, ranks.merge_stats(out.stats)

    found = run(3, program)
    grads = np.concatenate([grad for _, grad, _ in found]) / (3 if reduction == "mean" else 1)
    np.testing.assert_allclose(grads, whole.grad_log_probs, rtol=1e-12, atol=1e-15)
    for loss, _, stats in found:
        assert abs(loss - whole.loss) <= 1e-12
        assert stats == found[0][2] and stats.selected == whole.stats.selected
        assert stats.ratio_std == pytest.approx(whole.stats.ratio_std, rel=1e-12)


def test_needed_steps_are_those_of_some_rank():
    chosen = [[[0], [0, 1]], [[3]], [[0]]]
    found = run(3, lambda ranks: ranks.needed_steps(PLAN, selection=chosen[ranks.rank]))
    for steps in found:
        assert steps.tolist() == [True, True, True, False, False, True, True, True]


def test_a_rank_may_have_selected_nothing():
    chosen = [np.zeros((2, 4), bool), np.eye(2, 4, dtype=bool)]
    assert run(2, lambda ranks: ranks.normaliser(PLAN, selection=chosen[ranks.rank])) == [1.0, 1.0]
    with pytest.raises(cg.InvalidArgument, match="in any sample of any rank"):
        cgd.Ranks().normaliser(PLAN, selection=chosen[0])


def test_sums_have_the_same_bits_on_all_ranks():
    values = np.random.default_rng(8).normal(size=(4, 3)) * [1e16, 1, 1e-16]
    expected = ((values[0] + values[1]) + values[2]) + values[3]
    for found in run(4, lambda ranks: ranks.total(values[ranks.rank])):
        np.testing.assert_array_equal(found, expected)
    assert run(2, lambda ranks: ranks.mean(ranks.rank)) == [0.5, 0.5]


def test_one_process_is_a_rank_that_is_alone():
    ranks = cgd.Ranks()
    rewards = np.array([1.0, 2.0, 4.0])
    np.testing.assert_array_equal(ranks.advantages(rewards, 3), cg.advantages(rewards, 3))
    assert ranks.normaliser(PLAN, batch=5) == 20 and ranks.share(5) == slice(0, 5) and ranks.total(2) == 2
    assert ranks.needed_steps(PLAN, batch=1).all() and repr(ranks) == "<rank 0 of 1>"


# ----------------------------------------------------------------------------------------------------------------------
# Errors


def test_an_error_of_one_rank_is_an_error_of_all():
    def program(ranks):
        with ranks.together("the reward"):
            if ranks.rank == 1:
                raise KeyError("no such image")

    first, second, third = run(3, program)
    assert type(second) is KeyError
    for error in (first, third):
        assert isinstance(error, cgd.RankFailed) and isinstance(error, RuntimeError) and error.rank == 1
        assert str(error) == "rank 1 failed in the reward: KeyError: 'no such image'"


def test_an_error_of_a_method_is_an_error_of_all_and_names_the_rank_and_its_sample():
    rewards = np.ones((3, 4))
    rewards[2, 1] = np.nan
    *others, own = run(3, lambda ranks: ranks.advantages(rewards[ranks.rank], 4))
    assert isinstance(own, cg.NonFinite) and "rewards[1] = nan" in str(own)
    assert [str(error) for error in others] == [f"rank 2 failed in advantages: NonFinite: {own}"] * 2


def test_an_error_that_the_others_have_heard_of_is_not_told_again():
    def program(ranks):
        with ranks.together("all of it"):
            ranks.advantages([np.nan] if ranks.rank else [1.0], 1)

    start = time.monotonic()
    first, second = run(2, program)
    assert isinstance(first, cgd.RankFailed) and isinstance(second, cg.NonFinite) and time.monotonic() - start < 5


def test_ranks_go_on_after_an_error():
    def program(ranks):
        try:
            with ranks.together():
                ranks.normaliser(PLAN) if ranks.rank else ranks.normaliser(PLAN, batch=1)
        except cg.Error:
            pass
        return ranks.total(1)

    assert run(3, program) == [3, 3, 3]


def test_long_messages_of_unequal_lengths_arrive():
    texts = ["a", "b" * 5000, "c" * 1000]
    names = run(3, lambda ranks: ranks.advantages([0.0, 1.0], groups=[texts[ranks.rank]] * 2).tolist())
    assert names == [cg.advantages([0.0, 1.0], 2).tolist()] * 3


def test_a_rank_that_does_not_come_is_an_error_of_the_others_in_time():
    start = time.monotonic()
    found = run(3, lambda ranks: ranks.rank == 2 or ranks.total(1), timeout=0.2)
    assert found[2] is True and time.monotonic() - start < 5
    for error in found[:2]:
        assert isinstance(error, cgd.RankFailed) and "total: a rank is gone, or has not answered within 0.2 s" in str(error)


def test_a_rank_that_failed_raises_its_own_error_after_the_grace():
    def program(ranks):
        if ranks.rank:
            return None
        with ranks.together():
            raise OSError("full")

    assert str(run(2, program, grace=0.1)[0]) == "full"


def test_other_calls_on_another_rank_are_named():
    found = run(2, lambda ranks: ranks.total(1) if ranks.rank else ranks.merge_stats([]))
    assert isinstance(found[0], cg.InvalidArgument) and "rank 0 failed in merge_stats" in str(found[1])
    found = run(2, lambda ranks: ranks.total(1) if ranks.rank else ranks.gather([1]))
    for error in found:
        assert isinstance(error, cgd.RankFailed) and ("rank 1 is in total" in str(error) or "rank 0 is in gather" in str(error))


def test_samples_with_one_id_are_refused():
    for error in run(2, lambda ranks: ranks.advantages([0.0, 1.0], 2, sample_ids=[7, 8 + ranks.rank])):
        assert isinstance(error, cg.InvalidArgument)
        assert "sample_ids: 7 is that of a sample of rank 0 and of one of rank 1" in str(error)


BAD = {
    "first differs": (lambda ranks: ranks.sample_ids(2, first=ranks.rank), "first is [0, 1]"),
    "shapes differ": (lambda ranks: ranks.total(np.zeros(1 + ranks.rank)), "values is on the ranks"),
    "kinds of rewards differ": (lambda ranks: ranks.advantages(np.zeros((2, 1 + ranks.rank)), 2), "rewards is on the ranks"),
    "plans differ": (lambda ranks: ranks.needed_steps([1 + ranks.rank], batch=1), "plan is on the ranks"),
    "groups of one": (
        lambda ranks: ranks.advantages([1.0, 2.0], **({"groups": "ab"} if ranks.rank else {"group_size": 2})),
        "give the same",
    ),
    "rows are missing": (lambda ranks: ranks.scatter(np.zeros(3), 1), "values has 3 rows; the ranks have 2"),
    "no batch": (lambda ranks: ranks.normaliser(PLAN), "batch: give the number of samples"),
    "no such average": (lambda ranks: ranks.normaliser(PLAN, batch=1, average="mean"), "average is 'mean'"),
    "no such reduction": (lambda ranks: ranks.normaliser(PLAN, batch=1, reduction="max"), "reduction is 'max'"),
    "share": (lambda ranks: ranks.share(1), "total is 1; it must be at least 2"),
    "a number has no rows": (lambda ranks: ranks.gather(1.0), "values is a number"),
}


@pytest.mark.parametrize("program, says", BAD.values(), ids=BAD)
def test_what_is_wrong_is_refused_on_all_ranks(program, says):
    for error in run(2, program):
        assert isinstance(error, cg.Error) and says in str(error)


def test_a_wrong_engine_is_refused():
    with pytest.raises(cg.InvalidArgument, match="gather is missing; 2 ranks need one"):
        cgd.Ranks(0, 2)
    with pytest.raises(cg.InvalidArgument, match=r"rank is 2; it must be in 0 \.\.\. 1"):
        cgd.Ranks(2, 2, lambda values, seconds: values)
    with pytest.raises(cg.InvalidArgument, match=r"gather returned uint8 of shape \(1024,\)"):
        cgd.Ranks(0, 2, lambda values, seconds: values).total(1)
    with pytest.raises(cg.InvalidArgument, match="in row 1 what this rank has not given"):
        cgd.Ranks(1, 2, lambda values, seconds: np.stack([values, 0 * values])).total(1)
    for wrong in (0, -1, float("nan"), "1"):
        with pytest.raises(cg.Error, match="timeout"):
            cgd.Ranks(timeout=wrong)
    with pytest.raises(cg.WrongType, match="mpi4py"):
        cgd.of_mpi(object())
    with pytest.raises(cg.WrongType, match=r"accelerate\.Accelerator"):
        cgd.of_accelerate(object())
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(cg.WrongType, match="make them again"):
            copied(cgd.Ranks())


def test_an_error_of_another_rank_can_be_pickled():
    error = pickle.loads(pickle.dumps(cgd.RankFailed("rank 3 failed", 3)))
    assert str(error) == "rank 3 failed" and error.rank == 3


class Comm:
    """What is used of mpi4py's: a request that is not done at once."""

    def __init__(self, meeting, rank, size):
        self.meeting, self.rank, self.size = meeting, rank, size

    def Dup(self):
        return Comm(self.meeting, self.rank, self.size)

    def Get_rank(self):
        return self.rank

    def Get_size(self):
        return self.size

    def Iallgather(self, values, rows):
        pool = ThreadPoolExecutor(1)
        done = pool.submit(lambda: rows.__setitem__(..., self.meeting.of(self.rank)(values, 60.0)))
        request = type("Request", (), {})()
        request.Test = lambda: done.done() and done.exception() is None
        return request


def test_ranks_of_mpi():
    meeting = Meeting(2)

    def of(rank):
        ranks = cgd.of_mpi(Comm(meeting, rank, 2), timeout=2.0)
        found = ranks.rank, ranks.size, ranks.total(rank + 1)
        if rank:
            return found
        with pytest.raises(cgd.RankFailed, match="TimeoutError"):
            ranks.total(1)
        return found

    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(of, range(2)))
    meeting.barrier.abort()
    assert found == [(0, 2, 3), (1, 2, 3)]
