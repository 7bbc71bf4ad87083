"""Faces in a photo, by OpenCV's cascade or the YuNet network; not which of them are good enough."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from dcgan_core.errors import ConfigError

Rgb = NDArray[np.uint8]  # (height, width, 3)


@dataclass(frozen=True)
class Face:
    """One face, in pixels of the array that was passed; the box may leave it."""

    x: float
    y: float
    width: float
    height: float
    score: float
    """How sure the detector is, 0 to 1; comparable within one kind of detector only."""
    landmarks: tuple[float, ...] = ()
    """x, y of right eye, left eye, nose tip, right and left corner of the mouth; or empty."""


class Detector(Protocol):
    """Finds faces. A detector holds working memory: use one in each thread."""

    def detect(self, rgb: Rgb) -> list[Face]:
        """Faces of an RGB array (H, W, 3), the best first, none over another; equal arrays, equal lists."""
        ...


class HaarDetector:
    """OpenCV's frontal-face cascade (Viola and Jones), as the paper used; needs no weights."""

    def __init__(self) -> None:
        """Raises ConfigError where this OpenCV has no cascades (5.x)."""
        # Looked up by name: OpenCV 5 has neither, and type checkers do not know of the first.
        folder = getattr(getattr(cv2, "data", None), "haarcascades", None)
        if folder is None or not hasattr(cv2, "CascadeClassifier"):
            raise ConfigError(
                f"OpenCV {cv2.__version__} has no Haar cascades; install opencv-python-headless>=4.10,<5, "
                "or use crop.method=yunet"
            )
        self._cascade = cv2.CascadeClassifier(str(Path(folder) / "haarcascade_frontalface_default.xml"))

    def detect(self, rgb: Rgb) -> list[Face]:
        """Frontal faces of 32 pixels and more; score 0.5 to 1, the logistic of the last stage's weight."""
        grey_HW = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2GRAY)
        pad = int(_HAAR_PAD * min(grey_HW.shape))
        padded_HW = cv2.copyMakeBorder(grey_HW, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
        boxes_N4, _, weights_N = self._cascade.detectMultiScale3(
            padded_HW,
            scaleFactor=1.1,
            minNeighbors=3,
            minSize=(_HAAR_SMALLEST, _HAAR_SMALLEST),
            outputRejectLevels=True,
        )
        boxes_N4, weights_N = np.reshape(boxes_N4, (-1, 4)), np.ravel(np.asarray(weights_N))
        faces = [
            Face(float(x - pad), float(y - pad), float(width), float(height), _haar_score(weight))
            for (x, y, width, height), weight in zip(boxes_N4, weights_N, strict=True)
        ]
        return _best_apart(face for face in faces if face.score >= 0.5)


class YuNetDetector:
    """The YuNet network (Wu et al. 2023): faces at many poses, with five landmarks each."""

    def __init__(self, weights: Path, min_score: float) -> None:
        """Raises ConfigError where `weights` is not a YuNet file in ONNX format."""
        self._network = _open_yunet(weights, min_score)

    def detect(self, rgb: Rgb) -> list[Face]:
        """Faces of about 10 pixels up to the whole array, looked for at several scales; any array size."""
        bgr = cv2.cvtColor(np.ascontiguousarray(rgb), cv2.COLOR_RGB2BGR)
        faces = []
        for width, height in _pyramid(bgr.shape[1], bgr.shape[0]):
            # One size after the other from the full array, so that no level adds blur of its own.
            is_full = (width, height) == (bgr.shape[1], bgr.shape[0])
            level = bgr if is_full else cv2.resize(bgr, (width, height), interpolation=cv2.INTER_AREA)
            scale_xy = np.array([bgr.shape[1] / width, bgr.shape[0] / height], np.float64)
            # Narrower than its largest stride, the network reads memory that nobody has written.
            right, below = max(0, _YUNET_STRIDE - width), max(0, _YUNET_STRIDE - height)
            if right or below:
                level = cv2.copyMakeBorder(level, 0, below, 0, right, cv2.BORDER_CONSTANT)
            self._network.setInputSize((width + right, height + below))
            _, found_N15 = self._network.detect(level)
            for row_15 in () if found_N15 is None else found_N15.astype(np.float64):
                x, y, box_width, box_height, *landmarks = (
                    (row_15[:14].reshape(7, 2) * scale_xy).ravel().tolist()
                )
                faces.append(Face(x, y, box_width, box_height, float(row_15[14]), tuple(landmarks)))
        return _best_apart(face for face in faces if _is_on(face, bgr.shape[1], bgr.shape[0]))


_HAAR_SMALLEST = 32  # pixels; the cascade's own 24 takes a third more time
# Measured on 100 web photos with faces and 100 without, both by one face found or more: with a border the
# cascade sees faces that fill the photo (72 photos, 64 without), and 9 of 14 false hits weigh less than 3.5.
_HAAR_PAD = 0.2
_HAAR_EVEN_WEIGHT = 3.5


def _haar_score(weight: float) -> float:
    return 1 / (1 + math.exp(_HAAR_EVEN_WEIGHT - float(weight)))


_MOST_OVERLAP = 0.4


_YUNET_STRIDE = 32


def _is_on(face: Face, width: int, height: int) -> bool:
    """Whether the middle of a box that has a size lies on the photo."""
    x, y = face.x + face.width / 2, face.y + face.height / 2
    return face.width >= 1 and face.height >= 1 and 0 <= x <= width and 0 <= y <= height


def _best_apart(faces: Iterable[Face]) -> list[Face]:
    # Threads inside OpenCV report in any order; a full sort key makes the list one and the same.
    def rank(face: Face) -> tuple[float, ...]:
        return (-face.score, -face.width * face.height, face.x, face.y, face.width)

    kept: list[Face] = []
    for face in sorted(faces, key=rank):
        if all(_overlap(face, better) <= _MOST_OVERLAP for better in kept):
            kept.append(face)
    return kept


def _overlap(one: Face, other: Face) -> float:
    """The shared area as a share of the smaller box: 1 for a box within another, which IoU would miss."""
    width = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    height = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    smaller = min(one.width * one.height, other.width * other.height)
    return max(0.0, width) * max(0.0, height) / smaller if smaller > 0 else 1.0


_NETWORK_OVERLAP = 0.3  # IoU above which the network's own raw boxes count as one face
_RAW_BOXES = 5000


def _open_yunet(weights: Path, min_score: float) -> cv2.FaceDetectorYN:
    try:
        # From memory: OpenCV would otherwise choose the format by the file's suffix.
        model = np.frombuffer(weights.read_bytes(), np.uint8)
        return cv2.FaceDetectorYN.create(
            "onnx", model, np.empty(0, np.uint8), (320, 320), min_score, _NETWORK_OVERLAP, _RAW_BOXES
        )
    except (OSError, cv2.error) as error:
        raise ConfigError(
            f"{weights} cannot be opened as a YuNet network ({error}); set crop.weights to a "
            "face_detection_yunet ONNX file"
        ) from None


_SURE_SIZE = 320  # pixels; the network was trained on smaller faces and misses some larger ones


def _pyramid(width: int, height: int) -> list[tuple[int, int]]:
    """Sizes to look at: the array's own, then halves until no face can be too large."""
    sizes = [(width, height)]
    while max(width, height) > _SURE_SIZE:
        width, height = max(1, width // 2), max(1, height // 2)
        sizes.append((width, height))
    return sizes
