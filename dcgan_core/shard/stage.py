"""The stage `shard`: kept crops in, WebDataset tars out, in a seeded order and equal counts.

A set that one task can hold is made straight from the crops. A larger one is shuffled through files, in two
waves: blocks of crops are brought to training size and sorted by where they go; then each task reads its
stretch out of all blocks and writes its tars. Nobody holds more than a task's samples, and both ways write
the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar

from dcgan_core.artifacts import PartFile, Receipt, read_receipt
from dcgan_core.config import Json, ShardConfig
from dcgan_core.errors import CorruptArtifact, NoUsableData
from dcgan_core.progress import Progress
from dcgan_core.stage import Part, Stage, Summary
from dcgan_core.storage import Store

if TYPE_CHECKING:
    from dcgan_core.shard.plan import Crops, Layout
    from dcgan_core.shard.writer import Sample


@dataclass(frozen=True)
class Scatter:
    """Part of the first wave: some tables of crops, whose samples are sorted by where they go."""

    tables: range
    layout: Layout


@dataclass(frozen=True)
class Gather:
    """Part that writes tars: the second wave's, or the only one's (``blocks`` is 0)."""

    task: int
    blocks: int
    layout: Layout


@dataclass(frozen=True)
class Shard(Stage):
    """Tars of training images, with an index beside each."""

    artifact: ClassVar[str] = "shards"
    flow: ClassVar[str] = "shard"
    version: ClassVar[int] = 2
    unit: ClassVar[str] = "images"
    numbered_by_part: ClassVar[bool] = False

    config: ShardConfig

    def settings(self) -> dict[str, Json]:
        settings = self.config.identity()
        for name in ("jpeg", "webp"):
            if self.config.format != name:
                del settings[f"{name}_quality"]
        return settings

    def plan(self, store: Store) -> Sequence[Part]:
        from dcgan_core.shard.plan import in_blocks

        crops = self.crops(store)
        layout = self.layout(crops.counts())
        if not layout.total:
            raise NoUsableData("shard", {"kept": 0}, "De-duplication kept no crop")
        content = [crops.crops.content, crops.dedup.content]
        tasks, ends = layout.tasks, [0, *layout.task_ends]
        blocks = in_blocks(crops.tables, layout) if len(tasks) > 1 else []
        parts = []
        for tables in blocks:
            items = sum(layout.kept_F[table] for table in tables)
            key = self.part_key("scatter", content, layout.task_ends, tables.start, tables.stop)
            parts.append(Part(len(parts), key, Scatter(tables, layout), items))
        count = len(layout.shards)
        for task, shards in enumerate(tasks):
            key = self.part_key(content, shards.start, shards.stop, count)
            payload = Gather(task, len(blocks), layout)
            parts.append(Part(len(parts), key, payload, ends[task + 1] - ends[task], wave=1))
        return parts

    def prepare(self, store: Store, parts: Sequence[Part]) -> Sequence[Part]:
        from dcgan_core.shard.blocks import block_path

        for part in parts:
            if isinstance(part.payload, Scatter) and not store.exists(block_path(self.address, part.index)):
                store.delete(f"{self.address.path}/receipts/{part.index:05d}.json")
        return parts

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        if isinstance(part.payload, Scatter):
            return self._scatter(store, part, part.payload, progress)
        from dcgan_core.shard.writer import write_shard

        gather: Gather = part.payload
        layout = gather.layout
        shards, positions = layout.tasks[gather.task], layout.shards
        first = positions[shards.start].start
        samples = self._gathered(store, gather) if gather.blocks else None
        if samples is None:
            samples = self.stretch(store, layout, range(first, positions[shards.stop - 1].stop))
        files: list[PartFile] = []
        for done, number in enumerate(shards, 1):
            own = positions[number]
            files += write_shard(store, self.address, number, samples[own.start - first : own.stop - first])
            progress(done, len(shards), "")
        counts = {"samples": len(samples), "shards": len(shards)}
        return Receipt(part=part.index, key=part.key, files=tuple(files), counts=counts)

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        from dcgan_core.shard.blocks import FOLDER

        store.delete(f"{self.address.path}/{FOLDER}")
        counts = Counter[str]()
        for receipt in receipts:
            counts.update(receipt.counts)
        return Summary(counts=dict(counts))

    def crops(self, store: Store) -> Crops:
        """What the samples are made of."""
        from dcgan_core.shard.plan import Crops

        crops, dedup = (self.input_manifest(store, name) for name in ("crops", "dedup"))
        return Crops(store, crops, dedup, self.config)

    def layout(self, kept_F: tuple[int, ...]) -> Layout:
        """Where they go."""
        from dcgan_core.shard.plan import Layout

        return Layout(kept_F, self.seed, self.config.samples_per_shard, self.config.samples_per_task)

    def stretch(self, store: Store, layout: Layout, positions: range) -> list[Sample]:
        """Samples at some positions, straight from the crops."""
        from dcgan_core.shard.plan import stretch

        return stretch(self.crops(store), layout, positions)

    def _scatter(self, store: Store, part: Part, scatter: Scatter, progress: Progress) -> Receipt:
        from dcgan_core.shard.blocks import write_block

        placed = self._placed(store, part, scatter, progress)
        segments = write_block(store, self.address, part.index, placed, scatter.layout.task_ends)
        return Receipt(part=part.index, key=part.key, files=(), metrics=asdict(segments))

    def _placed(
        self, store: Store, part: Part, scatter: Scatter, progress: Progress
    ) -> Iterator[tuple[int, Sample]]:
        import numpy as np

        crops, layout = self.crops(store), scatter.layout
        shuffle, first_F = layout.shuffle(), layout.first_kept
        done = 0
        for table in scatter.tables:
            numbers = np.arange(layout.kept_F[table]) + first_F[table]
            places = shuffle.places(numbers).tolist()
            for number, sample in crops.samples(table):
                done += 1
                progress(done, part.items, "")
                yield places[number], sample

    def _gathered(self, store: Store, gather: Gather) -> list[Sample] | None:
        """A task's samples out of all blocks; None where a block is gone, which only costs time."""
        from dcgan_core.shard.blocks import Segments, read_segment

        placed: list[tuple[int, Sample]] = []
        try:
            for block in range(gather.blocks):
                noted = read_receipt(store, self.address, block).metrics
                segments = Segments(tuple(noted["ends"]), tuple(noted["crc32"]))
                placed += read_segment(store, self.address, block, gather.task, segments)
        except (FileNotFoundError, CorruptArtifact):
            return None
        ends = [0, *gather.layout.task_ends]
        if len(placed) != ends[gather.task + 1] - ends[gather.task]:
            return None
        placed.sort(key=lambda pair: pair[0])
        return [sample for _, sample in placed]
