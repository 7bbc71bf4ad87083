"""Image search by name: what a search engine is to us, and the stage `searches` that asks one."""

from __future__ import annotations

import asyncio
import hashlib
import html
import importlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from html.parser import HTMLParser
from typing import Any, ClassVar, Protocol

import pyarrow as pa

from dcgan_core.artifacts import Receipt
from dcgan_core.config import Json, ScrapeConfig
from dcgan_core.errors import ConfigError, NoUsableData, RefusedByApi
from dcgan_core.exclusions import normal_name, read_exclusions
from dcgan_core.journal import Journal
from dcgan_core.progress import Progress
from dcgan_core.scrape.fetch import Fetcher
from dcgan_core.scrape.sources import Item, chunks, printable
from dcgan_core.scrape.web import manners_of
from dcgan_core.stage import Part, Stage, Summary
from dcgan_core.storage import Store
from dcgan_core.tables import read_all, write_rows

NAMES_PER_PART = 64
_LONGEST_TEXT = 500


@dataclass(frozen=True)
class Found:
    """One picture that a search engine found. Texts are plain: no HTML (``plain_text``)."""

    url: str
    """What to fetch."""
    page_url: str | None = None
    """The page that shows the picture and says whose it is."""
    caption: str | None = None
    licence: str | None = None
    licence_url: str | None = None
    artist: str | None = None
    credit: str | None = None
    restrictions: str | None = None
    sha1: str | None = None
    """Hex digest of the very bytes at ``url``, where the engine knows it."""
    status: str = "ok"
    """Not "ok": the picture cannot be used, and ``reason`` says why."""
    reason: str = ""


class Api(Protocol):
    """What engines ask through: one request at a time, within the host's caps, retried."""

    async def get_json(self, url: str, parameters: Mapping[str, str]) -> tuple[Mapping[str, str], Any]: ...


class SearchEngine(Protocol):
    """To add an engine: write one of these, allow it (``DCGAN_ENGINES``) and name it,
    ``scrape.engine=package.module:Class``.

    It is made with the ``ScrapeConfig`` and must be cheap to make and to pickle.
    """

    def identity(self) -> dict[str, Json]:
        """What decides about its answers: a name, a version of this code, settings; no keys or secrets."""
        ...

    async def search(self, api: Api, name: str, limit: int) -> list[Found]:
        """Up to ``limit`` pictures for a name, best first.

        FetchError where the engine does not answer, RefusedByApi where it will not take this name.
        """
        ...


FOUND = pa.schema(
    [
        ("query", pa.string()),
        ("rank", pa.int32()),
        *((name, pa.string()) for name in Found.__dataclass_fields__),
    ]
)
"""One row per picture found, and one for a name without any."""


def open_engine(config: ScrapeConfig) -> SearchEngine:
    """The engine that the configuration names. ConfigError if there is none of that name.

    Whether it may be imported has been decided when the configuration was loaded (``check_allowed``).
    """
    if config.engine == "commons":
        from dcgan_core.scrape.commons import Commons

        return Commons(config)
    module, colon, name = config.engine.partition(":")
    if not colon:
        raise ConfigError(
            f"scrape.engine is {config.engine!r}: built in is commons; your own is package.module:Class"
        )
    try:
        return getattr(importlib.import_module(module), name)(config)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"scrape.engine {config.engine!r} cannot be loaded ({error}); it must be importable here and on "
            "all workers"
        ) from None


@dataclass(frozen=True)
class Searches(Stage):
    """Pictures found for each name. One worker asks, however many there are: the engine is one host."""

    artifact: ClassVar[str] = "searches"
    flow: ClassVar[str] = "scrape"
    version: ClassVar[int] = 1
    unit: ClassVar[str] = "names"
    together: ClassVar[bool] = True

    config: ScrapeConfig

    def settings(self) -> dict[str, Json]:
        return self.config.identity("max_people", "images_per_person", "as_of")

    def source(self) -> dict[str, Json]:
        return self._engine.identity()

    @cached_property
    def _engine(self) -> SearchEngine:
        return open_engine(self.config)

    def plan(self, store: Store) -> Sequence[Part]:
        excluded = read_exclusions(store).names()
        manifest = self.input_manifest(store, "people")
        rows = read_all(store, manifest, "people-", ["key", "name", "status"]).to_pylist()
        people = [row for row in rows if row["status"] == "ok" and normal_name(row["name"]) not in excluded]
        # The same people whatever the order of the list, and more of them as the limit grows.
        chosen = sorted(people, key=lambda row: _draw(self.seed, row["key"]))[: self.config.max_people]
        items = [Item(row["key"], row["name"]) for row in chosen]
        return [
            Part(
                index,
                self.part_key(self.source(), [item.locator for item in part]),
                [item.locator for item in part],
                len(part),
                lane="search",
            )
            for index, part in enumerate(chunks(items, NAMES_PER_PART))
        ]

    def work(self, store: Store, part: Part, progress: Progress) -> Receipt:
        return next(iter(self.work_together(store, [part], progress)))

    def work_together(self, store: Store, parts: Sequence[Part], progress: Progress) -> Iterator[Receipt]:
        """All parts with one session, so that the engine's limits hold from part to part."""
        total, done = sum(part.items for part in parts), 0
        with asyncio.Runner() as runner:
            fetcher = runner.run(Fetcher(manners_of(self.config)).__aenter__())
            try:
                for part in parts:

                    def one_more(done: int = done) -> None:
                        progress(done, total, "")

                    yield runner.run(self._search(store, part, fetcher, one_more))
                    done += part.items
            finally:
                runner.run(fetcher.__aexit__(None, None, None))

    async def _search(self, store: Store, part: Part, fetcher: Fetcher, progress: Any) -> Receipt:
        journal = Journal(store, f"{self.address.path}/journal/{part.key}")
        rows: list[dict[str, Any]] = []
        try:
            for name in part.payload:
                if name not in journal.entries:
                    found = await self._ask(fetcher, name)
                    journal.append(name, {}, json.dumps([asdict(each) for each in found]).encode())
                progress()
                each_found = json.loads(journal.body(name))
                rows += [_row(name, rank, each) for rank, each in enumerate(each_found)]
        finally:
            journal.close()
        file = write_rows(store, self.address, f"searches-{part.index:05d}.parquet", rows, FOUND)
        journal.delete()
        counts = Counter(row["status"] for row in rows)
        return Receipt(
            part=part.index, key=part.key, files=(file,), counts={"names": len(part.payload), **counts}
        )

    async def _ask(self, fetcher: Fetcher, name: str) -> list[Found]:
        try:
            found = await self._engine.search(fetcher, name, self.config.images_per_person)
        except RefusedByApi as error:
            return [Found("", status="search_refused", reason=str(error)[:_LONGEST_TEXT])]
        return found or [
            Found("", status="nothing_found", reason="the engine knows no picture for this name")
        ]

    def finish(self, store: Store, receipts: Sequence[Receipt]) -> Summary:
        counts = Counter[str]()
        for receipt in receipts:
            counts.update(receipt.counts)
        if not counts["ok"]:
            raise NoUsableData("searches", dict(counts), "No search found a usable picture: try other names")
        return Summary(counts=dict(sorted(counts.items())))


def _row(name: str, rank: int, found: Mapping[str, Any]) -> dict[str, Any]:
    texts = {key: printable(value) if isinstance(value, str) else value for key, value in found.items()}
    return {"query": name, "rank": rank, **texts}


def plain_text(value: object) -> str | None:
    """Text of a fragment of HTML from the web, one line, at most 500 signs; None where nothing is left.

    Tags go with what is in script and style; entities are resolved. It is still untrusted: whoever shows it
    must escape it.
    """
    if value is None:
        return None
    reader = _Text()
    reader.feed(str(value))
    reader.close()
    text = " ".join(html.unescape("".join(reader.pieces)).split())
    shown = "".join(sign for sign in text if sign.isprintable())[:_LONGEST_TEXT]
    return " ".join(shown.split()) or None


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in ("script", "style")
        self.pieces.append(" " if tag in ("br", "p", "div", "li", "tr", "td") else "")

    def handle_endtag(self, tag: str) -> None:
        self._hidden = max(0, self._hidden - (tag in ("script", "style")))

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.pieces.append(data)


def _draw(seed: int, key: str) -> str:
    return hashlib.sha256(f"{seed}:{key}".encode()).hexdigest()
