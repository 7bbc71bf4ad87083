"""From pairs of near duplicates to groups with one kept member each, and no long chains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from dcgan_core.dedup.neighbours import classes_of, distinct_pairs

Alike = Callable[[NDArray[np.int64]], NDArray[np.bool_]]
"""Whether the two items of each pair (P, 2) look alike: (P,)."""


@dataclass(frozen=True)
class Groups:
    """A partition of n items; items without a duplicate are groups of one."""

    group_N: NDArray[np.int64]
    """Number of the item's group, 0 to G-1, in the order of the groups' kept items."""
    kept_N: NDArray[np.bool_]
    """True for the one item kept of each group."""
    keeper_N: NDArray[np.int64]
    """Index of the item kept in this item's stead; its own where it is kept."""
    refused: int = 0
    """Pairs of codes that were near, but whose pictures were not alike."""


def group(
    codes_NB: NDArray[np.uint8],
    links_M2: NDArray[np.int64],
    rank_N: NDArray[np.generic],
    diameter: int,
    alike: Alike | None = None,
) -> Groups:
    """Join linked items into groups, no two members of which differ in more than ``diameter`` bits.

    Linked equal codes are one item. In the order of rank (lowest first, by index on a tie)
    each item still free is kept and takes all free items that a chain of links leads to, as long as every
    step of it differs from the kept one in at most ``diameter // 2`` bits. With a diameter of twice the
    links' radius these are exactly its free neighbours. Without a cap, A ~ B ~ C ~ ... would let one picture
    stand for another that looks nothing like it.

    A link counts if ``alike`` says so of the best ranked items of its two codes; equal codes are not asked
    about. Of two that are not alike neither is kept in the other's stead, whatever chain joins them. The
    order of the links, and of the two items in a link, does not matter.
    """
    keeper_N = np.arange(len(codes_NB))
    linked_L, ends = np.unique(links_M2, return_inverse=True)  # most items have no link at all
    refused = 0
    if len(linked_L):
        class_L = classes_of(codes_NB[linked_L])
        best_first_L = np.argsort(rank_N[linked_L], kind="stable")
        _, place_U = np.unique(class_L[best_first_L], return_index=True)  # first of each class
        best_U = linked_L[best_first_L[place_U]]
        near_P2 = np.sort(class_L[ends.reshape(-1, 2)], axis=1)
        near_P2 = distinct_pairs(near_P2[near_P2[:, 0] != near_P2[:, 1]], len(best_U))
        alike_P = np.ones(len(near_P2), np.bool_) if alike is None else alike(best_U[near_P2])
        refused = int((~alike_P).sum())
        leader_U = _leaders(codes_NB[best_U], near_P2[alike_P], near_P2[~alike_P], place_U, diameter // 2)
        keeper_N[linked_L] = best_U[leader_U][class_L]
    kept_N = keeper_N == np.arange(len(codes_NB))
    group_N = (np.cumsum(kept_N, dtype=np.int64) - 1)[keeper_N]
    return Groups(group_N, kept_N, keeper_N, refused)


def _leaders(
    codes_UB: NDArray[np.uint8],
    links_M2: NDArray[np.int64],
    refused_R2: NDArray[np.int64],
    place_U: NDArray[np.int64],
    reach: int,
) -> NDArray[np.int64]:
    """The class that is kept in each class's stead: (U,)."""
    leader_U = np.arange(len(codes_UB))
    linked = np.unique(links_M2)
    if not len(linked):
        return leader_U
    ends_M2 = np.searchsorted(linked, links_M2)
    ones = np.ones(2 * len(ends_M2), np.bool_)
    both = np.concatenate([ends_M2, ends_M2[:, ::-1]])
    graph = csr_array((ones, (both[:, 0], both[:, 1])), shape=(len(linked),) * 2)
    start, partners = np.asarray(graph.indptr).tolist(), np.asarray(graph.indices).tolist()
    refused = {pair for a, b in refused_R2.tolist() for pair in ((a, b), (b, a))}
    number: list[int] = linked.tolist()
    codes = [int.from_bytes(code.tobytes()) for code in codes_UB[linked]]
    leader = [-1] * len(linked)
    for first in np.argsort(place_U[linked]).tolist():
        if leader[first] >= 0:
            continue
        leader[first] = first
        frontier = [first]
        while frontier:
            reached = []
            for at in frontier:
                for partner in partners[start[at] : start[at + 1]]:
                    if (
                        leader[partner] < 0
                        and (codes[partner] ^ codes[first]).bit_count() <= reach
                        and (number[first], number[partner]) not in refused
                    ):
                        leader[partner] = first
                        reached.append(partner)
            frontier = reached
    leader_U[linked] = linked[leader]
    return leader_U
