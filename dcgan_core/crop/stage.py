"""The stage `crop`: photos in, square crops out, one row per face and one per photo without any."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from dcgan_core import images
from dcgan_core.artifacts import Receipt
from dcgan_core.config import CropConfig, Json
from dcgan_core.errors import ConfigError, DecodeError, NoUsableData
from dcgan_core.images import Rgb
from dcgan_core.progress import Progress
from dcgan_core.stage import Part, Stage, Summary
from dcgan_core.storage import Store, sha256_of_file
from dcgan_core.tables import iterate_rows, write_rows

if TYPE_CHECKING:
    from dcgan_core.crop.detect import Detector

CROPS = pa.schema(
    [
        ("key", pa.string()),
        ("photo_key", pa.string()),
        ("label", pa.int32()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("box", pa.list_(pa.float32())),
        ("score", pa.float32()),
        ("landmarks", pa.list_(pa.float32())),
        ("sharpness", pa.float32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("image", pa.large_binary()),
    ]
)
"""``box`` is x, y, side in pixels of the upright photo; ``width`` and ``height`` are those of the face or
square before scaling; ``image`` is null unless status is "ok"."""

MAX_PIXELS = 2**31
"""Photos too large were turned away by `scrape` already."""


@dataclass(frozen=True)
class Crop(Stage):
    """Square crops of one size. A part covers one part of the photos."""

    artifact: ClassVar[str] = "crops"
    flow: ClassVar[str] = "crop"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "photos"

    config: CropConfig

    def settings(self) -> dict[str, Json]:
        settings = self.config.identity()
        del settings["weights_sha256"]  # counts as source, given or found
        if self.config.method != "yunet":
            del settings["min_score"]
        if self.config.method == "center":
            for field in ("min_size", "margin", "detect_side", "max_faces"):
                del settings[field]
        return settings

    def source(self) -> dict[str, Json]:
        """The detector's weights, by their hash."""
        if self.config.method != "yunet":
            return {}
        if not self.config.weights:
            raise ConfigError(
                "crop.method is yunet and crop.weights is empty: give the path or url of the YuNet ONNX file "
                "(-o crop.weights=...), or use crop.method=haar, which needs none"
            )
        wanted = self.config.weights_sha256
        path = Path(self.config.weights).expanduser()
        if wanted and "://" in self.config.weights:
            return {"weights_sha256": wanted.lower()}
        if not path.is_file():
            raise ConfigError(
                f"crop.weights: there is no file {path}; for a url also set crop.weights_sha256"
            )
        found = sha256_of_file(path)
        if wanted and found != wanted.lower():
            raise ConfigError(
                f"crop.weights {path} has sha256 {found}, not the {wanted} of crop.weights_sha256"
            )
        return {"weights_sha256": found}

    def plan(self, store: Store) -> Sequence[Part]:
        files = self.input_manifest(store, "photos").named("photos-")
        return [
            Part(index, self.part_key(file.sha256, self.source()), file, file.rows or 0)
            for index, file in enumerate(files)
        ]

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        columns = ["key", "label", "status", "image"]
        cutter = _cutter(self.config)
        rows: list[dict[str, Any]] = []
        usable = 0
        for done, photo in enumerate(iterate_rows(store, self.inputs["photos"], part.payload, columns), 1):
            if photo["status"] == "ok":
                usable += 1
                rows += cutter.rows(photo)
            progress(done, part.items, "")
        counts = Counter(row["status"] for row in rows)
        counts["photos"] = usable
        file = write_rows(store, self.address, f"crops-{part.index:05d}.parquet", rows, CROPS)
        return Receipt(part=part.index, key=part.key, files=(file,), counts=dict(counts))

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        counts = Counter[str]()
        for receipt in receipts:
            counts.update(receipt.counts)
        if not counts["ok"]:
            advice = (
                "No photo gave a crop. For pictures that are not about faces use crop.method=center; for "
                "small or turned faces use crop.method=yunet or lower crop.min_size"
            )
            raise NoUsableData("crop", dict(counts), advice)
        return Summary(counts=dict(sorted(counts.items())))


def _cutter(config: CropConfig) -> _Cutter:
    if config.method == "center":
        return _CenterCutter(config)
    return _FaceCutter(config, _detector(config))


def _detector(config: CropConfig) -> Detector:
    from dcgan_core.crop.detect import HaarDetector, YuNetDetector, fetch_weights

    if config.method == "haar":
        return HaarDetector()
    cache = Path(tempfile.gettempdir()) / "dcgan-weights"
    weights = fetch_weights(config.weights or "", config.weights_sha256, cache)
    return YuNetDetector(weights, config.min_score)


@dataclass(frozen=True)
class _CenterCutter:
    """One crop a photo: its largest centred square."""

    config: CropConfig

    def rows(self, photo: dict[str, Any]) -> list[dict[str, Any]]:
        from dcgan_core.crop.boxes import sharpness

        data, size = photo["image"], self.config.stored_size
        row = _row(photo, f"{photo['key']}_0")
        try:
            rgb = images.decode_rgb(data, max_pixels=MAX_PIXELS, min_side=4 * size)
        except DecodeError as error:
            return [_failed(photo, error.status, error.why)]
        height, width = rgb.shape[:2]
        side = min(height, width)
        square = images.center_square(rgb)
        header = images.read_header(data, MAX_PIXELS)
        scale = max(header.width, header.height) / max(height, width)  # decoded smaller than it is
        # A picture that is right as it came is kept as it came.
        untouched = (header.width, header.height) == (size, size) and header.format in ("jpeg", "png")
        if not untouched:
            square = images.resize(square, size)
            data = images.encode_jpeg(square, self.config.jpeg_quality)
        box = [(width - side) // 2 * scale, (height - side) // 2 * scale, side * scale]
        full_side = round(side * scale)
        measured = {"score": 1.0, "sharpness": sharpness(square), "width": full_side, "height": full_side}
        return [{**row, "status": "ok", "box": box, "image": data, **measured}]


@dataclass(frozen=True)
class _FaceCutter:
    """One crop a face."""

    config: CropConfig
    detector: Detector

    def rows(self, photo: dict[str, Any]) -> list[dict[str, Any]]:
        try:
            rgb = images.decode_rgb(photo["image"], max_pixels=MAX_PIXELS)
        except DecodeError as error:
            return [_failed(photo, error.status, error.why)]
        rows = list(self._faces(photo, rgb))
        return rows or [_failed(photo, "no_face", "the detector found none")]

    def _faces(self, photo: dict[str, Any], rgb: Rgb) -> Iterator[dict[str, Any]]:
        from dcgan_core.crop.boxes import cut, scale_face, sharpness, square_box

        small = images.shrink(rgb, self.config.detect_side)
        sizes = (small.shape[1], small.shape[0]), (rgb.shape[1], rgb.shape[0])
        for number, found in enumerate(self.detector.detect(small)):
            face = scale_face(found, *sizes)
            box = square_box(face, self.config.margin)
            row = {
                **_row(photo, f"{photo['key']}_{number}"),
                "box": [box.x, box.y, box.width],
                "score": face.score,
                "landmarks": list(face.landmarks),
                "width": round(face.width),
                "height": round(face.height),
            }
            if number >= self.config.max_faces:
                yield {**row, "status": "too_many", "reason": f"more than {self.config.max_faces} faces"}
            elif min(face.width, face.height) < self.config.min_size:
                why = f"{min(row['width'], row['height'])} px, the limit is {self.config.min_size}"
                yield {**row, "status": "too_small", "reason": why}
            else:
                crop = images.resize(cut(rgb, box), self.config.stored_size)
                data = images.encode_jpeg(crop, self.config.jpeg_quality)
                yield {**row, "status": "ok", "sharpness": sharpness(crop), "image": data}


_Cutter = _CenterCutter | _FaceCutter


def _row(photo: dict[str, Any], key: str) -> dict[str, Any]:
    return {"key": key, "photo_key": photo["key"], "label": photo["label"], "reason": ""}


def _failed(photo: dict[str, Any], status: str, why: str) -> dict[str, Any]:
    return {**_row(photo, photo["key"]), "status": status, "reason": why}
