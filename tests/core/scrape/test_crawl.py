"""A list of urls, fetched as its hosts wish, resumed url by url, and every url accounted for."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from dcgan_core.artifacts import read_manifest
from dcgan_core.backend import LocalBackend
from dcgan_core.errors import NoUsableData
from dcgan_core.exclusions import Exclusion
from dcgan_core.forget import forget
from dcgan_core.journal import Journal
from dcgan_core.pipeline import load_pipeline
from dcgan_core.scrape.candidates import lane_of
from dcgan_core.stage import lanes_of, run
from dcgan_core.storage import Store, read_whole
from dcgan_core.tables import read_all
from tests.web.photo_host import PhotoHost, good_photo
from tests.web.runs import Web, check_manners, statuses
from tests.web.server import Faults


def photos(hosts: tuple[str, ...], count: int) -> list[str]:
    return [f"http://{hosts[number % len(hosts)]}/photos/{number}.jpg" for number in range(count)]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_server_sees_good_manners(workers: int, store: Store, tmp_path: Path) -> None:
    check_manners(store, tmp_path, LocalBackend(workers))


def test_hosts_are_dealt_out_whole(store: Store, tmp_path: Path) -> None:
    """No host is in the hands of two workers, whatever its number of urls."""
    hosts = tuple(f"h{number}.test" for number in range(40))
    with PhotoHost() as double:
        web = Web(store, tmp_path, double, hosts)
        urls = list(photos(hosts, 400)) + [f"http://h0.test/photos/x{n}.jpg" for n in range(300)]
        stages = load_pipeline("faces64", web.overrides(urls, items_per_part=8), upto="scrape").stages
        run(stages[0], store, LocalBackend(1))
        parts = stages[1].plan(store)
        groups = lanes_of(parts, 3)
    assert sum(part.items for part in parts) == len(urls)
    lanes = [{part.lane for part in group} for group in groups]
    assert not any(one & other for one, other in itertools.combinations(lanes, 2))
    assert max(sum(part.items for part in group) for group in groups) < len(urls) * 0.7
    assert {lane_of(url) for url in urls} == set().union(*lanes)


def test_one_worker_or_two_give_the_same_rows(tmp_path: Path, hosts: tuple[str, ...]) -> None:
    with PhotoHost(faults=Faults()) as double:
        contents = set()
        for workers in (1, 2):
            web = Web(Store(str(tmp_path / str(workers))), tmp_path, double, hosts)
            manifest = web.manifest(photos(hosts, 120), LocalBackend(workers), items_per_part=8)
            contents.add(manifest.content)
    assert len(contents) == 1


def test_every_url_has_a_row_and_a_third_of_faults_costs_none(
    store: Store, tmp_path: Path, hosts: tuple[str, ...]
) -> None:
    urls = photos(hosts, 150)
    with PhotoHost(faults=Faults(share=1 / 3)) as double:
        rows = Web(store, tmp_path, double, hosts).scrape(urls, retries=3)
        tries = [count for paths in double.counts().values() for count in paths.values()]
    assert statuses(rows) == dict.fromkeys(urls, "ok")
    assert sum(tries) > 1.3 * len(urls)


def test_what_fails_is_named_and_only_that_is_fetched_when_asked(
    store: Store, tmp_path: Path, hosts: tuple[str, ...]
) -> None:
    good = photos(hosts, 30)
    bad = [f"http://{hosts[0]}/status/500/once?{n}" for n in range(3)] + [f"http://{hosts[1]}/nothing/here"]
    with PhotoHost() as double:
        web = Web(store, tmp_path, double, hosts)
        first = web.manifest([*good, *bad], retries=0)
        assert first.counts == {"items": 34, "ok": 30, "http_error": 4}
        assert first.metrics["reasons"] == {"http_error: HTTP 500": 3, "http_error: HTTP 404": 1}
        double.clear()
        assert web.manifest(retries=0).counts == first.counts  # finished: nothing is asked for
        assert double.requests == []

        again = web.manifest(retries=0, retry_failed=True)
        asked = {(each.host, each.path) for each in double.requests if each.path != "/robots.txt"}
        assert {f"http://{host}{path}" for host, path in asked} == set(bad)
        assert again.counts == {"items": 34, "ok": 33, "http_error": 1}
        assert again.fingerprint == first.fingerprint
        assert again.content != first.content


def test_a_second_day_asks_only_whether_photos_have_changed(
    store: Store, tmp_path: Path, hosts: tuple[str, ...]
) -> None:
    urls = photos(hosts, 40)
    with PhotoHost() as double:
        web = Web(store, tmp_path, double, hosts)
        first = web.scrape(urls, as_of="2026-01-05")
        double.clear()
        second = web.scrape(urls, as_of="2026-01-12")
        answers = Counter(each.status for each in double.requests if each.path != "/robots.txt")
    assert answers == {304: 40}
    assert [row["sha256"] for row in second] == [row["sha256"] for row in first]
    assert all(row["image"] for row in second)


def test_a_longer_list_of_the_same_day_asks_only_for_what_is_new(
    store: Store, tmp_path: Path, hosts: tuple[str, ...]
) -> None:
    urls = photos(hosts, 60)
    with PhotoHost() as double:
        web = Web(store, tmp_path, double, hosts)
        web.scrape(urls[:40], items_per_part=16)
        double.clear()
        rows = web.scrape(urls, items_per_part=16)
        asked = {f"http://{each.host}{each.path}" for each in double.requests if each.path != "/robots.txt"}
    assert asked == set(urls[40:])
    assert statuses(rows) == dict.fromkeys(urls, "ok")


def test_a_dead_host_is_given_up_and_keeps_nobody_waiting(
    store: Store, tmp_path: Path, hosts: tuple[str, ...]
) -> None:
    dead = [f"http://{hosts[0]}/status/500/{n}" for n in range(60)]
    good = [f"http://{hosts[1]}/photos/{n}.jpg" for n in range(20)]
    with PhotoHost() as double:
        rows = Web(store, tmp_path, double, hosts).scrape([*dead, *good], retries=0, breaker_failures=4)
        asked = len(double.of(hosts[0], "/status"))
    found = statuses(rows)
    assert {found[url] for url in good} == {"ok"}
    assert Counter(found[url] for url in dead).keys() == {"http_error", "host_down"}
    assert asked < 20
    down = [row["reason"] for row in rows if row["status"] == "host_down"]
    assert set(down) == {f"{hosts[0]} failed 4 times in a row and after pauses"}


def test_licences_and_restrictions_are_judged_before_anything_is_fetched(
    store: Store, tmp_path: Path
) -> None:
    """Without a licence nothing of a plain list can be kept where one is asked for."""
    with PhotoHost() as double:
        web = Web(store, tmp_path, double, ("a.test",))
        with pytest.raises(NoUsableData, match="2 not_licensed"):
            web.scrape(photos(("a.test",), 2), licences=["CC0"])
        assert double.requests == []


def test_an_excluded_url_is_never_asked_for(store: Store, tmp_path: Path, hosts: tuple[str, ...]) -> None:
    urls = photos(hosts, 12)
    forget(store, [Exclusion("url", urls[3]), Exclusion("sha256", sha256_of(urls[5]))])
    with PhotoHost() as double:
        web = Web(store, tmp_path, double, hosts)
        rows = web.scrape(urls)
        asked = {f"http://{each.host}{each.path}" for each in double.requests}
        # By content it can be told only when it is there; then nothing of it is kept.
        assert urls[3] not in asked
        assert urls[5] in asked
        excluded = [row for row in rows if row["status"] == "excluded"]
        assert len(excluded) == 2
        assert all(row["url"] is None and row["image"] is None for row in excluded)
        double.clear()
        manifest = read_manifest(
            store, load_pipeline("faces64", web.overrides(), upto="scrape").stages[-1].address
        )
        assert manifest and manifest.counts["excluded"] == 2


def test_forgetting_reaches_into_an_unfinished_scrape(
    store: Store, tmp_path: Path, hosts: tuple[str, ...]
) -> None:
    """Killed in the middle of a part: the journal holds photos, and one of them is to go."""
    urls = photos(hosts[:1], 8)
    with PhotoHost() as double:
        web = Web(store, tmp_path, double, hosts)
        overrides = web.overrides(urls)
        stages = load_pipeline("faces64", overrides, upto="scrape").stages
        run(stages[0], store, LocalBackend(1))
        stage = stages[1]
        (part,) = stage.plan(store)
        whole = web.scrape()
        path = f"{stage.address.path}/journal/{part.payload.base}"
        journal = Journal(store, path)
        for row in whole[:5]:
            journal.append(row["key"], {"status": "ok", "at": "then", "reason": ""}, row["image"])
        journal.close()
        for gone in ("receipts", "parts", "manifest.json"):
            store.delete(f"{stage.address.path}/{gone}")

        done = forget(store, [Exclusion("url", urls[2])])
        assert len(done.photos) == 1
        data = b"".join(p.read_bytes() for p in Path(store.root).rglob("*") if p.is_file())
        assert good_photo(2)[2000:2100] not in data
        assert good_photo(1)[2000:2100] in data
        double.clear()
        rows = web.scrape()
        asked = {f"http://{each.host}{each.path}" for each in double.requests if each.path != "/robots.txt"}
    assert asked == set(urls[5:])
    assert Counter(row["status"] for row in rows) == {"ok": 7, "excluded": 1}


def test_a_list_longer_than_memory_is_spilled_and_keeps_its_order(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dcgan_core.scrape import candidates

    hosts = tuple(f"h{number}.test" for number in range(30))
    urls = [*photos(hosts, 1000), *photos(hosts, 10)]
    overrides: dict[str, Any] = {}
    with PhotoHost() as double:
        web = Web(store, tmp_path, double, hosts)
        overrides = web.overrides(urls, items_per_part=16)

    def listed(root: str) -> list[dict[str, Any]]:
        there = Store(str(tmp_path / root))
        stage = load_pipeline("faces64", overrides, upto="scrape").stages[0]
        run(stage, there, LocalBackend(1))
        manifest = read_manifest(there, stage.address)
        assert manifest is not None
        assert manifest.counts == {"urls": 1010, "ok": 1000, "duplicate": 10}
        return read_all(there, manifest, "candidates-").to_pylist()

    short = listed("short")
    monkeypatch.setattr(candidates, "_SPILL_ROWS", 64)
    monkeypatch.setattr(candidates, "_FILE_ROWS", 100)
    assert listed("spilled") == short
    of_host = [row["url"] for row in short if row["url"].startswith("http://h7.test/")]
    assert of_host == [url for url in urls if url.startswith("http://h7.test/")]
    assert len({row["key"] for row in short}) == 1010


def sha256_of(url: str) -> str:
    import hashlib

    return hashlib.sha256(good_photo(int(url.rpartition("/")[2].partition(".")[0]))).hexdigest()


def test_an_object_store_is_as_good_a_root_as_a_disk(tmp_path: Path, hosts: tuple[str, ...]) -> None:
    """Segments instead of appending, and the same rows; a photo can be forgotten there too."""
    urls = photos(hosts, 90)
    there, here = Store(f"memory://{tmp_path.name}/root"), Store(str(tmp_path / "here"))
    with PhotoHost() as double:
        manifests = {
            store.root: Web(store, tmp_path, double, hosts).manifest(urls, items_per_part=100)
            for store in (there, here)
        }
        assert len({manifest.content for manifest in manifests.values()}) == 1
        done = forget(there, [Exclusion("url", urls[7])])
        assert len(done.photos) == 1
        double.clear()
        rows = Web(there, tmp_path, double, hosts).scrape(items_per_part=100)
        assert double.requests == []
    assert Counter(row["status"] for row in rows) == {"ok": 89, "excluded": 1}
    files = there.filesystem().find(there.key("artifacts"))
    assert files
    assert not any(good_photo(7)[2000:2100] in read_whole(there.filesystem(), path) for path in files)
