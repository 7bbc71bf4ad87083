"""A TCP proxy in front of a real HTTP server that breaks a part of the answers, as networks and stores do."""

from __future__ import annotations

import asyncio
import random
import struct
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

KINDS = ("500", "SlowDown", "reset", "reset_midway", "truncated", "hang")
"""``500`` and ``SlowDown`` come instead of the server; with all others the server did what it was asked.

``reset``: no answer, ``reset_midway``: half of it, both end with RST. ``truncated``: half of the body that
was announced, then FIN. ``hang``: nothing, until the client gives up.
"""
_NEEDS_BODY = {"truncated"}
_ERROR = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message>'
    "<RequestId>tx0</RequestId></Error>"
)


@dataclass(frozen=True)
class Request:
    """The head of a request, as far as faults are chosen by it."""

    method: str
    target: str
    headers: dict[str, str]

    @property
    def is_ranged(self) -> bool:
        return "range" in self.headers


def evenly(per_block: dict[str, int], block: int, seed: int = 0) -> Iterator[str]:
    """Kinds of faults without end ("" for none): so many of each in every block, at seeded places."""
    rng = random.Random(seed)
    faults = [kind for kind, count in per_block.items() for _ in range(count)]
    while True:
        kinds = faults + [""] * (block - len(faults))
        rng.shuffle(kinds)
        yield from kinds


class FaultyProxy:
    """A ``with`` block serves. Each request takes the next kind of ``schedule``; none are left: no fault.

    ``injected`` counts faults by kind, ``requests`` lists all requests. A fault that an answer has no body
    for waits for the next answer that has one.
    """

    def __init__(self, port: int, schedule: Iterator[str] | Sequence[str] = ()) -> None:
        self._upstream = port
        self._schedule = iter(schedule)
        self._wanted: Callable[[Request], bool] = lambda _: True
        self._waiting: deque[str] = deque()
        self.injected: Counter[str] = Counter()
        self.requests: list[Request] = []

    def inject(self, *kinds: str, where: Callable[[Request], bool] = lambda _: True) -> None:
        """Break the next requests that ``where`` takes, one kind each; ``injected`` starts again."""
        self._schedule, self._wanted = iter(kinds), where
        self._waiting.clear()
        self.injected.clear()
        self.requests.clear()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: self._loop.run_until_complete(self._serve(ready)), daemon=True
        )
        self._thread.start()
        assert ready.wait(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)
        self._loop.close()

    async def _serve(self, ready: threading.Event) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=256)
        self.port: int = server.sockets[0].getsockname()[1]
        ready.set()
        await self._stop.wait()
        server.close()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one answer; the client is told to connect anew for the next."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            request = _parsed(head)
            body = await _body_of(request, reader, writer)
            self.requests.append(request)
            await self._answer(request, head, body, reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client went away
        finally:
            writer.close()

    async def _answer(
        self,
        request: Request,
        head: bytes,
        body: bytes,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        fault = self._next_fault(request)
        if fault in ("500", "SlowDown"):
            self.injected[fault] += 1
            writer.write(_error(fault, request.method))
            await writer.drain()
            return
        answer = await self._forward(head, body)
        answer_head, _, answer_body = answer.partition(b"\r\n\r\n")
        if fault in _NEEDS_BODY and (request.method == "HEAD" or not answer_body):
            self._waiting.append(fault)
            fault = ""
        self.injected.update([fault] if fault else [])
        if fault == "hang":
            await reader.read()
        elif fault == "reset":
            _reset(writer)
        elif fault == "reset_midway":
            writer.write(answer[: len(answer) // 2])
            await writer.drain()
            _reset(writer)
        elif fault == "truncated":
            writer.write(answer_head + b"\r\n\r\n" + answer_body[: len(answer_body) // 2])
            await writer.drain()
        else:
            writer.write(answer)
            await writer.drain()

    def _next_fault(self, request: Request) -> str:
        if not self._wanted(request):
            return ""
        return self._waiting.popleft() if self._waiting else next(self._schedule, "")

    async def _forward(self, head: bytes, body: bytes) -> bytes:
        lines = [line for line in head.split(b"\r\n") if line]
        kept = [each for each in lines if not each.lower().startswith((b"connection:", b"expect:"))]
        reader, writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        try:
            writer.write(b"\r\n".join([*kept, b"Connection: close", b"", b""]) + body)
            await writer.drain()
            return await reader.read()
        finally:
            writer.close()


def _parsed(head: bytes) -> Request:
    first, *lines = head.decode("latin-1").rstrip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    method, target, _ = first.split(" ", 2)
    return Request(method, target, headers)


async def _body_of(request: Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    if "expect" in request.headers:
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        await writer.drain()
    if request.headers.get("transfer-encoding", "").lower() == "chunked":
        body = b""
        while not body.endswith(b"0\r\n\r\n"):
            size = await reader.readuntil(b"\r\n")
            body += size + await reader.readexactly(int(size.partition(b";")[0], 16) + 2)
        return body
    return await reader.readexactly(int(request.headers.get("content-length", 0)))


def _error(fault: str, method: str) -> bytes:
    status, code, message = (
        ("500 Internal Server Error", "InternalError", "We encountered an internal error.")
        if fault == "500"
        else ("503 Slow Down", "SlowDown", "Please reduce your request rate.")
    )
    body = _ERROR.format(code=code, message=message).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + (b"" if method == "HEAD" else body)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(1, 13, struct.pack("ii", 1, 0))  # SO_LINGER of no time: RST instead of FIN
    writer.transport.abort()
