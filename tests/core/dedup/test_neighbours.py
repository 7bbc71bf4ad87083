"""Pairs within a radius equal those of a comparison of all with all."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dcgan_core.dedup.groups import group
from dcgan_core.dedup.neighbours import (
    distances,
    links_within,
    make_bands,
    pairs_in_band,
    pairs_within,
    partitions,
    shared_by_bands,
)

Codes = NDArray[np.uint8]


def compare_all(codes_NB: Codes, radius: int) -> NDArray[np.int64]:
    different = np.bitwise_count(codes_NB[:, None] ^ codes_NB[None]).sum(-1, dtype=np.int64)
    return np.argwhere(np.triu(different <= radius, 1))


def random_codes(n: int, width: int, seed: int) -> Codes:
    return np.random.default_rng(seed).integers(0, 256, (n, width), dtype=np.uint8)


def skewed_codes(n: int, width: int, seed: int) -> Codes:
    """Lopsided, correlated bits, as of an autoencoder: signs of a few mixed factors."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, 6)) @ rng.normal(size=(6, width * 8))
    return np.packbits(values > rng.normal(1, 2, width * 8), axis=1)


def chained_codes(n: int, width: int, seed: int) -> Codes:
    """Each code is the one before it with one bit flipped."""
    rng = np.random.default_rng(seed)
    bits = np.zeros((n, width * 8), np.uint8)
    bits[np.arange(1, n), rng.integers(0, width * 8, n - 1)] = 1
    return np.packbits(np.cumsum(bits, axis=0) % 2, axis=1)


def crowded_codes(n: int, width: int, seed: int) -> Codes:
    """Half of all codes equal, the others a few bits away."""
    rng = np.random.default_rng(seed)
    flips = rng.random((n, width * 8)) < rng.choice([0, 0.03], (n, 1))
    return np.packbits(flips, axis=1)


Kind = Callable[[int, int, int], Codes]
KINDS = [random_codes, skewed_codes, chained_codes, crowded_codes]


@pytest.mark.parametrize("radius", range(17))
@pytest.mark.parametrize("kind", KINDS)
def test_pairs_equal_brute_force_at_every_radius(kind: Kind, radius: int) -> None:
    codes = kind(700, 16, radius)
    assert np.array_equal(pairs_within(codes, radius), compare_all(codes, radius))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(2, 120),
    width=st.sampled_from([1, 2, 8, 9, 16, 33]),
    radius=st.integers(0, 16),
    count=st.integers(1, 17),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_bands_together_have_all_pairs(
    kind: Kind, n: int, width: int, radius: int, count: int, seed: int
) -> None:
    codes = kind(n, width, seed)
    count = max(min(count, radius + 1), (radius + 3) // 3)  # few bands with many flips take long
    order = np.random.default_rng(seed).permutation(width * 8)
    bands = make_bands(order, radius, count)
    found = np.concatenate([pairs_in_band(codes, band, radius) for band in bands])
    assert np.array_equal(np.unique(found, axis=0), compare_all(codes, radius))


@pytest.mark.parametrize("kind", KINDS)
def test_partitions_of_a_band_have_its_pairs_and_each_pair_has_a_first_band(kind: Kind) -> None:
    codes, radius, bits = kind(300, 16, 3), 11, 3
    bands = make_bands(np.random.default_rng(0).permutation(128), radius, 5)
    first: list[tuple[int, int]] = []
    for number, band in enumerate(bands):
        whole = pairs_in_band(codes, band, radius)
        partition_N = partitions(codes, band, bits)
        apart = [
            pairs_in_band(codes, band, radius, partition_bits=bits, across=across)
            for across in range(2**bits)
        ]
        for across, pairs in enumerate(apart):
            assert (partition_N[pairs[:, 0]] ^ partition_N[pairs[:, 1]] == across).all()
        together = np.concatenate(apart)
        assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, whole.tolist()))
        new = whole[~shared_by_bands(codes, whole, bands[:number])]
        first += map(tuple, new.tolist())
    assert len(first) == len(set(first))
    assert sorted(first) == sorted(map(tuple, compare_all(codes, radius).tolist()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [0, 3, 8])
def test_bands_as_planned_equal_brute_force(kind: Kind, radius: int) -> None:
    codes = kind(2500, 16, 1)
    assert np.array_equal(pairs_within(codes, radius), compare_all(codes, radius))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [0, 2, 8])
def test_links_make_the_same_groups_as_all_pairs(kind: Kind, radius: int) -> None:
    codes = kind(400, 16, 2)
    rank = np.arange(len(codes))
    links, pairs = links_within(codes, radius), pairs_within(codes, radius)
    assert (distances(codes, links) <= radius).all()
    assert np.array_equal(group(codes, links, rank, 20).keeper_N, group(codes, pairs, rank, 20).keeper_N)


def test_a_hundred_thousand_equal_codes_give_as_many_links() -> None:
    codes = np.tile(random_codes(1, 16, 0), (100_000, 1))
    links = links_within(codes, 8)
    assert np.array_equal(links, np.stack([np.zeros(99_999), np.arange(1, 100_000)], 1))


@pytest.mark.parametrize("radius", [0, 1, 16])
def test_no_code_and_one_code_have_no_pairs(radius: int) -> None:
    for n in (0, 1):
        assert pairs_within(random_codes(n, 16, 0), radius).shape == (0, 2)
        assert links_within(random_codes(n, 16, 0), radius).shape == (0, 2)


def test_two_codes_pair_from_their_distance_on() -> None:
    codes = np.array([[0b0000_0000], [0b0001_0110]], np.uint8)
    assert len(pairs_within(codes, 2)) == 0
    assert pairs_within(codes, 3).tolist() == [[0, 1]]
    assert distances(codes, pairs_within(codes, 3)).tolist() == [3]


def test_opposite_long_codes_do_not_overflow_the_count() -> None:
    codes = np.array([[0] * 128, [255] * 128], np.uint8)
    assert distances(codes, np.array([[0, 1]])).tolist() == [1024]
    assert len(pairs_within(codes, 1023)) == 0
    assert len(pairs_within(codes, 1024)) == 1
