"""Fetching single urls politely and safely with aiohttp: an outcome per url, never an exception."""

from __future__ import annotations

import asyncio
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Self

import aiohttp
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential
from yarl import URL

from dcgan_core.errors import FetchError, RefusedByApi
from dcgan_core.scrape.addresses import Lookup, PinnedResolver, Refused, check_url
from dcgan_core.scrape.hosts import LONGEST_PAUSE_SECONDS, Host, HostDown, cap_of
from dcgan_core.scrape.robots import MAX_BYTES, Rules, opted_out, parse
from dcgan_core.scrape.sources import Item, Outcome, printable

MAX_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
_RETRY_STATUS = {408, 425, 429, 500, 502, 503, 504}
_SLOW_DOWN_STATUS = {429, 503}
_LONGEST_JITTER_SECONDS = 60.0
_READ_BYTES = 2**18
_API_BYTES = 64 * 2**20


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
    breaker_failures: int = 8
    breaker_pause_seconds: float = 30.0
    max_bytes: int = 32 * 2**20
    lookup: Lookup | None = None
    """Another way to look names up than the system's; None: the system's."""


@dataclass(frozen=True)
class Validators:
    """What an earlier answer said of itself, for a conditional request."""

    etag: str | None = None
    last_modified: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        found = {"If-None-Match": self.etag, "If-Modified-Since": self.last_modified}
        return {name: value for name, value in found.items() if value}


class Fetcher:
    """A session over many hosts in one event loop; ``async with`` opens and closes it.

    Per host: robots.txt read once, before anything else; its crawl-delay, our caps and whatever pauses the
    host asks for kept; requests at once adapted; a circuit breaker. Per url: retries with full jitter.
    """

    def __init__(self, manners: Manners) -> None:
        self.manners = manners
        self._hosts: dict[str, Host] = {}
        self._robots: dict[tuple[str, str | None, int | None], asyncio.Task[Rules]] = {}
        self._checked: set[tuple[str, str | None]] = set()
        self._everywhere = asyncio.Semaphore(manners.concurrency)

    async def __aenter__(self) -> Self:
        manners = self.manners
        resolver = PinnedResolver(
            manners.addresses, allow_loopback=manners.allow_loopback, lookup=manners.lookup
        )
        self._session = aiohttp.ClientSession(
            # The hosts' own turnstiles limit what happens at once; the resolver's pins are the DNS cache.
            connector=aiohttp.TCPConnector(
                limit=0, limit_per_host=0, resolver=resolver, use_dns_cache=False, keepalive_timeout=30
            ),
            timeout=aiohttp.ClientTimeout(total=manners.timeout_seconds),
            headers={"User-Agent": manners.user_agent, "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_READ_BYTES,
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._robots.values():
            task.cancel()
        await asyncio.gather(*self._robots.values(), return_exceptions=True)
        await self._session.close()

    def host(self, name: str) -> Host:
        """The turnstile of a host name; the dot that ends a full name makes no other host."""
        name = name.rstrip(".")
        if name not in self._hosts:
            manners = self.manners
            self._hosts[name] = Host(
                name,
                cap_of(name, manners.per_host),
                breaker_failures=manners.breaker_failures,
                breaker_pause_seconds=manners.breaker_pause_seconds,
            )
        return self._hosts[name]

    async def fetch(self, item: Item, validators: Validators | None = None) -> Outcome:
        """One url, with retries. Status "unchanged" answers a conditional request (HTTP 304)."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        attempts = 0

        async def once() -> Outcome:
            nonlocal attempts
            attempts += 1
            return await self._follow(item, validators)

        try:
            outcome = await self._retrying(once)
        except _Passing as passing:
            outcome = Outcome(item, passing.status, passing.reason, http_status=passing.http_status)
            attempts = max(attempts, passing.attempts)
        except HostDown as down:
            outcome = Outcome(item, "host_down", str(down))
        return replace(outcome, attempts=attempts, seconds=round(loop.time() - started, 3))

    async def get_json(self, url: str, parameters: Mapping[str, str]) -> tuple[Mapping[str, str], Any]:
        """Headers and decoded JSON of an API's answer, with retries; for APIs meant for programs.

        Their etiquette (the host's cap, Retry-After, maxlag) governs, not robots.txt, which speaks to
        crawlers of pages. Raises FetchError where there is no usable answer, RefusedByApi where the API
        says that it will not answer this.
        """

        async def once() -> tuple[Mapping[str, str], Any]:
            target = URL(url).with_query(dict(parameters))
            self._check(target)
            async with self._request(target, {"Accept": "application/json"}) as response:
                host = self.host(target.host or "")
                self._judge(host, response)
                if response.status != 200:
                    text = (await self._body(response, 2000))[0][:200].decode("utf-8", "replace")
                    raise FetchError(f"{target.host} answered HTTP {response.status}: {text.strip()}")
                body, whole = await self._body(response, _API_BYTES)
                headers = {name.lower(): value for name, value in response.headers.items()}
            if not whole:
                raise FetchError(f"{target.host} answered more than {_API_BYTES} bytes; ask for less at once")
            try:
                answer = json.loads(body)
            except ValueError:
                host.failed()
                raise _Passing("bad_answer", "the answer is not JSON") from None
            if code := _api_error(answer):
                if code in ("maxlag", "ratelimited", "readonly"):
                    host.asked_to_slow_down(_retry_after(headers), self._least_pause)
                    raise _Passing("http_error", f"the API is busy ({code})")
                raise RefusedByApi(
                    f"{target.host} refuses the request: {answer['error'].get('info') or code}"
                )
            host.went_well()
            return headers, answer

        try:
            return await self._retrying(once)
        except _Passing as passing:
            raise FetchError(f"{URL(url).host}: {passing.reason}; run it again to go on") from None
        except HostDown as down:
            raise FetchError(f"{down}; run it again to go on") from None
        except Refused as refused:
            raise FetchError(f"{url}: {refused}") from None

    async def _retrying(self, once: Any) -> Any:
        manners = self.manners
        try:
            return await once()  # nearly always enough; what retries cost is paid only where there are any
        except _Passing as passing:
            if not manners.retries or passing.final:
                raise
        jitter = wait_random_exponential(multiplier=manners.retry_base_seconds, max=_LONGEST_JITTER_SECONDS)
        await asyncio.sleep(jitter(_FIRST_RETRY))
        retrying = AsyncRetrying(
            stop=stop_after_attempt(manners.retries),
            wait=jitter,
            retry=retry_if_exception(_may_pass),
            reraise=True,
        )
        return await retrying(once)

    async def _follow(self, item: Item, validators: Validators | None) -> Outcome:
        """One try, redirects followed by hand so that each target is checked and each host's rules kept."""
        extra = {"Accept": "image/*", **(validators.headers if validators else {})}
        try:
            url = URL(item.locator)
            for _ in range(MAX_REDIRECTS + 1):
                self._check(url)
                rules = await self._rules(url)
                if rules.closed:
                    raise _Passing(rules.status, rules.closed, attempts=rules.attempts, final=True)
                if not rules.allows(str(url)):
                    return Outcome(item, "robots_disallowed", f"robots.txt of {url.host} disallows it")
                async with self._request(url, extra) as response:
                    if response.status in _REDIRECTS and "Location" in response.headers:
                        self.host(url.host or "").went_well()
                        url = url.join(URL(response.headers["Location"]))
                        continue
                    return await self._take(response, url, item)
            return Outcome(item, "too_many_redirects", f"more than {MAX_REDIRECTS} redirects")
        except Refused as refused:
            return Outcome(item, "refused", str(refused))
        except (ValueError, aiohttp.InvalidURL):
            return Outcome(item, "refused", "not a valid url")

    def _request(self, url: URL, headers: Mapping[str, str]) -> _Request:
        """One request in its host's turn; what goes wrong with the connection is a ``_Passing``."""
        host = self.host(url.host or "")
        waiting = self._session.get(url, headers=headers, allow_redirects=False)
        return _Request(host, self._everywhere, waiting, self.manners.timeout_seconds)

    def _check(self, url: URL) -> None:
        """``check_url``, once for each host."""
        what = (url.scheme, url.host)
        if what not in self._checked or url.user is not None or url.password is not None:
            check_url(url, allow_loopback=self.manners.allow_loopback)
            self._checked.add(what)

    async def _rules(self, url: URL) -> Rules:
        origin = (url.scheme, url.host, url.port)
        reading = self._robots.get(origin)
        if reading is None:
            reading = self._robots[origin] = asyncio.create_task(self._read_robots(url.origin()))
        return reading.result() if reading.done() else await asyncio.shield(reading)

    async def _read_robots(self, origin: URL) -> Rules:
        """robots.txt of an origin: 4xx allows everything, 5xx and silence disallow it (RFC 9309, 2.3.1)."""
        attempts = 0

        async def once() -> Rules:
            nonlocal attempts
            attempts += 1
            url = origin / "robots.txt"
            for _ in range(MAX_REDIRECTS + 1):
                self._check(url)
                async with self._request(url, {"Accept": "text/plain"}) as response:
                    if response.status in _REDIRECTS and "Location" in response.headers:
                        url = url.join(URL(response.headers["Location"]))
                        continue
                    if response.status == 429 or response.status >= 500:
                        self._tell(self.host(url.host or ""), response)
                        raise _Passing("robots_unreachable", f"HTTP {response.status}")
                    if 200 <= response.status < 300:
                        return parse((await self._body(response, MAX_BYTES))[0])
                    return Rules()
            return Rules()  # more redirects than RFC 9309 asks to follow: as if there were none

        try:
            rules = await self._retrying(once)
        except _Passing as passing:
            return Rules(closed=_why_closed(origin, passing), status=passing.status, attempts=attempts)
        except HostDown as down:
            return Rules(closed=str(down), status="host_down", attempts=attempts)
        except Refused as refused:
            return Rules(closed=str(refused), status="refused")
        except (ValueError, aiohttp.InvalidURL):
            return Rules(closed="not a valid url", status="refused")
        host = self.host(origin.host or "")
        host.went_well()
        host.keep_apart(rules.seconds_between)
        return rules

    async def _take(self, response: aiohttp.ClientResponse, url: URL, item: Item) -> Outcome:
        status, host, limit = response.status, self.host(url.host or ""), self.manners.max_bytes
        self._judge(host, response)
        headers = response.headers

        def outcome(kind: str, reason: str, body: bytes | None = None) -> Outcome:
            return Outcome(
                item,
                kind,
                reason,
                data=body,
                http_status=status,
                etag=_header(headers, "ETag"),
                last_modified=_header(headers, "Last-Modified"),
                declared=_header(headers, "Content-Type"),
                final_url=str(url),
            )

        if status != 200:
            host.went_well()
            return outcome("unchanged", "") if status == 304 else outcome("http_error", f"HTTP {status}")
        if why := opted_out(headers):
            host.went_well()
            return outcome("opted_out", why)
        too_large = f"more than {limit} bytes"
        if response.content_length is not None and response.content_length > limit:
            return outcome("too_large", too_large)
        body, whole = await self._body(response, limit)
        host.went_well()
        encoding = headers.get("Content-Encoding", "identity").strip().lower()
        if whole and encoding in ("gzip", "x-gzip", "deflate"):
            body, whole = _inflate(body, limit)
        elif encoding not in ("", "identity"):
            return outcome("unsupported", f"sent as {encoding[:20]!r}, not asked for")
        if not whole:
            return outcome("too_large", too_large)
        return outcome("ok", "", body) if body else outcome("empty", "zero bytes")

    def _judge(self, host: Host, response: aiohttp.ClientResponse) -> None:
        """Tell the host's turnstile of an answer that may pass, and raise it."""
        self._tell(host, response)
        if response.status in _RETRY_STATUS:
            raise _Passing("http_error", f"HTTP {response.status}", response.status)

    def _tell(self, host: Host, response: aiohttp.ClientResponse) -> None:
        status = response.status
        if status in _SLOW_DOWN_STATUS:
            host.asked_to_slow_down(_retry_after(response.headers), self._least_pause)
        elif status in _RETRY_STATUS or status >= 500:
            host.failed(slow=status in (408, 504))

    @property
    def _least_pause(self) -> float:
        return 2 * self.manners.retry_base_seconds

    @staticmethod
    async def _body(response: aiohttp.ClientResponse, limit: int) -> tuple[bytes, bool]:
        """Up to ``limit`` bytes as they stream in, and whether that is all."""
        chunks: list[bytes] = []
        size = 0
        async for chunk in response.content.iter_any():
            size += len(chunk)
            chunks.append(chunk)
            if size > limit:
                response.close()
                return b"".join(chunks)[:limit], False
        return b"".join(chunks), True


async def fetch_all(items: Sequence[Item], manners: Manners) -> list[Outcome]:
    """Fetch a few items at once as far as the manners allow; outcomes in the order of the items."""
    async with Fetcher(manners) as fetcher:
        return await asyncio.gather(*(fetcher.fetch(item) for item in items))


class _Request:
    # A class, not a generator: one is made for each request.
    __slots__ = ("_everywhere", "_host", "_seconds", "_waiting")

    def __init__(self, host: Host, everywhere: asyncio.Semaphore, waiting: Any, seconds: float) -> None:
        self._host, self._everywhere, self._waiting, self._seconds = host, everywhere, waiting, seconds

    async def __aenter__(self) -> aiohttp.ClientResponse:
        try:
            await self._host.enter()
        except BaseException:
            self._waiting.close()
            raise
        try:
            await self._everywhere.acquire()
            try:
                return await self._waiting.__aenter__()
            except BaseException as error:
                self._everywhere.release()
                self._judge(error)
                raise
        except BaseException:
            self._host.leave()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._waiting.__aexit__(kind, error, trace)
        finally:
            self._everywhere.release()
            self._host.leave()
        if error is not None:
            self._judge(error)

    def _judge(self, error: BaseException) -> None:
        """Tell the host's turnstile what went wrong, and raise it as what may pass or never will."""
        if isinstance(error, TimeoutError):
            self._host.failed(slow=True)
            raise _Passing("timeout", f"no complete answer in {self._seconds:g} s") from None
        if isinstance(error, aiohttp.ClientPayloadError):
            self._host.failed()
            raise _Passing("truncated", "the body ended before its declared length") from None
        if isinstance(error, aiohttp.ClientError) and not isinstance(error, aiohttp.InvalidURL):
            if isinstance(error.__cause__, Refused):
                raise error.__cause__ from None
            self._host.failed()
            # The library's own text names addresses and ports, which differ from run to run.
            raise _Passing("connection_failed", type(error).__name__) from None


class _Passing(Exception):
    """A failure that may pass; ``final`` where this run need not try again."""

    def __init__(
        self,
        status: str,
        reason: str,
        http_status: int | None = None,
        attempts: int = 1,
        final: bool = False,
    ) -> None:
        super().__init__(status, reason)
        self.status, self.reason, self.http_status = status, reason, http_status
        self.attempts, self.final = attempts, final


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, _Passing) and not error.final


class _FirstRetry:
    attempt_number = 1


_FIRST_RETRY: Any = _FirstRetry()


def _header(headers: Mapping[str, str], name: str) -> str | None:
    value = headers.get(name)
    return None if value is None else printable(value)


def _why_closed(origin: URL, passing: _Passing) -> str:
    if passing.status == "robots_unreachable":
        return f"robots.txt of {origin.host} answers {passing.reason}, which disallows everything (RFC 9309)"
    return passing.reason


def _api_error(answer: Any) -> str | None:
    error = answer.get("error") if isinstance(answer, dict) else None
    return str(error.get("code", "unknown")) if isinstance(error, dict) else None


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that Retry-After asks for, in seconds or as a date; 0 where it says nothing usable."""
    text = headers.get("Retry-After") or headers.get("retry-after") or ""
    text = text.strip()
    if text.isdecimal() and text.isascii():
        return float(text) if len(text) < 12 else 2 * LONGEST_PAUSE_SECONDS
    try:
        when = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return 0.0
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def _inflate(body: bytes, limit: int) -> tuple[bytes, bool]:
    """Decompress up to ``limit`` bytes; no more is ever made of a body, however much it claims to hold."""
    try:
        inflater = zlib.decompressobj(wbits=47 if body[:2] == b"\x1f\x8b" or body[:1] == b"\x78" else -15)
        data = inflater.decompress(body, limit + 1)
    except zlib.error:
        return b"", True
    return data[:limit], len(data) <= limit
