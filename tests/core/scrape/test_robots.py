"""What a site asks of robots is read as RFC 9309 and the search engines' headers say."""

from __future__ import annotations

import pytest
from multidict import CIMultiDict

from dcgan_core.scrape.robots import MAX_BYTES, Rules, opted_out, parse

ROBOTS = b"""User-agent: *
Disallow: /private/
Allow: /private/open/
Crawl-delay: 2

User-agent: dcgan
Disallow: /not-for-dcgan/
Crawl-delay: 0.5
Request-rate: 1/3
"""


def test_the_group_that_names_us_counts_and_no_other() -> None:
    rules = parse(ROBOTS)
    assert not rules.allows("http://a.org/not-for-dcgan/1.jpg")
    assert rules.allows("http://a.org/private/1.jpg")
    assert rules.seconds_between == 3


def test_the_longest_rule_wins() -> None:
    rules = parse(ROBOTS.partition(b"User-agent: dcgan")[0])
    assert not rules.allows("http://a.org/private/1.jpg")
    assert rules.allows("http://a.org/private/open/1.jpg")
    assert rules.seconds_between == 2


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xd8\xff junk \x00\x01", b"<html>404</html>", b"Crawl-delay: soon"]
)
def test_what_is_no_robots_txt_forbids_nothing(body: bytes) -> None:
    rules = parse(body)
    assert rules.allows("http://a.org/1.jpg")
    assert rules.seconds_between == 0


def test_what_lies_behind_half_a_megabyte_is_not_read() -> None:
    padding = b"#" * 79 + b"\n"
    rules = parse(padding * (MAX_BYTES // 80 + 1) + b"User-agent: *\nDisallow: /\n")
    assert rules.allows("http://a.org/1.jpg")


def test_a_file_that_could_not_be_had_forbids_everything() -> None:
    assert not Rules(closed="HTTP 503").allows("http://a.org/1.jpg")
    assert Rules().allows("http://a.org/1.jpg")


@pytest.mark.parametrize(
    ("value", "directive"),
    [
        ("noai", "noai"),
        ("NoImageAI, follow", "noimageai"),
        ("all, noindex", "noindex"),
        ("none", "none"),
        ("dcgan: noindex", "noindex"),
        ("*: noai", "noai"),
        ("unavailable_after: 25 Jun 2030 15:00:00 PST, noai", "noai"),
        ("max-image-preview: large, noindex", "noindex"),
    ],
)
def test_a_tag_that_opts_out_is_named(value: str, directive: str) -> None:
    assert opted_out(CIMultiDict({"x-robots-tag": value})) == f"X-Robots-Tag: {directive}"


@pytest.mark.parametrize("value", ["all", "otherbot: noindex, noai", "max-snippet: 20", "noarchive", ""])
def test_a_tag_for_others_or_for_nothing_of_ours_does_not(value: str) -> None:
    assert opted_out(CIMultiDict({"X-Robots-Tag": value})) is None


def test_every_header_line_counts_and_so_does_a_reservation() -> None:
    headers = CIMultiDict[str]([("X-Robots-Tag", "otherbot: noai"), ("X-Robots-Tag", "noimageai")])
    assert opted_out(headers) == "X-Robots-Tag: noimageai"
    assert opted_out(CIMultiDict({"tdm-reservation": "1"})) == "TDM-Reservation: 1"
    assert opted_out(CIMultiDict({"tdm-reservation": "0"})) is None
