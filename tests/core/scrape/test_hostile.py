"""Whatever a hostile web sends: no crash, no leak, no more bytes than asked for, a reason each."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from dcgan_core.artifacts import read_manifest
from dcgan_core.backend import LocalBackend
from dcgan_core.pipeline import load_pipeline
from dcgan_core.scrape.photos import also_is
from dcgan_core.stage import run
from dcgan_core.storage import Store
from dcgan_core.tables import read_all
from tests.web.malformed import COUNT, malformed
from tests.web.photo_host import PhotoHost, good_photo, polyglot
from tests.web.runs import Web

HOST = "evil.test"
LARGEST = 1_000_000

EXPECTED = {
    "/photos/1.jpg": "ok",
    "/lying-type/1.jpg": "wrong_type",
    "/jpeg-as-html/1.jpg": "wrong_type",
    "/html-as-jpeg/1.jpg": "not_image",
    "/short/1.jpg": "truncated",
    "/oversized/1.jpg": "too_large",
    "/claims-a-terabyte/1.jpg": "too_large",
    "/endless/1.jpg": "too_large",
    "/drip/1.jpg": "timeout",
    "/silent/1.jpg": "timeout",
    "/gzip-bomb/1.jpg": "too_large",
    "/gzipped/1.jpg": "ok",
    "/brotli/1.jpg": "unsupported",
    "/tagged/noai/1.jpg": "opted_out",
    "/tdm/1.jpg": "opted_out",
    "/reset/1.jpg": "connection_failed",
    "/empty/1.jpg": "empty",
    "/garbage/1.jpg": "connection_failed",
    "/headers/1.jpg": "connection_failed",
    "/odd-headers/1.jpg": "ok",
    "/pixel-bomb/1.jpg": "too_many_pixels",
    "/polyglot/zip/1.jpg": "polyglot",
    "/polyglot/html/1.jpg": "polyglot",
    "/polyglot/pdf/1.jpg": "polyglot",
    "/loop": "too_many_redirects",
    "/redirect/5/1.jpg": "ok",
    "/redirect/6/1.jpg": "too_many_redirects",
    "/nothing": "http_error",
    **{
        f"/redirect-to?url={quote(target, safe='')}": "refused"
        for target in (
            "http://169.254.169.254/latest/meta-data/",
            "http://127.0.0.1:22/",
            "http://localhost/",
            "http://[::ffff:10.0.0.1]/",
            "http://2130706433/",
            "file:///etc/passwd",
            "gopher://evil.test/",
            "http://user:secret@evil.test/photos/1.jpg",
        )
    },
}
REFUSED = [
    "file:///etc/passwd",
    "http://10.0.0.1/1.jpg",
    "http://100.64.0.1/1.jpg",
    "http://[fe80::1]/1.jpg",
    "http://localhost:1/1.jpg",
    "javascript:alert(1)",
    "http://evil.test:99999/1.jpg",
    "\x00\x01",
]


def open_files() -> int:
    return len([*Path("/proc/self/fd").iterdir()])


@pytest.mark.parametrize("part_of", ["urls"])
def test_a_hostile_host_gives_reasons_and_nothing_else(part_of: str, store: Store, tmp_path: Path) -> None:
    urls = [f"http://{HOST}{path}" for path in EXPECTED]
    with PhotoHost() as double:
        web = Web(store, tmp_path, double, (HOST,))
        threads, files = threading.active_count(), open_files()
        rows = web.scrape(
            [*urls, *REFUSED],
            timeout_seconds=3.0,
            retries=0,
            max_bytes=LARGEST,
            breaker_failures=1000,
            per_host=16,
        )
        assert threading.active_count() <= threads + 1  # the pool of asyncio's own threads ends with its loop
        assert open_files() <= files + 2
        sent = double.sent["/endless/1.jpg"]
    by_url = {row["url"]: row for row in rows}
    found = {path: by_url[f"http://{HOST}{path}"]["status"] for path in EXPECTED}
    assert found == EXPECTED
    assert {by_url[url]["status"] for url in REFUSED if url in by_url} == {"refused"}
    assert len(rows) == len(urls) + len(REFUSED)
    assert all(bool(row["reason"]) == (row["status"] != "ok") for row in rows)
    assert all((row["image"] is not None) == (row["status"] == "ok") for row in rows)
    assert sent < 20 * LARGEST  # what the sockets' buffers hold, and no more
    assert "root:" not in str(rows)


def test_sixty_malformed_images_end_as_rows_and_take_no_worker_down(store: Store, tmp_path: Path) -> None:
    urls = [f"http://{HOST}/malformed/{number}.jpg" for number in range(COUNT)]
    good = [f"http://{HOST}/photos/{number}.jpg" for number in range(6)]
    with PhotoHost() as double:
        web = Web(store, tmp_path, double, (HOST,))
        overrides: dict[str, Any] = {**web.overrides([*urls, *good]), "crop.method": "center"}
        rows: dict[str, list[dict[str, Any]]] = {}
        for stage in load_pipeline("faces64", overrides, upto="crop").stages:
            run(stage, store, LocalBackend(1))
            manifest = read_manifest(store, stage.address)
            assert manifest is not None
            if stage.artifact in ("photos", "crops"):
                rows[stage.artifact] = read_all(store, manifest, f"{stage.artifact}-").to_pylist()
    photos = {row["url"]: row for row in rows["photos"]}
    crops = {row["photo_key"]: row for row in rows["crops"]}
    assert photos.keys() == {*urls, *good}
    ends = {}
    for url, photo in photos.items():
        end = photo if photo["status"] != "ok" else crops[photo["key"]]
        assert (end["status"] == "ok") == (end["image"] is not None)
        assert bool(end["reason"]) == (end["status"] != "ok"), url
        ends[url] = end["status"]
    assert {ends[url] for url in good} == {"ok"}
    spoilt = [ends[url] for url in urls]
    assert "decoder_crashed" not in spoilt
    # Some bits flipped in the pixels leave an image that decodes: that is no harm.
    assert sum(status != "ok" for status in spoilt) >= 35


def test_malformed_images_are_sixty_different_ones() -> None:
    bodies = [malformed(number)[0] for number in range(COUNT)]
    assert len({*bodies}) == COUNT
    assert max(len(body) for body in bodies) < LARGEST


def test_an_image_that_is_something_else_too_is_told() -> None:
    assert also_is(good_photo(1)) is None
    assert also_is(good_photo(1) + b"PK\x05\x06 trailing bytes of a camera, not an archive") is None
    assert also_is(polyglot("zip")) == "a zip archive"
    assert also_is(polyglot("pdf")) == "a PDF"
    assert also_is(polyglot("html")) == "a web page"
