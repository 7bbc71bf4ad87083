"""How well a distance tells near duplicates from other pairs: precision, recall and F1 by radius."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dcgan_core.dedup.neighbours import hamming

Counts = NDArray[np.int64]
Distance = Callable[[NDArray[Any], NDArray[Any]], NDArray[np.integer]]

_Z95 = 1.959964
_QUERIES_PER_BLOCK = 64


@dataclass(frozen=True)
class Estimate:
    """A share, and the 95 % confidence interval that the number of pairs allows."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """What calling every pair within ``radius`` a duplicate gets right."""

    radius: int
    precision: Estimate
    recall: Estimate
    f1: Estimate
    true_positives: int
    false_positives: int
    missed: int


class Trial:
    """Distances of queries (variants of known sources) to all pictures of a set, added block by block.

    ``queries_QX`` are codes (or whatever ``distance`` takes, rows first), ``source_Q`` the number of the
    picture each was made from. Distances above ``limit`` are only counted as far.
    """

    def __init__(
        self,
        queries_QX: NDArray[Any],
        source_Q: NDArray[np.int64],
        limit: int,
        distance: Distance = hamming,
    ) -> None:
        self.queries_QX, self.source_Q, self.limit, self.distance = queries_QX, source_Q, limit, distance
        self.own_Q = np.full(len(queries_QX), -1, np.int64)
        """Distance of each query to its own source; -1 until that was added."""
        self.others_QR = np.zeros((len(queries_QX), limit + 1), np.int64)
        """How many pictures other than the source lie at each distance of up to ``limit``."""

    def add(
        self,
        pictures_NX: NDArray[Any],
        source_N: NDArray[np.int64],
        unclear_QN: NDArray[np.bool_] | None = None,
    ) -> None:
        """Compare all queries to some pictures; ``source_N`` is each one's number as a source, or -1.

        Pairs in ``unclear_QN``, none of a query and its source, count neither as right nor as wrong.
        """
        place = {int(number): at for at, number in enumerate(source_N) if number >= 0}
        for start in range(0, len(self.queries_QX), _QUERIES_PER_BLOCK):
            rows = slice(start, start + _QUERIES_PER_BLOCK)
            distance_QN = self.distance(self.queries_QX[rows], pictures_NX)
            counted_QN = distance_QN <= self.limit
            if unclear_QN is not None:
                counted_QN &= ~unclear_QN[rows]
            near_q, near_n = np.nonzero(counted_QN)
            cell = near_q * (self.limit + 1) + distance_QN[near_q, near_n]
            counts = np.bincount(cell, minlength=distance_QN.shape[0] * (self.limit + 1))
            self.others_QR[rows] += counts.reshape(-1, self.limit + 1)
            for row, source in enumerate(self.source_Q[rows].tolist()):
                if source in place:
                    own = int(distance_QN[row, place[source]])
                    self.own_Q[start + row] = own
                    if own <= self.limit:
                        self.others_QR[start + row, own] -= 1

    def own_R(self, queries: NDArray[np.bool_]) -> Counts:
        """Histogram (limit + 2,) of these queries' distances to their sources; the last entry is beyond."""
        return histogram(self.own_Q[queries], self.limit)

    def others_R(self, queries: NDArray[np.bool_]) -> Counts:
        """Histogram (limit + 1,) of these queries' distances to all other pictures."""
        return self.others_QR[queries].sum(0)


def histogram(distances: NDArray[np.integer], limit: int) -> Counts:
    """How many distances equal 0, 1 ... ``limit``, and in the last entry the rest: (limit + 2,)."""
    return np.bincount(np.minimum(distances, limit + 1), minlength=limit + 2).astype(np.int64)


def by_radius(duplicates_R: Counts, others_R: Counts, limit: int) -> list[Row]:
    """Scores at radius 0 to ``limit`` from histograms of the distances of duplicates and of other pairs.

    ``duplicates_R`` has all duplicates, those beyond ``limit`` in its last entry (limit + 2,). An entry of
    ``others_R`` past ``limit`` is not looked at. Raises ValueError without any duplicates.
    """
    total = int(duplicates_R.sum())
    if not total:
        raise ValueError("recall needs at least one pair that is a duplicate")
    rows = []
    for radius in range(limit + 1):
        true = int(duplicates_R[: radius + 1].sum())
        false = int(others_R[: radius + 1].sum())
        jaccard = wilson(true, total + false)
        rows.append(
            Row(
                radius,
                precision=wilson(true, true + false),
                recall=wilson(true, total),
                # F1 = 2 J / (1 + J) grows with the Jaccard index J, a plain share with a known interval
                f1=Estimate(*(2 * j / (1 + j) for j in (jaccard.value, jaccard.low, jaccard.high))),
                true_positives=true,
                false_positives=false,
                missed=total - true,
            )
        )
    return rows


def wilson(hits: int, of: int) -> Estimate:
    """The share ``hits / of`` with Wilson's 95 % score interval; of nothing, 1 between 0 and 1.

    (No pair is called a duplicate: nothing is called so wrongly.)
    """
    if not of:
        return Estimate(1.0, 0.0, 1.0)
    share, z2 = hits / of, _Z95**2
    middle = (share + z2 / (2 * of)) / (1 + z2 / of)
    half = _Z95 / (1 + z2 / of) * (share * (1 - share) / of + z2 / (4 * of * of)) ** 0.5
    return Estimate(share, max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)))


def suggest(rows: Sequence[Row], precision: float, *, sure: bool = True) -> int | None:
    """The largest radius up to which precision stays at ``precision`` or above; None where there is none.

    ``sure``: the interval's lower end does, and not just the estimate.
    """
    best = None
    for row in rows:
        if row.false_positives and (row.precision.low if sure else row.precision.value) < precision:
            break
        if row.true_positives and (not sure or row.precision.low >= precision):
            best = row.radius
    return best
