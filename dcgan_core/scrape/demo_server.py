"""A real HTTP server of the demo's photos on a loopback port. Not what the photos are: that is ``demo``."""

from __future__ import annotations

import html
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, NamedTuple, Self, cast

from dcgan_core.scrape.demo import DEMO_HOST, DemoPhoto, demo_photos, identity, render

IDLE_SECONDS = 30.0


class DemoServer:
    """Serves ``demo_photos(seed)`` on 127.0.0.1 while the ``with`` block lasts.

    ``/`` is an index, ``/photos/<name>.jpg`` a photo rendered on demand, everything else 404. Entering
    raises ConfigError where scikit-image is not installed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __enter__(self) -> Self:
        identity()  # without scikit-image fail here, by name, and not in every request
        self._server = _Server(self.seed)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        """The port the system gave, on 127.0.0.1; known inside the ``with`` block."""
        return self._server.server_port


class _Answer(NamedTuple):
    status: HTTPStatus
    content_type: str
    body: bytes


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seed = seed
        self.photos = {f"/photos/{photo.name}.jpg": photo for photo in demo_photos(seed)}

    def answer(self, path: str) -> _Answer:
        if path == "/":
            return _Answer(HTTPStatus.OK, "text/html; charset=utf-8", self._index())
        photo = self.photos.get(path)
        if photo is None:
            return _Answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"Not found\n")
        status = HTTPStatus.NOT_FOUND if photo.variant == "missing" else HTTPStatus.OK
        return _Answer(status, _content_type(photo), render(photo, self.seed))

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client may hang up, a bug is to be seen
            super().handle_error(request, client_address)

    def _index(self) -> bytes:
        links = "\n".join(
            f'<li><a href="{html.escape(path)}">{html.escape(photo.name)}</a></li>'
            for path, photo in sorted(self.photos.items())
        )
        page = f"<!doctype html>\n<title>{DEMO_HOST}</title>\n<h1>{DEMO_HOST}</h1>\n<ul>\n{links}\n</ul>\n"
        return page.encode()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    wbufsize = -1  # head and body leave in one piece, else a kept-alive connection waits 40 ms for an ACK

    def do_GET(self) -> None:
        self.wfile.write(self._head().body)

    def do_HEAD(self) -> None:
        self._head()

    def version_string(self) -> str:
        return "dcgan-demo"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet: the scrape stage keeps its own record of every url."""

    def _head(self) -> _Answer:
        answer = cast(_Server, self.server).answer(self.path.partition("?")[0])
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        return answer


def _content_type(photo: DemoPhoto) -> str:
    return "text/html; charset=utf-8" if photo.variant in ("missing", "html") else "image/jpeg"
