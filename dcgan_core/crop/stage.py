"""The stage `crop`: photos in, square crops out, one row per face and one per photo without any."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from dcgan_core.artifacts import Receipt
from dcgan_core.config import CropConfig, Json
from dcgan_core.crop.photo import Photo
from dcgan_core.crop.weights import yunet_weights
from dcgan_core.errors import ConfigError, NoUsableData
from dcgan_core.guarded import Died, guarded
from dcgan_core.progress import Progress
from dcgan_core.stage import Part, Stage, Summary
from dcgan_core.storage import Store, sha256_of_file
from dcgan_core.tables import iterate_rows, write_rows

CROPS = pa.schema(
    [
        ("key", pa.string()),
        ("photo_key", pa.string()),
        ("label", pa.int32()),
        ("name", pa.string()),
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
"""``box`` is x, y, side in pixels of the upright photo, before the crop was turned where crop.align is on;
``width`` and ``height`` are those of the face or square before scaling; ``image`` is null unless status is
"ok"; ``name`` is null unless crop.keep_names is on."""


@dataclass(frozen=True)
class Crop(Stage):
    """Square crops of one size. A part covers one part of the photos.

    Photos are decoded in a process of their own (``cutter`` says what it runs): one that takes it down, or
    keeps it too long, becomes a row like any other that cannot be used.
    """

    artifact: ClassVar[str] = "crops"
    flow: ClassVar[str] = "crop"
    version: ClassVar[int] = 3
    unit: ClassVar[str] = "photos"
    cutter: ClassVar[str] = "dcgan_core.crop.cutters:open_cutter_alone"

    config: CropConfig

    def settings(self) -> dict[str, Json]:
        settings = self.config.identity()
        del settings["weights_sha256"]  # counts as source, given or found
        if self.config.method != "yunet":
            del settings["min_score"], settings["align"]
        if self.config.method == "center":
            for field in ("min_size", "margin", "detect_side", "max_faces", "max_outside"):
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
        if wanted and "://" in self.config.weights:
            return {"weights_sha256": wanted.strip().lower()}  # nothing is fetched before there is work
        return {"weights_sha256": sha256_of_file(yunet_weights(self.config))}

    def plan(self, store: Store) -> Sequence[Part]:
        files = self.input_manifest(store, "photos").named("photos-")
        return [
            Part(index, self.part_key(file.sha256, self.source()), file, file.rows or 0)
            for index, file in enumerate(files)
        ]

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        rows: list[dict[str, Any]] = []
        usable = 0
        # The file that was hashed is the file that is opened, also by a process that has opened it before.
        config = self.config.model_copy(update=self.source())
        photos = self._photos(store, part, progress)
        for photo, outcome in guarded(self.cutter, config, photos, seconds=config.photo_seconds):
            usable += 1
            if isinstance(outcome, Died):
                rows.append(photo.failed(_STATUS_OF[outcome.how], outcome.why))
            else:
                rows += outcome
        counts = Counter(row["status"] for row in rows)
        counts["photos"] = usable
        file = write_rows(store, self.address, f"crops-{part.index:05d}.parquet", rows, CROPS)
        return Receipt(part=part.index, key=part.key, files=(file,), counts=dict(counts))

    def _photos(self, store: Store, part: Part, progress: Progress) -> Iterator[Photo]:
        columns = ["key", "label", "status", "image"] + ["query"] * self.config.keep_names
        for done, row in enumerate(iterate_rows(store, self.inputs["photos"], part.payload, columns), 1):
            if row["status"] == "ok":
                yield Photo(row["key"], row["label"], row.get("query"), row["image"])
            progress(done, part.items, "")

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


_STATUS_OF = {"crashed": "decoder_crashed", "timeout": "decoder_timeout"}
