"""How a configuration wants to be seen by sites, and the demo's pages on a loopback server."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dcgan_core.config import Json, ScrapeConfig
from dcgan_core.scrape import demo
from dcgan_core.scrape.demo_server import DemoServer
from dcgan_core.scrape.fetch import Manners, fetch_all
from dcgan_core.scrape.sources import Item, Outcome, item_key


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


def manners_of(
    config: ScrapeConfig,
    *,
    allow_loopback: bool | None = None,
    addresses: dict[str, tuple[str, int]] | None = None,
) -> Manners:
    """How the configuration wants to be seen by a site; the arguments stand in for its own."""
    return Manners(
        user_agent=f"dcgan/0.1 (+{config.contact or 'demo'})",
        allow_loopback=config.allow_loopback if allow_loopback is None else allow_loopback,
        addresses=_addresses(config) if addresses is None else addresses,
        concurrency=config.concurrency,
        per_host=config.per_host,
        timeout_seconds=config.timeout_seconds,
        retries=config.retries,
        retry_base_seconds=config.retry_base_seconds,
        breaker_failures=config.breaker_failures,
        breaker_pause_seconds=config.breaker_pause_seconds,
        max_bytes=config.max_bytes,
    )


def _addresses(config: ScrapeConfig) -> dict[str, tuple[str, int]]:
    found = {}
    for name, where in config.addresses.items():
        address, _, port = where.rpartition(":")
        found[name.lower()] = (address.strip("[]"), int(port))
    return found
