"""Diversity of groups against scipy-like loops in numpy, for every element type and framework."""

from __future__ import annotations

import numpy as np
import pytest

import chunkgrpo as cg


def by_hand(features, size):
    groups = np.asarray(features, np.float64).reshape(-1, size, int(np.prod(features.shape[1:])))
    distances = np.linalg.norm(groups[:, :, None] - groups[:, None], axis=-1)
    return (distances.sum(2) / (size - 1)).reshape(-1)


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.float16])
def test_it_is_the_mean_distance_from_the_others(kind):
    features = np.random.default_rng(0).normal(size=(24, 3, 701)).astype(kind)
    for size in (2, 3, 12, 24):
        np.testing.assert_allclose(cg.diversity(features, size), by_hand(features, size), rtol=1e-5)
    np.testing.assert_array_equal(cg.diversity(features), cg.diversity(features, 24))


def test_a_group_does_not_see_the_others_and_threads_change_nothing():
    features = np.random.default_rng(1).normal(size=(24, 20_000))
    whole = cg.diversity(features, 8, threads=1)
    np.testing.assert_array_equal(cg.diversity(features[8:16], 8), whole[8:16])
    np.testing.assert_array_equal(cg.diversity(features, 8, threads=3), whole)


def test_equal_samples_have_none_and_cosines_are_told_by_unit_vectors():
    assert (cg.diversity(np.ones((6, 5)), 3) == 0).all()
    rng = np.random.default_rng(2)
    unit = rng.normal(size=(2, 9))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    np.testing.assert_allclose(cg.diversity(unit) ** 2, 2 - 2 * (unit[0] @ unit[1]), rtol=1e-6)


def test_it_is_given_in_the_framework_of_the_features():
    torch = pytest.importorskip("torch")
    features = torch.randn(8, 4, dtype=torch.bfloat16, generator=torch.Generator().manual_seed(0))
    result = cg.diversity(features, 4)
    assert isinstance(result, torch.Tensor) and result.dtype == torch.float64
    np.testing.assert_allclose(result.numpy(), by_hand(features.float().numpy(), 4), rtol=1e-5)


@pytest.mark.parametrize(
    "call, kind, words",
    [
        (lambda x: cg.diversity(x, 1), cg.InvalidArgument, "at least two"),
        (lambda x: cg.diversity(x, 0), cg.InvalidArgument, "at least two"),
        (lambda x: cg.diversity(x, 5), cg.InvalidArgument, "does not divide the 6"),
        (lambda x: cg.diversity(x[:1]), cg.InvalidArgument, "at least two"),
        (lambda x: cg.diversity(x * np.where(np.arange(6) == 4, np.nan, 1)[:, None], 3), cg.NonFinite, "sample 4"),
        (lambda x: cg.diversity(x, 3, threads=-1), cg.InvalidArgument, "threads"),
        (lambda x: cg.diversity("many"), cg.WrongType, "features"),
    ],
)
def test_bad_input_is_refused(call, kind, words):
    with pytest.raises(kind, match=words):
        call(np.random.default_rng(3).normal(size=(6, 2)))
