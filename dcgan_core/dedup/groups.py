"""From pairs of near duplicates to groups with one kept member each: connected components."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


@dataclass(frozen=True)
class Groups:
    """A partition of n items; items without a duplicate are groups of one."""

    group_N: NDArray[np.int64]
    """Number of the item's group, 0 to G-1, in the order of the groups' kept items."""
    kept_N: NDArray[np.bool_]
    """True for the one item kept of each group."""
    keeper_N: NDArray[np.int64]
    """Index of the item kept in this item's stead; its own where it is kept."""


def group(n: int, pairs_M2: NDArray[np.int64], rank_N: NDArray[np.generic]) -> Groups:
    """Join paired items (transitively) and keep the one of lowest rank in each group, by index on a tie.

    The order of the pairs, and of the two items in a pair, does not matter.
    """
    links = coo_array((np.ones(len(pairs_M2), np.bool_), (pairs_M2[:, 0], pairs_M2[:, 1])), shape=(n, n))
    component_N = connected_components(links, directed=False)[1] if n else np.empty(0, np.int32)
    best_first_N = np.argsort(rank_N, kind="stable")
    _, best_place = np.unique(component_N[best_first_N], return_index=True)  # first of each component
    keeper_of = best_first_N[best_place].astype(np.int64)
    keeper_N = keeper_of[component_N]
    kept_N = keeper_N == np.arange(n)
    group_N = (np.cumsum(kept_N, dtype=np.int64) - 1)[keeper_N]
    return Groups(group_N, kept_N, keeper_N)
