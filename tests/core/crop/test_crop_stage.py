"""Every photo ends as rows: a crop per face, or the reason why there is none."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from dcgan_core.artifacts import Address, Manifest, read_manifest, write_manifest
from dcgan_core.backend import LocalBackend
from dcgan_core.crop.stage import Crop
from dcgan_core.errors import ConfigError
from dcgan_core.images import Rgb, decode_rgb, encode_jpeg, encode_png
from dcgan_core.pipeline import load_pipeline
from dcgan_core.report.examples import photo_examples
from dcgan_core.scrape.stage import PHOTOS
from dcgan_core.stage import run
from dcgan_core.storage import Store, sha256_of_file
from dcgan_core.tables import read_all, read_rows, write_rows
from tests.conftest import Tiny


def cropped(store: Store, overrides: dict[str, Any]) -> Manifest:
    stages = load_pipeline("faces64", overrides, upto="crop").stages
    for stage in stages:
        run(stage, store, LocalBackend(1))
    manifest = read_manifest(store, stages[-1].address)
    assert manifest is not None
    return manifest


def rows_of(store: Store, overrides: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of crops, each with the name of its photo."""
    crops = cropped(store, overrides)
    photos = read_all(store, manifest_of(store, "photos", crops), "photos-", ["key", "url"]).to_pylist()
    names = {photo["key"]: photo["url"] for photo in photos}
    rows = read_all(store, crops, "crops-").to_pylist()
    return [{**row, "name": names[row["photo_key"]]} for row in rows]


def manifest_of(store: Store, artifact: str, made_from_it: Manifest) -> Manifest:
    manifest = read_manifest(store, Address(artifact, made_from_it.inputs[artifact].fingerprint))
    assert manifest is not None
    return manifest


def center(folder: Path, **changes: Any) -> dict[str, Any]:
    settings = {"method": "center", "stored_size": 32, **changes}
    return {"scrape.path": str(folder)} | {f"crop.{key}": value for key, value in settings.items()}


def flower() -> Rgb:
    """A real photo of 427 x 640 pixels."""
    return load_sample_images().images[1]


def save(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def mean_difference(one: Rgb, other: Rgb) -> float:
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def test_every_photo_has_a_row_and_every_face_a_crop(store: Store, tiny: Tiny) -> None:
    rows = rows_of(store, tiny.overrides)
    names = {row["name"] for row in rows}
    assert names == {path.name for path in tiny.photos.iterdir()}
    status = {row["name"]: row["status"] for row in rows}
    assert {status[name] for name in names if name.startswith("scene")} == {"no_face"}
    assert status["broken-00.jpg"] == "truncated"
    found = [name for name in names if name.startswith(("face", "again")) and status[name] == "ok"]
    assert len(found) >= 14  # of 16
    for row in rows:
        assert (row["image"] is not None) == (row["status"] == "ok")
        assert bool(row["reason"]) == (row["status"] != "ok")
    for row in (row for row in rows if row["status"] == "ok"):
        assert decode_rgb(row["image"], max_pixels=10**6).shape == (32, 32, 3)
        assert 0.5 <= row["score"] <= 1
        assert row["box"][2] >= row["width"] >= 32
    assert len({row["key"] for row in rows}) == len(rows)


def test_counts_say_what_became_of_all_photos(store: Store, tiny: Tiny) -> None:
    rows = rows_of(store, tiny.overrides)
    counts = Counter(row["status"] for row in rows)
    assert cropped(store, tiny.overrides).counts == {**counts, "photos": 20}


def test_a_small_face_is_a_row_that_says_how_small(store: Store, tiny: Tiny) -> None:
    rows = rows_of(store, tiny.overrides | {"crop.min_size": 115})
    small = [row for row in rows if row["status"] == "too_small"]
    assert small
    assert any(row["status"] == "ok" for row in rows)
    for row in small:
        assert row["reason"] == f"{min(row['width'], row['height'])} px, the limit is 115"


def test_the_margin_widens_the_box_around_the_same_centre(store: Store, tiny: Tiny) -> None:
    tight, wide = (
        {row["key"]: row["box"] for row in rows_of(store, tiny.overrides | {"crop.margin": margin})}
        for margin in (0.0, 0.5)
    )
    for key in (key for key in tight if tight[key] is not None):
        (x, y, side), (wide_x, wide_y, wide_side) = tight[key], wide[key]
        assert wide_side == pytest.approx(2 * side, abs=1)
        assert x + side / 2 == pytest.approx(wide_x + wide_side / 2, abs=1)
        assert y + side / 2 == pytest.approx(wide_y + wide_side / 2, abs=1)


def test_a_photo_of_the_right_size_is_kept_byte_for_byte(store: Store, tmp_path: Path) -> None:
    small = np.ascontiguousarray(flower()[:32, :32])
    pictures = {"a.png": encode_png(small), "b.jpg": encode_jpeg(small, 60)}
    for name, data in pictures.items():
        save(tmp_path / "in" / name, data)
    rows = rows_of(store, center(tmp_path / "in"))
    assert {row["name"]: row["image"] for row in rows} == pictures
    assert [row["box"] for row in rows] == [[0, 0, 32]] * 2


def test_the_centre_of_a_large_photo_is_given_in_its_own_pixels(store: Store, tmp_path: Path) -> None:
    large = flower().repeat(3, 0).repeat(3, 1)  # decoded at a quarter of its size
    save(tmp_path / "in" / "large.jpg", encode_jpeg(large, 95))
    (row,) = rows_of(store, center(tmp_path / "in"))
    height, width = large.shape[:2]
    assert row["box"] == [(width - height) // 2, 0, height]
    assert (row["width"], row["height"]) == (height, height)
    middle = flower()[:, (640 - 427) // 2 :][:, :427]
    expected = np.asarray(Image.fromarray(middle).resize((32, 32), Image.Resampling.BOX))
    assert mean_difference(decode_rgb(row["image"], max_pixels=10**6), expected) < 4


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_a_photo_is_turned_upright_before_it_is_cut(orientation: int, store: Store, tmp_path: Path) -> None:
    upright = Image.fromarray(flower()[:400, :300])
    turn = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    upright.transpose(turn[orientation]).save(stream, "JPEG", quality=95, exif=exif)
    save(tmp_path / "in" / "turned.jpg", stream.getvalue())
    (row,) = rows_of(store, center(tmp_path / "in"))
    assert row["box"] == [0, 50, 300]
    expected = np.asarray(upright.crop((0, 50, 300, 350)).resize((32, 32), Image.Resampling.BOX))
    assert mean_difference(decode_rgb(row["image"], max_pixels=10**6), expected) < 4


def test_labels_stay_with_their_crops(store: Store, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        save(tmp_path / "in" / name / "1.jpg", encode_jpeg(flower(), 90))
    rows = rows_of(store, {**center(tmp_path / "in"), "scrape.source": "imagefolder"})
    assert {row["name"]: row["label"] for row in rows} == {"cat/1.jpg": 0, "dog/1.jpg": 1}


def test_a_dropped_photo_is_no_crop(store: Store, tmp_path: Path) -> None:
    save(tmp_path / "in" / "good.jpg", encode_jpeg(flower(), 90))
    save(tmp_path / "in" / "bad.jpg", b"no picture")
    manifest = cropped(store, center(tmp_path / "in"))
    assert manifest.counts == {"ok": 1, "photos": 1}


def test_yunet_without_weights_is_refused_before_any_work(tiny: Tiny) -> None:
    for changes, complaint in (
        ({}, r"crop\.weights is empty.*crop\.method=haar"),
        ({"crop.weights": "/no/such.onnx"}, r"crop\.weights: there is no file /no/such\.onnx"),
        ({"crop.weights": "file:///no/such.onnx"}, r"crop\.weights_sha256 is needed"),
        ({"crop.weights": __file__, "crop.weights_sha256": "0" * 64}, r"crop\.weights_sha256 says 0000"),
    ):
        with pytest.raises(ConfigError, match=complaint):
            load_pipeline("faces64", tiny.overrides | {"crop.method": "yunet"} | changes, upto="crop")


def test_yunet_finds_the_faces_and_its_weights_count_by_content(
    store: Store, tiny: Tiny, data_folder: Path, tmp_path: Path
) -> None:
    weights = data_folder / "models" / "yunet_n_640_640.onnx"
    if not weights.is_file():
        pytest.skip(f"DCGAN_TEST_DATA has no {weights.name}")
    overrides = tiny.overrides | {"crop.method": "yunet", "crop.weights": str(weights)}
    rows = rows_of(store, overrides)
    faces = [row for row in rows if row["status"] == "ok" and row["name"].startswith(("face", "again"))]
    assert len(faces) >= 12
    assert all(len(row["landmarks"]) == 10 for row in faces)
    elsewhere = tmp_path / "other-name"
    elsewhere.write_bytes(weights.read_bytes())
    for more in (
        {"crop.weights": str(elsewhere)},
        {"crop.weights_sha256": sha256_of_file(weights)},
        {"crop.weights_sha256": sha256_of_file(weights).upper()},
    ):
        assert cropped(store, overrides | more).fingerprint == cropped(store, overrides).fingerprint


def test_weights_that_are_no_network_stop_the_stage(store: Store, tiny: Tiny, tmp_path: Path) -> None:
    weights = save(tmp_path / "net.onnx", b"no network")
    by_url = {"crop.weights": weights.as_uri(), "crop.weights_sha256": sha256_of_file(weights)}
    for named in ({"crop.weights": str(weights)}, by_url):
        with pytest.raises(ConfigError, match="cannot be opened as a YuNet network"):
            cropped(store, tiny.overrides | {"crop.method": "yunet"} | named)


def test_alignment_needs_a_detector_with_landmarks_and_counts_only_there(tiny: Tiny) -> None:
    for method in ("haar", "center"):
        with pytest.raises(ConfigError, match=r"crop\.align needs the eyes.*crop\.method=yunet"):
            load_pipeline("faces64", tiny.overrides | {"crop.method": method, "crop.align": True})
    settings = load_pipeline("faces64", tiny.overrides, upto="crop").stages[-1].settings()
    assert not {"align", "min_score", "photo_seconds"} & settings.keys()


class HostileCrop(Crop):
    """The stage with a decoder that certain photos take down."""

    cutter: ClassVar[str] = "tests.core.crop.hostile_cutter:open_hostile"


def test_photos_that_take_the_decoder_down_are_rows_and_all_others_are_cropped(
    store: Store, tmp_path: Path
) -> None:
    widths = [64, 66, 65, 67, 64, 65, 66, 64]
    for number, width in enumerate(widths):
        picture = encode_png(np.ascontiguousarray(flower()[:64, :width]))
        save(tmp_path / "in" / f"{number}.png", picture)
    overrides = center(tmp_path / "in", photo_seconds=2)
    scrape, crop = load_pipeline("faces64", overrides, upto="crop").stages
    assert isinstance(crop, Crop)
    hostile = HostileCrop(crop.seed, crop.inputs, crop.preset, crop.config)
    for stage in (scrape, hostile):
        run(stage, store, LocalBackend(1))
    photos, crops = (read_manifest(store, stage.address) for stage in (scrape, hostile))
    assert photos is not None and crops is not None
    assert crops.counts == {"decoder_crashed": 2, "decoder_timeout": 1, "ok": 5, "photos": 8}
    reasons = {row["status"]: row["reason"] for row in read_all(store, crops, "crops-").to_pylist()}
    assert "SIGSEGV" in reasons["decoder_crashed"]
    assert reasons["decoder_timeout"] == "not done after 2 s"
    # The report decodes photos in its own process: those that did harm are never shown.
    shown = photo_examples(store, photos, crops, 8)
    assert [example.picture.alt.partition(",")[0] for example in shown] == [
        f"Photo of {width} × 64 pixels" for width in widths if width < 66
    ]


def test_names_come_with_crops_only_when_asked_for(store: Store, tiny: Tiny) -> None:
    scrape = load_pipeline("faces64", tiny.overrides, upto="scrape").stages[-1]
    run(scrape, store, LocalBackend(1))
    name_everybody(store, scrape.address)
    assert {row["name"] for row in crops_of(store, tiny.overrides)} == {None}
    named = crops_of(store, tiny.overrides | {"crop.keep_names": True})
    assert all(row["name"] == f"who is on {row['photo_key']}" for row in named)
    assert Counter(row["status"] for row in named)["ok"] >= 14


def name_everybody(store: Store, address: Address) -> None:
    """Rewrite an artifact of photos as a search for people would have made it."""
    manifest = read_manifest(store, address)
    assert manifest is not None
    receipts = []
    for receipt in manifest.parts:
        files = []
        for file in receipt.files:
            if file.name.startswith("photos-"):
                rows = read_rows(store, address, file).to_pylist()
                rows = [{**row, "query": f"who is on {row['key']}"} for row in rows]
                file = write_rows(store, address, file.name, rows, PHOTOS)
            files.append(file)
        receipts.append(receipt.model_copy(update={"files": tuple(files)}))
    write_manifest(store, manifest.model_copy(update={"parts": tuple(receipts)}))


def crops_of(store: Store, overrides: dict[str, Any]) -> list[dict[str, Any]]:
    return read_all(store, cropped(store, overrides), "crops-").to_pylist()


def test_a_face_that_fills_its_photo_can_be_left_out(store: Store, tiny: Tiny) -> None:
    wide = {**tiny.overrides, "crop.margin": 0.6}
    rows = rows_of(store, {**wide, "crop.max_outside": 0.1})
    found = Counter(row["status"] for row in rows)
    assert found["cut_off"] and found["ok"]
    assert all(
        row["reason"].endswith("outside the photo, the limit is 10%")
        for row in rows
        if row["status"] == "cut_off"
    )
    assert Counter(row["status"] for row in rows_of(store, wide))["ok"] == found["cut_off"] + found["ok"]
