"""All pairs of binary codes within a Hamming radius: exact, by pigeonhole bands over distinct codes.

If two codes differ in at most r bits and the bits are split into bands with tolerances t_k such that the
sum of t_k + 1 is r + 1, then at least one band differs in at most t_k bits: only codes that share a band's
bucket, or sit in buckets at most t_k flips apart, need be compared (multi-index hashing, Norouzi et al.
2012).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import comb

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Words = NDArray[np.uint64]

OVERSIZED = 10_000
SAMPLE = 8192
"""Codes that bands are planned by."""

_FEW_CODES = 2048  # comparing all of these costs less than planning
_ROWS_PER_BLOCK = 65_536
_PAIRS_PER_CHUNK = 2**20
_TILED_FROM = 256  # two buckets of at least this size each are compared tile by tile
_TILE_ROWS, _TILE_COLUMNS = 64, 4096  # the differences of a tile stay in the second-level cache
_TABLE_BITS = 24  # widest key with a look-up table (2^24 int32)
_SECONDS_TILED, _SECONDS_GATHERED, _SECONDS_PROBED, _SECONDS_PER_MASK = 2.5e-9, 12e-9, 30e-9, 2e-4


@dataclass(frozen=True)
class Band:
    """Some of the bits, and in how many of them two buckets worth comparing may differ."""

    columns: Ints
    tolerance: int


@dataclass
class Census:
    """How crowded the buckets were that were compared."""

    largest_bucket: int = 0
    """Most distinct codes in one bucket."""
    oversized_buckets: int = 0
    """Buckets of more than ``OVERSIZED`` distinct codes: compared by brute force, tile by tile."""

    def add(self, size_K: Ints) -> None:
        """Take buckets of these sizes into account."""
        self.largest_bucket = max(self.largest_bucket, int(size_K.max(initial=0)))
        self.oversized_buckets += int((size_K > OVERSIZED).sum())


@dataclass(frozen=True)
class _Buckets:
    """Runs of equal rows in an ordering of the rows."""

    order_N: Ints
    start_K: Ints
    size_K: Ints


def pairs_within(codes_NB: NDArray[np.uint8], radius: int) -> Ints:
    """All pairs (i, j), i < j, of packed codes (N, bytes) that differ in at most ``radius`` bits: (M, 2).

    Sorted by i, then j. Exact for any radius >= 0. M is quadratic in the number of equal codes; where only
    the groups matter, take ``links_within``.
    """
    equal, near_P2 = _near_classes(codes_NB, radius)
    classes = np.arange(len(equal.size_K))
    found = []
    for first, second in ((classes, classes), (near_P2[:, 0], near_P2[:, 1])):
        row_R, start_R, size_R = _rows(equal, first, second)
        within = np.arange(size_R.sum()) - np.repeat(np.cumsum(size_R) - size_R, size_R)
        places = np.stack([np.repeat(row_R, size_R), np.repeat(start_R, size_R) + within], 1)
        found.append(equal.order_N[places])
    return sorted_pairs(np.concatenate(found))


def links_within(codes_NB: NDArray[np.uint8], radius: int, census: Census | None = None) -> Ints:
    """A subset of ``pairs_within`` that joins the same items into the same groups: (M, 2), i < j, sorted.

    Of equal codes only the first takes part in further pairs, and it is paired with each of the others: a
    million equal pictures give a million links, not half a million million.
    """
    equal, near_P2 = _near_classes(codes_NB, radius, census)
    first_of_class = equal.order_N[equal.start_K]
    return sorted_pairs(np.concatenate([_star(equal), first_of_class[near_P2]]))


def equal_links(codes_NB: NDArray[np.uint8]) -> tuple[Ints, Ints]:
    """The first of each set of equal codes (U,), and its links with the others (M, 2)."""
    equal = _equal(codes_NB)
    return equal.order_N[equal.start_K], _star(equal)


def distances(codes_NB: NDArray[np.uint8], pairs_M2: Ints) -> Ints:
    """Number of bits in which the two codes of each pair differ: (M,)."""
    words_WN = _words(codes_NB)
    result = np.empty(len(pairs_M2), np.int64)
    for start in range(0, len(pairs_M2), _PAIRS_PER_CHUNK):
        chunk = slice(start, start + _PAIRS_PER_CHUNK)
        result[chunk] = _differing(words_WN[:, pairs_M2[chunk, 0]], words_WN[:, pairs_M2[chunk, 1]])
    return result


def sorted_pairs(pairs_M2: Ints) -> Ints:
    """Pairs with the smaller index first, in ascending order."""
    low, high = pairs_M2.min(1, initial=2**62), pairs_M2.max(1, initial=-1)
    order = np.lexsort((high, low))
    return np.stack([low[order], high[order]], 1)


def distinct_pairs(pairs_P2: Ints, n: int) -> Ints:
    """Each pair of numbers below n once, in ascending order."""
    return np.stack(np.divmod(np.unique(pairs_P2[:, 0] * n + pairs_P2[:, 1]), max(1, n)), 1)


def classes_of(codes_NB: NDArray[np.uint8]) -> Ints:
    """A number per code (N,), the same for equal codes: 0 to U-1, in ascending order of the codes' words."""
    equal = _equal(codes_NB)
    class_N = np.empty(len(codes_NB), np.int64)
    class_N[equal.order_N] = np.repeat(np.arange(len(equal.size_K)), equal.size_K)
    return class_N


def hamming(one_QB: NDArray[np.uint8], other_NB: NDArray[np.uint8]) -> NDArray[np.unsignedinteger]:
    """Number of bits in which each of one set of packed codes differs from each of another: (Q, N)."""
    return _differing(_words(one_QB)[:, :, None], _words(other_NB)[:, None, :])


def make_bands(order_B: Ints, radius: int, count: int) -> list[Band]:
    """``count`` <= radius + 1 bands that together miss no pair; bits are dealt to them in the order given."""
    base, extra = divmod(radius + 1, count)
    bands = []
    for k in range(count):
        tolerance = base - 1 + (k < extra)
        # the shorter hands are dealt first: they get the higher tolerances
        columns = order_B[count - 1 - k :: count][: _TABLE_BITS if tolerance else 64]
        bands.append(Band(columns, tolerance))
    return bands


def plan_bands(sample_SB: NDArray[np.uint8], n: int, radius: int, *, compare_all: bool = True) -> list[Band]:
    """The bands with the smallest expected cost for n codes of which these are a sample; one empty band
    where nothing beats comparing all (``compare_all=False``: never).

    Bits are dealt out by how even they are, so that no band gets all the lopsided ones.
    """
    everything = [Band(np.empty(0, np.int64), 0)]
    bits = sample_SB.shape[1] * 8
    if compare_all and n <= _FEW_CODES:
        return everything
    skew_B = np.abs(np.unpackbits(sample_SB, axis=1).mean(0) - 0.5)
    even_first = np.argsort(skew_B, kind="stable")
    best, least = (everything, n * n / 2 * _SECONDS_TILED) if compare_all else ([], float("inf"))
    for count in range(1, min(radius + 1, bits) + 1):
        bands = make_bands(even_first, radius, count)
        seconds = 0.0
        for band in bands:
            seconds += _expected_seconds(sample_SB, n, band)
            if seconds >= least:
                break
        else:
            best, least = bands, seconds
    return best


def partitions(codes_NB: NDArray[np.uint8], band: Band, bits: int) -> Ints:
    """Which of 2^bits partitions each code is in (N,): the first ``bits`` bits of the band's key.

    Codes that differ in at most ``tolerance`` bits of the band are in partitions whose numbers do.
    """
    return (_keys(codes_NB, band.columns[:bits])).astype(np.int64)


def pairs_in_band(
    codes_NB: NDArray[np.uint8],
    band: Band,
    radius: int,
    *,
    partition_bits: int = 0,
    across: int = 0,
    census: Census | None = None,
) -> Ints:
    """The pairs (i, j), i < j, within the radius that also differ in at most ``tolerance`` bits of the band:
    (P, 2), in no particular order. All bands together have all pairs.

    With ``partition_bits`` only those pairs whose numbers of ``partitions`` differ by exactly the bits that
    are set in ``across``.
    """
    keys_N = _keys(codes_NB, band.columns)
    order_N = np.argsort(keys_N, kind="stable")
    buckets = _runs(keys_N[None, order_N], order_N)
    if census and not across:
        census.add(buckets.size_K)
    key_K = keys_N[order_N[buckets.start_K]].astype(np.int64) if band.tolerance else np.empty(0, np.int64)
    sorted_WN = _words(codes_NB)[:, order_N]
    found = [
        order_N[np.stack([a, b], 1)]
        for first, second in _bucket_pairs(buckets, key_K, band, (1 << partition_bits) - 1, across)
        for a, b in _compared(sorted_WN, buckets, first, second, radius)
    ]
    return np.sort(np.concatenate(found), axis=1) if found else np.empty((0, 2), np.int64)


def shared_by_bands(codes_NB: NDArray[np.uint8], pairs_P2: Ints, bands: Sequence[Band]) -> NDArray[np.bool_]:
    """Whether one of these bands, by itself, has each pair too: (P,)."""
    shared_P = np.zeros(len(pairs_P2), np.bool_)
    for start in range(0, len(pairs_P2), _PAIRS_PER_CHUNK):
        chunk = slice(start, start + _PAIRS_PER_CHUNK)
        differing = codes_NB[pairs_P2[chunk, 0]] ^ codes_NB[pairs_P2[chunk, 1]]
        for band in bands:
            columns = np.zeros(8 * codes_NB.shape[1], np.uint8)
            columns[band.columns] = 1
            flips_P = np.bitwise_count(differing & np.packbits(columns)).sum(1, dtype=np.int64)
            shared_P[chunk] |= flips_P <= band.tolerance
    return shared_P


def _star(equal: _Buckets) -> Ints:
    """Links of the first of each run with the others of it."""
    first_N = np.repeat(equal.order_N[equal.start_K], equal.size_K)
    return np.stack([first_N, equal.order_N], 1)[first_N != equal.order_N]


def _near_classes(
    codes_NB: NDArray[np.uint8], radius: int, census: Census | None = None
) -> tuple[_Buckets, Ints]:
    """Classes of equal codes, and the pairs (P, 2) of different classes within the radius."""
    equal = _equal(codes_NB)
    classes = len(equal.start_K)
    if radius == 0 or classes < 2:
        return equal, np.empty((0, 2), np.int64)
    distinct_UB = codes_NB[equal.order_N[equal.start_K]]
    found = np.empty(0, np.int64)
    for band in plan_bands(distinct_UB[:: -(-classes // SAMPLE)], classes, radius):
        pairs_P2 = pairs_in_band(distinct_UB, band, radius, census=census)
        found = np.unique(np.concatenate([found, pairs_P2[:, 0] * classes + pairs_P2[:, 1]]))
    return equal, np.stack(np.divmod(found, classes), 1)


def _equal(codes_NB: NDArray[np.uint8]) -> _Buckets:
    """Runs of equal codes, in ascending order of their words."""
    words_WN = _words(codes_NB)
    order_N = np.lexsort(words_WN[::-1]) if len(codes_NB) else np.empty(0, np.int64)
    return _runs(words_WN[:, order_N], order_N)


def _words(codes_NB: NDArray[np.uint8]) -> Words:
    """Codes as columns of 64-bit words (W, N), filled up with zero bytes."""
    n, width = codes_NB.shape
    padded = np.zeros((n, max(1, -(-width // 8)) * 8), np.uint8)
    padded[:, :width] = codes_NB
    return np.ascontiguousarray(padded.view(np.uint64).T)


def _runs(sorted_WN: NDArray[np.unsignedinteger], order_N: Ints) -> _Buckets:
    """Runs of equal columns."""
    if not len(order_N):
        return _Buckets(order_N, np.empty(0, np.int64), np.empty(0, np.int64))
    start_K = np.flatnonzero(np.r_[True, (sorted_WN[:, 1:] != sorted_WN[:, :-1]).any(0)])
    return _Buckets(order_N, start_K, np.diff(np.r_[start_K, len(order_N)]))


def _expected_seconds(sample: NDArray[np.uint8], n: int, band: Band) -> float:
    """Estimate from the share of pairs of a sample that fall into one bucket."""
    width = len(band.columns)
    masks = sum(comb(width, flips) for flips in range(1, min(band.tolerance, width) + 1))
    size_K = np.unique(_keys(sample, band.columns), return_counts=True)[1].astype(float)
    together = float((size_K * (size_K - 1)).sum()) / max(1, len(sample) * (len(sample) - 1))
    each = _SECONDS_TILED if n * together > _TILED_FROM else _SECONDS_GATHERED
    # neighbouring buckets hold at most as many pairs, on average, as a bucket does with itself
    return (1 + masks) * n * n / 2 * together * each + masks * (n / 2 * _SECONDS_PROBED + _SECONDS_PER_MASK)


def _keys(codes_NB: NDArray[np.uint8], columns: Ints) -> Words:
    """The bits in ``columns`` (at most 64) as one integer per code."""
    keys = np.zeros((len(codes_NB), 8), np.uint8)
    for start in range(0, len(codes_NB), _ROWS_PER_BLOCK):
        bits = np.unpackbits(codes_NB[start : start + _ROWS_PER_BLOCK], axis=1)[:, columns]
        packed = np.packbits(bits, axis=1, bitorder="little")
        keys[start : start + _ROWS_PER_BLOCK, : packed.shape[1]] = packed
    return keys.view("<u8").ravel().astype(np.uint64)


def _bucket_pairs(
    buckets: _Buckets, key_K: Ints, band: Band, low: int, across: int
) -> Iterator[tuple[Ints, Ints]]:
    """Pairs of buckets to compare: each with itself, then with those a few flipped bits away, once each.

    Of the bits ``low`` of the keys exactly those in ``across`` are flipped.
    """
    if not across:
        several = np.flatnonzero(buckets.size_K > 1)
        yield several, several
    if not band.tolerance:
        return
    width = len(band.columns)
    bucket_of_key = np.full(2**width, -1, np.int32)
    bucket_of_key[key_K] = np.arange(len(key_K))
    for flips in range(1, min(band.tolerance, width) + 1):
        for flipped in combinations(range(width), flips):
            mask = sum(1 << bit for bit in flipped)
            if mask & low != across:
                continue
            below = np.flatnonzero(key_K >> flipped[-1] & 1 == 0)  # the other half finds the same pairs
            partner = bucket_of_key[key_K[below] ^ mask]
            yield below[partner >= 0], partner[partner >= 0].astype(np.int64)


def _compared(
    sorted_WN: Words, buckets: _Buckets, first: Ints, second: Ints, radius: int
) -> Iterator[tuple[Ints, Ints]]:
    """Places (a, b) of codes within the radius in the products of bucket pairs."""
    first_is_smaller = buckets.size_K[first] < buckets.size_K[second]
    first, second = np.where(first_is_smaller, second, first), np.where(first_is_smaller, first, second)
    large = buckets.size_K[second] >= _TILED_FROM
    row_R, start_R, size_R = _rows(buckets, first[~large], second[~large])
    for block in range(0, len(row_R), _ROWS_PER_BLOCK):
        rows = slice(block, block + _ROWS_PER_BLOCK)
        longest_first = np.argsort(-size_R[rows], kind="stable")
        row, start, size = (each[rows][longest_first] for each in (row_R, start_R, size_R))
        row_words = sorted_WN[:, row]
        for column in range(int(size[0])):
            reaching = int(np.searchsorted(-size, -column))  # rows with more than ``column`` partners
            partner = start[:reaching] + column
            near = np.flatnonzero(_differing(row_words[:, :reaching], sorted_WN[:, partner]) <= radius)
            if len(near):
                yield row[near], partner[near]
    for one, other in zip(first[large], second[large], strict=True):
        yield from _tiles(sorted_WN, buckets, int(one), int(other), radius)


def _rows(buckets: _Buckets, first: Ints, second: Ints) -> tuple[Ints, Ints, Ints]:
    """Products of bucket pairs as rows: a place of a first bucket, and where its run of partners starts and
    how long it is (the whole second bucket, or in the same bucket the places after its own)."""
    size_P = buckets.size_K[first]
    pair_R = np.repeat(np.arange(len(first)), size_P)
    number_R = np.arange(len(pair_R)) - (np.cumsum(size_P) - size_P)[pair_R]
    row_R = buckets.start_K[first][pair_R] + number_R
    skipped_R = np.where((first == second)[pair_R], number_R + 1, 0)
    return row_R, buckets.start_K[second][pair_R] + skipped_R, buckets.size_K[second][pair_R] - skipped_R


def _tiles(
    sorted_WN: Words, buckets: _Buckets, first: int, second: int, radius: int
) -> Iterator[tuple[Ints, Ints]]:
    """Brute force over two large buckets, or one with itself, tile by tile."""
    first_start, second_start = int(buckets.start_K[first]), int(buckets.start_K[second])
    first_end = first_start + int(buckets.size_K[first])
    second_end = second_start + int(buckets.size_K[second])
    for top in range(first_start, first_end, _TILE_ROWS):
        rows = sorted_WN[:, top : min(top + _TILE_ROWS, first_end), None]
        for left in range(top if first == second else second_start, second_end, _TILE_COLUMNS):
            columns = sorted_WN[:, None, left : min(left + _TILE_COLUMNS, second_end)]
            near = np.flatnonzero(_differing(rows, columns) <= radius)
            if len(near):
                a, b = np.divmod(near, columns.shape[-1])
                a, b = a + top, b + left
                wanted = (a < b) | (first != second)
                yield a[wanted], b[wanted]


def _differing(one_W: Words, other_W: Words) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Hamming distances of words that lie along the first axis."""
    total = np.bitwise_count(one_W[0] ^ other_W[0])
    if len(one_W) > 3:  # a byte holds the distances of up to 255 bits
        total = total.astype(np.uint16)
    for one, other in zip(one_W[1:], other_W[1:], strict=True):
        total += np.bitwise_count(one ^ other)
    return total
