"""Streamed mean and covariance equal those of the whole, in whatever pieces it comes."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dcgan_core.errors import FeaturesUnusable
from dcgan_core.evaluate.moments import Moments
from tests.core.evaluate.sets import features


def moments(*batches: torch.Tensor) -> Moments:
    found = Moments.empty(batches[0].shape[1])
    for batch in batches:
        found.update(batch)
    return found


def assert_equal(one: Moments, other: Moments) -> None:
    assert one.count == other.count
    torch.testing.assert_close(one.mean_F, other.mean_F, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(one.scatter_FF, other.scatter_FF, rtol=1e-11, atol=1e-11)


def test_they_are_numpy_s_mean_and_covariance() -> None:
    x = features(2500, 7)
    found = moments(x)
    np.testing.assert_allclose(found.mean_F.numpy(), x.numpy().mean(0), rtol=0, atol=1e-13)
    np.testing.assert_allclose(found.covariance_FF.numpy(), np.cov(x.numpy(), rowvar=False), atol=1e-12)


@given(st.lists(st.integers(0, 60), min_size=1, max_size=6), st.integers(0, 6))
def test_streamed_and_merged_equal_one_shot(sizes: list[int], split: int) -> None:
    x = features(sum(sizes) + 1, 5)
    batches = x.split([*sizes, 1])
    first, second = Moments.empty(5), Moments.empty(5)
    for number, batch in enumerate(batches):
        (first if number < split else second).update(batch)
    first.merge(second)
    assert_equal(first, moments(x))


def test_a_mean_far_from_zero_costs_no_digits() -> None:
    x = features(3000, 4)
    far = moments(*(x + 1e6).split(100))
    torch.testing.assert_close(far.covariance_FF, moments(x).covariance_FF, rtol=1e-7, atol=1e-8)


def test_float32_features_are_summed_in_float64() -> None:
    x = features(5000, 3, shift=100.0).float()
    np.testing.assert_allclose(
        moments(*x.split(50)).covariance_FF.numpy(), np.cov(x.double().numpy(), rowvar=False), rtol=1e-10
    )


def test_they_come_back_from_a_file() -> None:
    found = moments(features(40, 6))
    file = io.BytesIO()
    np.savez(file, **found.to_arrays())  # pyright: ignore[reportArgumentType]
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        again = Moments.from_arrays(arrays)
    assert again.count == 40
    assert torch.equal(again.mean_F, found.mean_F) and torch.equal(again.scatter_FF, found.scatter_FF)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused_by_name_and_counts_for_nothing(value: float) -> None:
    x = features(30, 4)
    x[17, 2] = value
    found = moments(features(10, 4, seed=1))
    before = found.scatter_FF.clone()
    with pytest.raises(FeaturesUnusable, match=r"generated images: row 17 and 0 others hold NaN"):
        found.update(x, "generated images")
    assert found.count == 10 and torch.equal(found.scatter_FF, before)


def test_other_widths_and_single_rows_are_refused() -> None:
    with pytest.raises(FeaturesUnusable, match="5 features beside 4"):
        moments(features(3, 4), features(3, 5))
    with pytest.raises(FeaturesUnusable, match="5 features beside 4"):
        moments(features(3, 4)).merge(moments(features(3, 5)))
    with pytest.raises(FeaturesUnusable, match="1 rows have no covariance"):
        _ = moments(features(1, 4)).covariance_FF
    with pytest.raises(FeaturesUnusable, match=r"the shape is \(3,\)"):
        Moments.empty(3).update(torch.zeros(3))
