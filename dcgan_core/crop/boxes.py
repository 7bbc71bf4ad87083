"""Geometry of face boxes: scaled between photos, squared, cut out and judged for sharpness; no detection."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from dcgan_core.crop.detect import Face

Rgb = NDArray[np.uint8]  # (height, width, 3)


@dataclass(frozen=True)
class Box:
    """Whole pixels of a photo; may leave it on any side."""

    x: int
    y: int
    width: int
    height: int


def scale_face(face: Face, from_size: tuple[int, int], to_size: tuple[int, int]) -> Face:
    """The same face on the same photo at another size; sizes are (width, height) in pixels."""
    scale_x, scale_y = to_size[0] / from_size[0], to_size[1] / from_size[1]
    landmarks = (value * (scale_y if index % 2 else scale_x) for index, value in enumerate(face.landmarks))
    return replace(
        face,
        x=face.x * scale_x,
        y=face.y * scale_y,
        width=face.width * scale_x,
        height=face.height * scale_y,
        landmarks=tuple(landmarks),
    )


def square_box(face: Face, margin: float) -> Box:
    """The square around a face's centre: its longer side, and `margin` times that on each of four sides."""
    side = max(face.width, face.height) * (1 + 2 * margin)
    x, y = face.x + (face.width - side) / 2, face.y + (face.height - side) / 2
    pixels = max(1, round(side))
    return Box(round(x), round(y), pixels, pixels)


def share_outside(box: Box, width: int, height: int) -> float:
    """The share of a box's area, 0 to 1, that lies outside a photo of that size in pixels."""
    across = max(0, min(box.x + box.width, width) - max(box.x, 0))
    down = max(0, min(box.y + box.height, height) - max(box.y, 0))
    return 1 - across * down / (box.width * box.height)


def cut(rgb: Rgb, box: Box) -> Rgb:
    """The box's pixels (box.height, box.width, 3), a copy; beyond the photo's edge it goes on mirrored.

    Mirrored as OpenCV's BORDER_REFLECT_101 does: the edge's own pixels are not repeated.
    """
    top, below, first_row, last_row = _mirrors(box.y, box.height, rgb.shape[0])
    left, right, first_column, last_column = _mirrors(box.x, box.width, rgb.shape[1])
    if max(top, below) >= rgb.shape[0] or max(left, right) >= rgb.shape[1]:  # there and back more than once
        rows = _mirrored(box.y, box.height, rgb.shape[0])
        columns = _mirrored(box.x, box.width, rgb.shape[1])
        return np.ascontiguousarray(rgb[rows][:, columns])
    inner = rgb[first_row:last_row, first_column:last_column]
    if not (top or below or left or right):
        return inner.copy()
    # Ten times as fast as picking rows and columns one by one, which took longer than decoding.
    bordered = cv2.copyMakeBorder(inner, top, below, left, right, cv2.BORDER_REFLECT_101)
    y, x = box.y - first_row + top, box.x - first_column + left
    return np.ascontiguousarray(bordered[y : y + box.height, x : x + box.width], np.uint8)


def eye_angle(face: Face) -> float:
    """Radians from the horizontal, down to the right being positive, of the line through the eyes.

    0 where the face has no landmarks.
    """
    if not face.landmarks:
        return 0.0
    right_x, right_y, left_x, left_y = face.landmarks[:4]
    return math.atan2(left_y - right_y, left_x - right_x)


def cut_turned(rgb: Rgb, box: Box, angle: float, size: int) -> Rgb:
    """The pixels of a square turned about its centre by ``angle`` (radians), as (side, side, 3) upright ones.

    ``side`` is the box's own, or 2 * ``size`` where that is less: a larger square is reduced, each pixel the
    mean of its area, before it is turned, so that turning cannot alias and reducing to ``size`` stays to do.
    """
    reach = math.ceil(box.width * (abs(math.cos(angle)) + abs(math.sin(angle)))) + 2  # what the corners touch
    around = Box(
        math.floor(box.x + (box.width - reach) / 2), math.floor(box.y + (box.width - reach) / 2), reach, reach
    )
    pixels = cut(rgb, around)
    side = min(box.width, 2 * size)
    scale = side / box.width
    if scale < 1:
        reduced = max(1, round(reach * scale))
        scale = reduced / reach
        pixels = cv2.resize(pixels, (reduced, reduced), interpolation=cv2.INTER_AREA)
    # From a pixel's centre in the turned square to its place in `pixels`: both about the box's centre.
    centre_x = (box.x + box.width / 2 - around.x) * scale - 0.5
    centre_y = (box.y + box.width / 2 - around.y) * scale - 0.5
    step = box.width * scale / side
    cosine, sine, middle = step * math.cos(angle), step * math.sin(angle), (side - 1) / 2
    matrix_23 = np.array(
        [
            [cosine, -sine, centre_x - middle * (cosine - sine)],
            [sine, cosine, centre_y - middle * (sine + cosine)],
        ]
    )
    how = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    turned = cv2.warpAffine(pixels, matrix_23, (side, side), flags=how, borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(turned, np.uint8)


def sharpness(rgb: Rgb) -> float:
    """Variance of the Laplacian of the grey image (grey levels 0 to 255, squared): blurred ones are near 0.

    It depends on scale, so compare crops of one size only.
    """
    grey_HW = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey_HW, cv2.CV_64F).var())


def _mirrors(start: int, length: int, limit: int) -> tuple[int, int, int, int]:
    """How far a stretch leaves 0 to ``limit`` on either side; first and last + 1 of what it shows there."""
    before, after = max(0, -start), max(0, start + length - limit)
    return (
        before,
        after,
        min(max(0, start), limit - 1 - after),
        max(min(limit, start + length), before + 1),
    )


def _mirrored(start: int, length: int, limit: int) -> NDArray[np.int64]:
    if limit == 1:
        return np.zeros(length, np.int64)
    period = 2 * (limit - 1)
    place = np.arange(start, start + length, dtype=np.int64) % period
    return np.minimum(place, period - place)
