"""A week in which hosts fail or a source is cut off: last time's photos stay, or the run stops."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from dcgan_core.artifacts import Manifest, read_manifest, remove
from dcgan_core.attribution import kept_photos
from dcgan_core.backend import LocalBackend
from dcgan_core.errors import SourceShrunk, TooManyFailures
from dcgan_core.exclusions import Exclusion, exclude
from dcgan_core.forget import forget
from dcgan_core.pipeline import load_pipeline
from dcgan_core.scrape.candidates import Candidates
from dcgan_core.stage import run
from dcgan_core.storage import Store, sha256_hex
from dcgan_core.tables import read_all
from tests.conftest import Tiny
from tests.web.photo_host import PhotoHost, good_photo
from tests.web.runs import Web

FIRST, SECOND, THIRD = "2026-05-25", "2026-06-01", "2026-06-08"
HOSTS = ("a.test", "b.test")
URLS = [f"http://{HOSTS[number % 2]}/photos/{number}.jpg" for number in range(20)]


@pytest.fixture
def double() -> Iterator[PhotoHost]:
    with PhotoHost() as host:
        yield host


@pytest.fixture
def web(store: Store, tmp_path: Path, double: PhotoHost) -> Web:
    return Web(store, tmp_path, double, HOSTS)


def fail(double: PhotoHost, numbers: range, how: int | bytes = 500) -> None:
    double.instead = {f"/photos/{number}.jpg": how for number in numbers}


def monday(web: Web, day: str, urls: list[str] | None = URLS, **changes: Any) -> Manifest:
    return web.manifest(urls, retries=0, breaker_failures=1000, as_of=day, **changes)


def fetches(web: Web, manifest: Manifest) -> dict[str, dict[str, Any]]:
    """How each photo was fetched, by its url."""
    urls = {row["key"]: row["url"] for row in read_all(web.store, manifest, "photos-").to_pylist()}
    return {urls[row["key"]]: row for row in read_all(web.store, manifest, "fetches-").to_pylist()}


def asked(double: PhotoHost) -> set[str]:
    found = {f"http://{each.host}{each.path}" for each in double.requests}
    return {url for url in found if not url.endswith("robots.txt")}


@pytest.mark.parametrize("how", [500, 429, 503, 520])
def test_photos_whose_host_fails_for_once_are_those_of_last_week(
    how: int, web: Web, double: PhotoHost
) -> None:
    first = monday(web, FIRST)
    fail(double, range(14), how)
    second = monday(web, SECOND)
    assert second.counts == {"items": 20, "ok": 20, "carried_over": 14}
    assert second.metrics["carried_over"] == {f"{FIRST}: http_error: HTTP {how}": 14}
    assert second.content == first.content  # so crop, dedup and all after them are not done again
    rows = fetches(web, second)
    assert {url for url, row in rows.items() if row["carried_over"] == FIRST} == set(URLS[:14])
    assert {row["carried_over_reason"] for row in rows.values()} == {None, f"http_error: HTTP {how}"}


@pytest.mark.parametrize("how", ["reset", "silent", "name"])
def test_silence_passes_too(how: str, web: Web, double: PhotoHost, monkeypatch: pytest.MonkeyPatch) -> None:
    urls = [f"http://{host}/photos/1.jpg" for host in HOSTS]
    first = monday(web, FIRST, urls)
    if how == "name":
        from dcgan_core.scrape import addresses

        async def unknown(host: str, port: int) -> list[str]:
            raise OSError(f"{host} is not known")

        monkeypatch.setattr(addresses, "_ask_the_system", unknown)
        only_b = {"b.test": f"127.0.0.1:{double.port}"}
        second = monday(web, SECOND, urls, addresses=only_b)
    else:
        monkeypatch.setattr(double, "_on_photos", getattr(double, f"_on_{how}"))
        second = monday(web, SECOND, urls, timeout_seconds=0.3)
    assert second.counts == {"items": 2, "ok": 2, "carried_over": 1 if how == "name" else 2}
    assert second.content == first.content


def test_one_that_is_carried_over_again_keeps_its_week_and_its_bytes(web: Web, double: PhotoHost) -> None:
    first = monday(web, FIRST)
    fail(double, range(14))
    monday(web, SECOND)
    remove(web.store, first.address)  # as gc does: only the second week is left
    third = monday(web, THIRD)
    assert third.metrics["carried_over"] == {f"{FIRST}: http_error: HTTP 500": 14}
    assert third.content == first.content
    assert len(list(kept_photos(web.store, third))) == 20


def test_a_photo_of_a_week_without_a_day_names_its_edition(web: Web, double: PhotoHost) -> None:
    first = web.manifest(URLS, retries=0)
    fail(double, range(1))
    second = monday(web, SECOND)
    assert second.metrics["carried_over"] == {f"{first.address}: http_error: HTTP 500": 1}


def test_when_it_answers_again_the_new_bytes_count(web: Web, double: PhotoHost) -> None:
    monday(web, FIRST)
    fail(double, range(2))
    monday(web, SECOND)
    double.instead = {"/photos/0.jpg": good_photo(50)}
    double.clear()
    third = monday(web, THIRD)
    assert "carried_over" not in third.counts
    shas = {row["url"]: row["sha256"] for row in read_all(web.store, third, "photos-").to_pylist()}
    assert shas[URLS[0]] == sha256_hex(good_photo(50))
    answers = {each.path: each.status for each in double.requests}
    assert answers["/photos/1.jpg"] == 304  # what was said of its bytes came along


@pytest.mark.parametrize(
    ("how", "status"), [(404, "http_error"), (410, "http_error"), (403, "http_error"), (b"<p>", "not_image")]
)
def test_a_lasting_answer_counts(how: int | bytes, status: str, web: Web, double: PhotoHost) -> None:
    monday(web, FIRST)
    fail(double, range(2), how)
    second = monday(web, SECOND)
    assert second.counts == {"items": 20, "ok": 18, status: 2}
    fail(double, range(2), 500)  # it was gone the week before: there is nothing to carry over
    assert monday(web, THIRD).counts == {"items": 20, "ok": 18, "http_error": 2}


def test_what_the_site_does_not_want_any_more_goes(web: Web, double: PhotoHost) -> None:
    monday(web, FIRST, max_shrink=1)
    double.robots = {"a.test": "User-agent: *\nDisallow: /\n"}
    assert monday(web, SECOND, max_shrink=1).counts == {"items": 20, "ok": 10, "robots_disallowed": 10}


def test_an_excluded_photo_is_never_carried_over(web: Web, double: PhotoHost) -> None:
    monday(web, FIRST)
    # One is taken down; one only comes on the list, by its bytes, so that last week's edition still has it.
    forget(web.store, [Exclusion("url", URLS[0])])
    exclude(web.store, [Exclusion("sha256", sha256_hex(good_photo(1)))])
    fail(double, range(14))
    second = monday(web, SECOND)
    assert second.counts == {"items": 20, "ok": 18, "excluded": 2, "carried_over": 12}
    assert not {URLS[0], URLS[1]} & {row["url"] for row in kept_photos(web.store, second)}


def test_a_photo_under_another_licence_is_not_carried_over(
    web: Web, double: PhotoHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    licence = "CC BY"

    def described(stage: Candidates, row: dict[str, Any]) -> tuple[str, str]:
        row["licence"] = licence if row["url"] == URLS[0] else "CC0"
        return "ok", ""

    monkeypatch.setattr(Candidates, "_verdict", described)
    monday(web, FIRST)
    licence = "all rights reserved"
    fail(double, range(2))
    second = monday(web, SECOND, [*URLS, "http://a.test/photos/30.jpg"])  # a longer list is read again
    assert second.counts == {"items": 21, "ok": 20, "http_error": 1, "carried_over": 1}
    assert {row["licence"] for row in kept_photos(web.store, second)} == {"CC0"}


def test_carried_over_photos_are_asked_for_again_by_retry_failed_and_are_not_lost(
    web: Web, double: PhotoHost
) -> None:
    first = monday(web, FIRST)
    fail(double, range(14))
    monday(web, SECOND)
    remove(web.store, first.address)
    fail(double, range(10))
    double.clear()
    again = monday(web, SECOND, retry_failed=True)
    assert asked(double) == set(URLS[:14])
    assert again.metrics["carried_over"] == {f"{FIRST}: http_error: HTTP 500": 10}
    assert again.content == first.content


def test_a_killed_retry_keeps_what_was_carried_over(web: Web, double: PhotoHost) -> None:
    first = monday(web, FIRST)
    fail(double, range(14))
    second = monday(web, SECOND)
    remove(web.store, first.address)
    stage = load_pipeline("faces64", web.overrides(as_of=SECOND, retry_failed=True), upto="scrape").stages[-1]
    web.store.delete(f"{second.address.path}/manifest.json")
    stage.prepare(web.store, stage.plan(web.store))  # and killed
    assert monday(web, SECOND).content == first.content


def test_a_run_stops_before_it_trains_on_a_fraction_and_nothing_fetched_is_lost(
    web: Web, double: PhotoHost
) -> None:
    monday(web, FIRST)
    fail(double, range(14), 404)
    with pytest.raises(SourceShrunk) as stopped:
        monday(web, SECOND)
    assert (stopped.value.missing, stopped.value.before) == (14, 20)
    said = str(stopped.value)
    assert f"(as of {FIRST})" in said
    assert "a.test 7 of 10 (http_error), b.test 7 of 10 (http_error)" in said
    assert "-o scrape.max_shrink=1" in said
    double.clear()
    assert monday(web, SECOND, max_shrink=1).counts == {"items": 20, "ok": 6, "http_error": 14}
    assert double.requests == []


def test_the_same_command_again_asks_only_for_what_is_missing(web: Web, double: PhotoHost) -> None:
    first = monday(web, FIRST)
    fail(double, range(14), 404)
    with pytest.raises(SourceShrunk):
        monday(web, SECOND)
    double.instead = {}
    double.clear()
    assert monday(web, SECOND).content == first.content
    assert asked(double) == set(URLS[:14])


def test_nothing_fetched_is_lost_to_the_other_brake(web: Web, double: PhotoHost) -> None:
    fail(double, range(14))
    with pytest.raises(TooManyFailures):
        monday(web, FIRST, max_failure_rate=0.5)
    double.instead = {}
    double.clear()
    assert monday(web, FIRST, max_failure_rate=0.5).counts == {"items": 20, "ok": 20}
    assert asked(double) == set(URLS[:14])


def test_a_list_that_was_cut_off_stops_a_run_and_another_list_does_not(web: Web) -> None:
    monday(web, FIRST)
    with pytest.raises(SourceShrunk, match=r"a\.test 5 of 10 \(not listed\)"):
        monday(web, SECOND, URLS[:10])
    assert monday(web, SECOND, [f"http://a.test/photos/{number}.jpg" for number in range(50, 54)]).counts
    assert monday(web, SECOND, URLS[:17]).counts["ok"] == 17  # three of twenty: less than the limit


def test_a_week_of_more_photos_hides_no_loss(web: Web, double: PhotoHost) -> None:
    monday(web, FIRST)
    fail(double, range(14), 404)
    more = [f"http://a.test/photos/{number}.jpg" for number in range(30, 90)]
    with pytest.raises(SourceShrunk, match="14 of the 20"):
        monday(web, SECOND, [*URLS, *more])


def test_excluded_photos_are_not_missing(web: Web) -> None:
    monday(web, FIRST)
    exclude(web.store, [Exclusion("url", url) for url in URLS[:14]])
    assert monday(web, SECOND).counts == {"items": 20, "ok": 6, "excluded": 14}


def test_a_folder_that_is_half_there_stops_a_run(own_tiny: Tiny, store: Store) -> None:
    """A mount that is gone, a bucket listed by half: what is left looks like a folder."""
    away = own_tiny.photos / "disk"
    away.mkdir()
    for photo in sorted(own_tiny.photos.glob("face-*.jpg")):
        shutil.move(photo, away / photo.name)
    scrape(own_tiny, store)
    shutil.rmtree(away)
    with pytest.raises(SourceShrunk, match=r"12 of the 20 .*disk/ 12 of 12 \(not listed\)"):
        scrape(own_tiny, store)
    scrape(own_tiny, store, scrape__max_shrink=1)
    scrape(own_tiny, store)  # what is there now is what the next time is compared with


def test_a_tar_that_lost_its_tail_stops_a_run(own_tiny: Tiny, store: Store, tmp_path: Path) -> None:
    for name, photos in {"whole": 20, "cut": 10}.items():
        folder = tmp_path / name
        folder.mkdir()
        for photo in sorted(own_tiny.photos.iterdir())[:photos]:
            shutil.copy2(photo, folder)
        shutil.make_archive(str(folder), "tar", folder)
    scrape(own_tiny, store, scrape__path=str(tmp_path / "whole.tar"))
    with pytest.raises(SourceShrunk, match="10 of the 20"):
        scrape(own_tiny, store, scrape__path=str(tmp_path / "cut.tar"))


def test_a_file_that_cannot_be_read_for_once_is_that_of_last_time(own_tiny: Tiny, store: Store) -> None:
    before = scrape(own_tiny, store, scrape__items_per_part=256)
    edition = before.address
    shutil.copy(own_tiny.photos / "face-00.jpg", own_tiny.photos / "new.jpg")
    gone = own_tiny.photos / "face-03.jpg"
    after = scrape(own_tiny, store, then=gone.unlink, scrape__items_per_part=256)
    assert after.counts["ok"] == before.counts["ok"] + 1
    assert after.metrics["carried_over"] == {f"{edition}: read_failed: No such file or directory": 1}


def scrape(tiny: Tiny, store: Store, then: Callable[[], object] = lambda: None, **changes: Any) -> Manifest:
    """Photos of a folder or tar; ``then`` happens between its being listed and its being read."""
    (stage,) = load_pipeline(tiny.preset, tiny.changed(**changes), upto="scrape").stages
    then()
    run(stage, store, LocalBackend(1))
    manifest = read_manifest(store, stage.address)
    assert manifest is not None
    return manifest
