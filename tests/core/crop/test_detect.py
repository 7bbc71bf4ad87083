"""Detectors find real faces and pass over what is none."""

from __future__ import annotations

import os
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dcgan_core.crop.boxes import scale_face
from dcgan_core.crop.detect import Detector, Face, HaarDetector, YuNetDetector
from dcgan_core.errors import ConfigError
from dcgan_core.images import decode_rgb

Rgb = NDArray[np.uint8]


def given_data() -> Path:
    folder = os.environ.get("DCGAN_TEST_DATA")
    if not folder:
        pytest.skip("DCGAN_TEST_DATA is not set: it names a folder with face photos and YuNet weights")
    return Path(folder)


@pytest.fixture(scope="module")
def yunet() -> YuNetDetector:
    weights = given_data() / "models" / "yunet_n_640_640.onnx"
    if not weights.is_file():
        pytest.skip(f"DCGAN_TEST_DATA has no {weights.name}")
    return YuNetDetector(weights, 0.6)


@pytest.fixture(scope="module")
def photos() -> list[Rgb]:
    path = given_data() / "face-photos.tar"
    if not path.is_file():
        pytest.skip(f"DCGAN_TEST_DATA has no {path.name}")
    with tarfile.open(path) as tar:
        files = [tar.extractfile(member) for member in tar if member.isfile()][:50]
        return [decode_rgb(file.read(), max_pixels=10**8) for file in files if file]


@pytest.fixture(scope="module")
def lfw() -> tuple[list[Rgb], list[Rgb]]:
    """100 faces and 100 patches without one, each 100 pixels wide on a plain canvas of 200."""
    data = pytest.importorskip("skimage.data", reason="the LFW subset comes with scikit-image")
    pictures = [on_canvas(grey_HW) for grey_HW in data.lfw_subset()]
    return pictures[:100], pictures[100:]


def on_canvas(grey_HW: NDArray[np.float64], x: int = 50, y: int = 50, size: int = 100) -> Rgb:
    canvas = np.full((200, 200, 3), 200, np.uint8)
    grey = np.clip(grey_HW * 255, 0, 255).astype(np.uint8)
    enlarged = cv2.resize(grey, (size, size), interpolation=cv2.INTER_CUBIC)
    canvas[y : y + size, x : x + size] = enlarged[..., None]
    return canvas


def overlap(one: Face, other: Face) -> float:
    width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    shared = max(0.0, width) * max(0.0, height)
    return shared / (one.width * one.height + other.width * other.height - shared)


def test_haar_finds_faces_and_passes_over_the_rest(lfw: tuple[list[Rgb], list[Rgb]]) -> None:
    faces, others = lfw
    detector = HaarDetector()
    found = [detector.detect(picture) for picture in faces]
    assert sum(len(one) == 1 for one in found) >= 90
    assert sum(bool(detector.detect(picture)) for picture in others) <= 2
    target = Face(50, 50, 100, 100, 1.0)
    assert all(overlap(one[0], target) > 0.4 for one in found if one)
    assert all(0.5 <= face.score <= 1 for one in found for face in one)


def test_haar_boxes_follow_the_face(lfw: tuple[list[Rgb], list[Rgb]]) -> None:
    picture = lfw[0][0]
    moved = np.roll(picture, (40, -40), axis=(0, 1))
    (here,), (there,) = HaarDetector().detect(picture), HaarDetector().detect(moved)
    assert abs(there.x - here.x + 40) <= 8
    assert abs(there.y - here.y - 40) <= 8


def test_the_best_face_comes_first_and_none_lies_over_another(lfw: tuple[list[Rgb], list[Rgb]]) -> None:
    sheet = np.concatenate([np.concatenate(lfw[0][row * 4 : row * 4 + 4], axis=1) for row in range(3)])
    faces = HaarDetector().detect(sheet)
    assert len(faces) >= 9
    assert [face.score for face in faces] == sorted((face.score for face in faces), reverse=True)
    assert all(overlap(one, other) < 0.4 for one in faces for other in faces if one is not other)


def test_lists_of_faces_do_not_depend_on_threads(lfw: tuple[list[Rgb], list[Rgb]]) -> None:
    sheet = np.concatenate([np.concatenate(lfw[0][row * 4 : row * 4 + 4], axis=1) for row in range(3)])
    threads = cv2.getNumThreads()
    try:
        found = []
        for count in (1, 2, 2, 2):
            cv2.setNumThreads(count)
            found.append(HaarDetector().detect(sheet))
    finally:
        cv2.setNumThreads(threads)
    assert found[0] == found[1] == found[2] == found[3]


SHAPES = [(1, 1), (1, 50), (50, 1), (7, 3), (31, 33), (100, 641)]


@pytest.mark.parametrize("shape", SHAPES)
def test_haar_takes_any_size(shape: tuple[int, int]) -> None:
    takes_any_size(HaarDetector(), shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_yunet_takes_any_size(yunet: YuNetDetector, shape: tuple[int, int]) -> None:
    takes_any_size(yunet, shape)


def takes_any_size(detector: Detector, shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert detector.detect(noise) == []
    assert detector.detect(noise[::-1, ::-1]) == []


def test_yunet_finds_faces_in_web_photos(yunet: YuNetDetector, photos: list[Rgb]) -> None:
    found = [yunet.detect(photo) for photo in photos]
    assert sum(map(bool, found)) >= 0.8 * len(photos)
    for face in (face for faces in found for face in faces):
        assert 0.6 <= face.score <= 1
        right_eye_x, eye_y, left_eye_x, *_, mouth_y = (face.landmarks[index] for index in (0, 1, 2, 9))
        assert right_eye_x < left_eye_x
        assert eye_y < mouth_y


def test_yunet_sees_the_same_face_at_every_size(yunet: YuNetDetector, photos: list[Rgb]) -> None:
    for photo in photos[:10]:
        height, width = photo.shape[:2]
        original = yunet.detect(photo)[0]
        large = cv2.resize(photo, (width * 6, height * 6), interpolation=cv2.INTER_CUBIC).astype(np.uint8)
        found = scale_face(yunet.detect(large)[0], (6, 6), (1, 1))
        assert overlap(found, original) > 0.6


def test_weights_that_are_no_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.onnx"
    for content in (b"", b"no network"):
        path.write_bytes(content)
        with pytest.raises(ConfigError, match=r"crop\.weights"):
            YuNetDetector(path, 0.6)
    with pytest.raises(ConfigError, match="absent"):
        YuNetDetector(tmp_path / "absent", 0.6)
