"""Boxes keep their place between photo sizes, stay square, and are cut out whole even past the edge."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from dcgan_core.crop.boxes import (
    Box,
    cut,
    cut_turned,
    eye_angle,
    scale_face,
    share_outside,
    sharpness,
    square_box,
)
from dcgan_core.crop.detect import Face
from dcgan_core.images import resize

FACE = Face(10.0, 20.0, 30.0, 40.0, 0.9, (15.0, 30.0, 35.0, 30.0, 25.0, 40.0, 18.0, 50.0, 32.0, 50.0))


def noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_face_scales_to_the_full_photo_and_back() -> None:
    full = scale_face(FACE, (100, 60), (1000, 300))
    assert (full.x, full.y, full.width, full.height, full.score) == (100, 100, 300, 200, 0.9)
    assert full.landmarks == (150, 150, 350, 150, 250, 200, 180, 250, 320, 250)
    assert scale_face(full, (1000, 300), (100, 60)) == FACE


def test_a_box_is_the_longer_side_and_the_margin_around_the_centre() -> None:
    assert square_box(FACE, 0.0) == Box(5, 20, 40, 40)
    assert square_box(FACE, 0.25) == Box(-5, 10, 60, 60)


@given(
    st.floats(-100, 900), st.floats(-100, 900), st.floats(0.01, 500), st.floats(0.01, 500), st.floats(0, 2)
)
def test_boxes_are_square_and_centred_within_a_pixel(
    x: float, y: float, width: float, height: float, margin: float
) -> None:
    box = square_box(Face(x, y, width, height, 1.0), margin)
    assert box.width == box.height >= 1
    assert abs(box.x + box.width / 2 - (x + width / 2)) <= 1.01
    assert abs(box.y + box.height / 2 - (y + height / 2)) <= 1.01


@settings(deadline=None)
@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(-30, 30),
    st.integers(-30, 30),
    st.integers(1, 40),
    st.integers(1, 40),
)
def test_a_cut_equals_the_cut_from_a_photo_with_a_mirrored_border(
    photo_height: int, photo_width: int, x: int, y: int, width: int, height: int
) -> None:
    photo, border = noise(photo_height, photo_width), 80
    bordered = cv2.copyMakeBorder(photo, border, border, border, border, cv2.BORDER_REFLECT_101)
    expected = bordered[border + y : border + y + height, border + x : border + x + width]
    np.testing.assert_array_equal(cut(photo, Box(x, y, width, height)), expected)


@pytest.mark.parametrize("box", [Box(2, 3, 8, 8), Box(-2, 3, 8, 8)])
def test_a_cut_is_a_copy(box: Box) -> None:
    photo = noise(20, 20)
    crop = cut(photo, box)
    assert crop.flags.c_contiguous
    crop[:] = 0
    np.testing.assert_array_equal(photo, noise(20, 20))


def test_blur_lowers_sharpness_and_a_plain_image_has_none() -> None:
    photo = noise(64, 64)
    values = [sharpness(cv2.GaussianBlur(photo, (0, 0), sigma).astype(np.uint8)) for sigma in (0.5, 1, 2, 4)]
    assert sharpness(photo) > values[0] > values[1] > values[2] > values[3] > 0
    assert sharpness(np.full((64, 64, 3), 77, np.uint8)) == 0


def test_the_angle_of_the_eyes_is_that_of_the_line_through_them() -> None:
    assert eye_angle(FACE) == 0
    down_right = Face(0, 0, 40, 40, 1.0, (10.0, 10.0, 20.0, 20.0, *[0.0] * 6))
    assert math.degrees(eye_angle(down_right)) == pytest.approx(45)
    assert eye_angle(Face(0, 0, 40, 40, 1.0)) == 0


@pytest.mark.parametrize("box", [Box(20, 30, 40, 40), Box(-9, 55, 41, 41), Box(-50, -60, 200, 200)])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3, -1])
def test_a_square_turned_by_quarters_is_the_same_pixels_turned(box: Box, quarters: int) -> None:
    photo = noise(90, 100)
    turned = cut_turned(photo, box, quarters * math.pi / 2, size=300)
    difference = turned.astype(int) - np.rot90(cut(photo, box), quarters)
    assert np.abs(difference).max() <= 1


def test_a_turned_square_much_larger_than_its_crop_is_reduced_without_aliases() -> None:
    stripes = np.zeros((400, 400, 3), np.uint8)
    stripes[:, ::2] = 255  # the mean of every area is about grey; picked pixels would be black and white
    crop = resize(cut_turned(stripes, Box(60, 60, 280, 280), math.radians(17), size=32), 32)
    assert crop.shape == (32, 32, 3)
    assert np.abs(crop.astype(int) - 127).max() <= 20


def test_turning_and_reducing_shows_what_reducing_and_turning_does() -> None:
    axis = np.linspace(0, 255, 300)
    smooth = np.stack([np.tile(axis, (300, 1)), np.tile(axis, (300, 1)).T, np.full((300, 300), 90.0)], -1)
    box, angle = Box(90, 80, 120, 120), math.radians(25)
    crop = resize(cut_turned(smooth.astype(np.uint8), box, angle, size=24), 24)
    place = (np.arange(24) + 0.5 - 12) * 5
    x = 150 + place[None, :] * math.cos(angle) - place[:, None] * math.sin(angle)
    y = 140 + place[None, :] * math.sin(angle) + place[:, None] * math.cos(angle)
    expected = np.stack([x, y], -1) * 255 / 299 - 255 / 299 / 2
    assert np.abs(crop[..., :2] - expected).max() <= 2


@pytest.mark.parametrize(
    ("box", "share"),
    [
        (Box(0, 0, 10, 10), 0.0),
        (Box(-5, 0, 10, 10), 0.5),
        (Box(-5, -5, 10, 10), 0.75),
        (Box(95, 0, 10, 10), 0.5),
        (Box(-100, -100, 10, 10), 1.0),
        (Box(-50, -50, 200, 200), 0.75),
    ],
)
def test_the_share_outside_a_photo_is_of_the_boxs_area(box: Box, share: float) -> None:
    assert share_outside(box, 100, 100) == share
