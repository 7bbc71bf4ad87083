"""The stage `candidates`: what a list or a search names, cut into lanes by host, whatever its length."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dcgan_core.artifacts import PartFile, Receipt
from dcgan_core.config import Json, ScrapeConfig
from dcgan_core.errors import NoUsableData
from dcgan_core.progress import Progress
from dcgan_core.scrape.lists import UrlList
from dcgan_core.scrape.sources import host_of, item_key, stretches
from dcgan_core.stage import Part, Stage, Summary
from dcgan_core.storage import Store, sha256_hex, sha256_of_file
from dcgan_core.tables import encode_rows, iterate_rows, write_rows

LANES = 64
"""Hosts are dealt out to so many lanes; a lane is fetched by one worker at a time."""

CANDIDATES = pa.schema(
    [
        ("key", pa.string()),
        ("url", pa.string()),
        ("page_url", pa.string()),
        ("query", pa.string()),
        ("caption", pa.string()),
        ("licence", pa.string()),
        ("licence_url", pa.string()),
        ("artist", pa.string()),
        ("credit", pa.string()),
        ("restrictions", pa.string()),
        ("sha1", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
    ]
)
"""One row per url named; ``status`` is "ok" where it is to be fetched. A row group is a stretch."""

STRETCHES = pa.schema(
    [
        ("file", pa.string()),
        ("group", pa.int32()),
        ("lane", pa.string()),
        ("rows", pa.int32()),
        ("digest", pa.string()),
    ]
)
"""What is to be one part of the photos: a row group of a file of candidates, and the hash of its rows."""

_SPILL_ROWS = 20_000
_FILE_ROWS = 20_000


@dataclass(frozen=True)
class Candidates(Stage):
    """Urls to fetch, with what is known of each. Rows of one host lie together, in the list's order."""

    artifact: ClassVar[str] = "candidates"
    flow: ClassVar[str] = "scrape"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "urls"

    config: ScrapeConfig

    def settings(self) -> dict[str, Json]:
        fields = ["source", "limit", "items_per_part", "licences", "drop_restrictions"]
        if self.config.source == "urls":
            fields += ["url_column", "caption_column"]
        return self.config.identity(*fields)

    def source(self) -> dict[str, Json]:
        return self._identity

    @cached_property
    def _identity(self) -> dict[str, Json]:
        return UrlList(self.config).identity() if self.config.source == "urls" else {}

    def plan(self, store: Store) -> Sequence[Part]:
        content = [self.input_manifest(store, name).content for name in self.inputs]
        return [Part(0, self.part_key(self.source(), content), None)]

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        counts = Counter[str]()
        files: list[PartFile] = []
        stretch_rows: list[dict[str, Any]] = []
        with tempfile.TemporaryDirectory(prefix="dcgan-candidates-") as folder:
            spill = _Spill(Path(folder))
            for number, row in enumerate(self._named(store), 1):
                spill.add(row)
                if number % 10_000 == 0:
                    progress(number, number, "reading")
            writer = _Writer(self, store)
            for lane, rows in spill.lanes():
                kept = self._filtered(rows, counts)
                for stretch in stretches(kept, self.config.items_per_part, _key, _no_size):
                    stretch_rows.append(writer.add(lane, stretch))
            files += writer.close()
        files.append(write_rows(store, self.address, "stretches.parquet", stretch_rows, STRETCHES))
        progress(counts.total(), counts.total(), "")
        return Receipt(part=0, key=part.key, files=tuple(files), counts=dict(counts))

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        counts = dict(receipts[0].counts)
        total = sum(counts.values())
        if not total:
            where = self.config.path or self.config.source
            raise NoUsableData(
                "scrape", {}, f"The source {where} is empty: check scrape.path and scrape.source"
            )
        return Summary(counts={"urls": total, **dict(sorted(counts.items()))})

    def _named(self, store: Store) -> Iterator[dict[str, Any]]:
        """Rows in the source's order, before anything is left out."""
        if self.config.source == "urls":
            for line in UrlList(self.config).lines():
                yield {"key": item_key(line.url), "url": line.url, "caption": line.caption, "status": "ok"}
            return
        columns = [field.name for field in CANDIDATES if field.name != "key"]
        manifest = self.input_manifest(store, "searches")
        found = (
            row
            for file in manifest.named("searches-")
            for row in iterate_rows(store, manifest.address, file, columns)
        )
        for row in islice(found, self.config.limit):
            # What has no url (nothing found for a name) has the name for a key.
            yield {**row, "key": item_key(row["url"] or f"name:{row['query']}")}

    def _filtered(self, rows: Iterable[dict[str, Any]], counts: Counter[str]) -> Iterator[dict[str, Any]]:
        for row in rows:
            if row["status"] == "ok":
                row["status"], row["reason"] = self._verdict(row)
            counts[row["status"]] += 1
            yield row

    def _verdict(self, row: dict[str, Any]) -> tuple[str, str]:
        licences, restrictions = self.config.licences, self.config.drop_restrictions
        if licences:
            licence = (row["licence"] or "").casefold()
            if not any(licence.startswith(wanted.casefold()) for wanted in licences):
                return "not_licensed", f"its licence is {row['licence'] or 'not known'}"
        if restrictions:
            carried = {each.strip().casefold() for each in (row["restrictions"] or "").split("|")}
            for restriction in restrictions:
                if restriction.casefold() in carried:
                    return "restricted", f"it carries the restriction {restriction}"
        return "ok", ""


def lane_of(url: str) -> str:
    """The lane of a url's host, two digits; urls without a host share one."""
    return _lane(host_of(url))


@lru_cache(maxsize=100_000)
def _lane(host: str) -> str:
    return f"{hashlib.sha256(host.encode('utf-8', 'replace')).digest()[0] % LANES:02d}"


class _Spill:
    """Rows sorted into lanes on disk, so that a list of any length needs the memory of a few."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._held = self._flushes = 0

    def add(self, row: dict[str, Any]) -> None:
        self._rows.setdefault(lane_of(row["url"] or ""), []).append(row)
        self._held += 1
        if self._held >= _SPILL_ROWS:
            self._flush()

    def lanes(self) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
        """Each lane's rows in the order in which they came, repeated keys marked."""
        if not self._flushes:  # a short list never touches the disk
            for lane in sorted(self._rows):
                rows = self._rows.pop(lane)
                keys = np.array([_number(row["key"]) for row in rows], np.uint64)
                yield lane, _repeats_marked(rows, keys)
            return
        self._flush()
        for lane in sorted({path.name[:2] for path in self._folder.iterdir()}):
            files = sorted(self._folder.glob(f"{lane}-*"))
            keys = np.concatenate([_keys_of(file) for file in files])
            yield lane, _repeats_marked(_rows_of(files), keys)

    def _flush(self) -> None:
        for lane, rows in self._rows.items():
            table = pa.Table.from_pylist(rows, schema=CANDIDATES)
            pq.write_table(table, self._folder / f"{lane}-{self._flushes:06d}", compression="lz4")
        self._rows.clear()
        self._held = 0
        self._flushes += 1


class _Writer:
    """Stretches as row groups of files of about 20,000 rows."""

    def __init__(self, stage: Candidates, store: Store) -> None:
        self._stage, self._store = stage, store
        self._files: list[PartFile] = []
        self._groups: list[list[dict[str, Any]]] = []
        self._rows = 0

    def add(self, lane: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
        described = {
            "file": self._name,
            "group": len(self._groups),
            "lane": lane,
            "rows": len(rows),
            "digest": sha256_hex(encode_rows(rows, CANDIDATES)),
        }
        self._groups.append(rows)
        self._rows += len(rows)
        if self._rows >= _FILE_ROWS:
            self._write()
        return described

    def close(self) -> list[PartFile]:
        if self._groups:
            self._write()
        return self._files

    def _write(self) -> None:
        path = self._stage.address.part_path(self._name)
        with self._store.writing(path) as local:
            with pq.ParquetWriter(local, CANDIDATES, compression="zstd") as writer:
                for rows in self._groups:
                    table = pa.Table.from_pylist(rows, schema=CANDIDATES)
                    writer.write_table(table, row_group_size=max(1, len(rows)))
            size, digest = local.stat().st_size, sha256_of_file(local)
        self._files.append(PartFile(name=self._name, bytes=size, sha256=digest, rows=self._rows))
        self._groups, self._rows = [], 0

    @property
    def _name(self) -> str:
        return f"candidates-{len(self._files):05d}.parquet"


def _repeats_marked(rows: Iterable[dict[str, Any]], keys: NDArray[np.uint64]) -> Iterator[dict[str, Any]]:
    """The same rows, the second and later of equal key marked, with keys of their own."""
    values, counts = np.unique(keys, return_counts=True)
    repeated = {int(value) for value in values[counts > 1]}
    seen = Counter[str]()
    for row in rows:
        if repeated and int(_number(row["key"])) in repeated:
            key = row["key"]
            seen[key] += 1
            if seen[key] > 1:
                row = {**row, "key": f"{key}r{seen[key]}"}
                if row["status"] == "ok":
                    row["status"], row["reason"] = "duplicate", "the source names it more than once"
        yield {"reason": "", "licence": None, "restrictions": None, **row}


def _keys_of(path: Path) -> NDArray[np.uint64]:
    keys = pq.ParquetFile(path).read(columns=["key"], use_threads=False)["key"].to_pylist()
    return np.array([_number(key) for key in keys], np.uint64)


def _rows_of(paths: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for path in paths:
        for batch in pq.ParquetFile(path).iter_batches(4096, use_threads=False):
            yield from batch.to_pylist()


def _number(key: str) -> int:
    return int(key[:16], 16)


def _key(row: dict[str, Any]) -> str:
    return row["key"]


def _no_size(row: dict[str, Any]) -> int:
    return 0
