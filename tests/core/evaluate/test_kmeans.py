"""Each step of the K-means features equals a slow obvious version, and test images teach them nothing."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import fractional_matrix_power
from sklearn.datasets import load_digits
from sklearn.svm import LinearSVC

from dcgan_core.errors import ConfigError
from dcgan_core.evaluate import kmeans
from dcgan_core.evaluate.kmeans import Encoder, encode, kmeans_features, learn, lloyd, random_patches


def images(
    count: int, height: int = 8, width: int = 8, channels: int = 3, seed: int = 0
) -> NDArray[np.uint8]:
    """Random images that are smooth enough for patches to be alike."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (count, -(-height // 2), -(-width // 2), channels))
    noise = random.integers(-20, 21, (count, height, width, channels))
    fine = coarse.repeat(2, axis=1).repeat(2, axis=2)[:, :height, :width]
    return np.clip(fine + noise, 0, 255).astype(np.uint8)


def plain_features(encoder: Encoder, images_NHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """One patch after the other, in float64."""
    mean, whitening, centroids = (
        each.double().numpy() for each in (encoder.mean_D, encoder.whitening_DD, encoder.centroids_KD)
    )
    size = encoder.patch_size
    rows, columns = images_NHWC.shape[1] - size + 1, images_NHWC.shape[2] - size + 1
    features = np.zeros((len(images_NHWC), 4, len(centroids)))
    for number, image in enumerate(images_NHWC):
        for row in range(rows):
            for column in range(columns):
                patch = (
                    image[row : row + size, column : column + size].transpose(2, 0, 1).ravel().astype(float)
                )
                patch = (patch - patch.mean()) / np.sqrt(patch.var(ddof=1) + 10)
                z = np.sqrt(np.square((patch - mean) @ whitening - centroids).sum(1))
                quadrant = 2 * (column >= (columns + 1) // 2) + (row >= (rows + 1) // 2)
                features[number, quadrant] += np.maximum(0, z.mean() - z)
    return features.reshape(len(images_NHWC), -1)


def test_a_patch_is_channel_by_channel_row_by_row_and_all_images_are_drawn_from() -> None:
    height, width, channels, size = 5, 6, 2, 3
    number, row, column, channel = np.ogrid[:2, :height, :width, :channels]
    pixels = (120 * number + 60 * channel + 10 * row + column).astype(np.uint8)
    drawn = random_patches(pixels, 400, size, np.random.default_rng(0))
    assert drawn.shape == (400, channels * size * size) and drawn.dtype == np.uint8
    corners = drawn[:, 0] % 60
    of_image = drawn[:, 0] // 120
    for patch, corner, which in zip(drawn, corners, of_image, strict=True):
        top, left = divmod(int(corner), 10)
        expected = pixels[which, top : top + size, left : left + size].transpose(2, 0, 1).ravel()
        assert np.array_equal(patch, expected)
    assert np.bincount(of_image).tolist() == [200, 200]
    assert len(np.unique(corners)) == (height - size + 1) * (width - size + 1)


def test_contrast_is_normalised_patch_by_patch() -> None:
    values = np.random.default_rng(0).integers(0, 256, (50, 12)).astype(np.float64)
    values[0] = 7  # a flat patch must not divide by zero
    expected = (values - values.mean(1, keepdims=True)) / np.sqrt(values.var(1, ddof=1, keepdims=True) + 10)
    found = kmeans.normalised(torch.from_numpy(values).float())
    assert np.allclose(found.numpy(), expected, atol=1e-5)
    assert not found[0].any()


def test_whitening_is_the_inverse_root_of_the_covariance() -> None:
    values = np.random.default_rng(0).normal(size=(500, 6)) @ np.diag([3, 2, 1, 1, 0.3, 0]) + 5
    mean, whitening = kmeans.zca(torch.from_numpy(values))
    covariance = np.cov(values, rowvar=False)
    assert np.allclose(mean.numpy(), values.mean(0))
    assert np.allclose(whitening.numpy(), fractional_matrix_power(covariance + 0.1 * np.eye(6), -0.5))


def test_lloyd_equals_rounds_of_nearest_and_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kmeans, "_CACHED", 100)  # 300 points take many blocks
    random = np.random.default_rng(0)
    points = random.normal(size=(300, 4))
    start = 0.5 * random.normal(size=(7, 4))
    start[5] = 100  # nobody's nearest
    expected, counts = start.copy(), np.zeros(7)
    for _ in range(4):
        nearest = np.square(points[:, None] - expected).sum(2).argmin(1)
        counts = np.bincount(nearest, minlength=7)
        expected = np.stack([points[nearest == k].mean(0) if counts[k] else np.zeros(4) for k in range(7)])
    found, empty = lloyd(torch.from_numpy(points), torch.from_numpy(start), 4)
    assert np.allclose(found.numpy(), expected)
    assert empty == np.count_nonzero(counts == 0)


def test_a_centroid_without_points_goes_to_zero() -> None:
    points = torch.tensor([[2.0, 0.0], [4.0, 0.0]])
    found, empty = lloyd(points, torch.tensor([[3.0, 0.0], [0.0, 50.0]]), 1)
    assert found.tolist() == [[3, 0], [0, 0]]
    assert empty == 1


@pytest.mark.parametrize(
    ("height", "width", "channels"), [(8, 8, 3), (7, 10, 3), (8, 6, 1)], ids=["even", "odd", "grey"]
)
def test_features_equal_those_of_one_patch_after_the_other(
    monkeypatch: pytest.MonkeyPatch, height: int, width: int, channels: int
) -> None:
    pixels = images(12, height, width, channels)
    encoder = learn(pixels, centroids=5, seed=1, patches=200, patch_size=4, iterations=3)
    expected = plain_features(encoder, pixels)
    at_once = encode(encoder, pixels)
    assert at_once.dtype == np.float32 and at_once.shape == (12, 20)
    assert np.allclose(at_once, expected, atol=1e-3)
    assert expected.reshape(12, 4, 5).max((0, 2)).min() > 0.1  # each quadrant has something to compare
    monkeypatch.setattr(kmeans, "_CACHED", 5 * 2 * (height - 3) * (width - 3))  # two images at a time
    assert np.allclose(encode(encoder, pixels), expected, atol=1e-3)


def test_a_patch_that_is_a_centroid_is_no_distance_away() -> None:
    centroids = 10 * torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    answers = kmeans.triangle(centroids, kmeans.beside_norms(centroids))
    distances = torch.cdist(centroids.double(), centroids.double())
    assert torch.allclose(
        answers.double(), (distances.mean(1, keepdim=True) - distances).clamp_min(0), atol=0.1
    )
    assert bool(answers.isfinite().all())


def test_features_are_written_into_rows_of_a_file(tmp_path: Path) -> None:
    pixels = images(6)
    encoder = learn(pixels, centroids=4, seed=0, patches=100, patch_size=3, iterations=2)
    file = np.lib.format.open_memmap(tmp_path / "features.npy", "w+", np.float32, (10, encoder.width))
    encode(encoder, pixels, out=file[3:9])
    file.flush()
    stored = np.load(tmp_path / "features.npy")
    assert np.array_equal(stored[3:9], encode(encoder, pixels))
    assert not stored[:3].any() and not stored[9:].any()
    with pytest.raises(ValueError, match="out is"):
        encode(encoder, pixels, out=file[:5])


def test_features_are_standardised_by_what_the_training_set_is_like() -> None:
    random = np.random.default_rng(0)
    train = random.normal(5, [1, 2, 0.01], size=(3000, 3)).astype(np.float32)
    test = random.normal(9, 1, size=(10, 3)).astype(np.float32)
    expected = (test - train.mean(0)) / np.sqrt(train.var(0, ddof=1) + 0.01)
    mean, scale = kmeans.moments(train)
    kmeans.standardise(test, mean, scale)
    assert np.allclose(test, expected, atol=1e-4)


def small(
    train: NDArray[np.uint8], test: NDArray[np.uint8], seed: int = 0
) -> tuple[NDArray[np.float32], ...]:
    return kmeans_features(train, test, centroids=6, seed=seed, patches=300, patch_size=3, iterations=3)


def test_test_images_change_neither_training_features_nor_each_others() -> None:
    train = images(30)
    whole_train, whole = small(train, images(20, seed=1))
    part_train, part = small(train, images(20, seed=1)[:5])
    other_train, _ = small(train, 255 - images(40, seed=2))
    assert np.array_equal(whole_train, part_train) and np.array_equal(whole_train, other_train)
    assert np.allclose(whole[:5], part, atol=1e-4)
    assert np.allclose(whole_train.mean(0), 0, atol=1e-4)
    assert np.abs(whole.mean(0)).max() > 0.01


def test_a_seed_gives_the_same_features_again_and_another_seed_others() -> None:
    train, test = images(20), images(5, seed=1)
    assert np.array_equal(small(train, test)[1], small(train, test)[1])
    assert not np.allclose(small(train, test)[1], small(train, test, seed=1)[1])


def test_a_linear_classifier_reads_digits_from_them() -> None:
    pixels, labels = cast("tuple[NDArray[np.float64], NDArray[np.int64]]", load_digits(return_X_y=True))
    grey = (pixels * 15.9).astype(np.uint8).reshape(-1, 8, 8, 1)
    seen: list[float] = []
    train, test = kmeans_features(
        grey[:500],
        grey[500:700],
        centroids=30,
        seed=0,
        patches=3000,
        patch_size=4,
        iterations=10,
        progress=lambda done, total, note: seen.append(done / total),
    )
    accuracy = LinearSVC(C=0.01).fit(train, labels[:500]).score(test, labels[500:700])
    assert accuracy > 0.8
    assert seen == sorted(seen)
    assert seen[0] == 0 and seen[9] > 0  # learning takes its share
    assert seen[-1] == pytest.approx(1)


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(ConfigError, match="four quadrants"):
        learn(images(3, 4, 4), centroids=2, seed=0, patches=10, patch_size=4)
    with pytest.raises(ConfigError, match="5 centroids cannot be found in 4 patches"):
        learn(images(3), centroids=5, seed=0, patches=4, patch_size=3)
    encoder = learn(images(3), centroids=2, seed=0, patches=10, patch_size=4, iterations=1)
    with pytest.raises(ConfigError, match="four quadrants"):
        encode(encoder, images(3, 4, 4))
