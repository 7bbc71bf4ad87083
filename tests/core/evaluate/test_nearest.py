"""Nearest samples are exactly those of a loop over all, however they are streamed."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from dcgan_core.errors import ConfigError, FeaturesUnusable
from dcgan_core.evaluate.nearest import NearestNeighbours, distance_curve, label_error_curve
from dcgan_core.train.quality import nearest_distance
from tests.core.evaluate.sets import features, images


def by_loops(queries: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(squared distance, index) in whole numbers or float64, the first of equally near points."""
    kind = np.int64 if queries.dtype == np.uint8 else np.float64
    q, p = (each.reshape(len(each), -1).astype(kind) for each in (queries, points))
    squared = np.stack([((p - row) ** 2).sum(1) for row in q])
    return squared.min(1), squared.argmin(1)


@pytest.mark.parametrize("size", [1, 8, 24])  # 24 px: more columns than float32 sums exactly
@pytest.mark.parametrize("block", [5, 4096])
def test_bytes_are_compared_exactly(size: int, block: int) -> None:
    queries, points = images(21, size), images(60, size, seed=1)
    points[40] = points[3]  # a tie, which the first wins
    queries[4], queries[5] = points[3], 255 - points[3]
    search = NearestNeighbours(torch.from_numpy(queries), block=block)
    for batch in torch.from_numpy(points).split(17):
        search.update(batch)
    squared, index = by_loops(queries, points)
    np.testing.assert_array_equal(search.squared_Q.numpy(), squared)
    np.testing.assert_array_equal(search.index_Q.numpy(), index)
    assert size == 1 or (search.squared_Q[4] == 0 and search.index_Q[4] == 3)


def test_the_largest_differences_of_bytes_are_still_exact() -> None:
    """3,072 columns of 255 against 0 sum to far more than the whole numbers that float32 holds."""
    points = torch.full((3, 3072), 255, dtype=torch.uint8)
    points[0, 0], points[1, :2], points[2, 5:8] = 254, 254, 254
    search = NearestNeighbours(torch.zeros(1, 3072, dtype=torch.uint8))
    search.update(points)
    assert search.squared_Q.item() == 3069 * 255**2 + 3 * 254**2 and search.index_Q.item() == 2


@pytest.mark.parametrize("quick", [False, True])
def test_floats_are_compared_in_float64_or_quickly(quick: bool) -> None:
    queries, points = (features(n, 9, seed=n, shift=50.0).float() for n in (30, 70))
    search = NearestNeighbours(queries, block=16, quick=quick)
    search.update(points[:50])
    search.update(points[50:])
    squared, index = by_loops(queries.numpy(), points.numpy())
    np.testing.assert_array_equal(search.index_Q.numpy(), index)
    np.testing.assert_allclose(search.squared_Q.numpy(), squared, rtol=1e-5 if quick else 1e-12)


def test_near_points_far_from_zero_are_told_apart() -> None:
    queries = torch.tensor([[1e6, 0.0]]).double()
    search = NearestNeighbours(queries)
    search.update(queries + torch.tensor([[2e-3, 0], [1e-3, 0], [3e-3, 0]]).double())
    assert search.index_Q.item() == 1 and search.distance_Q.item() == pytest.approx(1e-3, rel=1e-6)


def test_other_types_widths_and_values_are_refused() -> None:
    search = NearestNeighbours(torch.zeros(2, 3, dtype=torch.uint8))
    with pytest.raises(FeaturesUnusable, match=r"torch.float32 beside"):
        search.update(torch.zeros(2, 3))
    with pytest.raises(FeaturesUnusable, match="4 features beside 3"):
        search.update(torch.zeros(2, 4, dtype=torch.uint8))
    with pytest.raises(FeaturesUnusable, match="points: row 1"):
        NearestNeighbours(torch.zeros(2, 1)).update(torch.tensor([[1.0], [torch.nan]]))


def test_the_curve_is_the_distance_to_the_first_so_many_samples() -> None:
    real, samples = (torch.from_numpy(images(n, 6, seed=n)) for n in (15, 64))
    curve = distance_curve(real, samples.split(9), [10, 25, 64])
    assert [point.samples for point in curve] == [10, 25, 64]
    for point in curve:
        scaled = (real / 127.5 - 1), (samples[: point.samples] / 127.5 - 1)
        assert point.value == pytest.approx(nearest_distance(*scaled), rel=1e-5)
        assert 0 < point.error < point.value
    assert curve[0].value > curve[1].value > curve[2].value


def labelled(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    labels = np.arange(n) % 4
    noisy = images(n, 4, seed, 1) // 2 + (30 * labels).astype(np.uint8)[:, None, None, None]
    return torch.from_numpy(noisy), torch.from_numpy(labels)


def test_the_label_error_is_that_of_scikit_learn_s_nearest_neighbour() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    (test, truth), (samples, labels) = labelled(60, 1), labelled(200, 2)
    reports: list[tuple[float, float]] = []
    curve = label_error_curve(
        test,
        truth,
        zip(samples.split(33), labels.split(33), strict=True),
        [200, 50, 50],
        progress=lambda done, total, note: reports.append((done, total)),
    )
    assert [point.samples for point in curve] == [50, 200]
    for point in curve:
        peer = KNeighborsClassifier(1, algorithm="brute").fit(
            samples[: point.samples].flatten(1).double(), labels[: point.samples]
        )
        error = float((peer.predict(test.flatten(1).double()) != truth.numpy()).mean())
        assert point.value == error and 0 < error < 0.75
        assert point.error == pytest.approx((error * (1 - error) / 60) ** 0.5)
    assert reports[-1] == (200, 200)


def test_no_more_samples_are_drawn_than_are_compared() -> None:
    drawn = []

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for number in range(100):
            drawn.append(number)
            yield labelled(8, number)

    test, truth = labelled(5, 1)
    label_error_curve(test, truth, batches(), [12])
    assert drawn == [0, 1]


def test_too_few_samples_and_senseless_marks_are_refused() -> None:
    real = torch.from_numpy(images(3))
    with pytest.raises(ConfigError, match="only 3 samples came; 4 are to be compared"):
        distance_curve(real, [real], [2, 4])
    with pytest.raises(ConfigError, match=r"numbers of samples \[0\]"):
        distance_curve(real, [real], [0])
