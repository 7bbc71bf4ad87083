"""Where the samples of a set of shards come from: kept crops by number, shards by stretches of positions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
import pyarrow.parquet as pq

from dcgan_core.artifacts import Manifest, PartFile
from dcgan_core.config import ShardConfig
from dcgan_core.errors import CorruptArtifact, DecodeError
from dcgan_core.shard.order import Indices, Shuffle, balanced
from dcgan_core.shard.writer import Sample, fit_image
from dcgan_core.storage import Store
from dcgan_core.tables import iterate_values, read_rows

_MANY_TASKS, _SMALL_TASK = 64, 16_384
_ROWS_TOGETHER = 128
_OPEN_AT_ONCE = 16


@dataclass(frozen=True)
class Layout:
    """How so many kept crops lie in shards, in a seeded order. A task makes some shards that follow on."""

    kept_F: tuple[int, ...]
    """Kept crops of each table of crops: numbered through, table after table."""
    seed: int
    samples_per_shard: int
    samples_per_task: int

    @property
    def total(self) -> int:
        return sum(self.kept_F)

    @property
    def shards(self) -> list[range]:
        """The positions in each shard; counts differ by at most one."""
        return balanced(self.total, -(-self.total // self.samples_per_shard))

    @property
    def tasks(self) -> list[range]:
        """The shards of each task."""
        # Small sets are made by several workers too, large ones by few enough tasks that what a task reads
        # of one block is worth a request.
        wanted = min(self.samples_per_task, max(_SMALL_TASK, self.total // _MANY_TASKS))
        shards, each = len(self.shards), max(1, wanted // self.samples_per_shard)
        return [range(first, min(first + each, shards)) for first in range(0, shards, each)]

    @property
    def task_ends(self) -> list[int]:
        """The position after the last one of each task."""
        shards = self.shards
        return [shards[task[-1]].stop for task in self.tasks]

    @property
    def first_kept(self) -> list[int]:
        """Number of the first kept crop of each table of crops."""
        return [0, *accumulate(self.kept_F)][:-1]

    def shuffle(self) -> Shuffle:
        """The order: which kept crop comes at a position."""
        return Shuffle(self.total, self.seed)


@dataclass(frozen=True)
class Crops:
    """Kept crops as training images: a table of `dedup` says which of a table of `crops` are kept."""

    store: Store
    crops: Manifest
    dedup: Manifest
    config: ShardConfig

    @cached_property
    def tables(self) -> list[tuple[PartFile, PartFile]]:
        """Files of crops, each with the file that says which are kept; the rows of both correspond."""
        return list(zip(self.crops.named("crops-"), self.dedup.named("dedup-"), strict=True))

    def counts(self) -> tuple[int, ...]:
        """Kept crops of each table; only one column is read, its hash unchecked."""
        with ThreadPoolExecutor(_OPEN_AT_ONCE) as pool:
            return tuple(pool.map(self._count, (file for _, file in self.tables)))

    def _count(self, file: PartFile) -> int:
        path = self.store.key(self.dedup.address.part_path(file.name))
        with self.store.filesystem().open(path, "rb") as opened:
            keep = pq.ParquetFile(opened).read(columns=["keep"], use_threads=False).column("keep")
        return int(np.count_nonzero(keep.to_numpy()))

    def samples(self, table: int, numbers_K: Indices | None = None) -> Iterator[tuple[int, Sample]]:
        """Kept crops of one table as training images, with their numbers among those; all, or some.

        Raises CorruptArtifact where the tables do not correspond or a crop cannot be decoded.
        """
        crops, decisions = self.tables[table]
        kept = read_rows(self.store, self.dedup.address, decisions, ["key", "keep"]).to_pylist()
        keys = [row["key"] for row in kept if row["keep"]]
        wanted = range(len(keys)) if numbers_K is None else numbers_K.tolist()
        number_of = {keys[number]: number for number in wanted}
        if len(number_of) < len(wanted):
            where = self.store.uri(self.dedup.address.part_path(decisions.name))
            raise CorruptArtifact(where, "it keeps a crop twice")
        columns = ["key", "photo_key", "label", "image"]
        for row in iterate_values(self.store, self.crops.address, crops, columns, _ROWS_TOGETHER):
            number = number_of.pop(row[0], None)
            if number is not None:
                yield number, self._sample(*row)
        if number_of:
            where = self.store.uri(self.crops.address.part_path(crops.name))
            raise CorruptArtifact(where, f"it lacks {next(iter(number_of))}, which dedup keeps")

    def _sample(self, key: str, photo_key: str, label: int | None, data: bytes) -> Sample:
        try:
            extension, fitted = fit_image(data, self.config)
        except DecodeError as error:
            where = self.store.uri(self.crops.address.path)
            raise CorruptArtifact(where, f"crop {key} cannot be decoded: {error}") from None
        return Sample(key, extension, fitted, label, photo_key)


def stretch(crops: Crops, layout: Layout, positions: range) -> list[Sample]:
    """The samples at some positions, in their order, straight out of the crops: reads each table they are in.

    For sets that one task can make, and to mend a shard.
    """
    numbers_P = layout.shuffle()(np.arange(positions.start, positions.stop))
    table_P = np.searchsorted(np.cumsum(layout.kept_F), numbers_P, side="right")
    first_F = layout.first_kept
    found: list[Sample | None] = [None] * len(positions)
    for table in np.unique(table_P).tolist():
        here = np.flatnonzero(table_P == table)
        own = numbers_P[here] - first_F[table]
        place_of = dict(zip(own.tolist(), here.tolist(), strict=True))
        for number, sample in crops.samples(table, own):
            found[place_of[number]] = sample
    whole = [sample for sample in found if sample is not None]
    if len(whole) < len(found):
        where = crops.store.uri(crops.crops.address.path)
        raise CorruptArtifact(where, f"{len(found) - len(whole)} of the crops that are kept are not there")
    return whole


def in_blocks(files: Sequence[tuple[PartFile, PartFile]], layout: Layout) -> list[range]:
    """Tables of crops in blocks of about as many kept crops as a task makes; a table is never split."""
    most = max(end - start for start, end in zip([0, *layout.task_ends], layout.task_ends, strict=False))
    blocks, first, held = [], 0, 0
    for number, kept in enumerate(layout.kept_F):
        if number > first and held + kept > most:
            blocks.append(range(first, number))
            first, held = number, 0
        held += kept
    return [*blocks, range(first, len(files))]
