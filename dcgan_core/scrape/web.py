"""Sources on the web: a list of urls, and the demo's pages on a loopback server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from dcgan_core.config import Json, ScrapeConfig
from dcgan_core.scrape import demo
from dcgan_core.scrape.demo_server import DemoServer
from dcgan_core.scrape.fetch import Manners, fetch_all
from dcgan_core.scrape.sources import Item, Outcome, UrlList, item_key
from dcgan_core.storage import sha256_hex


@dataclass(frozen=True)
class UrlSource:
    """Urls of a list, fetched over HTTP."""

    config: ScrapeConfig

    def identity(self) -> dict[str, Json]:
        return {"list_sha256": sha256_hex(self._list.content)}

    def items(self) -> Sequence[Item]:
        return self._items

    @cached_property
    def _list(self) -> UrlList:
        return UrlList(self.config)

    @cached_property
    def _items(self) -> list[Item]:
        as_of = str(self.config.as_of or "")
        return [
            Item(item_key(url), url, state=as_of, url=url, caption=caption)
            for url, caption in self._list.entries
        ]

    def read(self, items: Sequence[Item]) -> Iterator[Outcome]:
        manners = manners_of(self.config, allow_loopback=self.config.allow_loopback)
        yield from asyncio.run(fetch_all(items, manners))


@dataclass(frozen=True)
class DemoSource:
    """The demo's pages, rendered and served on loopback, and fetched like any others."""

    config: ScrapeConfig
    seed: int

    def identity(self) -> dict[str, Json]:
        return {**demo.identity(), "seed": self.seed}

    def items(self) -> Sequence[Item]:
        photos = demo.demo_photos(self.seed)[: self.config.limit]
        return [Item(item_key(photo.url), photo.url, url=photo.url) for photo in photos]

    def read(self, items: Sequence[Item]) -> Iterator[Outcome]:
        with DemoServer(self.seed) as server:
            addresses = {demo.DEMO_HOST: ("127.0.0.1", server.port)}
            manners = manners_of(self.config, allow_loopback=True, addresses=addresses)
            yield from asyncio.run(fetch_all(items, manners))


def _in_windows(items: Sequence[Item], manners: Manners) -> Iterator[Outcome]:
    """A few round trips' worth at a time, so that not all bodies of a part are held at once."""
    width = 4 * manners.concurrency
    for start in range(0, len(items), width):
        yield from asyncio.run(fetch_all(items[start : start + width], manners))


def manners_of(
    config: ScrapeConfig, *, allow_loopback: bool, addresses: dict[str, tuple[str, int]] | None = None
) -> Manners:
    """How the configuration wants to be seen by a site."""
    return Manners(
        user_agent=f"dcgan/0.1 (+{config.contact or 'demo'})",
        allow_loopback=allow_loopback,
        addresses=addresses or {},
        concurrency=config.concurrency,
        per_host=config.per_host,
        timeout_seconds=config.timeout_seconds,
        retries=config.retries,
        retry_base_seconds=config.retry_base_seconds,
        max_bytes=config.max_bytes,
    )
