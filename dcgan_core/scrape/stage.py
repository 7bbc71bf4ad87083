"""The stage `scrape`: a source in, photos out, one row per item with its outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import pyarrow as pa

from dcgan_core import images
from dcgan_core.artifacts import Receipt, now
from dcgan_core.config import Json, ScrapeConfig
from dcgan_core.errors import DecodeError, NoUsableData, TooManyFailures
from dcgan_core.progress import Progress
from dcgan_core.scrape.sources import Item, Outcome, Source, chunks, open_source
from dcgan_core.stage import Part, Stage, Summary
from dcgan_core.storage import Store, sha256_hex
from dcgan_core.tables import write_rows, write_stream

PHOTOS = pa.schema(
    [
        ("key", pa.string()),
        ("url", pa.string()),
        ("page_url", pa.string()),
        ("query", pa.string()),
        ("label", pa.int32()),
        ("caption", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("sha256", pa.string()),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("licence", pa.string()),
        ("licence_url", pa.string()),
        ("artist", pa.string()),
        ("credit", pa.string()),
        ("restrictions", pa.string()),
        ("image", pa.large_binary()),
    ]
)
"""One row per item; ``image`` holds the bytes as they came, null unless status is "ok"."""

FETCHES = pa.schema(
    [
        ("key", pa.string()),
        ("fetched_at", pa.string()),
        ("attempts", pa.int32()),
        ("seconds", pa.float64()),
        ("http_status", pa.int32()),
        ("etag", pa.string()),
        ("final_url", pa.string()),
    ]
)
"""What differs from run to run; outside the data hash."""


_COMMON_FIELDS = ("source", "limit", "items_per_part", "max_bytes", "max_pixels")
_FIELDS_OF = {
    "urls": ("as_of", "url_column", "caption_column"),
    "parquet": ("image_column", "label_column"),
}
"""Settings that make a difference: to all sources, and to one alone."""


@dataclass(frozen=True)
class Scrape(Stage):
    """Photos from a source. A part is a stretch of the source's items."""

    artifact: ClassVar[str] = "photos"
    flow: ClassVar[str] = "scrape"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "photos"

    config: ScrapeConfig

    def settings(self) -> dict[str, Json]:
        return self.config.identity(*_COMMON_FIELDS, *_FIELDS_OF.get(self.config.source, ()))

    def source(self) -> dict[str, Json]:
        return self._identity

    @cached_property
    def _source(self) -> Source:
        return open_source(self.config, self.seed)

    @cached_property
    def _identity(self) -> dict[str, Json]:
        return self._source.identity()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_source"}  # a long listing

    def plan(self, store: Store) -> Sequence[Part]:
        items = _repeats_named(self._source.items())
        if not items:
            where = self.config.path or self.config.source
            raise NoUsableData(
                "scrape", {}, f"The source {where} is empty: check scrape.path and scrape.source"
            )
        return [
            Part(index, self.part_key([_item_identity(item) for item in part]), part, len(part))
            for index, part in enumerate(chunks(items, self.config.items_per_part))
        ]

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        items: list[Item] = part.payload
        fetches: list[dict[str, Any]] = []
        counts = Counter[str]()

        def rows() -> Iterator[dict[str, Any]]:
            outcomes = self._source.read([item for item in items if item.state != _REPEATED])
            for done, item in enumerate(items, 1):
                if item.state == _REPEATED:
                    outcome = Outcome(item, "duplicate", "the source names it more than once")
                else:
                    outcome = next(outcomes)
                row = photo_row(outcome, self.config.max_pixels)
                fetches.append(_fetch_row(outcome))
                counts[row["status"]] += 1
                progress(done, len(items), "")
                yield row

        files = (
            write_stream(store, self.address, f"photos-{part.index:05d}.parquet", rows(), PHOTOS),
            write_rows(
                store, self.address, f"fetches-{part.index:05d}.parquet", fetches, FETCHES, is_data=False
            ),
        )
        return Receipt(part=part.index, key=part.key, files=files, counts=dict(counts))

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        counts = Counter[str]()
        for receipt in receipts:
            counts.update(receipt.counts)
        total = counts.total()
        rate = 1 - (counts["ok"] + counts["duplicate"]) / total
        too_many = rate > self.config.max_failure_rate
        if too_many or not counts["ok"]:
            for receipt in receipts:  # what may pass is tried again by the next run
                if receipt.counts.keys() & _PASSING:
                    store.delete(f"{self.address.path}/receipts/{receipt.part:05d}.json")
        if not counts["ok"]:
            advice = (
                "No item of the source is a usable photo: look at the reasons and mend them. What may pass "
                "is tried again by the next run, all of it with --refresh"
            )
            raise NoUsableData("scrape", dict(counts), advice)
        if too_many:
            raise TooManyFailures("scrape", rate, self.config.max_failure_rate, dict(counts))
        return Summary(counts={"items": total, **dict(sorted(counts.items()))})


def photo_row(outcome: Outcome, max_pixels: int) -> dict[str, Any]:
    """The row of an outcome; the header of the image is read, its pixels are not."""
    item = outcome.item
    row: dict[str, Any] = {
        "key": item.key,
        "url": item.url,
        "label": item.label,
        "caption": item.caption,
        "status": outcome.status,
        "reason": outcome.reason,
    }
    if outcome.data is None:
        return row
    row["sha256"] = sha256_hex(outcome.data)
    try:
        header = images.read_header(outcome.data, max_pixels)
    except DecodeError as error:
        return {**row, "status": error.status, "reason": error.why}
    shape = {"format": header.format, "width": header.width, "height": header.height}
    return {**row, **shape, "image": outcome.data}


_REPEATED = "repeated"
_PASSING = {"http_error", "timeout", "connection_failed", "truncated", "read_failed"}


def _repeats_named(items: Sequence[Item]) -> list[Item]:
    """The same items, the second and later of equal key marked, with keys of their own."""
    seen: Counter[str] = Counter()
    marked = []
    for item in items:
        seen[item.key] += 1
        if seen[item.key] > 1:
            key = f"{item.key}r{seen[item.key]}"
            marked.append(Item(key, item.locator, _REPEATED, url=item.url, caption=item.caption))
        else:
            marked.append(item)
    return marked


def _item_identity(item: Item) -> list[Json]:
    return [item.key, item.locator, item.state, item.size, item.offset, item.label, item.caption]


def _fetch_row(outcome: Outcome) -> dict[str, Any]:
    return {
        "key": outcome.item.key,
        "fetched_at": now(),
        "attempts": outcome.attempts,
        "seconds": outcome.seconds,
        "http_status": outcome.http_status,
        "etag": outcome.etag,
        "final_url": outcome.final_url,
    }
