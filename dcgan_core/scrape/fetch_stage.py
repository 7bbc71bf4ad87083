"""The stage `scrape` over the web: candidates in, photos out, fetched politely and kept url by url."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from dcgan_core.artifacts import Manifest, Receipt, read_part, read_receipts
from dcgan_core.config import Json, ScrapeConfig
from dcgan_core.exclusions import Exclusions, photos_key, read_exclusions
from dcgan_core.journal import Journal
from dcgan_core.progress import Progress
from dcgan_core.scrape.brakes import judged, was_stopped
from dcgan_core.scrape.crawl import Crawl, Task, journal_row
from dcgan_core.scrape.earlier import earlier_editions, is_from_web
from dcgan_core.scrape.photos import NOT_TRIED
from dcgan_core.scrape.web import manners_of
from dcgan_core.stage import Part, Stage, Summary
from dcgan_core.storage import Store
from dcgan_core.tables import iterate_rows, read_all, read_rows

_SETTLED = NOT_TRIED | {"ok"}
"""Statuses that ``retry_failed`` leaves alone."""


@dataclass(frozen=True)
class Stretch:
    """The candidates of one part."""

    file: str
    group: int
    base: str
    """Key of the part if nothing in it is excluded."""
    excluded: Mapping[str, str]


@dataclass(frozen=True)
class Fetch(Stage):
    """Photos fetched from the web. A part is a stretch of candidates; a worker does whole lanes of hosts."""

    artifact: ClassVar[str] = "photos"
    flow: ClassVar[str] = "scrape"
    version: ClassVar[int] = 2
    unit: ClassVar[str] = "photos"
    together: ClassVar[bool] = True

    config: ScrapeConfig

    def settings(self) -> dict[str, Json]:
        return self.config.identity("source", "as_of", "max_bytes", "max_pixels")

    def plan(self, store: Store) -> Sequence[Part]:
        manifest = self.input_manifest(store, "candidates")
        exclusions = read_exclusions(store)
        excluded = dict(_excluded(store, manifest, exclusions))
        parts = []
        for index, row in enumerate(read_all(store, manifest, "stretches").to_pylist()):
            base = self.part_key(row["digest"])
            left_out = excluded.get((row["file"], row["group"]), {})
            key = photos_key(base, left_out, exclusions.hashes)
            stretch = Stretch(row["file"], row["group"], base, left_out)
            parts.append(Part(index, key, stretch, row["rows"], lane=row["lane"]))
        return parts

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        return next(iter(self.work_together(store, [part], progress)))

    def work_together(self, store: Store, parts: Sequence[Part], progress: Progress) -> Iterator[Receipt]:
        """All parts in one event loop; receipts as they end, in any order."""
        manifest = self.input_manifest(store, "candidates")
        task = Task(
            store=store,
            address=self.address,
            rows_of=_Candidates(store, manifest),
            excluded_of=lambda part: part.payload.excluded,
            max_pixels=self.config.max_pixels,
            exclusions=read_exclusions(store),
            as_of=str(self.config.as_of) if self.config.as_of else None,
            earlier=earlier_editions(store, self.address.fingerprint, is_from_web),
        )
        with asyncio.Runner() as runner:
            crawl = Crawl(task, manners_of(self.config), parts, progress)
            runner.run(crawl.__aenter__())
            try:
                while receipt := runner.run(crawl.next_receipt()):
                    yield receipt
            finally:
                runner.run(crawl.__aexit__())

    def wants_more(self, store: Store, manifest: Manifest) -> bool:
        return self.config.retry_failed and any(map(_has_failed, manifest.parts))

    def prepare(self, store: Store, parts: Sequence[Part]) -> Sequence[Part]:
        """Take parts in which something failed up again, what succeeded put back into their journals: with
        ``retry_failed``, or after a try that was stopped."""
        if not self.config.retry_failed and not was_stopped(self, self.config, store, parts):
            return parts
        done = read_receipts(store, self.address)
        for part in parts:
            receipt = done.get(part.index)
            if receipt and part.key == receipt.key and _has_failed(receipt):
                self._reopen(store, part, receipt)
        return parts

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        summary = judged(self, self.config, store, receipts)
        store.delete(f"{self.address.path}/journal")
        return summary

    def _reopen(self, store: Store, part: Part, receipt: Receipt) -> None:
        files = {file.name.partition("-")[0]: file for file in receipt.files}
        fetches = read_rows(store, self.address, files["fetches"]).to_pylist()
        journal = Journal(store, f"{self.address.path}/journal/{part.payload.base}")
        columns = ["key", "status", "reason", "image"]
        rows = iterate_rows(store, self.address, files["photos"], columns)
        for row, fetched in zip(rows, fetches, strict=True):
            if row["status"] == "ok" and row["key"] not in journal.entries:
                journal_row(journal, row, fetched)
        journal.close()
        store.delete(f"{self.address.path}/receipts/{receipt.part:05d}.json")


def _has_failed(receipt: Receipt) -> bool:
    """Whether something of a part could not be fetched, carried over or not."""
    return bool(set(receipt.counts) - _SETTLED or receipt.metrics.get("carried_over"))


def _excluded(
    store: Store, manifest: Manifest, exclusions: Exclusions
) -> Iterator[tuple[tuple[str, int], dict[str, str]]]:
    """Keys of excluded candidates and why, by file and row group; reads only where there are exclusions."""
    if not exclusions.entries:
        return
    columns = ["key", "url", "page_url", "artist", "query"]
    for file in manifest.named("candidates-"):
        reader = pq.ParquetFile(pa.BufferReader(read_part(store, manifest.address, file)))
        for group in range(reader.num_row_groups):
            found = {}
            for row in reader.read_row_group(group, columns=columns, use_threads=False).to_pylist():
                known = {**row, "key": row["key"].partition("r")[0]}
                if why := exclusions.why(known):
                    found[row["key"]] = why
            if found:
                yield (file.name, group), found


class _Candidates:
    """Rows of candidates by part; a few files are held, since parts of one file come together."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self._store, self._manifest = store, manifest
        self._files = {file.name: file for file in manifest.files}
        self._held: OrderedDict[str, pq.ParquetFile] = OrderedDict()

    def __call__(self, part: Part) -> list[dict[str, Any]]:
        name = part.payload.file
        if name not in self._held:
            data = read_part(self._store, self._manifest.address, self._files[name])
            self._held[name] = pq.ParquetFile(pa.BufferReader(data))
            if len(self._held) > _FILES_HELD:
                self._held.popitem(last=False)
        return self._held[name].read_row_group(part.payload.group, use_threads=False).to_pylist()


_FILES_HELD = 4
