"""Statistics for a logger: merged ones are those of all chunks, names stay, images have their closed forms."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

import chunkgrpo as cg
from chunkgrpo import forward

PLAN = cg.ChunkPlan([2, 3, 4, 7])
NAMES = set(
    "selected ratio_mean ratio_std ratio_min ratio_max clip_fraction clip_fraction_low clip_fraction_high "
    "approximate_kl effective_sample_size log_ratio_max".split()
)


def batch(seed=0, spread=0.3, rows=24):
    rng = np.random.default_rng(seed)
    old = rng.normal(size=(rows, 16))
    return old + spread * rng.normal(size=old.shape), old, rng.normal(size=rows)


def split(sizes, new, old, advantages, **options):
    edges = np.cumsum([0, *sizes])
    rows = [slice(a, b) for a, b in zip(edges, edges[1:])]
    return [cg.chunk_loss(new[r], old[r], advantages[r], PLAN, clip=0.1, kl=0.05, **options) for r in rows]


@pytest.mark.parametrize("sizes", [(24,), (1, 23), (5, 7, 12), (1,) * 24])
@pytest.mark.parametrize("spread", [0.0, 1e-5, 0.3, 5.0])
def test_merged_statistics_are_those_of_all_chunks(sizes, spread):
    new, old, advantages = batch(spread=spread)
    outs = split(sizes, new, old, advantages)
    found, whole = cg.metrics(outs), cg.chunk_loss(new, old, advantages, PLAN, clip=0.1, kl=0.05)
    ratios = np.exp([[(new - old)[i, s].mean() for s in PLAN.slices] for i in range(24)])
    up = advantages[:, None] > 0
    logs = np.log(ratios)
    expected = {  # by numpy, of all ratios
        "loss": whole.loss,
        "selected": 96,
        "ratio_mean": ratios.mean(),
        "ratio_std": ratios.std(),
        "ratio_min": ratios.min(),
        "ratio_max": ratios.max(),
        "clip_fraction_low": (~up & (ratios < 0.9)).mean(),
        "clip_fraction_high": (up & (ratios > 1.1)).mean(),
        "clip_fraction": ((~up & (ratios < 0.9)) | (up & (ratios > 1.1))).mean(),
        "approximate_kl": (np.exp(-logs) - 1 + logs).mean(),
        "effective_sample_size": ratios.sum() ** 2 / (96 * (ratios**2).sum()),
        "log_ratio_max": np.abs(logs).max(),
    }
    assert set(found) == set(expected) == NAMES | {"loss"}
    for name, value in expected.items():
        assert type(found[name]) is float
        assert found[name] == pytest.approx(value, rel=1e-12, abs=1e-15), name
    single = cg.metrics(whole)
    for name in ("ratio_min", "ratio_max", "clip_fraction_low", "clip_fraction_high", "log_ratio_max", "selected"):
        assert found[name] == single[name]


def test_the_deviation_of_ratios_near_1_is_not_lost_in_rounding():
    """A difference of squares would have no digit left."""
    new, old, advantages = batch(spread=1e-9)
    merged = cg.merge_stats(out.stats for out in split((3, 9, 12), new, old, advantages))
    logs = np.array([[(new - old)[i, s].mean() for s in PLAN.slices] for i in range(24)])
    assert merged.ratio_std == pytest.approx(logs.std(), rel=1e-6)


def test_statistics_of_ratios_that_no_number_holds_stay_finite():
    new, old = np.zeros((4, 16)), np.zeros((4, 16))
    new[::2] = 1000
    outs = [cg.chunk_loss(new[i : i + 1], old[i : i + 1], [1.0], PLAN) for i in range(4)]
    found = cg.metrics(outs)
    assert all(np.isfinite(value) for value in found.values())
    whole = cg.chunk_loss(new, old, np.ones(4), PLAN).stats
    assert found["effective_sample_size"] == pytest.approx(whole.effective_sample_size)
    assert found["log_ratio_max"] == whole.log_ratio_max == 1000


def test_unselected_chunks_weigh_nothing_and_ranks_can_send_theirs():
    new, old, advantages = batch()
    chosen = PLAN.select(24, 0.5, seed=1)
    chosen[:5] = False
    chosen[0, 1] = True
    outs = [
        cg.chunk_loss(new[r], old[r], advantages[r], PLAN, clip=0.1, selection=chosen[r])
        for r in (slice(0, 5), slice(5, 24))
    ]
    sent = [pickle.loads(pickle.dumps(out.stats)) for out in outs]
    whole = cg.chunk_loss(new, old, advantages, PLAN, clip=0.1, selection=chosen)
    assert cg.metrics(sent, prefix="train/")["train/ratio_mean"] == pytest.approx(whole.stats.ratio_mean, rel=1e-14)
    assert cg.metrics(outs)["loss"] == pytest.approx(whole.loss, rel=1e-13)
    assert set(cg.metrics(sent)) == NAMES and cg.merge_stats(sent).selected == chosen.sum()


def test_results_of_torch_and_jax_have_the_same_metrics():
    new, old, advantages = batch()
    expected = cg.metrics(split((10, 14), new, old, advantages))
    torch = pytest.importorskip("torch")
    import chunkgrpo.torch as cgt

    rows = [slice(0, 10), slice(10, 24)]
    n, o = torch.tensor(new, requires_grad=True), torch.tensor(old)
    assert cg.metrics([cgt.chunk_loss(n[r], o[r], advantages[r], PLAN, clip=0.1, kl=0.05) for r in rows]) == expected
    cgj = pytest.importorskip("chunkgrpo.jax")
    import jax.numpy as jnp

    n, o, a = (jnp.asarray(array, "float32") for array in (new, old, advantages))
    found = cg.metrics([cgj.chunk_loss(n[r], o[r], a[r], PLAN, clip=0.1, kl=0.05) for r in rows])
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_trainers_report_is_flat():
    trainer = cg.Trainer(3, 2, width=8, blocks=1, group_size=4, seed=1)
    report = trainer.iterate(np.eye(2), lambda images, prompt: images.mean(1))
    found = cg.metrics(report, prefix="t/")
    assert found["t/reward_mean"] == report.reward_mean and found["t/ratio_std"] == report.stats.ratio_std
    assert {f"t/{name}" for name in NAMES | {"loss", "grad_norm", "iteration"}} <= set(found)
    assert all(type(value) is float for value in found.values())


def test_rewards_of_groups_that_teach_nothing_are_counted():
    rewards = [1.0, 1.0, 0.0, 1.0, 0.5, 0.5, 0.0, 4.0]
    found = cg.reward_metrics(rewards, 2, prefix="r/")
    assert found == pytest.approx(
        {
            "r/reward_mean": 1.0,
            "r/reward_std": np.std(rewards),
            "r/reward_min": 0.0,
            "r/reward_max": 4.0,
            "r/reward_group_std": (0 + 0.5 + 0 + 2) / 4,
            "r/zero_std_ratio": 0.5,
        }
    )
    assert cg.reward_metrics([3.0, 1, 3, 2, 3], groups=list("abaca"))["zero_std_ratio"] == 1
    with pytest.raises(cg.InvalidArgument, match="group_size: give"):
        cg.reward_metrics(rewards)
    with pytest.raises(cg.InvalidArgument, match="3 does not divide the 8 rewards"):
        cg.reward_metrics(rewards, 3)
    with pytest.raises(cg.NonFinite, match=r"rewards\[1\] = nan"):
        cg.reward_metrics([1.0, np.nan], 2)


def test_image_metrics_have_their_closed_forms():
    h, w = 16, 24
    row, column = np.mgrid[:h, :w]
    board = np.repeat(((row + column) % 2)[None, None], 3, 1).astype(np.float64)
    assert cg.image_metrics(board) == pytest.approx(
        {"image_mean": 0.5, "image_contrast": 0.5, "image_saturation": 0.0, "image_high_frequency": 2.0}
    )
    red = np.zeros((2, 3, h, w), np.float32)
    red[:, 0] = 0.75
    red[1, 1] = 0.25
    found = cg.image_metrics(red, prefix="")
    expected = {"mean": (0.25 + 1 / 3) / 2, "contrast": 0.0, "saturation": 0.75, "high_frequency": 0.0}
    assert found == pytest.approx(expected, abs=1e-12)
    ramp = np.broadcast_to(np.arange(w) / (w - 1), (1, 1, h, w))
    found = cg.image_metrics(ramp, prefix="")
    deviation = np.sqrt((w + 1) / (12 * (w - 1)))  # of w evenly spaced numbers in [0, 1]
    steps = h * (w - 1) / (h * (w - 1) + w * (h - 1)) / (w - 1) ** 2  # the mean square; half of the neighbours are equal
    assert found["contrast"] == pytest.approx(deviation)
    assert found["high_frequency"] == pytest.approx(steps / (2 * deviation**2))
    noise = np.random.default_rng(0).normal(size=(4, 1, 128, 128))
    found = cg.image_metrics(0.2 * noise + 0.5, prefix="")
    assert found == pytest.approx({"mean": 0.5, "contrast": 0.2, "saturation": 0, "high_frequency": 1}, rel=0.02)


def forward_batch(seed=0):
    rng = np.random.default_rng(seed)
    clean, velocity, old, reference = rng.normal(size=(4, 6, 5))
    others = {"old_velocity": old, "reference_velocity": reference, "beta": 0.5}
    return forward.distances(clean, velocity, seed=seed, **others), rng.normal(size=6), np.full(6, 0.5)


def forward_losses(f, d, advantages, times):
    return {
        "nft": f.nft_loss(d, advantages, times=times, kl=0.1),
        "dgpo": f.dgpo_loss(d, advantages, group_size=3),
        "crd": f.crd_loss(d, advantages),
        "dpo": f.dpo_loss(d, f.pairs(advantages, 3)),
    }


@pytest.mark.parametrize("method", ["nft", "dgpo", "crd", "dpo"])
def test_losses_of_the_forward_process_have_metrics_and_minibatches_their_mean(method):
    outs = [forward_losses(forward, *forward_batch(seed))[method] for seed in (1, 2)]
    fields = "policy_loss kl weight_mean clip_fraction accuracy".split()
    for name in ("loss", *fields):
        each = [getattr(out if name == "loss" else out.stats, name) for out in outs]
        found = cg.metrics(outs, prefix="train/")
        assert found[f"train/{name}"] == pytest.approx(np.mean(each), rel=1e-14) and type(found[f"train/{name}"]) is float
        assert cg.metrics(outs[0])[name] == each[0]
    assert set(cg.metrics(outs)) == {"loss", "implicit_reward_mean", *fields}
    sent = pickle.loads(pickle.dumps([out.stats for out in outs]))
    assert cg.metrics(sent) == {name: value for name, value in cg.metrics(outs).items() if name != "loss"}
    assert not set(cg.metrics(outs)) & set(cg.reward_metrics([1.0, 2.0], 2)), "one logger takes both"


def test_torch_and_jax_have_the_metrics_of_the_forward_process_too():
    d, advantages, times = forward_batch()
    expected = {name: cg.metrics(out) for name, out in forward_losses(forward, d, advantages, times).items()}
    torch = pytest.importorskip("torch")
    from chunkgrpo.torch import forward as torch_forward

    lent = dataclasses.replace(d, **{n: torch.tensor(v) for n, v in vars(d).items() if isinstance(v, np.ndarray)})
    found = forward_losses(torch_forward, lent, advantages, times)
    assert {name: cg.metrics(out) for name, out in found.items()} == expected
    jax = pytest.importorskip("jax")
    from chunkgrpo.jax import forward as jax_forward

    put = {n: jax.numpy.asarray(v) for n, v in vars(d).items() if isinstance(v, np.ndarray)}
    for name, out in forward_losses(jax_forward, dataclasses.replace(d, **put), advantages, times).items():
        assert cg.metrics(out) == pytest.approx(expected[name], rel=1e-5, abs=1e-6)


def test_streamed_results_of_the_forward_process_have_metrics_where_the_objective_returns_a_loss():
    torch = pytest.importorskip("torch")
    from chunkgrpo.torch import forward as f

    weight = torch.ones(5, dtype=torch.float64, requires_grad=True)
    clean, old = torch.tensor(np.random.default_rng(3).normal(size=(2, 6, 5)))
    at = lambda x, t, j: x * weight, clean, f.times(6, 3, seed=1)
    options = {"seed": 1, "old": lambda x, t, j: x + old, "beta": 1.0}
    out = f.streamed_backward(*at, lambda d, t: f.nft_loss(d, np.arange(6.0), times=t), **options)
    found = cg.metrics(out)
    assert found["loss"] == pytest.approx(float(out.loss), rel=1e-15)
    assert found["policy_loss"] == pytest.approx(float(out.loss), rel=1e-12) and found["weight_mean"] > 0.5
    awm = f.streamed_backward(*at, lambda d, t: f.awm_loss(d, np.arange(6.0)), **options)
    assert cg.metrics(awm)["selected"] == 18
    bare = f.streamed_backward(*at, lambda d, t: d.distance.mean(), **options)
    with pytest.raises(cg.InvalidArgument, match="results has no statistics.*return the ForwardLoss itself, not its .loss"):
        cg.metrics(bare)


def test_statistics_of_two_kinds_are_not_merged():
    d, advantages, times = forward_batch()
    outs = [forward.nft_loss(d, advantages, times=times), forward.awm_loss(d, advantages)]
    with pytest.raises(cg.WrongType, match=r"stats\[1\] is a ChunkStats and stats\[0\] a ForwardStats; .* merge each"):
        cg.metrics(outs)
    one = outs[1].stats
    assert cg.merge_stats(one) == one


def test_images_of_any_framework_and_bytes_are_read():
    images = np.random.default_rng(1).integers(0, 256, (3, 3, 8, 8)).astype(np.uint8)
    expected = cg.image_metrics(images / 255)
    assert cg.image_metrics(images) == pytest.approx(expected)
    torch = pytest.importorskip("torch")
    assert cg.image_metrics(torch.tensor(images)) == pytest.approx(expected)
    assert cg.image_metrics(torch.tensor(images / 255, dtype=torch.bfloat16)) == pytest.approx(expected, rel=1e-2)


def test_what_makes_no_sense_is_refused_by_name():
    out = split((24,), *batch())[0]
    for value, words in ([], "results is empty"), ([out, 3], r"results\[1\] must be a ChunkLoss"), ({}, "results is empty"):
        with pytest.raises(cg.Error, match=words):
            cg.metrics(value)
    with pytest.raises(cg.WrongType, match="results must be"):
        cg.metrics(3)
    with pytest.raises(cg.WrongType, match=r"stats\[0\] must be a ChunkStats or a ForwardStats, not ChunkLoss"):
        cg.merge_stats([out])
    with pytest.raises(cg.InvalidArgument, match="stats is empty"):
        cg.merge_stats([])
    with pytest.raises(cg.WrongType, match="prefix must be a str, not int"):
        cg.metrics(out, prefix=3)
    with pytest.raises(cg.InvalidArgument, match="rewards is empty"):
        cg.reward_metrics([], 4)
    with pytest.raises(cg.InvalidArgument, match="groups and group_size exclude each other"):
        cg.reward_metrics([1.0, 2.0], 2, groups=[0, 0])
    for shape in ((3, 8, 8), (2, 4, 8, 8), (2, 8, 8, 3), (1, 3, 1, 1)):
        with pytest.raises(cg.InvalidArgument, match=r"images has shape .*\(B, C, H, W\) with C of 1 or 3"):
            cg.image_metrics(np.zeros(shape))
    bad = np.zeros((2, 3, 4, 4))
    bad[1, 0, 0, 0] = np.inf
    with pytest.raises(cg.NonFinite, match=r"images\[1\] is not finite"):
        cg.image_metrics(bad)


def test_the_page_explains_every_number():
    page = Path(ROOT / "docs/statistics.md").read_text()
    trainer = cg.Trainer(3, 2, width=8, blocks=1, group_size=4, seed=1)
    names = set(cg.metrics(trainer.iterate(np.eye(2), lambda images, prompt: images.mean(1))))
    names |= set(cg.reward_metrics([1.0, 2.0], 2)) | set(cg.image_metrics(np.zeros((1, 1, 2, 2))))
    names |= set(cg.metrics(forward.crd_loss(*forward_batch()[:2])))
    missing = [name for name in sorted(names) if f"`{name}`" not in page]
    assert not missing, missing
