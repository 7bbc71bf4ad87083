"""Labelled near duplicates made from any pictures: what happens to a photo on its way through the web."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import cv2
import numpy as np

from dcgan_core import images
from dcgan_core.errors import ConfigError
from dcgan_core.images import Rgb

Change = Callable[[Rgb, np.random.Generator], Rgb]

_MARK_RGB = 255
_MARK_SHARE, _MARK_OPACITY = 0.12, 0.55  # height of the lettering, and how much it covers


def make_variant(rgb_HW3: Rgb, kind: str, seed: Sequence[int]) -> Rgb:
    """A near duplicate (h, w, 3) of an RGB picture (H, W, 3), the same for the same seed.

    ``kind`` is one of ``KINDS``; its number is a JPEG quality, a factor, or for ``crop`` the percentage of
    each side that is cut off, divided between both ends at random. Raises ConfigError for an unknown kind.
    """
    if kind not in KINDS:
        raise ConfigError(f"there is no variant {kind!r}; variants: {', '.join(KINDS)}")
    return KINDS[kind](rgb_HW3, np.random.default_rng([*seed, _number(kind)]))


def _number(kind: str) -> int:
    return int.from_bytes(kind.encode())


def _jpeg(rgb: Rgb, _: np.random.Generator, *, quality: int) -> Rgb:
    """Encoded as web servers do, with halved colour resolution."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    _ok, data = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), options)
    return images.decode_rgb(data.tobytes(), max_pixels=2**31)


def _scale(rgb: Rgb, _: np.random.Generator, *, factor: float) -> Rgb:
    height, width = (max(1, round(side * factor)) for side in rgb.shape[:2])
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(rgb, (width, height), interpolation=how), np.uint8)


def _crop(rgb: Rgb, rng: np.random.Generator, *, percent: float) -> Rgb:
    """A window at a fraction of a pixel, scaled back, so that small pictures can lose 2 % too."""
    height, width = rgb.shape[:2]
    keep = 1 - percent / 100
    left, top = rng.random(2) * (1 - keep) * (width, height)
    # centres of pixels lie at half pixels: (x + 0.5) * keep + left - 0.5
    matrix = np.array([[keep, 0, left + 0.5 * keep - 0.5], [0, keep, top + 0.5 * keep - 0.5]])
    how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(rgb, matrix, (width, height), flags=how, borderMode=1), np.uint8)


def _level(rgb: Rgb, _: np.random.Generator, *, factor: float) -> Rgb:
    return _clipped(rgb.astype(np.float32) * factor)


def _contrast(rgb: Rgb, _: np.random.Generator, *, factor: float) -> Rgb:
    mean = rgb.mean(dtype=np.float64)
    return _clipped((rgb - mean) * factor + mean)


def _blur(rgb: Rgb, _: np.random.Generator, *, percent: float) -> Rgb:
    sigma = min(rgb.shape[:2]) * percent / 100
    return np.asarray(cv2.GaussianBlur(rgb, (0, 0), sigma), np.uint8)


def _overlay(rgb: Rgb, rng: np.random.Generator) -> Rgb:
    """Half-transparent lettering across the lower or upper part, as of a picture agency."""
    height, width = rgb.shape[:2]
    mark_HW = np.zeros((8 * 64, 64 * 8), np.uint8)  # drawn large, so that thin strokes survive
    word = "".join(rng.choice(list("ABCDEFGHKLMNPRSTUVXYZ"), 7))
    cv2.putText(mark_HW, word, (16, 290), cv2.FONT_HERSHEY_SIMPLEX, 3.6, 255, 16, cv2.LINE_AA)
    tall, wide = max(1, round(height * _MARK_SHARE * 4)), max(1, round(width * 0.7))
    mark = cv2.resize(mark_HW, (wide, tall), interpolation=cv2.INTER_AREA)[..., None] / 255 * _MARK_OPACITY
    left = int(rng.integers(0, width - wide + 1))
    top = int(rng.integers(0, height - tall + 1))
    marked = rgb.astype(np.float32)
    under = marked[top : top + tall, left : left + wide]
    marked[top : top + tall, left : left + wide] = under * (1 - mark) + _MARK_RGB * mark
    return _clipped(marked)


def _mirror(rgb: Rgb, _: np.random.Generator) -> Rgb:
    return np.ascontiguousarray(rgb[:, ::-1])


def _clipped(values: np.ndarray) -> Rgb:
    return np.clip(values + 0.5, 0, 255).astype(np.uint8)


KINDS: dict[str, Change] = {
    "jpeg-90": partial(_jpeg, quality=90),
    "jpeg-70": partial(_jpeg, quality=70),
    "jpeg-50": partial(_jpeg, quality=50),
    "jpeg-30": partial(_jpeg, quality=30),
    "scale-0.5": partial(_scale, factor=0.5),
    "scale-0.75": partial(_scale, factor=0.75),
    "scale-1.5": partial(_scale, factor=1.5),
    "crop-2": partial(_crop, percent=2),
    "crop-5": partial(_crop, percent=5),
    "crop-10": partial(_crop, percent=10),
    "brightness-0.8": partial(_level, factor=0.8),
    "brightness-1.2": partial(_level, factor=1.2),
    "contrast-0.75": partial(_contrast, factor=0.75),
    "contrast-1.3": partial(_contrast, factor=1.3),
    "blur-2": partial(_blur, percent=2),
    "overlay": _overlay,
    "mirror": _mirror,
}
"""What can be done to a picture, by name."""

MIRRORED = "mirror"
