"""A real HTTP server on a loopback port that logs every request; what it answers is in its subclasses."""

from __future__ import annotations

import asyncio
import hashlib
import struct
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from aiohttp import web


@dataclass
class Request:
    """One request as the server saw it; times are ``time.monotonic``."""

    host: str
    path: str
    at: float
    ended: float = 0.0
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Faults:
    """Faults on a share of the requests, decided by url and number of the try: the same in every run."""

    share: float = 1 / 3
    seed: int = 0
    kinds: tuple[str, ...] = ("500", "503", "429", "reset", "truncate", "stall")
    most_in_a_row: int = 2

    def of(self, host: str, path: str, tries: int) -> str | None:
        """The fault of the ``tries``-th request (from 1) of a url, or None."""
        if tries > self.most_in_a_row:
            return None
        digest = hashlib.sha256(f"{self.seed}:{host}{path}:{tries}".encode()).digest()
        if digest[0] >= 256 * self.share:
            return None
        return self.kinds[digest[1] % len(self.kinds)]


class Double:
    """Base of the doubles; a ``with`` block serves. One server answers for any Host header.

    ``requests`` is the log; ``clear`` empties it; ``watchers`` are called at each request. A fault is a 500,
    a 503 or 429 with ``Retry-After: 0``, a reset connection, half a body, or a stall.
    """

    def __init__(self, faults: Faults | None = None) -> None:
        self.faults = faults
        self.requests: list[Request] = []
        self.tries: Counter[tuple[str, str]] = Counter()
        self.watchers: list[Callable[[], None]] = []
        self._lock = threading.Lock()

    async def answer(self, request: web.Request, host: str) -> web.StreamResponse:
        """What to say; overridden."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self._loop.close()

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._main(ready))

    async def _main(self, ready: threading.Event) -> None:
        self._stop = asyncio.Event()
        runner = web.ServerRunner(web.Server(self._handle), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0, backlog=512)
        await site.start()
        assert site._server is not None
        self.port: int = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        ready.set()
        await self._stop.wait()
        await runner.cleanup()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:  # answers that go on until the client hangs up
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        host = request.headers.get("Host", "").partition(":")[0]
        path = request.raw_path
        entry = Request(host, path, time.monotonic(), headers=dict(request.headers))
        with self._lock:
            self.requests.append(entry)
            self.tries[host, path] += 1
            tries = self.tries[host, path]
        for watcher in self.watchers:
            watcher()
        try:
            fault = self.faults.of(host, path, tries) if self.faults and path != "/robots.txt" else None
            if fault:
                response = await self._fault(request, fault)
            else:
                response = await self.answer(request, host)  # type: ignore[arg-type]
            entry.status = response.status
            return response
        finally:
            entry.ended = time.monotonic()

    async def _fault(self, request: web.BaseRequest, fault: str) -> web.StreamResponse:
        if fault in ("503", "429"):
            return web.Response(status=int(fault), text="busy", headers={"Retry-After": "0"})
        if fault == "500":
            return web.Response(status=500, text="oh no")
        if fault == "truncate":
            return await cut_off(request, b"half of it", 1000, {"Content-Type": "image/jpeg"})
        if fault == "stall":
            await asyncio.sleep(0.2)
        return reset(request)

    def clear(self) -> None:
        """Forget what was asked so far."""
        with self._lock:
            self.requests.clear()

    def of(self, host: str, path: str = "/") -> list[Request]:
        """Requests to a host whose paths begin so, in order of arrival."""
        with self._lock:
            return [each for each in self.requests if each.host == host and each.path.startswith(path)]

    def most_at_once(self, host: str) -> int:
        """The largest number of requests of a host that were being answered at one moment."""
        events = [(each.at, 1) for each in self.of(host)] + [(each.ended, -1) for each in self.of(host)]
        now = most = 0
        for _, change in sorted(events):
            now += change
            most = max(most, now)
        return most

    def counts(self) -> dict[str, Counter[str]]:
        """How often each path of each host was asked for."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        with self._lock:
            for each in self.requests:
                found[each.host][each.path] += 1
        return found


def reset(request: web.BaseRequest) -> web.StreamResponse:
    """Hang up with a reset, as a crashed server does."""
    transport: Any = request.transport
    if transport is not None:
        sock = transport.get_extra_info("socket")
        sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER of no time: RST instead of FIN
        transport.abort()
    return web.Response(status=599)


async def cut_off(
    request: web.BaseRequest, body: bytes, declared: int, headers: dict[str, str]
) -> web.StreamResponse:
    """Declare more than is sent, then hang up."""
    response = web.StreamResponse(headers={**headers, "Content-Length": str(declared)})
    await response.prepare(request)
    await response.write(body)
    if request.transport is not None:
        request.transport.close()
    return response
