"""``dcgan serve`` shows a root's pages to browsers on this machine, and nothing else to anybody."""

from __future__ import annotations

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from dcgan_core.artifacts import LATEST_REPORT, Address, Receipt, write_manifest, write_part
from dcgan_core.serve import page_url
from dcgan_core.storage import Store
from tests.conftest import ObjectStore, bare_manifest

REPORT, GALLERY = Address("report", "a1" * 8), Address("gallery", "b2" * 8)
CROPS = Address("crops", "c3" * 8)
PICTURE = b"\xff\xd8 a picture"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Served:
    """A server in a process of its own."""

    port: int
    process: subprocess.Popen[str]

    def ask(self, path: str, method: str = "GET", host: str = "", **headers: str) -> Answer:
        """The path goes out as it is, dots and all."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.putrequest(method, path, skip_host=True)
        connection.putheader("Host", host or f"127.0.0.1:{self.port}")
        for name, value in named.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        found = Answer(answer.status, dict(answer.getheaders()), answer.read())
        connection.close()
        return found

    def end(self, number: signal.Signals) -> tuple[int, str, str]:
        """Exit code and what was said since it started."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, out, err


@contextmanager
def serving(root: str, *words: str, **environment: str) -> Iterator[Served]:
    command = [sys.executable, "-m", "dcgan_core", "serve", "--port", "0", *words]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "DCGAN_ROOT": root, **environment},
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            match = re.search(r"http://127\.0\.0\.1:(\d+)/ ", line)
            assert match, line or process.communicate()[1]
            yield Served(int(match[1]), process)
        finally:
            process.kill()


def fill(store: Store) -> None:
    """A report, a gallery with a picture, and crops, which are no page."""
    for address, names in (
        (REPORT, {"index.html": b"<p>the report", "from-root.html": b"<p>the newest report"}),
        (GALLERY, {"index.html": b"<p>the gallery", "pictures/00000.jpg": PICTURE}),
        (CROPS, {"index.html": b"<p>no page", "crops-00000.parquet": b"PAR1"}),
    ):
        files = tuple(write_part(store, address, name, data) for name, data in names.items())
        write_manifest(store, bare_manifest(address, [Receipt(part=0, key="k", files=files)]))
    store.copy(REPORT.part_path("from-root.html"), LATEST_REPORT)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(str(tmp_path_factory.mktemp("served") / "root"))
    fill(store)
    return store


@pytest.fixture(scope="module")
def served(root: Store) -> Iterator[Served]:
    with serving(root.root) as server:
        yield server


def path_of(address: Address, name: str = "index.html") -> str:
    return f"/{address.part_path(name)}"


def test_the_index_leads_to_the_newest_report_and_the_galleries(served: Served) -> None:
    index = served.ask("/")
    assert index.status == 200
    links = [f"/{link}" for link in re.findall('<a href="([^"]+)"', index.body.decode())]
    assert links == [f"/{LATEST_REPORT}", path_of(REPORT), path_of(GALLERY)]
    texts = [served.ask(link).body for link in links]
    assert texts == [b"<p>the newest report", b"<p>the report", b"<p>the gallery"]
    assert served.ask(f"/{GALLERY.path}/").headers["Location"] == path_of(GALLERY)


def test_pages_and_pictures_come_with_types_and_guards(served: Served) -> None:
    page, picture = served.ask(path_of(GALLERY)), served.ask(path_of(GALLERY, "pictures/00000.jpg"))
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert picture.headers["Content-Type"] == "image/jpeg"
    assert picture.body == PICTURE
    for answer in (page, picture, served.ask("/"), served.ask("/nothing")):
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Content-Security-Policy"].startswith(
            "default-src 'none'; img-src 'self' data:;"
        )
        assert answer.headers["Cache-Control"] == "no-cache"
        assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("path", ["/", f"/{LATEST_REPORT}", path_of(REPORT)])
def test_what_a_browser_has_is_not_sent_again(served: Served, path: str) -> None:
    first = served.ask(path)
    again = served.ask(path, If_None_Match=first.headers["ETag"])
    assert (again.status, again.body) == (304, b"")
    assert served.ask(path, If_None_Match='"another"').body == first.body
    head = served.ask(path, "HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Length"] == str(len(first.body))


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/../../../../../../etc/passwd",
        "//etc/passwd",
        f"/{GALLERY.path}/parts/../../../../../secret.html",
        f"/{GALLERY.path}/parts/..%2f..%2f..%2f..%2fsecret.html",
        f"/{GALLERY.path}/parts/%2e%2e/%2e%2e/%2e%2e/%2e%2e/secret.html",
        f"/{GALLERY.path}/parts/unlisted.html",
        f"/{GALLERY.path}/parts/link.html",
        f"/{GALLERY.path}/manifest.json",
        f"/{GALLERY.path}/parts/",
        path_of(CROPS),
        path_of(CROPS, "crops-00000.parquet"),
        f"/{CROPS.path}/manifest.json",
        f"/{CROPS.path}/",
        "/artifacts/",
        "/report/../exclusions.json",
        path_of(Address("gallery", "d4" * 8)),
    ],
)
def test_nothing_else_can_be_reached(served: Served, root: Store, path: str) -> None:
    secret = root.local_path("../secret.html")
    secret.write_bytes(b"secret")
    root.write_bytes(GALLERY.part_path("unlisted.html"), b"secret")
    link = root.local_path(GALLERY.part_path("link.html"))
    if not link.is_symlink():
        link.symlink_to(secret)
    answer = served.ask(path)
    assert answer.status in (400, 404)
    assert b"secret" not in answer.body


def test_links_and_changed_bytes_are_not_served(store: Store) -> None:
    fill(store)
    secret = store.local_path("../secret.html")
    secret.write_bytes(b"<p>the gallery")  # even with the right bytes
    for path in (GALLERY.part_path("index.html"), LATEST_REPORT):
        store.delete(path)
        store.local_path(path).symlink_to(secret)
    store.write_bytes(GALLERY.part_path("pictures/00000.jpg"), b"<script>")
    with serving(store.root) as server:
        for path in (path_of(GALLERY), f"/{LATEST_REPORT}", path_of(GALLERY, "pictures/00000.jpg")):
            assert server.ask(path).status == 404
        assert server.ask(path_of(REPORT)).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE"])
def test_pages_can_only_be_read(served: Served, method: str) -> None:
    answer = served.ask(path_of(REPORT), method)
    assert answer.status == 405
    assert answer.headers["Allow"] == "GET, HEAD"


def test_only_known_names_are_served(served: Served, root: Store) -> None:
    for host in ("127.0.0.1", "localhost", f"localhost:{served.port}", f"[::1]:{served.port}", "LOCALHOST"):
        assert served.ask("/", host=host).status == 200
    for host in ("evil.example", f"evil.example:{served.port}", "127.0.0.1.evil.example", "127.0.0.2", " "):
        assert served.ask("/", host=host).status == 403
    url = "https://pages.example.org/x"
    with serving(root.root, "--allow-host", "Reports.example", DCGAN_REPORT_URL=url) as open_to_more:
        for host in ("reports.example", "reports.example:443", "pages.example.org"):
            assert open_to_more.ask("/", host=host).status == 200
        assert open_to_more.ask("/", host="evil.example").status == 403


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_quietly_when_it_is_told_to(store: Store, number: signal.Signals) -> None:
    fill(store)
    with serving(store.root) as server:
        idle = socket.create_connection(("127.0.0.1", server.port))  # a browser that keeps its connection
        assert server.ask("/").status == 200
        assert server.end(number) == (0, "", "")
        idle.close()


def test_a_taken_port_is_named_with_another(served: Served, root: Store) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "dcgan_core", "serve", "--port", str(served.port)],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "DCGAN_ROOT": root.root},
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert f"port {served.port} of 127.0.0.1 is taken" in ended.stderr
    assert f"dcgan serve --port {served.port + 1}" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_root_without_pages_says_what_makes_them(store: Store) -> None:
    with serving(store.root) as server:
        assert b"dcgan run all" in server.ask("/").body
        assert server.ask(f"/{LATEST_REPORT}").status == 404
        fill(store)  # a run that ends while it serves
        assert server.ask(path_of(GALLERY)).status == 200


def test_a_root_on_an_object_store_is_served_too(object_store: ObjectStore) -> None:
    store = object_store.store("served")
    fill(store)
    with serving(store.root, DCGAN_S3_ENDPOINT_URL=object_store.endpoint) as server:
        assert path_of(GALLERY)[1:] in server.ask("/").body.decode()
        assert server.ask(path_of(GALLERY, "pictures/00000.jpg")).body == PICTURE
        assert server.ask(f"/{LATEST_REPORT}").body == b"<p>the newest report"
        assert server.ask(path_of(CROPS)).status == 404
        assert server.end(signal.SIGTERM) == (0, "", "")


@pytest.mark.parametrize("base", ["http://127.0.0.1:4201", "https://pages.example.org/dcgan/"])
def test_the_address_of_a_page_is_below_that_of_the_server(base: str) -> None:
    assert page_url(base, REPORT) == base.rstrip("/") + path_of(REPORT)
