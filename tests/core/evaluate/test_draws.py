"""Draws are balanced, splits are stratified, and both depend on the seed alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.draws import (
    balanced_draw,
    held_out,
    most_drawn,
    per_class_draw,
    stratified_draw,
    stratified_split,
)

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
@given(sizes=SIZES, most=st.integers(1, 200))
def test_most_drawn_is_what_a_stratified_draw_takes_of_a_class_at_most(sizes: list[int], most: int) -> None:
    labels = shuffled_labels(sizes)
    bound = most_drawn(np.array(sizes), most)
    draws = [stratified_draw(labels, most, np.random.default_rng(seed)) for seed in range(20)]
    counts = np.array([np.bincount(labels[rows], minlength=len(sizes)) for rows in draws])
    assert np.all(counts <= bound)
    assert np.all(bound - counts <= 1)
    tied = bound.sum() - min(most, len(labels))
    assert np.array_equal(counts.max(0), bound) or tied > 0


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


@settings(deadline=None, max_examples=50)
@given(sizes=SIZES, per_class=st.integers(1, 30), seed=st.integers(0, 5))
def test_a_draw_per_class_takes_as_many_of_each_or_names_the_class_that_lacks_them(
    sizes: list[int], per_class: int, seed: int
) -> None:
    labels = shuffled_labels(sizes)
    if min(sizes) < per_class:
        few = sizes.index(min(sizes))
        with pytest.raises(ConfigError, match=f"class {few} has {sizes[few]} images and {per_class} of each"):
            per_class_draw(labels, per_class, np.random.default_rng(seed))
        return
    rows = per_class_draw(labels, per_class, np.random.default_rng(seed))
    assert len(set(rows.tolist())) == len(rows) == per_class * len(sizes)
    assert np.bincount(labels[rows]).tolist() == [per_class] * len(sizes)


def test_every_image_of_a_class_is_drawn_as_often_as_any_other() -> None:
    labels, rng = shuffled_labels([10, 20]), np.random.default_rng(1)
    times = np.zeros(30)
    for _ in range(2000):
        times[per_class_draw(labels, 5, rng)] += 1
    for each, share in ((0, 5 / 10), (1, 5 / 20)):
        spread = 5 * np.sqrt(2000 * share * (1 - share))
        assert np.all(np.abs(times[labels == each] - 2000 * share) < spread)


def test_a_draw_per_class_comes_in_random_order() -> None:
    labels = np.repeat(np.arange(4), 50)
    drawn = labels[per_class_draw(labels, 25, np.random.default_rng(0))]
    assert set(drawn[:20].tolist()) == {0, 1, 2, 3}


@settings(deadline=None, max_examples=50)
@given(sizes=SIZES, share=st.floats(0.01, 0.99), seed=st.integers(0, 5))
def test_what_is_held_out_is_as_much_as_was_asked_for(sizes: list[int], share: float, seed: int) -> None:
    labels = shuffled_labels(sizes)
    count = min(max(round(share * len(labels)), 1), len(labels) - 1)
    kept, held = held_out(labels, count, np.random.default_rng(seed))
    assert len(held) == count
    assert sorted([*kept, *held]) == list(range(len(labels)))
    expected = np.array(sizes) * count / len(labels)
    assert np.all(np.abs(np.bincount(labels[held], minlength=len(sizes)) - expected) <= 1.5)


@pytest.mark.parametrize("count", [0, 4, 5])
def test_holding_out_nothing_or_all_is_refused(count: int) -> None:
    with pytest.raises(ConfigError, match=f"{count} of 4 images cannot be held out"):
        held_out(np.array([0, 0, 1, 1]), count, np.random.default_rng(0))
