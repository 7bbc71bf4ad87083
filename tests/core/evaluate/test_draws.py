"""Draws are balanced, splits are stratified, and both depend on the seed alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.draws import balanced_draw, stratified_draw, stratified_split

SIZES = st.lists(st.integers(2, 30), min_size=2, max_size=6)


def shuffled_labels(sizes: list[int]) -> NDArray[np.int64]:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))


def balanced_counts_one_by_one(sizes: list[int], most: int) -> list[int]:
    """Deal one image at a time to the class that has the fewest and still has some left."""
    counts = [0] * len(sizes)
    for _ in range(min(most, sum(sizes))):
        open_classes = [each for each, size in enumerate(sizes) if counts[each] < size]
        counts[min(open_classes, key=lambda each: counts[each])] += 1
    return counts


@settings(deadline=None, max_examples=50)
@given(sizes=SIZES, most=st.integers(1, 200), seed=st.integers(0, 5))
def test_a_balanced_draw_deals_to_the_classes_in_turn(sizes: list[int], most: int, seed: int) -> None:
    labels = shuffled_labels(sizes)
    rows = balanced_draw(labels, most, np.random.default_rng(seed))
    assert len(set(rows.tolist())) == len(rows)
    counts = np.bincount(labels[rows], minlength=len(sizes)).tolist()
    expected = balanced_counts_one_by_one(sizes, most)
    # Who gets an odd image is left to chance, how many get one is not.
    assert sorted(counts) == sorted(expected)


@settings(deadline=None, max_examples=50)
@given(sizes=SIZES, most=st.integers(1, 200), seed=st.integers(0, 5))
def test_a_stratified_draw_keeps_the_shares(sizes: list[int], most: int, seed: int) -> None:
    labels = shuffled_labels(sizes)
    rows = stratified_draw(labels, most, np.random.default_rng(seed))
    assert len(set(rows.tolist())) == len(rows) == min(most, len(labels))
    counts = np.bincount(labels[rows], minlength=len(sizes))
    assert np.all(np.abs(counts - np.array(sizes) * len(rows) / len(labels)) <= 1.5)


@settings(deadline=None, max_examples=50)
@given(sizes=SIZES, share=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_a_split_holds_the_share_of_every_class(sizes: list[int], share: float, seed: int) -> None:
    labels = shuffled_labels(sizes)
    kept, held = stratified_split(labels, share, np.random.default_rng(seed))
    assert sorted([*kept, *held]) == list(range(len(labels)))
    for each, size in enumerate(sizes):
        assert np.sum(labels[held] == each) == min(max(round(share * size), 1), size - 1)


def test_a_seed_repeats_a_split_and_another_changes_it() -> None:
    labels = shuffled_labels([20, 20])
    first, again, other = (
        stratified_split(labels, 0.5, np.random.default_rng(seed))[1].tolist() for seed in (1, 1, 2)
    )
    assert first == again
    assert sorted(first) != sorted(other)


def test_a_class_of_one_image_cannot_be_split() -> None:
    with pytest.raises(ConfigError, match="class 1 has a single image"):
        stratified_split(np.array([0, 0, 1]), 0.5, np.random.default_rng(0))
