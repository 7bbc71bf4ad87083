"""Similarity: what it must not mind, what it must, and that it is the index it is named after."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from dcgan_core.dedup.similarity import (
    SIDE,
    _equalised,
    _structure,
    alike,
    needed_similarity,
    similarity,
)

Pictures = NDArray[np.uint8]


def smooth(n: int, seed: int = 0) -> Pictures:
    """Random pictures (n, 256) with some structure at the scale of a few pixels."""
    noise = np.random.default_rng(seed).normal(size=(n, SIDE + 4, SIDE + 4))
    for _ in range(2):
        noise = noise[:, :-1, :-1] + noise[:, 1:, :-1] + noise[:, :-1, 1:] + noise[:, 1:, 1:]
    noise = noise[:, 1:-1, 1:-1]
    low, high = noise.min((1, 2), keepdims=True), noise.max((1, 2), keepdims=True)
    return np.round(40 + 170 * (noise - low) / (high - low)).astype(np.uint8).reshape(n, -1)


def test_it_is_at_least_the_contrast_structure_term_of_scikit_images_index() -> None:
    metrics = pytest.importorskip("skimage.metrics")
    one, other = smooth(20), smooth(20, 1)
    for a, b, found in zip(one, other, similarity(one, other).tolist(), strict=True):
        x, y = ((each - each.mean()) / each.std() for each in (a.astype(float), b.astype(float)))
        options = {"win_size": 5, "use_sample_covariance": False, "full": True}
        # K1 large: the index's other factor, that of the means, is 1
        _, whole = metrics.structural_similarity(
            x.reshape(SIDE, SIDE), y.reshape(SIDE, SIDE), data_range=1.0, K1=1e6, K2=0.05**0.5, **options
        )
        term = whole[2:-2, 2:-2].mean()
        ours = _structure(
            _equalised(a.reshape(1, SIDE, SIDE) * 1.0), _equalised(b.reshape(1, SIDE, SIDE) * 1.0)
        )
        assert ours[0] == pytest.approx(term, abs=1e-6)
        assert found >= term - 1e-6  # the best over the central parts as well
    same = similarity(one, one)
    assert same.tolist() == [1.0] * 20


def test_it_is_symmetric_and_minds_neither_brightness_nor_contrast() -> None:
    one, other = smooth(50), smooth(50, 1)
    assert np.array_equal(similarity(one, other), similarity(other, one))
    brighter = np.round(one * 0.8 + 30).astype(np.uint8)
    assert similarity(one, brighter).min() > 0.99


def test_small_crops_stay_similar_and_other_pictures_are_not() -> None:
    large = smooth(30).reshape(-1, SIDE, SIDE)
    inner = (np.arange(SIDE) + 0.5) * 15 / SIDE
    low = np.floor(inner).astype(int)
    share = inner - low
    rows = large[:, low] * (1 - share)[:, None] + large[:, np.minimum(low + 1, 15)] * share[:, None]
    cropped = rows[:, :, low] * (1 - share) + rows[:, :, np.minimum(low + 1, 15)] * share
    near = similarity(large.reshape(30, -1), np.round(cropped).astype(np.uint8).reshape(30, -1))
    assert np.median(near) > 0.9
    assert similarity(smooth(200), smooth(200, 7)).max() < 0.8


def test_a_shared_horizon_is_not_enough() -> None:
    sky = np.repeat([200, 60], SIDE // 2)[:, None].repeat(SIDE, 1).astype(np.uint8)
    one, other = sky.copy(), sky.copy()
    one[9:12, 2:7] = 160
    other[10:14, 9:14] = 160
    pair = one.reshape(1, -1), other.reshape(1, -1)
    assert np.corrcoef(pair[0][0], pair[1][0])[0, 1] > 0.85
    assert similarity(*pair)[0] < 0.75


def test_flat_pictures_are_alike_and_unlike_others() -> None:
    flat, grey = np.full((1, 256), 7, np.uint8), np.full((1, 256), 90, np.uint8)
    assert similarity(flat, grey).tolist() == [1.0]
    assert similarity(flat, smooth(1))[0] < 0.5
    assert len(similarity(flat[:0], grey[:0])) == 0


def test_the_farther_the_codes_the_more_alike_the_pictures_must_be() -> None:
    far = np.array([0, 12, 13, 16, 40])
    assert needed_similarity(far, 0.86, 0.015).tolist() == [0.86, 0.86, 0.875, 0.92, 1.28]
    one = smooth(1).repeat(5, axis=0)
    assert alike(one, one, far, 0.86, 0.015).tolist() == [True, True, True, True, False]
    assert alike(one, one, far, 0.86, 0.0).all()
    assert alike(one, smooth(5, 1), far, 0.86, 0.0).tolist() == [True, False, False, False, False]
