"""The kernel distance is the double sum that defines it, and torch-fidelity's."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from dcgan_core.errors import FeaturesUnusable
from dcgan_core.evaluate.kernel import kernel_distance, squared_mmd
from tests.core.evaluate.sets import features


def by_loops(x: torch.Tensor, y: torch.Tensor) -> float:
    def kernel(a: torch.Tensor, b: torch.Tensor) -> float:
        return (float(a @ b) / len(a) + 1) ** 3

    within = [
        sum(kernel(a, b) for a, b in itertools.permutations(each, 2)) / (len(each) * (len(each) - 1))
        for each in (x, y)
    ]
    across = sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))
    return sum(within) - 2 * across


def test_it_is_the_double_sum() -> None:
    x, y = features(12, 5), features(9, 5, seed=1, shift=0.4)
    assert squared_mmd(x, y) == pytest.approx(by_loops(x, y), rel=1e-10)
    assert squared_mmd(x.float(), y.float()) == pytest.approx(by_loops(x, y), rel=1e-5)


def test_it_is_torch_fidelity_s() -> None:
    kid = pytest.importorskip("torch_fidelity.metric_kid", reason="torch-fidelity is not installed")
    x, y = features(80, 32), features(80, 32, seed=1, shift=0.3)
    theirs = kid.kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=80, verbose=False)
    assert squared_mmd(x, y) == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-9)


def test_over_subsets_it_estimates_the_whole_and_follows_from_the_seed() -> None:
    x, y = features(400, 8), features(300, 8, seed=1, shift=0.5)
    first, again, other = (
        kernel_distance(x, y, np.random.default_rng(seed), subsets=60, subset_size=100) for seed in (1, 1, 2)
    )
    assert first == again and first.mean != other.mean
    assert (first.subsets, first.subset_size) == (60, 100)
    assert abs(first.mean - squared_mmd(x, y)) < first.sd
    assert 0 < first.sd < first.mean  # so that the line above can fail


def test_each_subset_is_drawn_without_replacement_and_each_side_by_itself() -> None:
    x, y = features(40, 6), features(30, 6, seed=1)
    found = kernel_distance(x, y, np.random.default_rng(5), subsets=3, subset_size=10)
    rng, expected = np.random.default_rng(5), []
    for _ in range(3):
        rows, others = (rng.choice(n, 10, replace=False) for n in (40, 30))
        expected.append(by_loops(x[torch.from_numpy(rows)], y[torch.from_numpy(others)]))
    assert (found.mean, found.sd) == pytest.approx((np.mean(expected), np.std(expected)))


def test_small_sets_are_halved_so_that_the_error_says_something() -> None:
    found = kernel_distance(features(11, 4), features(50, 4, seed=1), np.random.default_rng(0), subsets=9)
    assert found.subset_size == 5 and found.sd > 0
    with pytest.raises(FeaturesUnusable, match="only 3 images on a side"):
        kernel_distance(features(3, 4), features(50, 4), np.random.default_rng(0))


def test_what_is_not_finite_is_refused_by_name() -> None:
    x = features(20, 4)
    y = x.clone()
    y[3, 0] = torch.nan
    with pytest.raises(FeaturesUnusable, match="generated features: row 3"):
        kernel_distance(x, y, np.random.default_rng(0))
    with pytest.raises(FeaturesUnusable, match="real features: row 3"):
        kernel_distance(y, x, np.random.default_rng(0))
