"""Tables of photos and of how they were fetched: one row an item, whatever became of it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from dcgan_core import images
from dcgan_core.artifacts import Receipt, now
from dcgan_core.errors import DecodeError, NoUsableData, TooManyFailures
from dcgan_core.exclusions import NOTHING, Exclusions
from dcgan_core.scrape.sources import Outcome
from dcgan_core.stage import Summary
from dcgan_core.storage import sha256_hex

PHOTOS = pa.schema(
    [
        ("key", pa.string()),
        ("url", pa.string()),
        ("page_url", pa.string()),
        ("query", pa.string()),
        ("label", pa.int32()),
        ("caption", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("sha256", pa.string()),
        ("format", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("licence", pa.string()),
        ("licence_url", pa.string()),
        ("artist", pa.string()),
        ("credit", pa.string()),
        ("restrictions", pa.string()),
        ("image", pa.large_binary()),
    ]
)
"""One row per item; ``image`` holds the bytes as they came, null unless status is "ok"."""

FETCHES = pa.schema(
    [
        ("key", pa.string()),
        ("fetched_at", pa.string()),
        ("attempts", pa.int32()),
        ("seconds", pa.float64()),
        ("http_status", pa.int32()),
        ("etag", pa.string()),
        ("last_modified", pa.string()),
        ("final_url", pa.string()),
        ("carried_over", pa.string()),
        ("carried_over_reason", pa.string()),
    ]
)
"""What differs from run to run; outside the data hash. Tables of older versions lack the last two columns.

``carried_over`` says of a photo that could not be fetched this time where its bytes are from: the day
(scrape.as_of) or the edition for which they were fetched. The bytes are the same, so the data hash is, too.
"""

FACTS = ("page_url", "query", "caption", "licence", "licence_url", "artist", "credit", "restrictions")
"""What a source may know of a photo before it is fetched."""

NOT_TRIED = {"duplicate", "excluded", "not_licensed", "restricted"}
"""Statuses of items that were left out on purpose: no failures."""

PASSING = {
    "http_error",
    "timeout",
    "connection_failed",
    "truncated",
    "read_failed",
    "host_down",
    "robots_unreachable",
}
"""Statuses of failures that may pass; of ``http_error`` not every one (see ``may_pass``)."""

_PASSING_CLIENT_ERRORS = {408, 425, 429}

_ANY_TYPE = {"", "application/octet-stream", "binary/octet-stream", "application/binary"}
_SAME_TYPE = {
    "jpg": "jpeg",
    "pjpeg": "jpeg",
    "x-png": "png",
    "x-ms-bmp": "bmp",
    "x-bmp": "bmp",
    "tif": "tiff",
}
_LONGEST_FIELD = 2000


def photo_row(
    outcome: Outcome,
    max_pixels: int,
    facts: Mapping[str, Any] | None = None,
    exclusions: Exclusions = NOTHING,
) -> dict[str, Any]:
    """The row of an outcome; the header of the image is read, its pixels are not.

    ``facts`` are what the source knows of it (``FACTS``, and ``sha1`` of its bytes). An excluded photo's row
    keeps its key and nothing else.
    """
    item = outcome.item
    row: dict[str, Any] = {
        **{name: _short(facts[name]) for name in FACTS if facts and facts.get(name) is not None},
        "key": item.key,
        "url": item.url,
        "label": item.label,
        "status": outcome.status,
        "reason": outcome.reason,
    }
    if item.caption is not None:
        row["caption"] = item.caption
    if outcome.data is not None:
        row |= {"sha256": sha256_hex(outcome.data), **_judged(outcome, outcome.data, max_pixels, facts or {})}
    if why := exclusions.why({**row, "final_url": outcome.final_url}):
        return excluded_row(item.key, why)
    return row


def may_pass(status: str, http_status: int | None) -> bool:
    """Whether an item failed for a reason that may pass: silence, a host that is down, 5xx, 408, 425, 429.

    Other answers (404, 410, 403, robots.txt, opt-outs, bytes that are no photo) say something of the item.
    """
    if status == "http_error" and http_status is not None:
        return http_status >= 500 or http_status in _PASSING_CLIENT_ERRORS
    return status in PASSING


def excluded_row(key: str, why: str) -> dict[str, Any]:
    """The row of an excluded item: that there was one, and nothing about it."""
    return {"key": key, "status": "excluded", "reason": why}


def fetch_row(outcome: Outcome, at: str | None = None) -> dict[str, Any]:
    """How an item was fetched; ``at`` when, by default now."""
    return {
        "key": outcome.item.key,
        "fetched_at": at or now(),
        "attempts": outcome.attempts,
        "seconds": outcome.seconds,
        "http_status": outcome.http_status,
        "etag": outcome.etag,
        "last_modified": outcome.last_modified,
        "final_url": outcome.final_url,
        "carried_over": outcome.carried_over,
        "carried_over_reason": outcome.carried_over_reason,
    }


def count_carried(fetches: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Numbers of photos carried over, by "since: reason" for the commonest."""
    counts = Counter(
        f"{row['carried_over']}: {row['carried_over_reason']}" for row in fetches if row["carried_over"]
    )
    return dict(counts.most_common(_REASONS_KEPT))


def count_outcomes(rows: Counter[tuple[str, str]]) -> tuple[dict[str, int], dict[str, int]]:
    """Numbers by status, and by "status: reason" for the commonest reasons."""
    statuses, reasons = Counter[str](), Counter[str]()
    for (status, reason), count in rows.items():
        statuses[status] += count
        if reason:
            reasons[f"{status}: {reason}"] += count
    return dict(statuses), dict(reasons.most_common(_REASONS_KEPT))


_REASONS_KEPT = 50


def photos_summary(receipts: Sequence[Receipt], max_failure_rate: float) -> Summary:
    """Counts of all parts. Raises NoUsableData and TooManyFailures."""
    counts, reasons, carried = Counter[str](), Counter[str](), Counter[str]()
    for receipt in receipts:
        counts.update(receipt.counts)
        reasons.update(receipt.metrics.get("reasons", {}))
        carried.update(receipt.metrics.get("carried_over", {}))
    total, left_out = counts.total(), sum(counts[status] for status in NOT_TRIED)
    rate = (total - left_out - counts["ok"]) / max(1, total)
    if not counts["ok"]:
        advice = (
            "No item of the source is a usable photo: look at the reasons and mend them. What may pass "
            "is tried again by the next run, all of it with --refresh"
        )
        raise NoUsableData("scrape", dict(counts), advice)
    if rate > max_failure_rate:
        raise TooManyFailures("scrape", rate, max_failure_rate, dict(counts))
    return Summary(
        counts={"items": total, **dict(sorted(counts.items())), **_if_any("carried_over", carried.total())},
        metrics={
            "reasons": dict(reasons.most_common(_REASONS_KEPT)),
            **_if_any("carried_over", dict(carried.most_common(_REASONS_KEPT))),
        },
    )


def _if_any(name: str, value: Any) -> dict[str, Any]:
    return {name: value} if value else {}


def _judged(outcome: Outcome, data: bytes, max_pixels: int, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the bytes say of themselves: their format and size, or why they are not taken."""
    try:
        header = images.read_header(data, max_pixels)
    except DecodeError as error:
        return {"status": error.status, "reason": error.why}
    declared = (outcome.declared or "").partition(";")[0].strip().lower()
    if declared not in _ANY_TYPE and _format_of(declared) != header.format:
        return {"status": "wrong_type", "reason": f"declared {declared[:40]!r}, and is {header.format}"}
    if what := also_is(data):
        return {"status": "polyglot", "reason": f"a {header.format} that is also {what}"}
    wanted = facts.get("sha1")
    if wanted and hashlib.sha1(data, usedforsecurity=False).hexdigest() != wanted.lower():
        return {"status": "wrong_hash", "reason": "its sha1 is not the one that the search engine gave"}
    return {"format": header.format, "width": header.width, "height": header.height, "image": data}


def also_is(data: bytes) -> str | None:
    """What else an image's bytes are to other readers (a polyglot), or None: an archive, a PDF, a web page.

    Zip readers look for their directory at the end, PDF readers and browsers' guessing for a mark in the
    first kilobyte; so do we. Trailing bytes alone are no sign: cameras and phones write them.
    """
    start = data[:1024].lower()
    if b"%pdf-" in start:
        return "a PDF"
    if any(mark in start for mark in (b"<script", b"<html", b"<!doctype html", b"<iframe", b"<svg")):
        return "a web page"
    tail = data[-_ZIP_TAIL:]
    end = tail.rfind(_ZIP_END)
    while end >= 0:
        comment = int.from_bytes(tail[end + 20 : end + 22], "little")
        if end + 22 + comment == len(tail):
            return "a zip archive"
        end = tail.rfind(_ZIP_END, 0, end)
    return None


_ZIP_END = b"PK\x05\x06"
_ZIP_TAIL = 8192
"""An archive's comment may be 64 kB long; to look so far in every photo would cost as much as its sha256."""


def _format_of(declared: str) -> str:
    kind, _, name = declared.partition("/")
    return _SAME_TYPE.get(name, name) if kind == "image" else declared


def _short(value: Any) -> Any:
    return value[:_LONGEST_FIELD] if isinstance(value, str) else value
