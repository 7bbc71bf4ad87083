"""A host's turnstile: never more at once than it bears, pauses kept, a dead host left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from dcgan_core.scrape.hosts import LONGEST_PAUSE_SECONDS, Cap, Host, HostDown, cap_of


def host_of(connections: int = 8, failures: int = 3, pause: float = 0.0) -> Host:
    return Host("a.org", Cap(connections), breaker_failures=failures, breaker_pause_seconds=pause)


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await body()

    asyncio.run(bounded())


@pytest.mark.parametrize(
    ("name", "cap"),
    [
        ("commons.wikimedia.org", Cap(1, 4, 200)),
        ("en.wikipedia.org", Cap(1, 4, 200)),
        ("UPLOAD.wikimedia.org.", Cap(2, 12)),
        ("live.dbpedia.org", Cap(1, 2, 100)),
        ("notwikimedia.org", Cap(64)),
        ("wikimedia.org.evil.test", Cap(64)),
    ],
)
def test_known_hosts_have_caps_that_configuration_cannot_raise(name: str, cap: Cap) -> None:
    assert cap_of(name, per_host=64) == cap
    assert cap_of(name, per_host=1).connections == 1


def test_the_number_at_once_grows_to_the_cap_and_no_further() -> None:
    async def body() -> None:
        host = host_of(connections=5)
        at_once = most = 0

        async def one() -> None:
            nonlocal at_once, most
            async with host.request():
                at_once += 1
                most = max(most, at_once)
                await asyncio.sleep(0)
                at_once -= 1
            host.went_well()

        await asyncio.gather(*(one() for _ in range(50)))
        assert most == 5
        assert host.limit == 5

    run(body)


def test_a_host_that_says_slow_down_is_halved_and_everybody_waits() -> None:
    async def body() -> None:
        host = host_of(connections=8)
        for _ in range(20):
            host.went_well()
        assert host.limit == 8
        loop = asyncio.get_running_loop()
        began = loop.time()
        host.asked_to_slow_down(0.2, 0)
        assert host.limit == 4
        async with host.request():
            assert loop.time() - began >= 0.2
        host.went_well()
        assert host.limit == 4.25  # from now on one more a round trip

    run(body)


def test_a_pause_that_is_too_long_gives_the_host_up() -> None:
    async def body() -> None:
        host = host_of()
        host.asked_to_slow_down(LONGEST_PAUSE_SECONDS + 1, 0)
        assert host.is_down
        with pytest.raises(HostDown, match="asks for a pause of 301 s"):
            async with host.request():
                raise AssertionError("not let in")

    run(body)


def test_failures_in_a_row_open_the_circuit_and_in_the_end_give_up() -> None:
    async def body() -> None:
        host = host_of(failures=3)
        for _ in range(2):
            host.failed()
        host.went_well()  # a success between: counting starts anew
        for _ in range(3):
            host.failed()
        assert not host.is_down
        host.failed()
        assert not host.is_down
        host.failed()
        assert host.is_down

    run(body)


def test_those_waiting_for_a_host_that_is_given_up_are_told() -> None:
    async def body() -> None:
        host = host_of(connections=1)

        async def waits() -> str:
            try:
                async with host.request():
                    return "let in"
            except HostDown:
                return "told"

        async with host.request():
            others = [asyncio.create_task(waits()) for _ in range(3)]
            await asyncio.sleep(0)
            host.asked_to_slow_down(10_000, 0)
        assert await asyncio.gather(*others) == ["told"] * 3

    run(body)


def test_one_that_is_cancelled_while_waiting_passes_its_place_on() -> None:
    async def body() -> None:
        host = host_of(connections=1)
        async with host.request():
            waiting = asyncio.create_task(_enter(host))
            behind = asyncio.create_task(_enter(host))
            await asyncio.sleep(0)
            waiting.cancel()
        assert await behind == "let in"
        assert await _enter(host) == "let in"

    run(body)


def test_a_crawl_delay_is_kept_and_means_one_at_a_time() -> None:
    async def body() -> None:
        host = host_of(connections=8)
        host.keep_apart(0.1)
        loop = asyncio.get_running_loop()
        began, times = loop.time(), []

        async def one() -> None:
            async with host.request():
                times.append(loop.time())
            host.went_well()

        await asyncio.gather(*(one() for _ in range(4)))
        assert all(time - began >= 0.0999 * n for n, time in enumerate(times))
        assert host.limit == 1

    run(body)


async def _enter(host: Host) -> str:
    async with host.request():
        return "let in"
