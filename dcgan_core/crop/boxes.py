"""Geometry of face boxes: scaled between photos, squared, cut out and judged for sharpness; no detection."""

from __future__ import annotations

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


def cut(rgb: Rgb, box: Box) -> Rgb:
    """The box's pixels (box.height, box.width, 3), a copy; beyond the photo's edge it goes on mirrored.

    Mirrored as OpenCV's BORDER_REFLECT_101 does: the edge's own pixels are not repeated.
    """
    rows = _mirrored(box.y, box.height, rgb.shape[0])
    columns = _mirrored(box.x, box.width, rgb.shape[1])
    return np.ascontiguousarray(rgb[rows][:, columns])


def sharpness(rgb: Rgb) -> float:
    """Variance of the Laplacian of the grey image (grey levels 0 to 255, squared): blurred ones are near 0.

    It depends on scale, so compare crops of one size only.
    """
    grey_HW = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey_HW, cv2.CV_64F).var())


def _mirrored(start: int, length: int, limit: int) -> slice | NDArray[np.int64]:
    if start >= 0 and start + length <= limit:
        return slice(start, start + length)
    if limit == 1:
        return np.zeros(length, np.int64)
    period = 2 * (limit - 1)
    place = np.arange(start, start + length, dtype=np.int64) % period
    return np.minimum(place, period - place)
