"""Whatever a server does, a url has one outcome, and only what may be fetched is fetched."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

import pytest

from dcgan_core.config import load_config
from dcgan_core.scrape.fetch import Manners, fetch_all
from dcgan_core.scrape.sources import Item, Outcome
from dcgan_core.scrape.web import manners_of

BODY = b"a body of some bytes"
ODD_DIGIT = "²".encode().decode("latin-1")  # as UTF-8 on the wire: a digit to str.isdigit, not to float
POLITE = Manners(
    "dcgan-test (+somebody@example.org)",
    allow_loopback=True,
    timeout_seconds=20,
    retries=2,
    retry_base_seconds=0,
    max_bytes=1000,
)


class Site:
    """A web site on loopback. A path names what it does; requests of each path are counted."""

    def __init__(self) -> None:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.server.daemon_threads = True
        cast("Any", self.server).site = self
        self.requests: Counter[str] = Counter()
        self.agents: set[str] = set()
        self.let_go = threading.Event()
        self.two_at_once = threading.Barrier(2, timeout=20)
        self.at_once, self.most_at_once = 0, 0
        self.lock = threading.Lock()
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,))

    @property
    def port(self) -> int:
        return self.server.server_port

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        site: Site = cast("Any", self.server).site
        kind = self.path.strip("/").partition("/")[0]
        if kind == "robots.txt":
            self.answer(404, b"no rules here")
            return
        with site.lock:
            site.requests[self.path.strip("/")] += 1
            tries = site.requests[self.path.strip("/")]
            site.agents.add(self.headers["User-Agent"])
        answers: dict[str, Callable[[Site, int], None]] = {
            "ok": lambda site, tries: self.answer(200, BODY, ETag='"v1"'),
            "empty": lambda site, tries: self.answer(200, b""),
            "absent": lambda site, tries: self.answer(404, b"not here"),
            "nothing": lambda site, tries: self.answer(204, b""),
            "failing": lambda site, tries: self.answer(500, b"oh no"),
            "recovering": lambda site, tries: self.answer(200 if tries > 1 else 500, BODY),
            "busy": lambda site, tries: self.answer(200 if tries > 1 else 429, BODY, **{"Retry-After": "0"}),
            "wait": lambda site, tries: self.answer(200 if tries > 1 else 503, BODY, **{"Retry-After": "1"}),
            "odd-wait": lambda site, tries: self.answer(429, BODY, **{"Retry-After": ODD_DIGIT}),
            "silent": lambda site, tries: self.wait(site),
            "stalling": self.stall,
            "loop": lambda site, tries: self.answer(302, b"", Location="/loop"),
            "hop": lambda site, tries: self.answer(302, b"", Location="/ok"),
            "to": lambda site, tries: self.answer(301, b"", Location=unquote(self.path.partition("to/")[2])),
            "large": lambda site, tries: self.answer(200, b"x" * 5000),
            "endless": self.go_on,
            "bomb": lambda site, tries: self.answer(
                200, gzip.compress(bytes(10**7)), **{"Content-Encoding": "gzip"}
            ),
            "cut": lambda site, tries: self.cut(),
            "cut-once": lambda site, tries: self.answer(200, BODY) if tries > 1 else self.cut(),
            "rude": lambda site, tries: self.hang_up(),
            "nonsense": lambda site, tries: self.blather(),
            "pair": self.in_pairs,
        }
        answers[kind](site, tries)

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.say(body)

    def say(self, data: bytes) -> bool:
        """Whether the client still listens."""
        try:
            self.wfile.write(data)
        except ConnectionError:
            return False
        return True

    def wait(self, site: Site) -> None:
        site.let_go.wait(60)
        self.close_connection = True

    def stall(self, site: Site, tries: int) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.say(b"x" * 10)
        self.wait(site)

    def go_on(self, site: Site, tries: int) -> None:
        self.send_response(200)
        self.end_headers()  # no length: until the connection is closed
        while self.say(b"x" * 4096):
            pass

    def cut(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        self.say(b"x" * 10)
        self.close_connection = True

    def blather(self) -> None:
        self.say(b"this is not HTTP\r\n\r\n")

    def hang_up(self) -> None:
        self.close_connection = True

    def in_pairs(self, site: Site, tries: int) -> None:
        """Answers only when there are two requests at once."""
        with site.lock:
            site.at_once += 1
            site.most_at_once = max(site.most_at_once, site.at_once)
        site.two_at_once.wait()
        with site.lock:
            site.at_once -= 1
        self.answer(200, BODY)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    site.thread.start()
    yield site
    site.let_go.set()
    site.server.shutdown()
    site.thread.join()
    site.server.server_close()


def fetch(urls: list[str], manners: Manners = POLITE) -> list[Outcome]:
    items = [Item(str(number), url) for number, url in enumerate(urls)]
    outcomes = asyncio.run(fetch_all(items, manners))
    assert [outcome.item for outcome in outcomes] == items
    assert all((outcome.data is not None) == (outcome.status == "ok") for outcome in outcomes)
    return outcomes


def fetch_one(url: str, manners: Manners = POLITE) -> Outcome:
    return fetch([url], manners)[0]


def test_an_answer_is_taken_whole_with_what_is_known_of_it(site: Site) -> None:
    outcome = fetch_one(site.url("ok"))
    assert (outcome.status, outcome.data, outcome.http_status) == ("ok", BODY, 200)
    assert (outcome.etag, outcome.final_url, outcome.attempts) == ('"v1"', site.url("ok"), 1)


@pytest.mark.parametrize(
    ("path", "status", "reason", "tries"),
    [
        ("absent", "http_error", "HTTP 404", 1),
        ("nothing", "http_error", "HTTP 204", 1),
        ("empty", "empty", "zero bytes", 1),
        ("failing", "http_error", "HTTP 500", 3),
        ("odd-wait", "http_error", "HTTP 429", 3),
        ("large", "too_large", "more than 1000 bytes", 1),
        ("endless", "too_large", "more than 1000 bytes", 1),
        ("bomb", "too_large", "more than 1000 bytes", 1),
        ("cut", "truncated", "the body ended before its declared length", 3),
        ("rude", "connection_failed", "ServerDisconnectedError", 3),
        ("loop", "too_many_redirects", "more than 5 redirects", 1),
    ],
)
def test_a_bad_answer_is_an_outcome_with_its_reason(
    path: str, status: str, reason: str, tries: int, site: Site
) -> None:
    outcome = fetch_one(site.url(f"{path}/1"))
    assert (outcome.status, outcome.reason, outcome.attempts) == (status, reason, tries)


def test_what_is_not_http_is_an_outcome_too(site: Site) -> None:
    assert fetch_one(site.url("nonsense")).status == "connection_failed"


@pytest.mark.parametrize("path", ["recovering", "busy", "cut-once"])
def test_what_may_pass_is_tried_again(path: str, site: Site) -> None:
    outcome = fetch_one(site.url(f"{path}/once"))
    assert (outcome.status, outcome.data, outcome.attempts) == ("ok", BODY, 2)


def test_a_host_that_asks_for_a_pause_gets_it(site: Site) -> None:
    outcome = fetch_one(site.url("wait/a-second"))
    assert (outcome.status, outcome.attempts) == ("ok", 2)
    assert outcome.seconds >= 1


@pytest.mark.parametrize("path", ["silent", "stalling"])
def test_a_slow_answer_times_out(path: str, site: Site) -> None:
    outcome = fetch_one(site.url(path), replace(POLITE, timeout_seconds=0.3, retries=1))
    assert (outcome.status, outcome.attempts) == ("timeout", 2)
    assert outcome.reason == "no complete answer in 0.3 s"


def test_a_slow_url_does_not_keep_others_waiting(site: Site) -> None:
    manners = replace(POLITE, timeout_seconds=5, retries=0, per_host=2)
    slow, quick = fetch([site.url("silent"), site.url("ok")], replace(manners, timeout_seconds=1))
    assert (slow.status, quick.status) == ("timeout", "ok")
    assert quick.seconds < slow.seconds


def test_a_closed_port_is_an_outcome() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    outcome = fetch_one(f"http://127.0.0.1:{port}/", replace(POLITE, retries=1))
    assert (outcome.status, outcome.attempts) == ("connection_failed", 2)
    assert str(port) not in outcome.reason  # it would differ from run to run


def test_redirects_are_followed_and_their_end_is_noted(site: Site) -> None:
    outcome = fetch_one(site.url("hop"))
    assert (outcome.status, outcome.final_url) == ("ok", site.url("ok"))


@pytest.mark.parametrize(
    "target",
    [
        "http://10.0.0.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::1]/",
        "http://127.0.0.1/",
        "//localhost/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
        "http://[broken",
    ],
)
def test_a_redirect_away_from_the_public_internet_is_refused(target: str, site: Site) -> None:
    named = replace(POLITE, allow_loopback=False, addresses={"site.test": ("127.0.0.1", site.port)})
    assert fetch_one("http://site.test/ok", named).status == "ok"
    assert fetch_one(f"http://site.test/to/{target}", named).status == "refused"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "10.0.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "224.0.0.1",
        "[fe80::1]",
        "user:password@127.0.0.1",
    ],
)
def test_addresses_of_this_machine_and_private_ones_are_refused(host: str, site: Site) -> None:
    before = site.requests.total()
    outcome = fetch_one(f"http://{host}:{site.port}/ok", replace(POLITE, allow_loopback=False))
    assert (outcome.status, outcome.attempts) == ("refused", 1)
    assert site.requests.total() == before


def test_loopback_can_be_allowed_and_private_networks_still_are_not(site: Site) -> None:
    assert fetch_one(f"http://localhost:{site.port}/ok").status == "ok"
    assert fetch_one("http://10.0.0.1/").status == "refused"


@pytest.mark.parametrize(
    "url",
    [
        "",
        "photo.jpg",
        "//no.scheme/photo.jpg",
        "file:///etc/passwd",
        "ftp://example.org/photo.jpg",
        "data:image/png;base64,AAAA",
        "javascript:alert(1)",
        "http://",
        "http:///photo.jpg",
        "http://[::1",
        "http://127.0.0.1:99999/",
        "http://a..b/",
        f"http://{'a' * 300}/",
    ],
)
def test_what_is_not_a_web_address_is_refused_at_once(url: str) -> None:
    outcome = fetch_one(url)
    assert (outcome.status, outcome.attempts) == ("refused", 1)


def test_there_is_one_outcome_per_url_in_their_order(site: Site) -> None:
    urls = [site.url(path) for path in ("ok", "absent", "empty", "hop", "ok", "large")] * 5 + ["junk"]
    statuses = [outcome.status for outcome in fetch(urls)]
    assert statuses == ["ok", "http_error", "empty", "ok", "ok", "too_large"] * 5 + ["refused"]


def test_a_host_gets_as_many_requests_at_once_as_allowed_and_no_more(site: Site) -> None:
    outcomes = fetch([site.url(f"pair/{number}") for number in range(6)], replace(POLITE, per_host=2))
    assert {outcome.status for outcome in outcomes} == {"ok"}
    assert site.most_at_once == 2


def test_a_site_can_see_whom_to_write_to(site: Site, tmp_path: Path) -> None:
    config = load_config(
        "faces64",
        {
            "scrape.source": "urls",
            "scrape.path": str(tmp_path / "list.txt"),
            "scrape.contact": "me@example.org",
            "scrape.allow_loopback": True,
        },
    ).scrape
    urls = [site.url("ok/seen"), site.url("absent")]
    assert [outcome.status for outcome in fetch(urls, manners_of(config))] == ["ok", "http_error"]
    assert any("me@example.org" in agent for agent in site.agents)
