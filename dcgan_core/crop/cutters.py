"""From one photo's bytes to the rows of its crops; knows nothing of stores, parts and processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2

from dcgan_core import images
from dcgan_core.config import CropConfig
from dcgan_core.crop.boxes import (
    cut,
    cut_turned,
    eye_angle,
    scale_face,
    share_outside,
    sharpness,
    square_box,
)
from dcgan_core.crop.detect import Detector, Face, HaarDetector, YuNetDetector
from dcgan_core.crop.photo import Photo
from dcgan_core.crop.weights import yunet_weights
from dcgan_core.errors import DecodeError
from dcgan_core.images import Decoded, Rgb

MAX_PIXELS = 2**31
"""Photos too large were turned away by `scrape` already."""


Cutter = Callable[[Photo], list[dict[str, Any]]]


def open_cutter(config: CropConfig) -> Cutter:
    """What a configuration does with a photo. Holds working memory: use one in each thread."""
    if config.method == "center":
        return CenterCutter(config)
    return FaceCutter(config, _detector(config))


def open_cutter_alone(config: CropConfig) -> Cutter:
    """The same for a process of its own, beside which others work on other parts: one thread is its share."""
    cv2.setNumThreads(1)
    return open_cutter(config)


@dataclass(frozen=True)
class CenterCutter:
    """One crop a photo: its largest centred square."""

    config: CropConfig

    def __call__(self, photo: Photo) -> list[dict[str, Any]]:
        """The crop's row, or why there is none."""
        size = self.config.stored_size
        try:
            header = images.read_header(photo.data, MAX_PIXELS)
            longer, shorter = max(header.width, header.height), min(header.width, header.height)
            min_side = -(-4 * size * longer // shorter)  # so that the square has four pixels for one stored
            decoded = images.decode(photo.data, max_pixels=MAX_PIXELS, min_side=min_side)
        except DecodeError as error:
            return [photo.failed(error.status, error.why)]
        square = images.center_square(decoded.rgb)
        side = min(decoded.width, decoded.height)
        # A picture that is right as it came is kept as it came, if nobody can see another one in it.
        fits = (header.width, header.height) == (size, size) and header.format in ("jpeg", "png")
        untouched = fits and decoded.is_plain
        crop = square if untouched else images.resize(square, size)
        box = [(decoded.width - side) // 2, (decoded.height - side) // 2, side]
        row = photo.row(f"{photo.key}_0", box=box, score=1.0, width=side, height=side)
        return [_judged(row, crop, self.config, photo.data if untouched else None)]


@dataclass(frozen=True)
class FaceCutter:
    """One crop a face."""

    config: CropConfig
    detector: Detector

    def __call__(self, photo: Photo) -> list[dict[str, Any]]:
        """A row a face, the best first, or the one that says why there is none."""
        try:
            return self._rows(photo) or [photo.failed("no_face", "the detector found none")]
        except DecodeError as error:
            return [photo.failed(error.status, error.why)]

    def _rows(self, photo: Photo) -> list[dict[str, Any]]:
        detect_side = self.config.detect_side
        decoded = images.decode(photo.data, max_pixels=MAX_PIXELS, min_side=detect_side)
        small = images.shrink(decoded.rgb, detect_side)
        sizes = (small.shape[1], small.shape[0]), (decoded.width, decoded.height)
        faces = [scale_face(face, *sizes) for face in self.detector.detect(small)]
        rows = [self._found(photo, number, face, sizes[1]) for number, face in enumerate(faces)]
        wanted = [(row, face) for row, face in zip(rows, faces, strict=True) if "status" not in row]
        # Photos without a usable face end here, never decoded whole. For the others nothing less will do:
        # cut from 60 web photos decoded at a half and a quarter, crops with two reduced pixels for one stored
        # were 36 and 30 dB off those from the whole photo (median), and with four 39 and 34 dB.
        rgb = self._whole(photo, decoded) if wanted else decoded.rgb
        for row, face in wanted:
            row.update(_judged(row, self._cut(rgb, face), self.config))
        return rows

    def _found(self, photo: Photo, number: int, face: Face, size: tuple[int, int]) -> dict[str, Any]:
        """The row of a face, with a status where it is no crop."""
        config = self.config
        box = square_box(face, config.margin)
        row = photo.row(
            f"{photo.key}_{number}",
            box=[box.x, box.y, box.width],
            score=face.score,
            landmarks=list(face.landmarks),
            width=round(face.width),
            height=round(face.height),
        )
        if config.method == "yunet" and face.score < config.min_score:
            why = f"score {face.score:.2f}, the limit is {config.min_score:g}"
            return {**row, "status": "low_score", "reason": why}
        if number >= config.max_faces:
            return {**row, "status": "too_many", "reason": f"more than {config.max_faces} faces"}
        if min(face.width, face.height) < config.min_size:
            why = f"{min(row['width'], row['height'])} px, the limit is {config.min_size}"
            return {**row, "status": "too_small", "reason": why}
        if (outside := share_outside(box, *size)) > config.max_outside:
            why = f"{outside:.0%} of its square lies outside the photo, the limit is {config.max_outside:.0%}"
            return {**row, "status": "cut_off", "reason": why}
        return row

    def _whole(self, photo: Photo, decoded: Decoded) -> Rgb:
        if not decoded.is_reduced:
            return decoded.rgb
        return images.decode_rgb(photo.data, max_pixels=MAX_PIXELS)

    def _cut(self, rgb: Rgb, face: Face) -> Rgb:
        box, size = square_box(face, self.config.margin), self.config.stored_size
        if not self.config.align:
            return images.resize(cut(rgb, box), size)
        return images.resize(cut_turned(rgb, box, self._tilt(rgb, face), size), size)

    def _tilt(self, rgb: Rgb, face: Face) -> float:
        """The angle of the eyes in radians, looked at closely and again in what has been turned so far.

        YuNet's landmarks lean towards an upright face, the more so the smaller it is: it sees nothing of a
        tilt at 40 pixels, half at 100 and two thirds at 130. After four looks at 160 pixels, faces of web
        photos turned by up to 30 degrees were level within 0.6 degrees (median; 2 in nine of ten).
        """
        box, angle = square_box(face, _LOOK_MARGIN), 0.0
        for _ in range(_LOOKS):
            seen = self.detector.detect(images.resize(cut_turned(rgb, box, angle, _LOOK_SIDE), _LOOK_SIDE))
            if not seen:
                break
            left = eye_angle(max(seen, key=lambda each: each.width * each.height))
            angle += left
            if abs(left) < _LEVEL:
                break
        return angle


def _judged(row: dict[str, Any], crop: Rgb, config: CropConfig, data: bytes | None = None) -> dict[str, Any]:
    """The row with its crop, or the reason why it is left out. ``data``: the crop, encoded already."""
    sharp = sharpness(crop)
    if sharp < config.min_sharpness:
        why = f"sharpness {sharp:.1f}, the limit is {config.min_sharpness:g}"
        return {**row, "status": "blurred", "reason": why, "sharpness": sharp}
    data = data or images.encode_jpeg(crop, config.jpeg_quality)
    return {**row, "status": "ok", "sharpness": sharp, "image": data}


_LOOKS, _LOOK_SIDE, _LOOK_MARGIN = 4, 320, 0.5
_LEVEL = 0.026  # radians, 1.5 degrees

_BELOW_MIN_SCORE = 0.15
"""How far below crop.min_score YuNet's finds still become rows, to see what the limit costs. They take no
time and change nothing above the limit: where boxes overlap the better one stays."""


def _detector(config: CropConfig) -> Detector:
    if config.method == "haar":
        return HaarDetector()
    return YuNetDetector(yunet_weights(config), max(0.0, config.min_score - _BELOW_MIN_SCORE))
