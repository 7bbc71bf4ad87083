"""Nearest neighbours equal scikit-learn's and the obvious sort."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from dcgan_core.evaluate.neighbours import nearest, vote

Digits = tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]


def digits() -> Digits:
    """Digits through a random layer, so that no two distances are equal."""
    pixels, labels = cast("tuple[NDArray[np.float64], NDArray[np.int64]]", load_digits(return_X_y=True))
    values = (pixels @ np.random.default_rng(0).normal(size=(64, 20))).astype(np.float32)
    return values[:400], labels[:400], values[400:600], labels[400:600]


def test_neighbours_are_those_of_the_obvious_sort_in_any_blocks() -> None:
    train, _, test, _ = digits()
    distances = cdist(test.astype(np.float64), train.astype(np.float64), "sqeuclidean")
    expected = np.argsort(distances, axis=1)[:, :7]
    for block in (64, 10_000):
        index, squared = nearest(train, test, 7, block=block)
        assert np.array_equal(index, expected)
        assert np.allclose(squared, np.take_along_axis(distances, expected, 1))


def test_of_equally_near_rows_the_lower_index_comes_first() -> None:
    random = np.random.default_rng(0)
    train, test = (random.integers(0, 3, (count, 4), np.uint8) * 100 for count in (500, 60))
    distances = np.square(test[:, None].astype(int) - train.astype(int)).sum(2)
    expected = np.argsort(distances, axis=1, kind="stable")[:, :40]
    index, squared = nearest(train, test, 40, block=90)
    assert len(np.unique(distances)) < 20  # ties everywhere
    assert np.array_equal(index, expected)
    assert np.array_equal(squared, np.take_along_axis(distances, expected, 1))


@pytest.mark.parametrize("k", [1, 2, 5, 10])
def test_what_the_nearest_vote_for_is_what_scikit_learn_says(k: int) -> None:
    train, labels, test, _ = digits()
    index, _ = nearest(train, test, 10)
    expected = KNeighborsClassifier(k, algorithm="brute").fit(train, labels).predict(test)
    assert np.array_equal(vote(labels[index[:, :k]]), expected)


def test_the_smallest_of_equal_votes_is_taken() -> None:
    assert vote(np.array([[2, 1, 1, 2], [0, 2, 2, 1], [3, 3, 0, 0]])).tolist() == [1, 2, 0]


def test_images_are_taken_as_rows() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3), np.uint8)
    index, squared = nearest(pixels, pixels[10:20], 1)
    assert index[:, 0].tolist() == list(range(10, 20))
    assert not squared.any()


def test_what_cannot_be_done_is_said() -> None:
    train, _, test, _ = digits()
    with pytest.raises(ValueError, match="401 neighbours"):
        nearest(train, test, 401)
    with pytest.raises(ValueError, match="not finite"):
        nearest(train, np.full_like(test, np.nan), 1)
