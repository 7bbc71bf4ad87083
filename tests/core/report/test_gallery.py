"""The gallery: what it shows is what `dedup` decided, what it draws does not depend on the parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from dcgan_core.artifacts import Manifest, find, read_manifest, read_part
from dcgan_core.backend import LocalBackend
from dcgan_core.config import DedupConfig
from dcgan_core.dedup.links import read_links
from dcgan_core.dedup.similarity import similarity
from dcgan_core.pipeline import load_pipeline
from dcgan_core.report import gallery as gallery_module
from dcgan_core.report.gallery import Cluster, Gallery, Pair, Shown, Source, choose
from dcgan_core.report.gallery_page import Tile, pages
from dcgan_core.stage import run
from dcgan_core.storage import Store
from dcgan_core.tables import read_all
from tests.conftest import Tiny
from tests.core.dedup.test_stage import rewrite
from tests.core.report.test_page import ACTIVE_ELEMENTS, HOSTILE, LOADING, Elements


def texts(store: Store, manifest: Manifest) -> dict[str, str]:
    return {
        file.name: read_part(store, manifest.address, file).decode()
        for file in manifest.files
        if file.name.endswith(".html")
    }


def test_pages_lead_to_pages_and_pictures_that_are_there_and_to_nothing_else(finished_store: Store) -> None:
    manifest = find(finished_store, "gallery")
    names = {file.name for file in manifest.files}
    found = texts(finished_store, manifest)
    assert {"index.html", "groups-1.html", "largest.html", "sample.html", "apart.html"} <= found.keys()
    seen = set()
    for page in found.values():
        elements = Elements(page).found
        assert not {tag for tag, _ in elements} & ACTIVE_ELEMENTS
        for tag, attributes in elements:
            links = {value for name, value in attributes.items() if name in LOADING}
            seen |= links
            assert all(link in names or link == "data:," for link in links), links
            if tag == "img":
                assert attributes["loading"] == "lazy"
                assert attributes["alt"]
                assert int(attributes["width"]) > 0
        assert "<script" not in page
    pictures = {name for name in names if name.startswith("pictures/")}
    assert pictures
    assert pictures <= seen


def choice(store: Store, config: DedupConfig) -> Gallery:
    codes = find(store, "codes")
    total = sum(file.rows or 0 for file in codes.named("codes-"))
    links = read_links(store, find(store, "links"), total)
    return choose(store, find(store, "dedup"), codes, links, config, seed=0)


def test_groups_and_collisions_are_those_of_the_table(finished_store: Store, tiny: Tiny) -> None:
    config = load_pipeline(tiny.preset, tiny.overrides).config.dedup
    gallery = choice(finished_store, config)
    table = read_all(finished_store, find(finished_store, "dedup"), "dedup-").to_pandas()
    out = table[~table["keep"] & table["kept_key"].notna()]
    assert len(out) > 0
    assert sum(gallery.by_distance) == len(out)
    assert {group.members[0].key for group in gallery.groups} == set(out["kept_key"])
    for group in gallery.groups:
        rows = table[table["kept_key"] == group.members[0].key]
        assert group.size == len(rows)
        assert [member.kept for member in group.members] == [True] + [False] * (len(rows) - 1)
        assert {(each.key, each.distance) for each in group.members} == set(
            zip(rows["key"], rows["distance"], strict=True)
        )
    judged = out[~out["why"].isin(["same_file", "same_pixels"])]
    assert {pair.one.key for pair in gallery.collisions} == set(judged["key"])
    assert all(pair.other.kept and not pair.one.kept for pair in gallery.collisions)
    kept_of = dict(zip(out["key"], out["kept_key"], strict=True))
    assert all(kept_of[pair.one.key] == pair.other.key for pair in gallery.collisions)


@pytest.mark.parametrize("most", [1, 7, 10_000])
def test_pairs_just_not_grouped_equal_brute_force(
    finished_store: Store, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(gallery_module, "APART", most)
    overrides = tiny.changed(dedup__radius=32, dedup__verify=0.99)
    pipeline = load_pipeline(tiny.preset, overrides, upto="dedup")
    for stage in pipeline.stages:
        run(stage, finished_store, LocalBackend(1))
    gallery = choice(finished_store, pipeline.config.dedup)
    codes = read_all(finished_store, find(finished_store, "codes"), "codes-").to_pandas().set_index("key")
    table = read_all(finished_store, find(finished_store, "dedup"), "dedup-").to_pandas()
    kept = codes.loc[table.loc[table["keep"], "key"]]
    packed, luma = (
        np.stack([np.frombuffer(each, np.uint8) for each in kept[name]]) for name in ("code", "luma")
    )
    far = np.bitwise_count(packed[:, None] ^ packed[None]).sum(2)
    upper = np.triu(np.ones_like(far, bool), 1)
    for pairs, there in ((gallery.beyond, far > 32), (gallery.refused, far <= 32)):
        ends = np.argwhere(upper & there)
        alike = sorted(similarity(luma[ends[:, 0]], luma[ends[:, 1]]).tolist(), reverse=True)
        assert alike
        assert [pair.one.similarity for pair in pairs] == alike[:most]
        assert not any(each.kept for pair in pairs for each in (pair.one, pair.other))


def test_a_refused_pair_is_shown_where_the_kept_one_of_equal_codes_is_not_the_first(
    finished_store: Store, tiny: Tiny
) -> None:
    config = load_pipeline(tiny.preset, tiny.overrides).config.dedup
    codes, dedup = find(finished_store, "codes"), find(finished_store, "dedup")
    rows = read_all(finished_store, dedup, "dedup-").to_pandas()
    for file in dedup.named("dedup-"):
        rewrite(finished_store, find(finished_store, "dedup"), file.name, _all_equal)
    dedup = find(finished_store, "dedup")
    out = int(np.flatnonzero(~rows["keep"])[0])
    keeper = rows["kept_key"][out]
    other = next(at for at in np.flatnonzero(rows["keep"]).tolist() if rows["key"][at] != keeper)
    links = np.array([sorted((out, other))])
    (pair,) = choose(finished_store, dedup, codes, links, config, seed=0).refused
    assert {pair.one.key, pair.other.key} == {keeper, rows["key"][other]}


def _all_equal(table: pa.Table) -> pa.Table:
    """As if all that was left out had the code of the kept one."""
    zero = pa.array([0] * len(table), pa.int32())
    return table.set_column(table.schema.get_field_index("distance"), "distance", zero)


def test_what_is_shown_does_not_depend_on_how_photos_are_divided_into_parts(
    own_tiny: Tiny, store: Store
) -> None:
    for stage in load_pipeline(own_tiny.preset, own_tiny.overrides, upto="dedup").stages:
        run(stage, store, LocalBackend(1))
    encoder = str(find(store, "autoencoder").address)
    found = []
    for items in (3, 100):
        changes: dict[str, Any] = {"dedup__encoder": encoder, "scrape__items_per_part": items}
        stages = load_pipeline(own_tiny.preset, own_tiny.changed(**changes), upto="dedup").stages
        for stage in stages:
            run(stage, store, LocalBackend(1))
        manifest = read_manifest(store, stages[-1].address)
        assert manifest is not None
        assert manifest.artifact == "gallery"
        found.append(manifest)
    assert found[0].address != found[1].address
    assert found[0].content == found[1].content


def test_a_set_without_duplicates_has_a_gallery_that_says_so(own_tiny: Tiny, store: Store) -> None:
    overrides = own_tiny.changed(dedup__radius=0, scrape__limit=3)
    for stage in load_pipeline(own_tiny.preset, overrides, upto="dedup").stages:
        run(stage, store, LocalBackend(1))
    found = texts(store, find(store, "gallery"))
    assert found.keys() == {"index.html", "apart.html"}
    assert "No two crops were near enough" in found["index.html"]


def test_groups_are_paged_and_words_of_the_web_stay_words() -> None:
    counts = dict.fromkeys(("crops", "kept", "near_duplicates", "largest_group", "unlike_pairs"), 7)
    counts |= dict.fromkeys(("same_file", "same_pixels", "same_code", "near", "chain", "undecodable"), 1)
    one, other = Shown(0, "a_0", kept=True), Shown(1, "b_0", distance=3, similarity=0.9, why="near")
    groups = (Cluster((one, other), 5),) * 81
    gallery = Gallery(
        counts={**counts, "groups_of_duplicates": 81},
        radius=8,
        verify=0.9,
        verify_step=0.015,
        by_distance=(0, 0, 0, 1),
        groups=groups,
        largest=groups[:1],
        collisions=(Pair(other, one),),
        collisions_of=4,
        refused=(),
        refused_sampled=False,
        beyond=(),
        compared=7,
    )
    assert gallery.rows.tolist() == [0, 1]
    sources = Source("https://example.test/" + HOSTILE, HOSTILE), Source("", HOSTILE)
    tiles = {row: Tile(f"pictures/{row}.jpg", 32, 32, source) for row, source in enumerate(sources)}
    found = pages(gallery, tiles)
    assert [name for name in found if name.startswith("groups-")] == [f"groups-{n}.html" for n in (1, 2, 3)]
    for page in found.values():
        assert "<script" not in page
        assert not {tag for tag, _ in Elements(page).found} & ACTIVE_ELEMENTS
    assert "and 3 more" in found["groups-3.html"]
    assert 'href="groups-2.html" rel="prev"' in found["groups-3.html"]
    assert "page 2" in found["groups-2.html"]
    hostile = gallery_module._source({"page_url": "javascript:alert(1)", "url": "file:///etc/passwd"})
    assert hostile == Source("", "passwd")
    assert (
        gallery_module._source({"page_url": None, "url": "https://a.test/b.jpg"}).url
        == "https://a.test/b.jpg"
    )


def test_the_report_leads_to_the_gallery(finished_root: Path) -> None:
    page = finished_root / "report" / "index.html"
    links = [attributes.get("href", "") for _, attributes in Elements(page.read_text()).found]
    (link,) = [link for link in links if "gallery" in link and link.endswith("/index.html")]
    assert (page.parent / link).exists()
