"""The stage `dedup`: an autoencoder learned from the crops, a code for each, and one kept of each group."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from dcgan_core import images
from dcgan_core.artifacts import Manifest, Receipt, read_part, write_part
from dcgan_core.config import DedupConfig, Json
from dcgan_core.progress import Progress
from dcgan_core.stage import Part, Stage, Summary
from dcgan_core.storage import Store
from dcgan_core.tables import encode_table, read_all, read_rows, write_rows

if TYPE_CHECKING:
    from dcgan_core.dedup.autoencoder import Autoencoder

CODES = pa.schema(
    [
        ("key", pa.string()),
        ("code", pa.binary()),
        ("score", pa.float32()),
        ("sharpness", pa.float32()),
        ("side", pa.int32()),
    ]
)
"""A code per crop, and what one is chosen by among duplicates: detection score, sharpness, size in pixels."""

DEDUP = pa.schema(
    [
        ("key", pa.string()),
        ("keep", pa.bool_()),
        ("group", pa.string()),
        ("kept_key", pa.string()),
        ("distance", pa.int32()),
    ]
)
"""Every crop: whether it is kept, else which one is kept in its stead and how many bits they differ in. A
group is named after the crop kept of it."""

_ENCODER_FIELDS = (
    "code_bits",
    "sample_size",
    "noise",
    "shift",
    "dropout",
    "epochs",
    "min_steps",
    "batch_size",
    "learning_rate",
)


@dataclass(frozen=True)
class TrainAutoencoder(Stage):
    """The encoder, its loss curve, and the median of each code unit over the sample."""

    artifact: ClassVar[str] = "autoencoder"
    flow: ClassVar[str] = "dedup"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "steps"

    config: DedupConfig

    def settings(self) -> dict[str, Json]:
        return self.config.identity(*_ENCODER_FIELDS)

    def plan(self, store: Store) -> Sequence[Part]:
        return [Part(0, self.part_key(self.input_manifest(store, "crops").content), None)]

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        from safetensors.torch import save

        from dcgan_core.dedup.autoencoder import fit
        from dcgan_core.dedup.codes import activations, median_thresholds

        thumbs = self._sample(store, progress)
        config = self.config
        trained = fit(
            thumbs,
            code_bits=config.code_bits,
            noise=config.noise,
            shift=config.shift,
            dropout=config.dropout,
            epochs=config.epochs,
            min_steps=config.min_steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            seed=self.seed,
            on_step=lambda step, steps, loss: progress(step, steps, f"loss {loss:.4f}"),
        )
        import torch

        tensors = dict(trained.model.state_dict())
        tensors["median"] = torch.from_numpy(median_thresholds(activations(trained.model, thumbs)))
        losses = "".join(json.dumps({"step": step, "loss": loss}) + "\n" for step, loss in trained.losses)
        files = (
            write_part(store, self.address, "autoencoder-00000.safetensors", save(tensors)),
            write_part(store, self.address, "losses-00000.jsonl", losses.encode(), rows=len(trained.losses)),
        )
        metrics = {"loss": trained.losses[-1][1], "steps": trained.losses[-1][0]}
        return Receipt(part=0, key=part.key, files=files, counts={"thumbnails": len(thumbs)}, metrics=metrics)

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        return Summary(counts=receipts[0].counts, metrics=receipts[0].metrics)

    def _sample(self, store: Store, progress: Progress) -> NDArray[np.uint8]:
        manifest = self.input_manifest(store, "crops")
        wanted = self.config.sample_size / max(1, manifest.counts["ok"])
        thumbs: list[NDArray[np.uint8]] = []
        files = manifest.named("crops-")
        for done, file in enumerate(files):
            progress(done, len(files), "reading crops")
            crops = _crops(store, manifest, file.name)
            if wanted < 1:  # by key, so that the sample of a part does not depend on the other parts
                crops = crops.loc[[_share(key, self.seed) < wanted for key in crops["key"]]]
            thumbs += _thumbnails(crops)
        return np.stack(thumbs) if thumbs else np.empty((0, 3, 32, 32), np.uint8)


@dataclass(frozen=True)
class Codes(Stage):
    """A packed code for every crop. A part covers one part of the crops."""

    artifact: ClassVar[str] = "codes"
    flow: ClassVar[str] = "dedup"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "crops"

    config: DedupConfig

    def settings(self) -> dict[str, Json]:
        return self.config.identity("threshold")

    def plan(self, store: Store) -> Sequence[Part]:
        encoder = self.input_manifest(store, "autoencoder").content
        files = self.input_manifest(store, "crops").named("crops-")
        return [
            Part(index, self.part_key(encoder, file.sha256), file.name, file.rows or 0)
            for index, file in enumerate(files)
        ]

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        from dcgan_core.dedup.codes import encode

        model, thresholds = self._encoder(store)
        crops = _crops(store, self.input_manifest(store, "crops"), part.payload)
        thumbs = _thumbnails(crops)
        packed = encode(model, np.stack(thumbs), thresholds) if thumbs else np.empty((0, 0), np.uint8)
        table = crops[["key", "score", "sharpness", "side"]].assign(code=[code.tobytes() for code in packed])
        rows = pa.Table.from_pandas(table, schema=CODES, preserve_index=False).to_pylist()
        file = write_rows(store, self.address, f"codes-{part.index:05d}.parquet", rows, CODES)
        return Receipt(part=part.index, key=part.key, files=(file,), counts={"crops": len(rows)})

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        return Summary(counts={"crops": sum(receipt.counts["crops"] for receipt in receipts)})

    def _encoder(self, store: Store) -> tuple[Autoencoder, NDArray[np.float64]]:
        from safetensors.torch import load

        from dcgan_core.dedup.autoencoder import Autoencoder

        manifest = self.input_manifest(store, "autoencoder")
        tensors = load(read_part(store, manifest.address, manifest.named("autoencoder-")[0]))
        median = tensors.pop("median").numpy()
        model = Autoencoder(len(median))
        model.load_state_dict(tensors)
        return model, median if self.config.threshold == "median" else np.zeros_like(median)


@dataclass(frozen=True)
class Dedup(Stage):
    """Groups of crops whose codes are near, and which one of each group is kept."""

    artifact: ClassVar[str] = "dedup"
    flow: ClassVar[str] = "dedup"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "crops"

    config: DedupConfig

    def settings(self) -> dict[str, Json]:
        return self.config.identity("radius")

    def plan(self, store: Store) -> Sequence[Part]:
        manifest = self.input_manifest(store, "codes")
        return [Part(0, self.part_key(manifest.content), None, manifest.counts["crops"])]

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        from dcgan_core.dedup.groups import group
        from dcgan_core.dedup.neighbours import distances, links_within

        table = read_all(store, self.input_manifest(store, "codes"), "codes-").to_pandas()
        table = table.sort_values("key", ignore_index=True)
        codes = np.stack([np.frombuffer(code, np.uint8) for code in table["code"]])
        groups = group(len(table), links_within(codes, self.config.radius), quality_rank(table))
        own = np.arange(len(table))
        rows = pd.DataFrame(
            {
                "key": table["key"],
                "keep": groups.kept_N,
                "group": table["key"].to_numpy()[groups.keeper_N],
                "kept_key": table["key"].to_numpy()[groups.keeper_N],
                "distance": distances(codes, np.stack([own, groups.keeper_N], axis=1)),
            }
        )
        table = pa.Table.from_pandas(rows, schema=DEDUP, preserve_index=False)
        data = encode_table(table.replace_schema_metadata(None))
        file = write_part(store, self.address, "dedup-00000.parquet", data, rows=len(rows))
        sizes = np.bincount(groups.group_N)
        counts = {
            "crops": len(rows),
            "kept": len(sizes),
            "near_duplicates": len(rows) - len(sizes),
            "groups_of_duplicates": int((sizes > 1).sum()),
            "largest_group": int(sizes.max()),
        }
        return Receipt(part=0, key=part.key, files=(file,), counts=counts)

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        return Summary(counts=receipts[0].counts)


def quality_rank(table: pd.DataFrame) -> NDArray[np.int64]:
    """Rank of each crop, 0 the best: by detection score, then sharpness, then size, then key."""
    best_first = table.sort_values(
        ["score", "sharpness", "side", "key"], ascending=[False, False, False, True], kind="stable"
    ).index.to_numpy()
    rank = np.empty(len(table), np.int64)
    rank[best_first] = np.arange(len(table))
    return rank


def _crops(store: Store, manifest: Manifest, name: str) -> pd.DataFrame:
    """The usable crops of one part."""
    columns = ["key", "status", "score", "sharpness", "width", "height", "image"]
    table = read_rows(store, manifest.address, manifest.named(name)[0], columns).to_pandas()
    table = table.loc[table["status"] == "ok"].reset_index(drop=True)
    table["side"] = table[["width", "height"]].min(axis=1).astype(np.int32)
    return table


def _thumbnails(crops: pd.DataFrame) -> list[NDArray[np.uint8]]:
    from dcgan_core.dedup.codes import thumbnail

    return [thumbnail(images.decode_rgb(data, max_pixels=2**31)) for data in crops["image"]]


def _share(key: str, seed: int) -> float:
    """A number in [0, 1) that depends on the key and the seed alone."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{key}".encode()).digest()[:8]) / 2**64
