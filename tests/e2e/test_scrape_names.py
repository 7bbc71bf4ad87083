"""From names to crops over a web that fails a third of the time, killed ten times on the way."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dcgan_core.artifacts import Manifest, all_manifests
from dcgan_core.journal import Journal
from dcgan_core.scrape.sources import item_key
from dcgan_core.storage import Store
from dcgan_core.tables import read_all
from dcgan_core.verify import problems
from tests.web import commons, dbpedia
from tests.web.server import Faults

pytest.importorskip("skimage", reason="the photos are made from the LFW subset of scikit-image")

ROOT = Path(__file__).parents[2]
LIVES = 10
FAULTS = Faults(share=1 / 3, kinds=("500", "503", "429", "reset", "truncate"))
PEOPLE = dbpedia.sample_people(20, first_year=1970, years=2)
FILES = commons.sample_files(
    [f"{first} {last}" for last in dbpedia.LAST[:2] for first in dbpedia.FIRST], seed=4, most=5
)


@dataclass
class Net:
    """Both doubles, and how to find them."""

    names: dbpedia.DBpedia
    pictures: commons.Commons

    def overrides(self) -> dict[str, Any]:
        ports = {
            dbpedia.HOST: self.names.port,
            commons.API: self.pictures.port,
            commons.MEDIA: self.pictures.port,
        }
        return {
            "scrape.source": "search",
            "scrape.contact": "test@example.org",
            "scrape.born_from": 1970,
            "scrape.born_to": 1971,
            "scrape.row_cap": 60,
            "scrape.dbpedia_url": f"http://{dbpedia.HOST}/sparql",
            "scrape.commons_url": f"http://{commons.API}/w/api.php",
            "scrape.addresses": {name: f"127.0.0.1:{port}" for name, port in ports.items()},
            "scrape.retries": 3,
            "scrape.retry_base_seconds": 0.01,
            "scrape.breaker_pause_seconds": 0.05,
            "scrape.items_per_part": 8,
            "scrape.images_per_person": 6,
            "crop.stored_size": 32,
        }


@pytest.fixture
def net() -> Iterator[Net]:
    """Caps of the real hosts are kept by the code; the doubles count what breaks them."""
    names = dbpedia.DBpedia(PEOPLE, row_cap=60, times_out_above=90, faults=FAULTS)
    pictures = commons.Commons(FILES, maxlag_first=1, faults=FAULTS)
    with names, pictures:
        yield Net(names, pictures)


def life(root: Path, overrides: dict[str, Any]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.e2e.scrape_names", str(root), json.dumps(overrides)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    said, wrong = process.communicate(timeout=300)
    assert process.returncode == 0, wrong[-3000:]
    assert said.split() == ["alive", "done"]


def by_kind(root: Path) -> dict[str, Manifest]:
    return {manifest.artifact: manifest for manifest in all_manifests(Store(str(root)))}


def rows(root: Path, kind: str) -> list[dict[str, Any]]:
    return read_all(Store(str(root)), by_kind(root)[kind], f"{kind}-").to_pylist()


def settled(root: Path) -> set[str]:
    """Keys of the photos whose success is kept: in a journal, or in a part with its receipt."""
    store = Store(str(root))
    kept: set[str] = set()
    for fingerprint in store.names("artifacts/photos"):
        folder = f"artifacts/photos/{fingerprint}"
        for name in store.names(f"{folder}/journal"):
            journal = Journal(store, f"{folder}/journal/{name}")
            kept |= {key for key, entry in journal.entries.items() if entry.record["status"] == "ok"}
            journal.close()
        for name in store.names(f"{folder}/receipts"):
            part = int(name.partition(".")[0])
            table = pq.read_table(store.local_path(f"{folder}/parts/photos-{part:05d}.parquet"))
            kept |= {row["key"] for row in table.to_pylist() if row["status"] == "ok"}
    return kept


class Nth:
    """An event set by the n-th request from now that the doubles get together."""

    def __init__(self, net: Net, count: int) -> None:
        self.reached, self._left = threading.Event(), count
        for double in (net.names, net.pictures):
            double.watchers[:] = [self._one]

    def _one(self) -> None:
        self._left -= 1
        if self._left <= 0:
            self.reached.set()


@pytest.mark.slow
def test_killed_ten_times_it_asks_for_no_photo_twice_and_ends_with_the_same_rows(
    net: Net, tmp_path: Path
) -> None:
    overrides = net.overrides()
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    finish(life(straight, overrides))
    assert net.pictures.violations == []

    # Every url is accounted for, with the reason it has.
    people, photos = rows(straight, "people"), rows(straight, "photos")
    assert Counter(row["status"] for row in people) == {
        "ok": 20 + 3,
        "no_name": 2,
        "bad_date": 2,
        "same_name": 1,
    }
    asked_names = {row["name"] for row in people if row["status"] == "ok"}
    expected = [file for name in asked_names for file in FILES.get(name, [])[:6]]
    listed = [row for row in photos if row["url"]]
    assert len(listed) == len([file for file in expected if not file.missing])
    assert {row["status"] for row in listed} <= {"ok", "duplicate", "unsupported_type"}
    usable = {file.title for file in expected if not file.missing and file.mime == "image/jpeg"}
    assert sum(row["status"] == "ok" for row in photos) == len(usable) > 20
    for row in photos:
        if row["status"] == "ok":
            assert row["licence"] in commons.LICENCES
            assert row["artist"] == "Photog"
            assert row["credit"] == "Own work & more"
            assert row["caption"] == "Jane at a fair"
            assert row["page_url"].startswith("https://commons.wikimedia.org/wiki/File:")
            assert (row["licence_url"] is None) == (row["licence"] == "Public domain")
    assert any(row["restrictions"] == "personality" for row in photos)
    crops = rows(straight, "crops")
    assert {row["photo_key"] for row in crops} == {row["key"] for row in photos if row["status"] == "ok"}
    assert sum(row["status"] == "ok" for row in crops) > 0.7 * len(usable)

    # Ten lives that end by SIGKILL at a random request, then one that is let be.
    total = len(net.names.requests) + len(net.pictures.requests)
    draw = random.Random(11)
    answered_twice = []
    for _ in range(LIVES):
        before = settled(killed)
        net.pictures.clear()
        nth = Nth(net, draw.randint(2, total // (LIVES + 2)))
        process = life(killed, overrides)
        try:
            while not nth.reached.wait(0.5):
                assert process.poll() is None, "it ended before it could be killed"
            process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
            process.communicate()
        asked = {f"http://{each.host}{each.path}" for each in net.pictures.of(commons.MEDIA)}
        answered_twice += [url for url in asked if item_key(url) in before]
    before = settled(killed)
    net.pictures.clear()
    finish(life(killed, overrides))
    asked = {f"http://{each.host}{each.path}" for each in net.pictures.of(commons.MEDIA)}
    answered_twice += [url for url in asked if item_key(url) in before]
    assert answered_twice == []
    assert before, "no life got as far as the photos"

    for kind in ("people", "searches", "candidates", "photos", "crops"):
        assert by_kind(killed)[kind].content == by_kind(straight)[kind].content, kind
        assert [wrong for _, wrong in problems(Store(str(killed)), by_kind(killed)[kind]) if wrong] == []
    assert net.pictures.violations == []
