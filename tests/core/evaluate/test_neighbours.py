"""Nearest neighbours equal scikit-learn's and the obvious sort; test rows do not choose k."""

from __future__ import annotations

from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.draws import stratified_split
from dcgan_core.evaluate.neighbours import NeighbourTrial, chosen, classify, nearest, try_ks, vote

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
def test_classes_are_those_of_scikit_learn(k: int) -> None:
    train, labels, test, _ = digits()
    verdict = classify(train, labels, test, ks=(k,), seed=0)
    expected = KNeighborsClassifier(k, algorithm="brute").fit(train, labels).predict(test)
    assert np.array_equal(verdict.predictions_M, expected)


def test_k_is_the_best_on_held_training_rows() -> None:
    train, labels, test, test_labels = digits()
    ks = (50, 1, 5, 3)
    verdict = classify(train, labels, test, ks=ks, seed=3, validation_share=0.25)
    fitted, held = stratified_split(labels, 0.25, np.random.default_rng(3))
    for trial, k in zip(verdict.trials, ks, strict=True):
        plain = KNeighborsClassifier(k, algorithm="brute").fit(train[fitted], labels[fitted])
        assert trial.k == k
        assert trial.accuracy == pytest.approx(plain.score(train[held], labels[held]))
    assert verdict.k == chosen(verdict.trials) != 50
    assert np.mean(verdict.predictions_M == test_labels) > 0.75


def test_test_rows_change_neither_k_nor_each_others_classes() -> None:
    train, labels, test, _ = digits()
    whole = classify(train, labels, test, ks=(1, 5, 20), seed=0)
    part = classify(train, labels, test[:30], ks=(1, 5, 20), seed=0)
    other = classify(train, labels, test[::-1] + 100, ks=(1, 5, 20), seed=0)
    assert whole.trials == part.trials == other.trials
    assert np.array_equal(whole.predictions_M[:30], part.predictions_M)


def test_the_smallest_of_equally_good_k_and_of_equal_votes_is_taken() -> None:
    assert chosen([NeighbourTrial(9, 0.5), NeighbourTrial(3, 0.75), NeighbourTrial(2, 0.75)]) == 2
    assert vote(np.array([[2, 1, 1, 2], [0, 2, 2, 1], [3, 3, 0, 0]])).tolist() == [1, 2, 0]


def test_images_are_taken_as_rows() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 4, 4, 3), np.uint8)
    index, squared = nearest(pixels, pixels[10:20], 1)
    assert index[:, 0].tolist() == list(range(10, 20))
    assert not squared.any()


def test_what_cannot_be_done_is_said() -> None:
    train, labels, test, test_labels = digits()
    with pytest.raises(ConfigError, match="k must be 1 to 400"):
        try_ks(train, labels, test, test_labels, ks=(1, 401))
    with pytest.raises(ConfigError, match="k must be"):
        try_ks(train, labels, test, test_labels, ks=())
    with pytest.raises(ValueError, match="401 neighbours"):
        nearest(train, test, 401)
    with pytest.raises(ValueError, match="not finite"):
        nearest(train, np.full_like(test, np.nan), 1)
