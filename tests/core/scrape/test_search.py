"""Commons is asked as it wants to be, and what it says is plain text by the time we keep it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcgan_core.artifacts import Manifest, read_manifest
from dcgan_core.backend import LocalBackend
from dcgan_core.config import Json, ScrapeConfig, load_config
from dcgan_core.errors import ConfigError, OutdatedArtifact
from dcgan_core.exclusions import Exclusion
from dcgan_core.forget import forget
from dcgan_core.pipeline import load_pipeline
from dcgan_core.scrape.commons import Commons
from dcgan_core.scrape.fetch import Fetcher
from dcgan_core.scrape.search import Api, Found, open_engine, plain_text
from dcgan_core.scrape.web import manners_of
from dcgan_core.stage import run
from dcgan_core.storage import Store
from dcgan_core.tables import read_all
from tests.web import commons
from tests.web.commons import File

NAMES = ["Jane Example", "Omar Müller", "Li O'Neil", 'William "Bill" Quoted', "Nobody Known"]
BOTH = File("Omar & Jane.jpg", 24, licence="Public domain", restrictions="personality|trademarked")
FILES = {
    "Jane Example": [File(f"Jane {n}.jpg", n, width=(900, 2000)[n % 2]) for n in range(17)],
    "Omar Müller": [
        File("Omar.tiff", 20, mime="image/tiff"),
        File("Omar.svg", 21, mime="image/svg+xml"),
        File("Omar.gif", 22, mime="image/gif"),
        File("Omar gone.jpg", 23, missing=True),
        BOTH,
    ],
    "Li O'Neil": [
        File("Omar & Jane.jpg", 24, licence="Public domain", restrictions="personality|trademarked")
    ],
    "William Bill Quoted": [File("Bill «1».jpg", 30, artist="<script>alert(1)</script>=cmd|'/c calc'!A1")],
}


def overrides_of(double: commons.Commons, folder: Path, **changes: Any) -> dict[str, Any]:
    (folder / "names.txt").write_text("\n".join(NAMES), "utf-8")
    keys = {
        "source": "search",
        "names_from": "file",
        "path": str(folder / "names.txt"),
        "contact": "test@example.org",
        "commons_url": f"http://{commons.API}/w/api.php",
        "addresses": dict.fromkeys((commons.API, commons.MEDIA), f"127.0.0.1:{double.port}"),
        "retry_base_seconds": 0.01,
        **changes,
    }
    return {f"scrape.{key}": value for key, value in keys.items()}


def made(store: Store, overrides: dict[str, Any]) -> dict[str, Manifest]:
    found = {}
    for stage in load_pipeline("faces64", overrides, upto="scrape").stages:
        run(stage, store, LocalBackend(1))
        manifest = read_manifest(store, stage.address)
        assert manifest is not None
        found[stage.artifact] = manifest
    return found


def rows_of(store: Store, manifest: Manifest) -> list[dict[str, Any]]:
    return read_all(store, manifest, f"{manifest.artifact}-").to_pylist()


def search(double: commons.Commons, folder: Path, name: str, limit: int = 50, **changes: Any) -> list[Found]:
    config = load_config("faces64", overrides_of(double, folder, **changes)).scrape

    async def ask() -> list[Found]:
        async with Fetcher(manners_of(config)) as fetcher:
            return await Commons(config).search(fetcher, name, limit)

    return asyncio.run(ask())


def test_results_come_in_the_engines_order_though_it_tells_them_in_pieces(tmp_path: Path) -> None:
    with commons.Commons(FILES, page=5, maxlag_first=2) as double:
        found = search(double, tmp_path, "Jane Example", limit=12)
        assert double.violations == []
        # Details of seven pages a batch, five results a page, and the API asked to wait twice.
        assert len(double.requests) >= 5
    assert [each.page_url for each in found] == [
        f"https://commons.wikimedia.org/wiki/File:Jane_{n}.jpg" for n in range(12)
    ]
    assert all(each.status == "ok" for each in found)
    for number, each in enumerate(found):
        is_original = number % 2 == 0  # narrower than a thumbnail: the file itself, whose hash is known
        assert ("/960px-" in each.url) != is_original
        assert (each.sha1 is not None) == is_original


def test_pieces_are_merged_whatever_the_page(tmp_path: Path) -> None:
    with commons.Commons(FILES, page=50) as double:
        found = search(double, tmp_path, "Jane Example")
    assert len(found) == 17
    assert all(each.status == "ok" for each in found)


def test_what_is_no_photo_is_a_row_with_its_reason(tmp_path: Path) -> None:
    with commons.Commons(FILES) as double:
        found = search(double, tmp_path, "Omar Müller")
    assert [each.status for each in found] == ["ok", "unsupported_type", "unsupported_type", "missing", "ok"]
    assert [each.reason for each in found[1:4]] == [
        "image/svg+xml is no photo",
        "image/gif is no photo",
        "the engine lists it and has it not",
    ]
    assert found[4].licence == "Public domain"
    assert found[4].licence_url is None


def test_html_ends_at_the_door(tmp_path: Path) -> None:
    with commons.Commons(FILES) as double:
        (found,) = search(double, tmp_path, 'William "Bill" Quoted')
    assert found.artist == "=cmd|'/c calc'!A1"
    assert found.credit == "Own work & more"
    assert found.caption == "Jane at a fair"


@given(st.text())
def test_plain_text_is_one_line_and_short(text: str) -> None:
    plain = plain_text(f"<p>{text}<br>more</p>")
    assert plain is None or (len(plain) <= 500 and plain.isprintable() and plain == plain.strip())


def test_from_names_to_photos_with_whose_they_are(store: Store, tmp_path: Path) -> None:
    with commons.Commons(FILES) as double:
        found = made(store, overrides_of(double, tmp_path))
        assert double.violations == []
        media = double.counts()[commons.MEDIA]
        assert set(media.values()) == {1}
        assert not any(each.path == "/robots.txt" for each in double.of(commons.API))
    assert found["searches"].counts == {
        "names": 5,
        "ok": 21,
        "missing": 1,
        "nothing_found": 1,
        "unsupported_type": 2,
    }
    photos = rows_of(store, found["photos"])
    assert Counter(row["status"] for row in photos) == {
        "ok": 20,
        "duplicate": 1,
        "missing": 1,
        "nothing_found": 1,
        "unsupported_type": 2,
    }
    of_bill = next(row for row in photos if row["query"] == "William Bill Quoted")
    assert (of_bill["licence"], of_bill["caption"]) == ("CC BY-SA 4.0", "Jane at a fair")


def test_licences_and_restrictions_choose_before_anything_is_fetched(store: Store, tmp_path: Path) -> None:
    with commons.Commons(FILES) as double:
        overrides = overrides_of(double, tmp_path, licences=["cc by", "public domain"])
        found = made(store, {**overrides, "scrape.drop_restrictions": ["personality"]})
        asked = double.of(commons.MEDIA, "/wikipedia")
    assert found["photos"].counts["restricted"] == 1
    assert found["photos"].counts["ok"] == len(asked) == 19
    with commons.Commons(FILES) as double:
        only = made(store, overrides_of(double, tmp_path, licences=["Public domain"]))
    assert only["photos"].counts["not_licensed"] == 19
    assert only["photos"].counts["ok"] == 1


def test_bytes_that_are_not_the_engines_are_refused(store: Store, tmp_path: Path) -> None:
    files = {"Jane Example": [File("One.jpg", 1, width=900), File("Two.jpg", 2)]}
    with commons.Commons(files) as double:
        double.by_name = {"One.jpg": File("One.jpg", 7, width=900), "Two.jpg": files["Jane Example"][1]}
        counts = made(store, overrides_of(double, tmp_path))["photos"].counts
    assert counts["wrong_hash"] == 1
    assert counts["ok"] == 1


def test_a_name_that_the_engine_refuses_stops_nobody_else(store: Store, tmp_path: Path) -> None:
    with commons.Commons(FILES, refuse=["Jane Example"]) as double:
        found = made(store, overrides_of(double, tmp_path))
    assert found["searches"].counts["search_refused"] == 1
    assert found["photos"].counts["ok"] == 3


def test_a_forgotten_name_is_not_searched_again_and_nothing_else_is_asked_again(
    store: Store, tmp_path: Path
) -> None:
    with commons.Commons(FILES) as double:
        overrides = overrides_of(double, tmp_path)
        before = made(store, overrides)
        done = forget(store, [Exclusion("name", "jane  example")])
        assert len(done.photos) == 17
        double.clear()
        after = made(store, overrides)
        assert double.requests == []
        assert after["photos"].counts["ok"] == before["photos"].counts["ok"] - 17
        text = str([rows_of(store, manifest) for manifest in after.values()])
        assert "Jane Example" not in text
        assert "Jane_3" not in text
        # A later day searches anew, for the others.
        later = made(store, {**overrides, "scrape.as_of": "2026-02-01"})
        asked = [each.path for each in double.of(commons.API)]
        assert asked
        assert not any("Jane" in path for path in asked)
        assert later["photos"].counts["ok"] == after["photos"].counts["ok"]


def test_a_forgotten_artist_goes_wherever_the_photo_was_found(store: Store, tmp_path: Path) -> None:
    with commons.Commons(FILES) as double:
        overrides = overrides_of(double, tmp_path)
        made(store, overrides)
        forget(store, [Exclusion("artist", "PHOTOG")])
        counts = read_manifest(store, load_pipeline("faces64", overrides, upto="scrape").stages[-1].address)
        assert counts
        assert counts.counts["ok"] == 1


@dataclass(frozen=True)
class OneFile:
    """An engine in one file, as a user would write it."""

    config: ScrapeConfig

    def identity(self) -> dict[str, Json]:
        return {"engine": "one-file", "engine_version": 1}

    async def search(self, api: Api, name: str, limit: int) -> list[Found]:
        _, answer = await api.get_json(self.config.commons_url, {"q": name})
        return [Found(url, caption=name, licence="CC0") for url in answer["photos"][:limit]]


def test_an_engine_of_ones_own_is_one_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{OneFile.__module__}:OneFile"
    monkeypatch.setenv("DCGAN_ENGINES", f"{name},no.such:Engine")
    engine = open_engine(load_config("faces64", {"scrape.engine": name}).scrape)

    class Canned:
        async def get_json(self, url: str, parameters: Mapping[str, str]) -> tuple[Mapping[str, str], Any]:
            return {}, {"photos": [f"http://a.org/{parameters['q']}"]}

    assert asyncio.run(engine.search(Canned(), "x", 5)) == [
        Found("http://a.org/x", caption="x", licence="CC0")
    ]
    with pytest.raises(ConfigError, match=r"built in is commons; your own is package\.module:Class"):
        open_engine(load_config("faces64", {"scrape.engine": "google"}).scrape)
    with pytest.raises(ConfigError, match="cannot be loaded"):
        open_engine(load_config("faces64", {"scrape.engine": "no.such:Engine"}).scrape)


def test_an_outdated_list_is_named(store: Store, tmp_path: Path) -> None:
    from dcgan_core.exclusions import exclude

    with commons.Commons(FILES) as double:
        overrides = overrides_of(double, tmp_path)
        made(store, overrides)
        exclude(store, [Exclusion("name", "Omar Müller")])
        stages = load_pipeline("faces64", overrides, upto="scrape").stages
        with pytest.raises(OutdatedArtifact):
            run(stages[-1], store, LocalBackend(1))
        after = made(store, overrides)
        assert after["photos"].counts["ok"] >= 18
        assert not any("Omar.tiff" in row["url"] for row in rows_of(store, after["photos"]) if row["image"])
