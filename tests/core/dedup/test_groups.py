"""Groups are connected components with their best-ranked member kept."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dcgan_core.dedup.groups import group


def keepers_by_merging(n: int, pairs: NDArray[np.int64], rank: NDArray[np.int64]) -> list[int]:
    members = {i: {i} for i in range(n)}
    for a, b in pairs.tolist():
        joined = members[a] | members[b]
        for member in joined:
            members[member] = joined
    return [min(members[i], key=lambda member: (rank[member], member)) for i in range(n)]


@given(st.integers(1, 30), st.data())
def test_groups_equal_merging_sets_in_any_order_of_pairs(n: int, data: st.DataObject) -> None:
    item = st.integers(0, n - 1)
    pairs = np.array(data.draw(st.lists(st.tuples(item, item), max_size=40)), np.int64).reshape(-1, 2)
    rank = np.array(data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n)))
    shuffled = pairs[data.draw(st.permutations(range(len(pairs))))] if len(pairs) else pairs
    one, other = group(n, pairs, rank), group(n, shuffled[:, ::-1], rank)
    assert one.keeper_N.tolist() == other.keeper_N.tolist() == keepers_by_merging(n, pairs, rank)
    assert one.group_N.tolist() == other.group_N.tolist()
    assert one.kept_N.tolist() == [keeper == i for i, keeper in enumerate(one.keeper_N)]
    assert len(set(one.group_N.tolist())) == one.kept_N.sum() == one.group_N.max() + 1
    assert np.array_equal(one.group_N[one.keeper_N], one.group_N)


def test_the_best_rank_is_kept_and_the_first_on_a_tie() -> None:
    pairs = np.array([[0, 1], [2, 1], [3, 4]])
    groups = group(6, pairs, np.array([2.0, 0.5, 1.0, 7.0, 7.0, 9.0]))
    assert groups.keeper_N.tolist() == [1, 1, 1, 3, 3, 5]
    assert groups.group_N.tolist() == [0, 0, 0, 1, 1, 2]


def test_nothing_has_no_groups_and_one_item_its_own() -> None:
    none = np.empty((0, 2), np.int64)
    assert len(group(0, none, np.empty(0)).group_N) == 0
    assert group(1, none, np.zeros(1)).kept_N.tolist() == [True]
    assert group(2, none, np.zeros(2)).kept_N.tolist() == [True, True]
