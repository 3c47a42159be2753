"""docs/costs.md shows what Benchmarks/costs.py computes, and its messages are those of ranks that run."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
from conftest import ROOT
from test_distributed import Meeting, run

import chunkgrpo as cg

SCRIPT = ROOT / "Benchmarks/costs.py"


def output(*options):
    command = [sys.executable, str(SCRIPT), *options]
    env = {"PYTHONPATH": str(ROOT / "bindings/python"), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout


def test_the_page_has_the_tables_of_the_script():
    page = (ROOT / "docs/costs.md").read_text()
    found = output().strip().split("\n\n")
    assert len(found) == 3
    for table in found:
        assert table in page


def test_a_slower_network_shows_where_many_ranks_exchange_and_nowhere_else():
    (one, two, three), (same, alike, slower) = (output(*more).split("\n\n") for more in ((), ("--hop", "1e-3")))
    assert (one, two) == (same, alike) and three != slower


def test_ranks_that_run_send_the_bytes_that_the_page_says(monkeypatch):
    plan, batch, sent = cg.ChunkPlan([2, 3, 4, 7]), 12, []
    of = Meeting.of

    def counting(meeting, rank):
        gather = of(meeting, rank)
        return lambda values, seconds: (sent.append(len(values)), gather(values, seconds))[1]

    monkeypatch.setattr(Meeting, "of", counting)

    def program(ranks):
        ids = np.arange(batch) + batch * ranks.rank
        chosen = plan.select(batch, 0.5, seed=1, sample_ids=ids)
        old = np.zeros((batch, plan.steps))
        with ranks.together("the reward"):
            rewards = np.random.default_rng(ranks.rank).normal(size=batch)
        adv = ranks.advantages(rewards, groups=ids // 12, sample_ids=ids)
        normaliser = ranks.normaliser(plan, selection=chosen)
        ranks.needed_steps(plan, selection=chosen)
        out = cg.chunk_loss(old, old, adv, plan, selection=chosen, normaliser=normaliser)
        ranks.mean(out.loss), ranks.total(rewards.sum()), ranks.merge_stats(out.stats)

    assert run(4, program) == [None] * 4
    assert sum(sent) / 4 == 7 * 1024 and len(sent) / 4 == 7
    assert "| an iteration | 7 | 7.17 KB |" in (ROOT / "docs/costs.md").read_text()
