"""Photo hosts of every temper: kind, slow, flaky, redirecting, lying, oversized, hostile."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import cache
from pathlib import Path

from aiohttp import web

from dcgan_core.scrape.demo import DemoPhoto, render
from tests.web.malformed import malformed
from tests.web.server import Double, Faults, cut_off, reset


@cache
def good_photo(number: int) -> bytes:
    """A real photo, one of a hundred."""
    return render(DemoPhoto("x", "face", number % 100, "original"), seed=5)


class PhotoHost(Double):
    """Any number of hosts on one port. The first word of a path says how it behaves; see ``_KINDS``."""

    def __init__(
        self,
        *,
        robots: Mapping[str, str | int] | None = None,
        photos: Mapping[str, bytes] | None = None,
        faults: Faults | None = None,
        hold_seconds: float = 0.0,
    ) -> None:
        """``robots``: by host, a text or a status (404). ``photos``: bodies by path. ``hold_seconds``: how
        long a good photo takes."""
        super().__init__(faults)
        self.robots, self.photos, self.hold_seconds = robots or {}, photos or {}, hold_seconds
        self.instead: dict[str, int | bytes] = {}
        """Statuses or other bodies by path, for as long as they are in here."""
        self.sent: Counter[str] = Counter()
        self.let_go = asyncio.Event()

    async def answer(self, request: web.Request, host: str) -> web.StreamResponse:
        path = request.rel_url.path
        if path == "/robots.txt":
            rules = self.robots.get(host, 404)
            return web.Response(status=rules) if isinstance(rules, int) else web.Response(text=rules)
        if path in self.instead:
            other = self.instead[path]
            return self._good(request, other) if isinstance(other, bytes) else web.Response(status=other)
        if path in self.photos:
            return self._good(request, self.photos[path])
        kind, _, rest = path.strip("/").partition("/")
        behave = getattr(self, f"_on_{kind.replace('-', '_')}", None)
        if behave is None:
            return web.Response(status=404, text="no such page")
        return await behave(request, rest)

    def _good(self, request: web.Request, body: bytes) -> web.Response:
        etag = f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'
        headers = {"ETag": etag, "Last-Modified": "Mon, 03 Jun 2019 14:43:13 GMT"}
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304, headers=headers)
        is_png = body.startswith(b"\x89PNG")
        return web.Response(body=body, content_type="image/png" if is_png else "image/jpeg", headers=headers)

    async def _on_photos(self, request: web.Request, rest: str) -> web.StreamResponse:
        if self.hold_seconds:
            await asyncio.sleep(self.hold_seconds)
        return self._good(request, good_photo(int(rest.partition(".")[0] or 0)))

    async def _on_status(self, request: web.Request, rest: str) -> web.StreamResponse:
        """``/status/503/once?retry-after=1``: the status at first, a photo later (never without "once")."""
        status, _, what = rest.partition("/")
        path = request.raw_path
        again = self.tries[request.headers["Host"].partition(":")[0], path] > 1
        if what.startswith("once") and again:
            return self._good(request, good_photo(1))
        headers = {}
        if seconds := request.rel_url.query.get("retry-after"):
            headers["Retry-After"] = seconds
        if seconds := request.rel_url.query.get("retry-after-date"):
            when = datetime.now(UTC) + timedelta(seconds=float(seconds) + 1)
            headers["Retry-After"] = format_datetime(when.replace(microsecond=0), usegmt=True)
        return web.Response(status=int(status), headers=headers, text="no")

    async def _on_redirect_to(self, request: web.Request, rest: str) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": request.rel_url.query["url"]})

    async def _on_redirect(self, request: web.Request, rest: str) -> web.StreamResponse:
        left = int(rest.partition("/")[0])
        target = f"/redirect/{left - 1}/x" if left > 1 else "/photos/1.jpg"
        return web.Response(status=302, headers={"Location": target})

    async def _on_loop(self, request: web.Request, rest: str) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": "/loop"})

    async def _on_lying_type(self, request: web.Request, rest: str) -> web.StreamResponse:
        return web.Response(body=good_photo(1), content_type="image/png")

    async def _on_html_as_jpeg(self, request: web.Request, rest: str) -> web.StreamResponse:
        return web.Response(body=b"<!doctype html><p>Removed.", content_type="image/jpeg")

    async def _on_jpeg_as_html(self, request: web.Request, rest: str) -> web.StreamResponse:
        return web.Response(body=good_photo(1), content_type="text/html")

    async def _on_short(self, request: web.Request, rest: str) -> web.StreamResponse:
        body = good_photo(1)
        return await cut_off(request, body, len(body) + 1000, {"Content-Type": "image/jpeg"})

    async def _on_oversized(self, request: web.Request, rest: str) -> web.StreamResponse:
        return web.Response(body=good_photo(1) + bytes(2_000_000), content_type="image/jpeg")

    async def _on_claims_a_terabyte(self, request: web.Request, rest: str) -> web.StreamResponse:
        return await cut_off(request, good_photo(1), 10**12, {"Content-Type": "image/jpeg"})

    async def _on_endless(self, request: web.Request, rest: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "image/jpeg"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        await response.write(good_photo(1))
        while True:  # until the client hangs up
            await response.write(bytes(2**16))
            self.sent[request.raw_path] += 2**16

    async def _on_drip(self, request: web.Request, rest: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "image/jpeg", "Content-Length": "100000"})
        await response.prepare(request)
        while True:
            await response.write(b"\xff")
            await asyncio.sleep(0.02)

    async def _on_silent(self, request: web.Request, rest: str) -> web.StreamResponse:
        await asyncio.sleep(30)
        return web.Response()

    async def _on_gzip_bomb(self, request: web.Request, rest: str) -> web.StreamResponse:
        return web.Response(
            body=_gzip_bomb(), headers={"Content-Type": "image/jpeg", "Content-Encoding": "gzip"}
        )

    async def _on_gzipped(self, request: web.Request, rest: str) -> web.StreamResponse:
        body = gzip.compress(good_photo(1))
        return web.Response(body=body, headers={"Content-Type": "image/jpeg", "Content-Encoding": "gzip"})

    async def _on_brotli(self, request: web.Request, rest: str) -> web.StreamResponse:
        headers = {"Content-Type": "image/jpeg", "Content-Encoding": "br"}
        return web.Response(body=b"\x8b\x02\x80hello\x03", headers=headers)

    async def _on_tagged(self, request: web.Request, rest: str) -> web.StreamResponse:
        headers = {"X-Robots-Tag": rest.partition("/")[0]}
        return web.Response(body=good_photo(1), content_type="image/jpeg", headers=headers)

    async def _on_tdm(self, request: web.Request, rest: str) -> web.StreamResponse:
        return web.Response(body=good_photo(1), content_type="image/jpeg", headers={"tdm-reservation": "1"})

    async def _on_reset(self, request: web.Request, rest: str) -> web.StreamResponse:
        return reset(request)

    async def _on_empty(self, request: web.Request, rest: str) -> web.StreamResponse:
        return web.Response(body=b"", content_type="image/jpeg")

    async def _on_garbage(self, request: web.Request, rest: str) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.write(b"\x00\xff this is not HTTP\r\n\r\n")  # type: ignore[attr-defined]
        request.transport.close()
        return web.Response(status=599)

    async def _on_headers(self, request: web.Request, rest: str) -> web.StreamResponse:
        """A header line of a megabyte."""
        assert request.transport is not None
        request.transport.write(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 10**6 + b"\r\n\r\n")  # type: ignore[attr-defined]
        request.transport.close()
        return web.Response(status=599)

    async def _on_odd_headers(self, request: web.Request, rest: str) -> web.StreamResponse:
        """Headers that are no UTF-8, around a good photo."""
        body = good_photo(1)
        head = b'HTTP/1.1 200 OK\r\nETag: "\xff\xfe"\r\nLast-Modified: \x80\r\nContent-Type: image/jpeg\r\n'
        assert request.transport is not None
        request.transport.write(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)  # type: ignore[attr-defined]
        request.transport.close()
        return web.Response(status=599)

    async def _on_pixel_bomb(self, request: web.Request, rest: str) -> web.StreamResponse:
        body = render(DemoPhoto("x", "broken", 1, "bomb"), seed=5)
        return web.Response(body=body, content_type="image/jpeg")

    async def _on_polyglot(self, request: web.Request, rest: str) -> web.StreamResponse:
        return web.Response(body=polyglot(rest.partition("/")[0]), content_type="image/jpeg")

    async def _on_malformed(self, request: web.Request, rest: str) -> web.StreamResponse:
        body, declared = malformed(int(rest.partition(".")[0]))
        return web.Response(body=body, content_type=declared)


def polyglot(kind: str) -> bytes:
    """A real JPEG that is something else to other programs."""
    body = good_photo(1)
    if kind == "zip":
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as zipped:
            zipped.writestr("evil.js", "alert(1)")
        return body + archive.getvalue()
    text = {"html": b"<html><script>alert(1)</script>", "pdf": b"%PDF-1.7 1 0 obj"}[kind]
    comment = b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text
    return body[:2] + comment + body[2:]


@cache
def _gzip_bomb() -> bytes:
    """Ten gigabytes of nothing, packed."""
    piece = gzip.compress(bytes(10**7), 9)
    return piece * 1000  # members follow one another: 10 MB each


def photos_of_tar(path: Path) -> dict[str, bytes]:
    """Bodies by path of a tar's members, for ``PhotoHost(photos=...)``."""
    with tarfile.open(path) as tar:
        members = [member for member in tar if member.isfile()]
        return {f"/set/{member.name}": _read(tar.extractfile, member) for member in members}


def _read(extract: Callable[..., object], member: tarfile.TarInfo) -> bytes:
    file = extract(member)
    assert hasattr(file, "read")
    return file.read()  # type: ignore[attr-defined]
