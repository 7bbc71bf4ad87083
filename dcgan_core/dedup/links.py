"""The stage `links`: pairs of crops whose codes are near, found in one piece or in bands on many workers.

Up to ``dedup.codes_per_task`` codes are compared where the stage runs. Beyond that no process holds them all:
blocks of codes are first split by the keys of their bands (a shuffle), then each partition of each band is
compared on its own, with itself and with those that are a tolerated bit or two away. Both ways find the same.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dcgan_core.artifacts import (
    Address,
    Manifest,
    PartFile,
    Receipt,
    read_receipt,
    write_part,
)
from dcgan_core.config import DedupConfig, Json
from dcgan_core.errors import CorruptArtifact
from dcgan_core.progress import Progress
from dcgan_core.stage import Part, Stage, Summary
from dcgan_core.storage import Store
from dcgan_core.tables import encode_table, read_rows

if TYPE_CHECKING:
    from dcgan_core.dedup.neighbours import Band, Census

LINKS = pa.schema([("a", pa.int64()), ("b", pa.int64())])
"""Two crops whose codes are near, by their rows in the tables of codes taken one after another, a < b. Of
equal codes the first stands for all."""

Ints = NDArray[np.int64]

_SAMPLED_FILES = 8
_ROW_BYTES = 8


@dataclass(frozen=True)
class Split:
    """Part of the first wave: some files of codes, to be split by the keys of the bands."""

    first_file: int
    files: int
    bands: tuple[Band, ...]
    partition_bits: int


@dataclass(frozen=True)
class Compare:
    """Part of the second wave: one partition of one band."""

    first_rows: tuple[int, ...]
    """First row of the block of each part of the first wave, whose own rows count from 0: a block stays as it
    is where an earlier one grows."""
    bands: tuple[Band, ...]
    partition_bits: int
    band: int
    partition: int


@dataclass(frozen=True)
class Links(Stage):
    """Pairs of near codes. Whether their pictures are alike, and what follows, is for `dedup` to say."""

    artifact: ClassVar[str] = "links"
    flow: ClassVar[str] = "dedup"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "codes"

    config: DedupConfig

    def settings(self) -> dict[str, Json]:
        return self.config.identity("radius")

    def plan(self, store: Store) -> Sequence[Part]:
        manifest = self.input_manifest(store, "codes")
        files = manifest.named("codes-")
        total = sum(file.rows or 0 for file in files)
        most = self.config.codes_per_task
        if total <= most:
            return [Part(0, self.part_key(manifest.content), None, total)]
        from dcgan_core.dedup.neighbours import plan_bands

        sample = self._sample(store, manifest)
        bands = tuple(plan_bands(sample, total, self.config.radius, compare_all=False))
        # two partitions are held at once, where bits may differ across them
        bits = math.ceil(math.log2(2 * total / most))
        bits = min(bits, *(len(band.columns) for band in bands))
        parts, first_rows = [], []
        for block in _blocks(files, most // 2):
            key = self.part_key("split", _as_json(bands), bits, [file.sha256 for file in block.files])
            payload = Split(block.first_file, len(block.files), bands, bits)
            parts.append(Part(len(parts), key, payload, block.rows))
            first_rows.append(block.first_row)
        for band in range(len(bands)):
            for partition in range(2**bits):
                key = self.part_key("compare", _as_json(bands), bits, manifest.content, band, partition)
                payload = Compare(tuple(first_rows), bands, bits, band, partition)
                parts.append(Part(len(parts), key, payload, max(1, total >> bits), wave=1))
        return parts

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        if isinstance(part.payload, Split):
            return self._split(store, part, part.payload)
        from dcgan_core.dedup.neighbours import Census, links_within

        census = Census()
        if isinstance(part.payload, Compare):
            links, rows = self._compared(store, part.payload, census)
        else:
            manifest = self.input_manifest(store, "codes")
            rows_N, codes = read_codes(store, manifest, manifest.named("codes-"))
            links, rows = rows_N[links_within(codes, self.config.radius, census)], len(rows_N)
            progress(rows, rows, "")
        table = pa.Table.from_arrays([pa.array(links[:, 0]), pa.array(links[:, 1])], schema=LINKS)
        name = f"links-{part.index:05d}.parquet"
        file = write_part(store, self.address, name, encode_table(table), rows=len(links))
        counts = {"links": len(links), "most_codes_at_once": rows, **asdict(census)}
        return Receipt(part=part.index, key=part.key, files=(file,), counts=counts)

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        listed = {file.name for receipt in receipts for file in receipt.files}
        for name in store.names(f"{self.address.path}/parts"):
            if name not in listed:  # left by an earlier way of dividing the work
                store.delete(self.address.part_path(name))
        compared = [receipt.counts for receipt in receipts if "links" in receipt.counts]
        return Summary(
            {
                "links": sum(counts["links"] for counts in compared),
                "most_codes_at_once": max(counts["most_codes_at_once"] for counts in compared),
                "largest_bucket": max(counts["largest_bucket"] for counts in compared),
                "oversized_buckets": sum(counts["oversized_buckets"] for counts in compared),
            }
        )

    def _sample(self, store: Store, manifest: Manifest) -> NDArray[np.uint8]:
        """Codes out of a few files, evenly spread."""
        from dcgan_core.dedup.neighbours import SAMPLE

        files = [file for file in manifest.named("codes-") if file.rows]
        chosen = files[:: -(-len(files) // _SAMPLED_FILES)]
        each = -(-SAMPLE // len(chosen))
        found = [read_codes(store, manifest, [file])[1] for file in chosen]
        found = [codes[:: max(1, len(codes) // each)][:each] for codes in found if len(codes)]
        if len({codes.shape[1] for codes in found}) > 1:
            raise _lengths_differ(manifest.address, {codes.shape[1] for codes in found})
        return np.concatenate(found) if found else np.zeros((1, 1), np.uint8)

    def _split(self, store: Store, part: Part, split: Split) -> Receipt:
        """Rows and codes of one block, once for each band, in the order of its partitions; behind them the
        links of equal codes, of which only the first is in the bands."""
        from dcgan_core.dedup.neighbours import equal_links, partitions

        manifest = self.input_manifest(store, "codes")
        files = manifest.named("codes-")[split.first_file :][: split.files]
        rows_N, codes_NB = read_codes(store, manifest, files)
        first_U, star = equal_links(codes_NB)
        equal_M2 = rows_N[star]
        first_U = np.sort(first_U)
        rows_U, codes_UB = rows_N[first_U], codes_NB[first_U]
        pieces: list[bytes] = []
        counts: list[list[int]] = []
        for band in split.bands:
            partition_U = partitions(codes_UB, band, split.partition_bits) if len(rows_U) else rows_U
            counts.append(np.bincount(partition_U, minlength=2**split.partition_bits).tolist())
            order_U = np.argsort(partition_U, kind="stable")
            ends = np.cumsum(counts[-1])[:-1]
            for rows, codes in zip(
                np.split(rows_U[order_U], ends), np.split(codes_UB[order_U], ends), strict=True
            ):
                pieces.append(rows.astype("<i8").tobytes() + codes.tobytes())
        pieces.append(equal_M2.astype("<i8").tobytes())
        name = f"bands-{part.index:05d}.bin"
        file = write_part(store, self.address, name, b"".join(pieces), is_data=False)  # helps, is no result
        metrics = {
            "code_bytes": codes_NB.shape[1],
            "rows": counts,
            "equal": len(equal_M2),
            "checksums": [zlib.crc32(piece) for piece in pieces],
        }
        return Receipt(part=part.index, key=part.key, files=(file,), counts={}, metrics=metrics)

    def _compared(self, store: Store, compare: Compare, census: Census) -> tuple[Ints, int]:
        """Links of one partition, and how many codes were held at once at most."""
        from dcgan_core.dedup.neighbours import equal_links, pairs_in_band, shared_by_bands, sorted_pairs

        shuffled = _Shuffled(store, self.address, self.inputs["codes"], compare)
        band, bits = compare.bands[compare.band], compare.partition_bits
        rows_N, codes_NB = shuffled.partition(compare.partition)
        first_U, star = equal_links(codes_NB)
        found = [rows_N[star], *shuffled.equal()] if compare.band == 0 else []
        own_rows, own_codes = rows_N[first_U], codes_NB[first_U]
        most = len(rows_N)

        def near(rows: Ints, codes: NDArray[np.uint8], across: int) -> None:
            pairs = pairs_in_band(
                codes, band, self.config.radius, partition_bits=bits, across=across, census=census
            )
            # what an earlier band finds as well is its to report
            new_P = ~shared_by_bands(codes, pairs, compare.bands[: compare.band])
            found.append(rows[pairs[new_P]])

        near(own_rows, own_codes, 0)
        for across in _masks(bits, band.tolerance):
            other = compare.partition ^ across
            if other > compare.partition:
                rows, codes = shuffled.partition(other)
                most = max(most, len(rows_N) + len(rows))
                first_U, _ = equal_links(codes)
                near(
                    np.concatenate([own_rows, rows[first_U]]),
                    np.concatenate([own_codes, codes[first_U]]),
                    across,
                )
        return sorted_pairs(np.concatenate(found)), most


class _Shuffled:
    """What the first wave wrote, read by pieces."""

    def __init__(self, store: Store, address: Address, codes: Address, compare: Compare) -> None:
        self._store, self._address, self._compare = store, address, compare
        self._blocks = [read_receipt(store, address, block) for block in range(len(compare.first_rows))]
        widths = {receipt.metrics["code_bytes"] for receipt in self._blocks} - {0}
        if len(widths) > 1:
            raise _lengths_differ(codes, widths)
        self._width = widths.pop() if widths else 0

    def partition(self, partition: int) -> tuple[Ints, NDArray[np.uint8]]:
        """Rows (N,), ascending, and codes (N, bytes) of one partition out of all blocks."""
        place = self._compare.band * 2**self._compare.partition_bits + partition
        rows, codes = [np.empty(0, np.int64)], [np.empty((0, self._width), np.uint8)]
        for receipt, first in zip(self._blocks, self._compare.first_rows, strict=True):
            counts = [count for band in receipt.metrics["rows"] for count in band]
            n = counts[place]
            if n:
                size = _ROW_BYTES + self._width
                data = self._piece(receipt, place, sum(counts[:place]) * size, n * size)
                rows.append(np.frombuffer(data, "<i8", n).astype(np.int64) + first)
                codes.append(np.frombuffer(data, np.uint8, offset=_ROW_BYTES * n).reshape(n, self._width))
        return np.concatenate(rows), np.concatenate(codes)

    def equal(self) -> Iterator[Ints]:
        """Links of equal codes (M, 2) out of those blocks whose turn it is in this partition."""
        for block, (receipt, first) in enumerate(zip(self._blocks, self._compare.first_rows, strict=True)):
            n = receipt.metrics["equal"]
            if n and block % 2**self._compare.partition_bits == self._compare.partition:
                rows = sum(count for band in receipt.metrics["rows"] for count in band)
                data = self._piece(receipt, -1, rows * (_ROW_BYTES + self._width), 2 * _ROW_BYTES * n)
                yield np.frombuffer(data, "<i8").astype(np.int64).reshape(n, 2) + first

    def _piece(self, receipt: Receipt, number: int, start: int, size: int) -> bytes:
        path = self._address.part_path(receipt.files[0].name)
        try:
            data = self._store.read_range(path, start, start + size)
        except FileNotFoundError:
            raise CorruptArtifact(self._store.uri(path), "the file is missing") from None
        if zlib.crc32(data) != receipt.metrics["checksums"][number]:
            raise CorruptArtifact(
                self._store.uri(path), f"bytes from {start} on differ from what was written"
            )
        return data


def _lengths_differ(codes: Address, lengths: Iterable[int]) -> CorruptArtifact:
    return CorruptArtifact(str(codes), f"it has codes of {sorted(lengths)} bytes")


def read_codes(store: Store, manifest: Manifest, files: Sequence[PartFile]) -> tuple[Ints, NDArray[np.uint8]]:
    """Rows (N,), counted over these files, and packed codes (N, bytes) of the crops that have one.

    Raises CorruptArtifact where codes differ in length.
    """
    rows, packed, first = [np.empty(0, np.int64)], [], 0
    lengths: set[int] = set()
    for file in files:
        column = read_rows(store, manifest.address, file, ["code"]).column("code").combine_chunks()
        there_N = np.asarray(column.is_valid())
        rows.append(first + np.flatnonzero(there_N))
        codes = column.drop_null().to_pylist()
        lengths |= {len(code) for code in codes}
        packed.append(b"".join(codes))
        first += len(column)
    if len(lengths) > 1:
        raise _lengths_differ(manifest.address, lengths)
    rows_N = np.concatenate(rows)
    width = lengths.pop() if lengths else 0
    return rows_N, np.frombuffer(b"".join(packed), np.uint8).reshape(len(rows_N), width)


def read_links(store: Store, manifest: Manifest, rows: int) -> Ints:
    """Pairs of linked rows (M, 2) of tables of codes with so many rows, each once, in ascending order."""
    from dcgan_core.dedup.neighbours import distinct_pairs

    pairs = [np.empty((0, 2), np.int64)]
    for file in manifest.named("links-"):
        columns = read_rows(store, manifest.address, file).columns
        pairs.append(np.stack([each.to_numpy() for each in columns], 1))
    return distinct_pairs(np.concatenate(pairs), rows)


@dataclass(frozen=True)
class _Block:
    """Some files of codes that follow one another."""

    first_file: int
    first_row: int
    files: tuple[PartFile, ...]

    @property
    def rows(self) -> int:
        return sum(file.rows or 0 for file in self.files)


def _blocks(files: Sequence[PartFile], most: int) -> Iterator[_Block]:
    """Files in blocks of about ``most`` codes; a file is never split."""
    block = _Block(0, 0, ())
    for number, file in enumerate(files):
        if block.files and block.rows + (file.rows or 0) > most:
            yield block
            block = _Block(number, block.first_row + block.rows, ())
        block = _Block(block.first_file, block.first_row, (*block.files, file))
    yield block


def _masks(bits: int, tolerance: int) -> list[int]:
    """Numbers of ``bits`` bits of which at least one and at most ``tolerance`` are set."""
    return [
        sum(1 << bit for bit in chosen)
        for flips in range(1, min(tolerance, bits) + 1)
        for chosen in combinations(range(bits), flips)
    ]


def _as_json(bands: Sequence[Band]) -> list[Any]:
    return [[band.columns.tolist(), band.tolerance] for band in bands]
