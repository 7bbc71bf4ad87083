"""The pages of a root in a browser: a small read-only web server for its reports and galleries.

A request names a page by its path under the root and gets it only if the manifest of a finished report or
gallery lists it and its bytes are those that the manifest names: no other path leads anywhere, and neither a
link nor a file put there by somebody else is followed.
"""

from __future__ import annotations

import asyncio
import errno
import html
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcgan_core.artifacts import (
    LATEST_REPORT,
    Address,
    Manifest,
    PartFile,
    all_manifests,
    read_part,
    readable_manifest,
)
from dcgan_core.errors import ConfigError, CorruptArtifact, DcganError
from dcgan_core.storage import Store, sha256_hex

if TYPE_CHECKING:
    from aiohttp import web

PAGES = {"report": "Report", "gallery": "Near duplicates"}
"""Kinds of artifacts that are pages, and what links to them are called."""

_INDEX = "index.html"
_TYPES = {"html": "text/html; charset=utf-8", "jpg": "image/jpeg", "png": "image/png"}
_PAGE = re.compile(
    r"/artifacts/(report|gallery)/([0-9a-f]{1,64})/parts/((?:pictures/)?[\w-]+\.(\w+))", re.ASCII
)
_FOLDER = re.compile(r"/artifacts/(report|gallery)/([0-9a-f]{1,64})/", re.ASCII)
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not listened on
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}
"""With every answer. The pages hold no scripts; their style and most pictures are inside them."""
_LISTED = 20
_READERS = 8
_MANIFEST_SECONDS = 5.0
"""How long a manifest that was read is used: a page of a gallery asks for a hundred pictures."""


def page_url(base: str, address: Address) -> str:
    """Return the URL of an artifact's page on a server that ``serve`` runs at ``base``."""
    return f"{base.rstrip('/')}/{address.part_path(_INDEX)}"


def serve(
    store: Store, host: str, port: int, allowed: Sequence[str] = (), started: Callable[[str], None] = print
) -> None:
    """Serve the root's pages until SIGINT or SIGTERM.

    ``allowed`` are names of hosts in requests beside ``host`` and those of this machine; ``started`` is
    called with the address. Raises ConfigError if the host or port cannot be listened on.
    """
    asyncio.run(_serve(store, host, port, allowed, started))


async def _serve(
    store: Store, host: str, port: int, allowed: Sequence[str], started: Callable[[str], None]
) -> None:
    from aiohttp import web

    loop, end = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end.set)
    hosts = {name.lower() for name in (*_LOOPBACK, *allowed, *(() if host in _EVERYWHERE else (host,)))}
    answers = _Answers(store, hosts)
    runner = web.ServerRunner(web.Server(answers, access_log=None), shutdown_timeout=0.1)
    listener = _listening(host, port)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        shown = "127.0.0.1" if host in _EVERYWHERE else f"[{host}]" if ":" in host else host
        started(f"http://{shown}:{listener.getsockname()[1]}/")
        await end.wait()
    finally:
        await runner.cleanup()  # closes the listener too


def _listening(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"--host {host}: {error.strerror}; give an address of this machine") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            why = f"port {port} of {host} is taken, perhaps by another dcgan serve"
        else:
            why = f"port {port} of {host} cannot be listened on: {error.strerror}"
        raise ConfigError(f"{why}; choose another: dcgan serve --port {port + 1}") from None
    return listener


@dataclass
class _Answers:
    """What to say to a request; files are read in threads, a few at a time."""

    store: Store
    hosts: set[str]
    readers: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_READERS))
    manifests: dict[Address, tuple[float, Manifest | None]] = field(default_factory=dict)

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        from aiohttp import web

        def says(status: int, text: str, **headers: str) -> web.Response:
            return web.Response(status=status, text=f"{text}\n", headers={**_HEADERS, **headers})

        if request.method not in ("GET", "HEAD"):
            return says(405, "These pages can only be read.", Allow="GET, HEAD")
        if "*" not in self.hosts and _name_of(request.headers.get("Host", "")) not in self.hosts:
            return says(403, "This name is not served here; dcgan serve --allow-host NAME allows it.")
        path = request.rel_url.raw_path
        if match := _FOLDER.fullmatch(path):
            return says(302, "Moved.", Location=f"/{Address(match[1], match[2]).part_path(_INDEX)}")
        if path == "/report/":
            return says(302, "Moved.", Location=f"/{LATEST_REPORT}")
        try:
            async with self.readers:
                found = await _in_thread(self._found, path, request.headers.get("If-None-Match", ""))
        except DcganError as error:
            print(f"{path}: {error}", file=sys.stderr)
            return says(503, "The store did not answer; try again later.")
        if found is None:
            return says(404, "There is no such page.")
        kind, tag, body = found
        headers = {**_HEADERS, "ETag": tag, "Content-Type": _TYPES[kind]}
        if body is None:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, headers=headers)

    def _found(self, path: str, known: str) -> tuple[str, str, bytes | None] | None:
        """Kind of file, entity tag and body of a page; no body if the browser has it, None for no page."""
        if path in ("/", f"/{LATEST_REPORT}"):
            body = self._index() if path == "/" else self._latest()
            if body is None:
                return None
            tag = f'"{sha256_hex(body)}"'
            return "html", tag, None if tag in known else body
        match = _PAGE.fullmatch(path)
        if not match or match[4] not in _TYPES:
            return None
        address = Address(match[1], match[2])
        manifest = self._manifest(address)
        file = _named(manifest, match[3]) if manifest else None
        if file is None or not self._is_inside(path):
            return None
        tag = f'"{file.sha256}"'
        try:
            return match[4], tag, None if tag in known else read_part(self.store, address, file)
        except CorruptArtifact as error:
            print(error, file=sys.stderr)
            return None

    def _manifest(self, address: Address) -> Manifest | None:
        read, manifest = self.manifests.get(address, (-_MANIFEST_SECONDS, None))
        now = time.monotonic()
        if now - read >= _MANIFEST_SECONDS:
            manifest = readable_manifest(self.store, address)
            self.manifests = {each: held for each, held in self.manifests.items() if now - held[0] < 60}
            if manifest:
                self.manifests[address] = now, manifest
        return manifest

    def _is_inside(self, path: str) -> bool:
        """Whether a path is no link that leads out of the root."""
        if not self.store.is_local:
            return True
        file = self.store.local_path(path.lstrip("/")).resolve()
        return file.is_relative_to(Path(self.store.root).resolve())

    def _latest(self) -> bytes | None:
        """The newest report; None if there is none."""
        try:
            return self.store.read_bytes(LATEST_REPORT) if self._is_inside(LATEST_REPORT) else None
        except FileNotFoundError:
            return None

    def _index(self) -> bytes:
        lines = []
        if self.store.exists(LATEST_REPORT):
            lines.append(f'<p><a href="{LATEST_REPORT}">The newest report</a></p>')
        for kind, title in PAGES.items():
            newest_first = all_manifests(self.store, kind)[::-1][:_LISTED]
            if newest_first:
                lines += [f"<h2>{title}</h2>", "<ul>", *map(_entry, newest_first), "</ul>"]
        if not lines:
            lines = ["<p>There is no report or gallery yet: <code>dcgan run all</code> makes them.</p>"]
        root = html.escape(self.store.root)
        return "\n".join(
            [
                '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>dcgan</title>',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                '<link rel="icon" href="data:,">',
                "<style>body { font: 1rem/1.5 system-ui, sans-serif; max-width: 45rem; margin: 2rem auto; ",
                "padding: 0 1rem; color-scheme: light dark }</style></head><body>",
                f"<h1>Pages of <code>{root}</code></h1>",
                *lines,
                "</body></html>\n",
            ]
        ).encode()


def _entry(manifest: Manifest) -> str:
    title = html.escape(str(manifest.config.get("title", manifest.artifact)))
    page = manifest.address.part_path(_INDEX)
    made = f"{manifest.finished:%Y-%m-%d %H:%M} UTC"
    return f'<li><a href="{page}">{title}</a>, {made}, <code>{manifest.fingerprint}</code></li>'


def _named(manifest: Manifest, name: str) -> PartFile | None:
    return next((file for file in manifest.files if file.name == name), None)


def _name_of(host: str) -> str:
    """The name in a Host header, without its port and the brackets of IPv6."""
    return re.sub(r":\d+$", "", host.strip().lower()).strip("[]")


async def _in_thread(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call in a thread that nobody waits for when the server ends, however slow its store."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def tell(report: Callable[[Any], None], what: Any) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(lambda: None if done.done() else report(what))

    def call() -> None:
        try:
            tell(done.set_result, work(*arguments))
        except Exception as error:
            tell(done.set_exception, error)

    threading.Thread(target=call, daemon=True).start()
    return await done
