"""What a site asks of robots: robots.txt by RFC 9309, and the opt-outs in the headers of an answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from protego import Protego

AGENT = "dcgan"
"""The product token that robots.txt and X-Robots-Tag may name."""

MAX_BYTES = 500 * 1024
"""RFC 9309, section 2.5: at least this much of a robots.txt is read; what is behind it is not."""

_OPT_OUTS = ("noai", "noimageai", "noindex", "none")
_WITH_VALUE = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")
_MOST_CRAWL_DELAY_SECONDS = 3600.0


class Headers(Protocol):
    """Headers that may occur more than once (multidict's interface)."""

    def getall(self, key: str, default: list[str]) -> list[str]: ...


@dataclass(frozen=True)
class Rules:
    """What one origin's robots.txt says to us."""

    parsed: Protego | None = None
    """None where there is none: everything is allowed."""
    closed: str = ""
    """Why everything is disallowed (the file could not be had), or empty."""
    status: str = ""
    """The outcome's status where ``closed``."""
    attempts: int = 1
    """Tries that it took to learn this."""

    def allows(self, url: str) -> bool:
        """Whether the path may be fetched (the most specific rule wins, Allow before Disallow)."""
        return not self.closed and (self.parsed is None or self.parsed.can_fetch(url, AGENT))

    @property
    def seconds_between(self) -> float:
        """Seconds between requests that the site asks for (Crawl-delay, Request-rate), or 0."""
        if self.parsed is None:
            return 0.0
        delay = float(self.parsed.crawl_delay(AGENT) or 0.0)
        rate = self.parsed.request_rate(AGENT)
        if rate and rate.requests:
            delay = max(delay, rate.seconds / rate.requests)
        return min(max(delay, 0.0), _MOST_CRAWL_DELAY_SECONDS)


def parse(body: bytes) -> Rules:
    """The rules of a robots.txt; bytes that are not UTF-8 are passed over."""
    return Rules(Protego.parse(body[:MAX_BYTES].decode("utf-8-sig", "ignore")))


def opted_out(headers: Headers) -> str | None:
    """Which header keeps a photo out of data sets, or None.

    ``X-Robots-Tag`` noai, noimageai, noindex or none, for everybody or for us by name; and
    ``TDM-Reservation: 1``, the reservation of rights against text and data mining (W3C TDMRep).
    """
    for value in headers.getall("X-Robots-Tag", []):
        if directive := _directive(value.split(",")):
            return f"X-Robots-Tag: {directive}"
    if any(value.strip() == "1" for value in headers.getall("TDM-Reservation", [])):
        return "TDM-Reservation: 1"
    return None


def _directive(pieces: Iterable[str]) -> str | None:
    agent = ""
    for piece in pieces:
        head, colon, rest = piece.strip().lower().partition(":")
        if colon and head.strip() not in _WITH_VALUE:  # "otherbot: noindex" speaks to that robot from here on
            agent, head = head.strip(), rest
        if head.strip() in _OPT_OUTS and agent in ("", "*", AGENT):
            return head.strip()
    return None
