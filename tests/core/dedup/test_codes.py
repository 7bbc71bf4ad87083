"""Codes depend on a picture's content, not on its batch, its brightness or its company."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_sample_images

from dcgan_core.dedup.autoencoder import Fit, fit, standardise
from dcgan_core.dedup.codes import (
    activations,
    bit_statistics,
    encode,
    luma,
    median_thresholds,
    thumbnail,
    verified_distances,
)
from dcgan_core.dedup.neighbours import distances, hamming

ZERO = np.zeros(128)


def photo_windows() -> NDArray[np.uint8]:
    """88 windows of 100 px out of the two photos that ship with scikit-learn."""
    return np.stack(
        [
            photo[top : top + 100, left : left + 100]
            for photo in load_sample_images().images
            for top in range(0, 320, 80)
            for left in range(0, 540, 50)
        ]
    )


def thumbnails(pictures_NHW3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.stack([thumbnail(picture) for picture in pictures_NHW3])


@pytest.fixture(scope="module")
def thumbs() -> NDArray[np.uint8]:
    return thumbnails(photo_windows())


@pytest.fixture(scope="module")
def trained(thumbs: NDArray[np.uint8]) -> Fit:
    return fit(
        thumbs,
        code_bits=128,
        noise=0.1,
        shift=1,
        dropout=0.1,
        epochs=1,
        min_steps=150,
        batch_size=64,
        learning_rate=1e-3,
        seed=0,
    )


def test_a_thumbnail_is_the_mean_over_areas_of_the_centre_square() -> None:
    wide = np.random.default_rng(0).integers(0, 256, (64, 100, 3), dtype=np.uint8)
    means = wide[:, 18:82].reshape(32, 2, 32, 2, 3).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(thumbnail(wide) - means).max() <= 0.5
    small = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert np.array_equal(thumbnail(small), small.transpose(2, 0, 1))


@pytest.mark.parametrize("shape", [(1, 1, 3), (7, 300, 3), (33, 20, 3)])
def test_odd_sizes_have_thumbnails(shape: tuple[int, int, int]) -> None:
    assert thumbnail(np.full(shape, 9, np.uint8)).tolist() == np.full((3, 32, 32), 9).tolist()


def test_activations_equal_the_model_itself(trained: Fit, thumbs: NDArray[np.uint8]) -> None:
    plain = trained.model.encoder(standardise(torch.from_numpy(thumbs))).numpy()
    np.testing.assert_allclose(activations(trained.model, thumbs), plain, atol=1e-4)


def test_values_do_not_depend_on_the_batch(trained: Fit, thumbs: NDArray[np.uint8]) -> None:
    together = activations(trained.model, thumbs)
    one_by_one = np.concatenate([activations(trained.model, thumb[None]) for thumb in thumbs])
    assert np.array_equal(together, one_by_one)
    assert np.array_equal(activations(trained.model, thumbs[::-1])[::-1], together)


@pytest.mark.parametrize("threshold", ["zero", "median"])
def test_bits_are_set_above_the_threshold(trained: Fit, thumbs: NDArray[np.uint8], threshold: str) -> None:
    values = activations(trained.model, thumbs)
    limits = ZERO if threshold == "zero" else median_thresholds(values)
    codes = encode(trained.model, thumbs, limits)
    assert codes.shape == (88, 16)
    assert np.array_equal(np.unpackbits(codes, axis=1), values > limits)
    assert np.array_equal(codes, encode(trained.model, thumbs, limits))
    if threshold == "median":
        np.testing.assert_allclose(bit_statistics(codes).mean_B, 0.5, atol=0.01)


def test_near_duplicates_are_near_and_others_are_far(trained: Fit, thumbs: NDArray[np.uint8]) -> None:
    changed = []
    for picture in photo_windows()[::9]:
        jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 50])[1]
        changed += [cv2.imdecode(jpeg, cv2.IMREAD_COLOR), (picture * 0.88).astype(np.uint8)]
    codes = encode(trained.model, np.concatenate([thumbs, thumbnails(np.stack(changed))]), ZERO)
    own = np.stack([np.arange(0, 88, 9).repeat(2), np.arange(88, len(codes))], 1)
    assert np.quantile(distances(codes, own), 0.9) <= 8
    others = np.argwhere(np.triu(np.ones((10, 10)), 1)) * 9
    assert np.median(distances(codes, others)) > 24


def test_statistics_equal_numpy_and_pass_over_constant_bits() -> None:
    bits = np.random.default_rng(0).random((500, 16)) < np.linspace(0, 1, 16)
    found = bit_statistics(np.packbits(bits, axis=1))
    np.testing.assert_allclose(found.mean_B, bits.mean(0))
    varying = np.abs(np.corrcoef(bits[:, 1:-1].T))
    assert found.mean_absolute_correlation == pytest.approx(varying[~np.eye(14, dtype=bool)].mean())
    assert bit_statistics(np.zeros((3, 2), np.uint8)).mean_absolute_correlation == 0


def test_no_images_one_image_and_equal_images_have_codes(trained: Fit, thumbs: NDArray[np.uint8]) -> None:
    assert encode(trained.model, thumbs[:0], ZERO).shape == (0, 16)
    equal = thumbs[:1].repeat(5, axis=0)
    limits = median_thresholds(activations(trained.model, equal))
    assert len(np.unique(encode(trained.model, equal, limits), axis=0)) == 1
    assert encode(trained.model, thumbs[:1], limits).shape == (1, 16)


def test_luma_is_the_mean_brightness_of_four_pixels() -> None:
    thumb = np.random.default_rng(0).integers(0, 256, (3, 32, 32), np.uint8)
    grey = np.tensordot([0.299, 0.587, 0.114], thumb.astype(float), 1)
    assert np.abs(luma(thumb).reshape(16, 16) - grey.reshape(16, 2, 16, 2).mean((1, 3))).max() <= 0.5


def test_verification_takes_near_codes_of_unlike_pictures_apart() -> None:
    rng = np.random.default_rng(0)
    rows = np.hstack([rng.integers(0, 2, (20, 2), np.uint8), rng.integers(0, 256, (20, 256), np.uint8)])
    rows[5, 2:] = rows[6, 2:]
    far = verified_distances(rows, rows, code_bytes=2, verify=0.9, verify_step=0.0, limit=1)
    plain = hamming(rows[:, :2], rows[:, :2])
    same = np.eye(20, dtype=bool)
    same[5, 6] = same[6, 5] = True
    same |= plain == 0  # equal codes are not asked about
    assert np.array_equal(far, np.where(same | (plain > 1), plain.astype(int), 65535))
