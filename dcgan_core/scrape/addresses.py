"""Which urls and addresses may be fetched at all, and names looked up once, checked and pinned."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import ThreadedResolver
from yarl import URL

Lookup = Callable[[str, int], Awaitable[list[str]]]
"""Addresses of a host name, as text, for (name, port); raises OSError where there are none."""

# Not every Python release counts these among what is not global: shared (CGNAT), protocol assignments (one
# cloud's metadata among them), benchmarks.
_NOT_PUBLIC = tuple(ipaddress.ip_network(text) for text in ("100.64.0.0/10", "192.0.0.0/24", "198.18.0.0/15"))
_CARRIED_V4 = (
    (ipaddress.ip_network("64:ff9b::/96"), 0),  # NAT64: the last 32 bits
    (ipaddress.ip_network("64:ff9b:1::/48"), 0),
    (ipaddress.ip_network("::/96"), 0),  # IPv4-compatible, long deprecated
    (ipaddress.ip_network("2002::/16"), 80),  # 6to4: bits 16 to 48
)


class Refused(Exception):
    """The address or scheme is not one that may be fetched; the text says why, for a row's reason."""


class PinnedResolver(AbstractResolver):
    """Looks a name up once, refuses it unless all its addresses are public, and never asks again.

    A name that later resolves to another address (DNS rebinding) therefore changes nothing. ``addresses``
    maps names to (address, port), like curl's --resolve; these are not looked up.
    """

    def __init__(
        self,
        addresses: Mapping[str, tuple[str, int]],
        *,
        allow_loopback: bool,
        lookup: Lookup | None = None,
    ) -> None:
        self._addresses, self._allow_loopback = addresses, allow_loopback
        self._lookup = lookup or _ask_the_system
        self._pinned: dict[str, asyncio.Future[list[str]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Pinned addresses of a name. Raises Refused (not public) or OSError (not found)."""
        if host in self._addresses:
            address, real_port = self._addresses[host]  # asked for by name: as good as an allowance
            return [_result(host, address, real_port)]
        if host not in self._pinned:
            self._pinned[host] = asyncio.ensure_future(self._lookup(host, port))
        pin = self._pinned[host]
        try:
            found = await asyncio.shield(pin)
        except OSError:
            if self._pinned.get(host) is pin:
                del self._pinned[host]  # not found now may be found at the next try
            raise
        for address in found:  # one bad address spoils the name: which of them is taken is not ours to say
            check_address(address, allow_loopback=self._allow_loopback)
        return [_result(host, address, port) for address in found]

    async def close(self) -> None:
        """Forget what was looked up."""
        for future in self._pinned.values():
            future.cancel()
        self._pinned.clear()


def check_url(url: URL, *, allow_loopback: bool) -> None:
    """Raise Refused unless the url is http or https and names a host, no user and no refused address."""
    if url.scheme not in ("http", "https") or not url.host:
        raise Refused("only http and https urls are fetched")
    if url.user is not None or url.password is not None:
        raise Refused("the url carries a user name or password")
    try:
        ipaddress.ip_address(url.host)
    except ValueError:
        if _looks_like_an_address(url.host):  # 2130706433, 127.1, 0x7f000001 are addresses to the C library
            raise Refused("not a valid address") from None
        return  # a name: checked when it is resolved
    check_address(url.host, allow_loopback=allow_loopback)


def check_address(text: str, *, allow_loopback: bool) -> None:
    """Raise Refused for private, loopback, link-local, shared (CGNAT), multicast and reserved addresses.

    IPv4 addresses carried inside IPv6 ones (mapped, NAT64, 6to4, compatible) are judged as what they carry.
    """
    address = ipaddress.ip_address(text.partition("%")[0])
    address = _carried(address) or address
    if address.is_loopback and allow_loopback:
        return
    is_public = address.is_global and not (address.is_multicast or address.is_reserved)
    if not is_public or any(address in network for network in _NOT_PUBLIC):
        raise Refused("the address is not on the public internet (scrape.allow_loopback allows this machine)")


def _carried(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | None:
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address.ipv4_mapped:
        return address.ipv4_mapped
    if address == ipaddress.IPv6Address(1) or address == ipaddress.IPv6Address(0):
        return None
    for network, shift in _CARRIED_V4:
        if address in network:
            return ipaddress.IPv4Address(int(address) >> shift & 0xFFFFFFFF)
    return None


def _looks_like_an_address(host: str) -> bool:
    pieces = host.rstrip(".").split(".")
    return all(piece.isdigit() or piece.lower().startswith("0x") for piece in pieces)


async def _ask_the_system(host: str, port: int) -> list[str]:
    found = await ThreadedResolver().resolve(host, port, socket.AF_UNSPEC)
    return [result["host"] for result in found]


def _result(host: str, address: str, port: int) -> ResolveResult:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return ResolveResult(
        hostname=host, host=address, port=port, family=family, proto=0, flags=socket.AI_NUMERICHOST
    )
