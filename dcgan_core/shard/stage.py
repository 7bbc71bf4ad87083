"""The stage `shard`: kept crops in, WebDataset tars out, in a seeded order and equal counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from dcgan_core.artifacts import PartFile, Receipt, write_part
from dcgan_core.config import Json, ShardConfig
from dcgan_core.errors import NoUsableData
from dcgan_core.progress import Progress
from dcgan_core.stage import Part, Stage, Summary
from dcgan_core.storage import Store
from dcgan_core.tables import read_all, read_rows, write_rows

SHARDS_PER_PART = 16
"""Tars written together: every part reads all crops once, so fewer, larger parts read less."""


@dataclass(frozen=True)
class Shard(Stage):
    """Tars of training images, with an index beside each."""

    artifact: ClassVar[str] = "shards"
    flow: ClassVar[str] = "shard"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "images"

    config: ShardConfig

    def settings(self) -> dict[str, Json]:
        return self.config.identity()

    def plan(self, store: Store) -> Sequence[Part]:
        from dcgan_core.shard.order import balanced

        kept = len(self._order(store))
        if not kept:
            raise NoUsableData("shard", {"kept": 0}, "De-duplication kept no crop")
        content = [self.input_manifest(store, name).content for name in ("crops", "dedup")]
        shards = -(-kept // self.config.samples_per_shard)
        stretches = list(enumerate(balanced(kept, shards)))
        parts = []
        for index, first in enumerate(range(0, shards, SHARDS_PER_PART)):
            group = stretches[first : first + SHARDS_PER_PART]
            items = sum(len(stretch) for _, stretch in group)
            parts.append(Part(index, self.part_key(content, index, shards), group, items))
        return parts

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        from dcgan_core.shard.writer import INDEX, write_tar

        group: list[tuple[int, range]] = part.payload
        order = self._order(store)
        chosen = [order[position] for _, stretch in group for position in stretch]
        samples = self._samples(store, set(chosen), progress)
        files: list[PartFile] = []
        for number, stretch in group:
            data, index = write_tar(samples[order[position]] for position in stretch)
            files.append(write_part(store, self.address, f"train-{number:05d}.tar", data, rows=len(index)))
            files.append(write_rows(store, self.address, f"train-{number:05d}.index.parquet", index, INDEX))
        counts = Counter({"samples": len(chosen), "shards": len(group)})
        return Receipt(part=part.index, key=part.key, files=tuple(files), counts=dict(counts))

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        counts = Counter[str]()
        for receipt in receipts:
            counts.update(receipt.counts)
        return Summary(counts=dict(counts))

    def _order(self, store: Store) -> list[str]:
        from dcgan_core.shard.order import shuffled

        table = read_all(store, self.input_manifest(store, "dedup"), "dedup-", ["key", "keep"])
        kept = [row["key"] for row in table.to_pylist() if row["keep"]]
        return shuffled(kept, self.seed)

    def _samples(self, store: Store, wanted: set[str], progress: Progress) -> dict[str, Any]:
        from dcgan_core.shard.writer import Sample, fit_image

        manifest = self.input_manifest(store, "crops")
        samples = {}
        for file in manifest.named("crops-"):
            table = read_rows(store, manifest.address, file, ["key", "photo_key", "label", "image"])
            for row in table.to_pylist():
                if row["key"] in wanted:
                    extension, data = fit_image(
                        row["image"],
                        size=self.config.size,
                        fit=self.config.fit,
                        quality=self.config.jpeg_quality,
                    )
                    samples[row["key"]] = Sample(row["key"], extension, data, row["label"], row["photo_key"])
                    progress(len(samples), len(wanted), "")
        return samples
