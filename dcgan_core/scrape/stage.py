"""The stage `scrape` over files: a source in, photos out, one row per item with its outcome."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, ClassVar

from dcgan_core.artifacts import Manifest, Receipt, read_manifest, read_receipts
from dcgan_core.config import Json, ScrapeConfig
from dcgan_core.errors import NoUsableData
from dcgan_core.exclusions import photos_key, read_exclusions
from dcgan_core.progress import Progress
from dcgan_core.scrape.brakes import judged, was_stopped
from dcgan_core.scrape.earlier import Earlier, carried_over, earlier_editions, is_from_web
from dcgan_core.scrape.listings import Listings
from dcgan_core.scrape.photos import (
    FETCHES,
    PASSING,
    PHOTOS,
    count_carried,
    count_outcomes,
    excluded_row,
    fetch_row,
    photo_row,
)
from dcgan_core.scrape.sources import Item, Outcome, PassesOver, Source, chunks, open_source
from dcgan_core.stage import Part, Stage, Summary
from dcgan_core.storage import Store
from dcgan_core.tables import read_all, write_rows, write_stream

_COMMON_FIELDS = ("source", "limit", "items_per_part", "max_bytes", "max_pixels")
_FIELDS_OF = {"parquet": ("image_column", "label_column")}
"""Settings that make a difference: to all sources, and to one alone."""


@dataclass(frozen=True)
class Scrape(Stage):
    """Photos from a source that is there already. A part is a stretch of the source's items."""

    artifact: ClassVar[str] = "photos"
    flow: ClassVar[str] = "scrape"
    version: ClassVar[int] = 3
    unit: ClassVar[str] = "photos"

    config: ScrapeConfig
    store: Store | None = None
    """Where files are known again by what earlier editions noted of them; None: their times count."""

    def settings(self) -> dict[str, Json]:
        return self.config.identity(*_COMMON_FIELDS, *_FIELDS_OF.get(self.config.source, ()))

    def source(self) -> dict[str, Json]:
        return self._identity

    @cached_property
    def _source(self) -> Source:
        return open_source(self.config, self.seed, self._known)

    @cached_property
    def _known(self) -> Listings:
        return Listings(self.store, self.config.source)

    @cached_property
    def _identity(self) -> dict[str, Json]:
        return self._source.identity()

    def __getstate__(self) -> dict[str, Any]:
        """Without what the planner alone needs: a long listing, and what is known of its files."""
        gone = ("_source", "_known")
        return {name: value for name, value in self.__dict__.items() if name not in gone} | {"store": None}

    def plan(self, store: Store) -> Sequence[Part]:
        items = _repeats_named(self._source.items())
        if not items:
            where = self.config.path or self.config.source
            advice = f"The source {where} is empty: check scrape.path and scrape.source"
            raise NoUsableData("scrape", self._passed_over(), advice)
        exclusions = read_exclusions(store)
        parts = []
        for index, part in enumerate(chunks(items, self.config.items_per_part)):
            base = self.part_key([_item_identity(item) for item in part])
            excluded = {item.key: why for item in part if (why := exclusions.why(_known_of(item)))}
            parts.append(
                Part(index, photos_key(base, excluded, exclusions.hashes), (base, part, excluded), len(part))
            )
        return parts

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        base, items, excluded = part.payload
        exclusions = read_exclusions(store)
        fetches: list[dict[str, Any]] = []
        counts = Counter[tuple[str, str]]()

        @cache
        def earlier() -> Earlier:
            return earlier_editions(store, self.address.fingerprint, self._is_like)

        def rows() -> Iterator[dict[str, Any]]:
            wanted = [item for item in items if item.state != REPEATED and item.key not in excluded]
            outcomes = self._source.read(wanted)
            for done, item in enumerate(items, 1):
                if item.key in excluded:
                    outcome, row = Outcome(item, "excluded"), excluded_row(item.key, excluded[item.key])
                elif item.state == REPEATED:
                    outcome = Outcome(item, "duplicate", "the source names it more than once")
                    row = photo_row(outcome, self.config.max_pixels)
                else:
                    outcome = next(outcomes)
                    if outcome.status in PASSING:
                        known = earlier().find(item.key)
                        outcome = carried_over(outcome, known, {}, self.config.max_bytes)
                    row = photo_row(outcome, self.config.max_pixels, exclusions=exclusions)
                if row["status"] == "excluded":
                    outcome = Outcome(item, "excluded")
                fetches.append(fetch_row(outcome))
                counts[row["status"], row["reason"]] += 1
                progress(done, len(items), "")
                yield row

        files = (
            write_stream(store, self.address, f"photos-{part.index:05d}.parquet", rows(), PHOTOS),
            write_rows(
                store, self.address, f"fetches-{part.index:05d}.parquet", fetches, FETCHES, is_data=False
            ),
        )
        statuses, reasons = count_outcomes(counts)
        metrics = {"base": base, "excluded": sorted(excluded), "reasons": reasons}
        if carried := count_carried(fetches):
            metrics["carried_over"] = carried
        return Receipt(part=part.index, key=part.key, files=files, counts=statuses, metrics=metrics)

    def prepare(self, store: Store, parts: Sequence[Part]) -> Sequence[Part]:
        """After a try that was stopped, read again what could not be read."""
        if was_stopped(self, self.config, store, parts):
            for receipt in read_receipts(store, self.address).values():
                if receipt.counts.keys() & PASSING or receipt.metrics.get("carried_over"):
                    store.delete(f"{self.address.path}/receipts/{receipt.part:05d}.json")
        return parts

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        summary = judged(self, self.config, store, receipts)
        if passed_over := self._passed_over():
            return replace(summary, metrics={**summary.metrics, "passed_over": passed_over})
        return summary

    def settle(self, store: Store) -> None:
        def hashes() -> dict[str, str]:
            manifest = read_manifest(store, self.address)
            rows = read_all(store, manifest, "photos-", ["key", "sha256"]).to_pylist() if manifest else []
            return {row["key"]: row["sha256"] for row in rows if row["sha256"]}

        self._known.note(self.address, hashes)

    def _is_like(self, manifest: Manifest) -> bool:
        return not is_from_web(manifest) and manifest.config == self.settings()

    def _passed_over(self) -> dict[str, int]:
        return self._source.passed_over() if isinstance(self._source, PassesOver) else {}


REPEATED = "repeated"


def _repeats_named(items: Sequence[Item]) -> list[Item]:
    """The same items, the second and later of equal key marked, with keys of their own."""
    seen: Counter[str] = Counter()
    marked = []
    for item in items:
        seen[item.key] += 1
        if seen[item.key] > 1:
            key = f"{item.key}r{seen[item.key]}"
            marked.append(Item(key, item.locator, REPEATED, url=item.url, caption=item.caption))
        else:
            marked.append(item)
    return marked


def _known_of(item: Item) -> dict[str, Any]:
    return {"key": item.key.partition("r")[0], "url": item.url}


def _item_identity(item: Item) -> list[Json]:
    return [item.key, item.locator, item.state, item.size, item.offset, item.label, item.caption]
