"""From a photo to its rows: found on a reduced photo, cut from the whole one, judged, turned level."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from dcgan_core import images
from dcgan_core.config import CropConfig
from dcgan_core.crop.boxes import Box, cut, eye_angle, sharpness
from dcgan_core.crop.cutters import open_cutter
from dcgan_core.crop.detect import YuNetDetector
from dcgan_core.crop.photo import Photo
from dcgan_core.images import Rgb

DETECT_SIDE = 250
"""Half of the photo's longest side: a JPEG of it is decoded at 1/2 for detection."""
TURNS = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@pytest.fixture(scope="module")
def portrait() -> Rgb:
    """A photo of one woman's face, 511 x 403 pixels: no multiple of what JPEG is reduced by."""
    data = pytest.importorskip("skimage.data", reason="the portrait comes with scikit-image")
    return np.ascontiguousarray(data.astronaut()[:511, :403])


@pytest.fixture(scope="module")
def weights(data_folder: Path) -> str:
    path = data_folder / "models" / "yunet_n_640_640.onnx"
    if not path.is_file():
        pytest.skip(f"DCGAN_TEST_DATA has no {path.name}")
    return str(path)


def config(**changes: Any) -> CropConfig:
    return CropConfig(**{"stored_size": 96, "detect_side": DETECT_SIDE, **changes})


def rows_of(data: bytes, cropping: CropConfig) -> list[dict[str, Any]]:
    return open_cutter(cropping)(Photo("photo", None, None, data))


def best(data: bytes, cropping: CropConfig) -> dict[str, Any]:
    return rows_of(data, cropping)[0]


def crop_of(row: dict[str, Any]) -> Rgb:
    return images.decode_rgb(row["image"], max_pixels=10**6)


def jpeg(rgb: Rgb, orientation: int = 1) -> bytes:
    image = Image.fromarray(rgb)
    turn = TURNS[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    (image if turn is None else image.transpose(turn)).save(stream, "JPEG", quality=95, exif=exif)
    return stream.getvalue()


def far_apart(one: Sequence[float], other: Sequence[float]) -> float:
    return float(np.abs(np.asarray(one) - np.asarray(other)).max())


@pytest.mark.parametrize("method", ["haar", "yunet"])
def test_a_face_found_on_a_reduced_photo_is_where_it_is_on_the_whole_one(
    method: str, portrait: Rgb, request: pytest.FixtureRequest
) -> None:
    cropping = config(
        method=method, weights=request.getfixturevalue("weights") if method == "yunet" else None
    )
    assert images.decode(jpeg(portrait), max_pixels=10**6, min_side=DETECT_SIDE).is_reduced
    reduced, whole = best(jpeg(portrait), cropping), best(images.encode_png(portrait), cropping)
    assert reduced["status"] == whole["status"] == "ok"
    assert far_apart(reduced["box"], whole["box"]) <= 4  # two pixels of the reduced photo
    assert far_apart(reduced["landmarks"], whole["landmarks"] or [0]) <= 4 if method == "yunet" else True


@pytest.mark.parametrize("orientation", [2, 3, 4, 5, 6, 7, 8])
def test_a_face_is_in_its_place_however_the_photo_is_stored(orientation: int, portrait: Rgb) -> None:
    as_is, turned = best(jpeg(portrait), config()), best(jpeg(portrait, orientation), config())
    assert far_apart(as_is["box"], turned["box"]) <= 4
    x, y, side = map(int, turned["box"])
    straight = images.resize(cut(portrait, Box(x, y, side, side)), 96)
    assert np.abs(crop_of(turned).astype(int) - straight).mean() < 4


def test_a_crop_has_the_detail_of_the_whole_photo(portrait: Rgb) -> None:
    row = best(jpeg(portrait), config())
    reduced = images.decode_rgb(jpeg(portrait), max_pixels=10**6, min_side=DETECT_SIDE)
    x, y, side = (round(value / 2) for value in row["box"])
    from_reduced = images.resize(cut(reduced, Box(x, y, side, side)), 96)
    assert row["sharpness"] > 1.3 * sharpness(from_reduced)


def test_a_photo_without_a_usable_face_is_never_decoded_whole(
    portrait: Rgb, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = []
    decode = images.decode

    def watched(data: bytes, **options: Any) -> images.Decoded:
        found = decode(data, **options)
        decoded.append(found.is_reduced)
        return found

    monkeypatch.setattr(images, "decode", watched)
    assert best(jpeg(portrait), config())["status"] == "ok"
    assert decoded == [True, False]
    decoded.clear()
    assert best(jpeg(portrait[200:]), config(detect_side=200))["status"] == "no_face"
    assert best(jpeg(portrait), config(min_size=300))["status"] == "too_small"
    assert decoded == [True, True]
    decoded.clear()
    assert best(jpeg(portrait), config(detect_side=640))["status"] == "ok"
    assert decoded == [False]


def test_a_wide_photos_centre_is_not_enlarged(portrait: Rgb) -> None:
    wide = np.tile(portrait[:200], (1, 8, 1))
    row = best(jpeg(wide), config(method="center", stored_size=32))
    centre = images.center_square(wide)
    assert row["sharpness"] == pytest.approx(sharpness(images.resize(centre, 32)), rel=0.2)


def test_a_picture_of_the_stored_size_is_made_anew_where_decoders_would_not_agree(portrait: Rgb) -> None:
    cropping = config(method="center")
    square = images.resize(portrait[:400, :400], cropping.stored_size)
    as_png, see_through, cmyk = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.fromarray(square).save(as_png, "PNG")
    Image.fromarray(square).convert("RGBA").save(see_through, "PNG")
    Image.fromarray(square).convert("CMYK").save(cmyk, "JPEG", quality=95)
    for data in (jpeg(square), as_png.getvalue()):
        assert best(data, cropping)["image"] == data
    for data in (jpeg(square, 6), jpeg(square, 3), see_through.getvalue(), cmyk.getvalue()):
        row = best(data, cropping)
        assert images.read_header(row["image"], 10**6).format == "jpeg"
        assert images.decode(row["image"], max_pixels=10**6).is_plain
        assert np.abs(crop_of(row).astype(int) - square).mean() < 4  # upright, and in its own colours


@pytest.mark.parametrize("method", ["haar", "center"])
def test_a_blurred_crop_is_a_row_that_says_how_blurred(method: str, portrait: Rgb) -> None:
    blurred = np.asarray(cv2.GaussianBlur(portrait, (0, 0), 1.5), np.uint8)
    sharp, soft = (best(jpeg(each), config(method=method)) for each in (portrait, blurred))
    assert sharp["status"] == soft["status"] == "ok"
    limit = round((sharp["sharpness"] + soft["sharpness"]) / 2)
    left_out = best(jpeg(blurred), config(method=method, min_sharpness=limit))
    assert left_out["status"] == "blurred"
    assert left_out["reason"] == f"sharpness {soft['sharpness']:.1f}, the limit is {limit}"
    assert left_out["sharpness"] == soft["sharpness"]
    assert "image" not in left_out
    assert best(jpeg(portrait), config(method=method, min_sharpness=limit)) == sharp


def test_what_is_a_little_too_unsure_is_a_row_that_says_how_unsure(portrait: Rgb, weights: str) -> None:
    sure = best(jpeg(portrait), config(method="yunet", weights=weights))
    limit = sure["score"] + 0.05
    unsure = best(jpeg(portrait), config(method="yunet", weights=weights, min_score=limit))
    assert unsure["status"] == "low_score"
    assert unsure["reason"] == f"score {sure['score']:.2f}, the limit is {limit:g}"
    assert unsure["box"] == sure["box"]


@pytest.mark.parametrize("degrees", [-30, -15, 20, 30])
def test_alignment_levels_the_eyes_and_keeps_the_face_in_the_middle(
    degrees: float, portrait: Rgb, weights: str
) -> None:
    cropping = config(method="yunet", weights=weights, align=True, stored_size=256, margin=0.5)
    level, turned_back = (
        crop_of(best(jpeg(each), cropping)) for each in (portrait, turned(portrait, degrees))
    )
    tilted = crop_of(best(jpeg(turned(portrait, degrees)), cropping.model_copy(update={"align": False})))
    detector = YuNetDetector(Path(weights), 0.6)
    upright, back, askew = (detector.detect(crop)[0] for crop in (level, turned_back, tilted))
    assert abs(math.degrees(eye_angle(upright))) < 3
    assert abs(math.degrees(eye_angle(back))) < 3
    assert abs(math.degrees(eye_angle(askew))) > 6  # seen too upright, as ever
    for face in (upright, back):
        assert far_apart((face.x + face.width / 2, face.y + face.height / 2), (128, 128)) < 20


def turned(rgb: Rgb, degrees: float) -> Rgb:
    """The photo turned about the face's middle."""
    matrix_23 = cv2.getRotationMatrix2D((223, 120), degrees, 1)
    size = (rgb.shape[1], rgb.shape[0])
    return np.asarray(cv2.warpAffine(rgb, matrix_23, size, borderMode=cv2.BORDER_REFLECT_101), np.uint8)
