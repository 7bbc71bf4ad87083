"""Fetching urls with aiohttp: limits, time-outs, retries, a size cap; an outcome per url, no exception."""

from __future__ import annotations

import asyncio
import ipaddress
import random
import socket
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver
from yarl import URL

from dcgan_core.scrape.sources import Item, Outcome

MAX_REDIRECTS = 5
_RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504}
_LONGEST_PAUSE_SECONDS = 60.0


@dataclass(frozen=True)
class Manners:
    """How to behave. ``addresses`` maps host names to (address, port), like curl's --resolve."""

    user_agent: str
    allow_loopback: bool = False
    addresses: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    concurrency: int = 32
    per_host: int = 4
    timeout_seconds: float = 20.0
    retries: int = 3
    retry_base_seconds: float = 0.5
    max_bytes: int = 32 * 2**20


async def fetch_all(items: Sequence[Item], manners: Manners) -> list[Outcome]:
    """Fetch all items at once as far as the manners allow; outcomes in the order of the items."""
    connector = aiohttp.TCPConnector(
        limit=manners.concurrency,
        limit_per_host=manners.per_host,
        resolver=_CheckingResolver(manners),
        use_dns_cache=False,  # an address is checked whenever it is used
    )
    timeout = aiohttp.ClientTimeout(total=manners.timeout_seconds)
    everywhere = asyncio.Semaphore(manners.concurrency)
    hosts: dict[str | None, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(manners.per_host))
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers={"User-Agent": manners.user_agent}, trust_env=False
    ) as session:

        async def one(item: Item) -> Outcome:
            # The host's place first: a slow host must not hold the places of all others.
            async with hosts[_host(item.locator)], everywhere:
                return await _with_retries(session, item, manners)

        return await asyncio.gather(*(one(item) for item in items))


class _Refused(Exception):
    """The address or scheme is not one that may be fetched."""


class _Passing(Exception):
    """A failure that may pass; ``pause`` is what the host asked for, in seconds."""

    def __init__(self, status: str, reason: str, http_status: int | None = None, pause: float = 0.0) -> None:
        super().__init__(status, reason)
        self.status, self.reason, self.http_status, self.pause = status, reason, http_status, pause


class _CheckingResolver(AbstractResolver):
    """Refuses names that resolve to addresses of this machine or of a private network."""

    def __init__(self, manners: Manners) -> None:
        self._manners = manners
        self._resolver = DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if host in self._manners.addresses:
            address, real_port = self._manners.addresses[host]
            return [
                ResolveResult(
                    hostname=host, host=address, port=real_port, family=socket.AF_INET, proto=0, flags=0
                )
            ]
        found = await self._resolver.resolve(host, port, family)
        for result in found:
            _check_address(result["host"], self._manners)
        return found

    async def close(self) -> None:
        await self._resolver.close()


async def _with_retries(session: aiohttp.ClientSession, item: Item, manners: Manners) -> Outcome:
    started = time.monotonic()
    failure = _Passing("connection_failed", "")
    for attempt in range(1, manners.retries + 2):
        try:
            outcome = await _fetch(session, item, manners)
        except _Passing as passing:
            failure = passing
        else:
            return _timed(outcome, attempt, started)
        if attempt <= manners.retries:
            jitter = random.uniform(0, manners.retry_base_seconds * 2 ** (attempt - 1))
            await asyncio.sleep(min(max(failure.pause, jitter), _LONGEST_PAUSE_SECONDS))
    outcome = Outcome(item, failure.status, failure.reason, http_status=failure.http_status)
    return _timed(outcome, manners.retries + 1, started)


def _timed(outcome: Outcome, attempts: int, started: float) -> Outcome:
    seconds = round(time.monotonic() - started, 3)
    return Outcome(
        outcome.item,
        outcome.status,
        outcome.reason,
        outcome.data,
        outcome.http_status,
        outcome.etag,
        outcome.final_url,
        attempts,
        seconds,
    )


async def _fetch(session: aiohttp.ClientSession, item: Item, manners: Manners) -> Outcome:
    """One try, redirects followed by hand so that each target is checked."""
    try:
        url = URL(item.locator)
        for _ in range(MAX_REDIRECTS + 1):
            _check_url(url, manners)
            async with session.get(url, allow_redirects=False) as response:
                if response.status in (301, 302, 303, 307, 308) and "Location" in response.headers:
                    url = url.join(URL(response.headers["Location"]))
                    continue
                return await _take(response, item, manners)
        return Outcome(item, "too_many_redirects", f"more than {MAX_REDIRECTS} redirects")
    except _Refused as refused:
        return Outcome(item, "refused", str(refused))
    except TimeoutError:
        raise _Passing("timeout", f"no complete answer in {manners.timeout_seconds:g} s") from None
    except aiohttp.ClientPayloadError:
        raise _Passing("truncated", "the body ended before its declared length") from None
    except aiohttp.InvalidURL:
        return Outcome(item, "refused", "not a valid url")
    except aiohttp.ClientError as error:
        cause = error.__cause__
        if isinstance(cause, _Refused):
            return Outcome(item, "refused", str(cause))
        # The library's own text names addresses and ports, which differ from run to run.
        raise _Passing("connection_failed", type(error).__name__) from None
    except ValueError:
        return Outcome(item, "refused", "not a valid url")


async def _take(response: aiohttp.ClientResponse, item: Item, manners: Manners) -> Outcome:
    status = response.status
    if status in _RETRY_STATUS:
        raise _Passing("http_error", f"HTTP {status}", status, _retry_after(response))
    if status != 200:
        return Outcome(item, "http_error", f"HTTP {status}", http_status=status)
    body = bytearray()
    async for chunk in response.content.iter_chunked(2**16):
        body += chunk
        if len(body) > manners.max_bytes:
            why = f"more than {manners.max_bytes} bytes"
            return Outcome(item, "too_large", why, http_status=status)
    if not body:
        return Outcome(item, "empty", "zero bytes", http_status=status)
    etag, final = response.headers.get("ETag"), str(response.url)
    return Outcome(item, "ok", data=bytes(body), http_status=status, etag=etag, final_url=final)


def _retry_after(response: aiohttp.ClientResponse) -> float:
    text = response.headers.get("Retry-After", "")
    return min(float(text), _LONGEST_PAUSE_SECONDS) if text.isdecimal() else 0.0


def _host(url: str) -> str | None:
    try:
        return URL(url).host
    except ValueError:
        return None


def _check_url(url: URL, manners: Manners) -> None:
    if url.scheme not in ("http", "https") or not url.host:
        raise _Refused("only http and https urls are fetched")
    try:
        ipaddress.ip_address(url.host)
    except ValueError:
        if url.host.replace(".", "").isdigit():  # 2130706433 and 127.1 are addresses to the C library
            raise _Refused("not a valid address") from None
        return  # a name: checked when it is resolved
    _check_address(url.host, manners)


def _check_address(text: str, manners: Manners) -> None:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    if address.is_loopback and manners.allow_loopback:
        return
    if not address.is_global or address.is_multicast:
        raise _Refused(
            "the address is not on the public internet (scrape.allow_loopback allows this machine)"
        )
