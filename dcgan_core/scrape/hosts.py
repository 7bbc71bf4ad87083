"""How one host is treated: requests at once and a second, pauses it asks for, and when it is given up."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from dataclasses import dataclass

from aiolimiter import AsyncLimiter

LONGEST_PAUSE_SECONDS = 300.0
"""A host that asks for a longer pause is given up for this run."""

_GIVEN_UP_AFTER = 3
"""Times the circuit opens without a success between, after which a host is given up for this run."""


@dataclass(frozen=True)
class Cap:
    """The most that one host gets from us, whatever the configuration says."""

    connections: int
    per_second: float = math.inf
    per_minute: float = math.inf


KNOWN_CAPS = {
    # The action API: one request at a time, under 5 a second and about 200 a minute; the media servers: two
    # connections (Wikimedia's API etiquette and User-Agent policy, as in the data facts of issue B).
    "wikimedia.org": Cap(1, 4, 200),
    "wikipedia.org": Cap(1, 4, 200),
    "wikidata.org": Cap(1, 4, 200),
    "upload.wikimedia.org": Cap(2, 12),
    "dbpedia.org": Cap(1, 2, 100),
}
"""Hard caps by host name; the name itself or its nearest parent counts."""


def cap_of(host: str, per_host: int) -> Cap:
    """The cap of a host: a known one, never raised by ``per_host``, or ``per_host`` connections."""
    name = host.lower().rstrip(".")
    while name:
        if cap := KNOWN_CAPS.get(name):
            return Cap(min(cap.connections, per_host), cap.per_second, cap.per_minute)
        name = name.partition(".")[2]
    return Cap(per_host)


class HostDown(Exception):
    """The host has failed too often in a row, or asks for too long a pause: given up for this run."""


class Host:
    """The turnstile of one host. All requests to it go through ``request``, within one event loop.

    The number at once starts small, doubles while all goes well and is halved whenever the host shows that
    it is too much (429, 503, time-outs): additive increase, multiplicative decrease.
    """

    def __init__(self, name: str, cap: Cap, *, breaker_failures: int, breaker_pause_seconds: float) -> None:
        self.name, self.cap = name, cap
        self.limit = float(min(2, cap.connections))
        self.down_because = ""
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._limiters = _limiters(cap)
        self._crawl_delay = 0.0
        self._resume_at = 0.0
        self._first_growth = True
        self._slowed = 0
        self._breaker_failures, self._breaker_pause = breaker_failures, breaker_pause_seconds
        self._failures_in_a_row = 0
        self._opened = 0

    @property
    def is_down(self) -> bool:
        return bool(self.down_because)

    def request(self) -> _Place:
        """A place among the requests at once: ``async with`` waits for its turn, or raises HostDown."""
        return _Place(self)

    async def enter(self) -> None:
        """Wait for a place and for its turn. Raises HostDown."""
        await self._place()
        try:
            await self._turn()
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Give the place up."""
        self._in_flight -= 1
        self._let_in()

    def keep_apart(self, seconds: float) -> None:
        """Start requests at least so many seconds apart, one at a time (robots.txt's Crawl-delay)."""
        if seconds > self._crawl_delay:
            self._crawl_delay = seconds
            self.limit = 1.0
            self._limiters = [*_limiters(self.cap), AsyncLimiter(1, seconds)]

    def went_well(self) -> None:
        """A request was answered as it should be."""
        self._failures_in_a_row = self._opened = self._slowed = 0
        if not self._crawl_delay and self.limit < self.cap.connections:
            more = 1.0 if self._first_growth else 1 / self.limit
            self.limit = min(self.limit + more, float(self.cap.connections))
            self._let_in()

    def asked_to_slow_down(self, pause_seconds: float, least_seconds: float) -> None:
        """A 429 or 503: everybody waits as long as the host says, else ever longer; then fewer at once."""
        self._halve()
        self._slowed += 1
        if pause_seconds > LONGEST_PAUSE_SECONDS:
            self._give_up(f"{self.name} asks for a pause of {pause_seconds:.0f} s")
            return
        own = min(least_seconds * 2 ** min(self._slowed - 1, 16), LONGEST_PAUSE_SECONDS)
        self._pause(pause_seconds or own)

    def failed(self, *, slow: bool = False) -> None:
        """A connection, time-out or server error; many in a row open the circuit for a while."""
        if slow:
            self._halve()
        self._failures_in_a_row += 1
        if self._failures_in_a_row < self._breaker_failures:
            return
        self._failures_in_a_row = self._breaker_failures - 1  # half open: one more failure opens it again
        self._opened += 1
        if self._opened >= _GIVEN_UP_AFTER:
            self._give_up(f"{self.name} failed {self._breaker_failures} times in a row and after pauses")
        else:
            self.limit = 1.0
            self._pause(self._breaker_pause * 2 ** (self._opened - 1))

    def _halve(self) -> None:
        self._first_growth = False
        self.limit = max(1.0, self.limit / 2)

    def _pause(self, seconds: float) -> None:
        self._resume_at = max(self._resume_at, asyncio.get_running_loop().time() + seconds)

    def _give_up(self, why: str) -> None:
        self.down_because = why
        while self._waiting:
            self._wake(self._waiting.popleft())

    async def _place(self) -> None:
        if self._in_flight < int(self.limit) and not self._waiting:
            self._in_flight += 1
            return
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(place)
        try:
            await place
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():  # let in and cancelled at once: pass the place on
                self._in_flight -= 1
                self._let_in()
            raise

    async def _turn(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if self.down_because:
                raise HostDown(self.down_because)
            wait = self._resume_at - loop.time()
            if wait <= 0:
                break
            await asyncio.sleep(wait)
        for limiter in self._limiters:
            await limiter.acquire()
        if self._resume_at > loop.time():  # the host asked for a pause while this one waited for its turn
            await self._turn()

    def _let_in(self) -> None:
        while self._waiting and self._in_flight < int(self.limit):
            self._wake(self._waiting.popleft())

    def _wake(self, place: asyncio.Future[None]) -> None:
        if not place.done():
            self._in_flight += 1
            place.set_result(None)


class _Place:
    # A class, not a generator: one is made for each request.
    __slots__ = ("_host",)

    def __init__(self, host: Host) -> None:
        self._host = host

    async def __aenter__(self) -> None:
        await self._host.enter()

    async def __aexit__(self, *_: object) -> None:
        self._host.leave()


def _limiters(cap: Cap) -> list[AsyncLimiter]:
    limiters = []
    if cap.per_second < math.inf:
        limiters.append(AsyncLimiter(1, 1 / cap.per_second))  # one at a time, so that there is no burst
    if cap.per_minute < math.inf:
        limiters.append(AsyncLimiter(cap.per_minute, 60))
    return limiters
