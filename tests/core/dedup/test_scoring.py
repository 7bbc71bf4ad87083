"""Precision, recall and F1 by radius, their intervals, and the radius that is suggested."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcgan_core.dedup.neighbours import hamming
from dcgan_core.dedup.scoring import Trial, by_radius, histogram, suggest, wilson


def test_wilson_gives_the_published_intervals() -> None:
    # Newcombe 1998, table I, method 3
    for hits, of, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        share = wilson(hits, of)
        assert (share.value, round(share.low, 4), round(share.high, 4)) == (hits / of, low, high)
    assert wilson(29, 29).high == 1.0
    assert (wilson(0, 0).low, wilson(0, 0).high) == (0.0, 1.0)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=30), st.lists(st.integers(0, 12), max_size=30))
def test_scores_equal_counting_pairs(same: list[int], other: list[int]) -> None:
    limit = 8
    rows = by_radius(histogram(np.array(same), limit), histogram(np.array(other, int), limit), limit)
    assert [row.radius for row in rows] == list(range(limit + 1))
    for row in rows:
        true = sum(d <= row.radius for d in same)
        false = sum(d <= row.radius for d in other)
        assert (row.true_positives, row.false_positives, row.missed) == (true, false, len(same) - true)
        assert row.recall.value == true / len(same)
        assert row.f1.value == pytest.approx(2 * true / (true + false + len(same)))
        for share in (row.precision, row.recall, row.f1):
            assert 0 <= share.low <= share.value <= share.high <= 1


def test_recall_of_no_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one pair"):
        by_radius(np.zeros(4, np.int64), np.ones(3, np.int64), 2)


def test_the_largest_radius_of_enough_precision_is_suggested() -> None:
    same = np.array([1000, 0, 0, 500, 0, 0])
    other = np.array([0, 1, 1, 100, 0])
    rows = by_radius(same, other, 4)
    assert suggest(rows, 0.99) == 2
    assert suggest(rows, 0.99, sure=False) == 2
    assert suggest(rows, 0.9) == 4
    few = by_radius(np.array([10, 0, 5]), np.array([0, 3]), 1)
    assert suggest(few, 0.99) is None  # ten pairs cannot show it
    assert suggest(few, 0.99, sure=False) == 0
    assert suggest(by_radius(np.array([5, 0]), np.array([5]), 0), 0.99, sure=False) is None


def test_a_trial_in_blocks_counts_what_a_comparison_of_all_with_all_does() -> None:
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (300, 2), np.uint8)
    source = rng.integers(0, 300, 150)
    flips = np.packbits(rng.random((150, 16)) < 0.1, axis=1)
    trial = Trial(pictures[source] ^ flips, source, 6)
    for start in range(0, 300, 70):
        block = slice(start, start + 70)
        trial.add(pictures[block], np.arange(300)[block])
    far = hamming(pictures[source] ^ flips, pictures).astype(int)
    own = far[np.arange(150), source]
    assert trial.own_Q.tolist() == own.tolist()
    others = [(far == radius).sum() - (own == radius).sum() for radius in range(7)]
    assert trial.others_R(np.ones(150, bool)).tolist() == others
    assert trial.own_R(np.ones(150, bool)).tolist() == histogram(own, 6).tolist()
