"""Only the public internet is fetched, and a name is believed once."""

from __future__ import annotations

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from dcgan_core.scrape.addresses import PinnedResolver, Refused, check_address, check_url
from dcgan_core.scrape.fetch import Manners, fetch_all
from dcgan_core.scrape.sources import Item

REFUSED = [
    "0.0.0.0",
    "10.1.2.3",
    "100.64.0.1",  # carrier-grade NAT
    "100.100.100.200",  # a cloud's metadata
    "127.0.0.1",
    "127.8.8.8",
    "169.254.169.254",  # most clouds' metadata
    "172.16.0.1",
    "192.0.0.192",
    "192.168.0.1",
    "198.18.0.1",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::ffff:10.0.0.1",
    "::ffff:169.254.169.254",
    "::127.0.0.1",
    "64:ff9b::7f00:1",  # NAT64 of 127.0.0.1
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::",  # 6to4 of 127.0.0.1
    "2002:a00:1::",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "ff02::1",
]


@pytest.mark.parametrize("address", REFUSED)
def test_what_is_not_the_public_internet_is_refused(address: str) -> None:
    with pytest.raises(Refused, match="not on the public internet"):
        check_address(address, allow_loopback=False)


@pytest.mark.parametrize("address", ["8.8.8.8", "208.80.154.240", "2620:0:861:ed1a::1", "::ffff:8.8.8.8"])
def test_public_addresses_are_not(address: str) -> None:
    check_address(address, allow_loopback=False)


@pytest.mark.parametrize("address", [each for each in REFUSED if not each.startswith(("127.", "::1"))])
def test_an_allowance_for_loopback_allows_nothing_else(address: str) -> None:
    if address.endswith("127.0.0.1") or "7f00:1" in address:
        return  # the same machine in another dress
    with pytest.raises(Refused):
        check_address(address, allow_loopback=True)


@given(st.ip_addresses(v=4, network="10.0.0.0/8"))
def test_no_private_address_hides_in_an_ipv6_one(address: object) -> None:
    high, low = divmod(int(address), 2**16)  # type: ignore[call-overload]
    for text in (f"::ffff:{address}", f"64:ff9b::{high:x}:{low:x}", f"2002:{high:x}:{low:x}::1"):
        with pytest.raises(Refused):
            check_address(text, allow_loopback=True)


@pytest.mark.parametrize(
    "url",
    ["ftp://a.org/", "file:///etc/passwd", "http://user@a.org/", "http://u:p@a.org/", "http://0x7f.1/", "/a"],
)
def test_urls_that_are_no_plain_web_addresses_are_refused(url: str) -> None:
    with pytest.raises(Refused):
        check_url(URL(url), allow_loopback=True)


def resolver_of(answers: list[list[str]], asked: list[str]) -> PinnedResolver:
    async def lookup(name: str, port: int) -> list[str]:
        asked.append(name)
        return answers[min(len(asked), len(answers)) - 1]

    return PinnedResolver({}, allow_loopback=False, lookup=lookup)


def test_a_name_is_looked_up_once_and_its_answer_kept() -> None:
    asked: list[str] = []

    async def twice() -> list[str]:
        resolver = resolver_of([["93.184.216.34"], ["127.0.0.1"]], asked)
        return [(await resolver.resolve("a.org", 80))[0]["host"] for _ in range(3)]

    assert asyncio.run(twice()) == ["93.184.216.34"] * 3
    assert asked == ["a.org"]


def test_one_private_address_among_public_ones_spoils_a_name() -> None:
    resolver = resolver_of([["93.184.216.34", "10.0.0.1"]], [])
    with pytest.raises(Refused):
        asyncio.run(resolver.resolve("a.org", 80))


def test_a_name_that_is_not_found_may_be_found_later() -> None:
    answers: list[OSError | list[str]] = [OSError("no such name"), ["93.184.216.34"]]

    async def lookup(name: str, port: int) -> list[str]:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    async def twice() -> str:
        resolver = PinnedResolver({}, allow_loopback=False, lookup=lookup)
        with pytest.raises(OSError, match="no such name"):
            await resolver.resolve("a.org", 80)
        return (await resolver.resolve("a.org", 80))[0]["host"]

    assert asyncio.run(twice()) == "93.184.216.34"


class _Secret(BaseHTTPRequestHandler):
    hits = 0

    def do_GET(self) -> None:
        _Secret.hits += 1
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"secret")

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def test_a_name_rebound_to_this_machine_never_reaches_it() -> None:
    """The first answer is public (and unreachable here), every later one is loopback: never connected to."""
    answers = iter([["192.0.2.1"]])

    async def lookup(name: str, port: int) -> list[str]:
        return next(answers, ["127.0.0.1"])

    with ThreadingHTTPServer(("127.0.0.1", 0), _Secret) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        manners = Manners(
            "test (+a@b.org)", lookup=lookup, retries=2, retry_base_seconds=0, timeout_seconds=1
        )
        items = [Item(str(n), f"http://rebound.test:{server.server_port}/{n}") for n in range(4)]
        outcomes = asyncio.run(fetch_all(items, manners))
        server.shutdown()
    assert {outcome.status for outcome in outcomes} <= {
        "refused",
        "timeout",
        "connection_failed",
        "host_down",
    }
    assert _Secret.hits == 0
