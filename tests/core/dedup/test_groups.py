"""Groups hold no chains longer than their cap, and their best-ranked member is kept."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dcgan_core.dedup.groups import group
from dcgan_core.dedup.neighbours import links_within, pairs_within

Codes = NDArray[np.uint8]


def keepers_one_by_one(codes: Codes, radius: int, diameter: int, rank: NDArray[np.int64]) -> list[int]:
    """The definition, step by step: all pairs, no classes of equal codes, growing until nothing changes."""
    n = len(codes)
    far = np.bitwise_count(codes[:, None] ^ codes[None]).sum(2)
    keeper = [-1] * n
    for first in sorted(range(n), key=lambda i: (rank[i], i)):
        if keeper[first] >= 0:
            continue
        own, grown = {first}, True
        while grown:
            near = {
                other
                for other in range(n)
                if keeper[other] < 0 and far[first, other] <= diameter // 2
                if any(far[member, other] <= radius for member in own)
            }
            grown, own = not near <= own, own | near
        for member in own:
            keeper[member] = first
    return keeper


def few_bits(n: int, seed: int, spread: int) -> Codes:
    """Codes of 16 bits around few centres, so that chains and equal codes abound."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (3, 16))[rng.integers(0, 3, n)]
    return np.packbits(bits ^ (rng.random((n, 16)) < spread / 16), axis=1)


@given(
    st.integers(1, 40),
    st.integers(0, 10**6),
    st.integers(0, 4),
    st.integers(0, 4),
    st.sampled_from([0, 1, 4, 9]),
)
def test_groups_are_as_defined_whatever_the_order(
    n: int, seed: int, spread: int, radius: int, more: int
) -> None:
    codes, diameter = few_bits(n, seed, spread), 2 * radius + more
    rng = np.random.default_rng(seed)
    rank = rng.permutation(n)
    groups = group(codes, links_within(codes, radius), rank, diameter)
    assert groups.keeper_N.tolist() == keepers_one_by_one(codes, radius, diameter, rank)
    order = rng.permutation(n)
    shuffled = group(codes[order], pairs_within(codes[order], radius)[::-1, ::-1], rank[order], diameter)
    assert order[shuffled.keeper_N].tolist() == groups.keeper_N[order].tolist()
    kept = groups.keeper_N
    assert groups.kept_N.tolist() == [keeper == i for i, keeper in enumerate(kept)]
    assert len(set(groups.group_N.tolist())) == groups.kept_N.sum() == groups.group_N.max() + 1
    assert np.array_equal(groups.group_N[kept], groups.group_N)
    for members in (np.flatnonzero(groups.group_N == number) for number in range(groups.group_N.max() + 1)):
        assert np.bitwise_count(codes[members, None] ^ codes[None, members]).sum(2).max() <= diameter


def ladder(n: int) -> Codes:
    """n codes, each one bit from the next."""
    return np.packbits(np.tri(n, 64, -1, np.uint8), axis=1)


def test_a_chain_is_cut_where_it_leads_too_far_from_the_kept_one() -> None:
    codes = ladder(20)
    links = links_within(codes, 2)
    rank = np.arange(20)
    assert group(codes, links, rank, 4).keeper_N.tolist() == [i - i % 3 for i in range(20)]
    assert group(codes, links, rank, 10).keeper_N.tolist() == [i - i % 6 for i in range(20)]
    assert group(codes, links, rank, 128).keeper_N.tolist() == [0] * 20


def test_two_that_are_not_alike_are_not_joined_by_a_third() -> None:
    codes, rank = ladder(3), np.arange(3)
    links = links_within(codes, 2)
    asked = []

    def alike(pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
        asked.extend(pairs.tolist())
        return pairs.sum(1) != 2  # all but the first and the last

    for diameter in (4, 20):
        groups = group(codes, links, rank, diameter, alike)
        assert (groups.keeper_N.tolist(), groups.refused) == ([0, 0, 2], 1)
    assert sorted(map(sorted, asked[:3])) == [[0, 1], [0, 2], [1, 2]]
    assert group(codes, links, rank, 4).keeper_N.tolist() == [0, 0, 0]


def test_the_best_rank_is_kept_and_the_first_on_a_tie() -> None:
    codes = np.packbits(np.repeat(np.eye(2, 8, dtype=np.uint8), [3, 2], axis=0), axis=1)
    groups = group(codes, links_within(codes, 0), np.array([2.0, 0.5, 1.0, 7.0, 7.0]), 0)
    assert groups.keeper_N.tolist() == [1, 1, 1, 3, 3]
    assert groups.group_N.tolist() == [0, 0, 0, 1, 1]


def test_nothing_has_no_groups_and_one_item_its_own() -> None:
    none = np.empty((0, 2), np.int64)
    assert len(group(np.empty((0, 16), np.uint8), none, np.empty(0), 8).group_N) == 0
    assert len(group(np.empty((0, 0), np.uint8), none, np.empty(0), 8).group_N) == 0
    assert group(ladder(1), none, np.zeros(1), 8).kept_N.tolist() == [True]
    assert group(ladder(2), none, np.zeros(2), 8).kept_N.tolist() == [True, True]
