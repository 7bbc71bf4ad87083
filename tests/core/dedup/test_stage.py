"""The stage `dedup`: whatever the crops are, each has a row, and the order of the work does not matter."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcgan_core.artifacts import (
    Address,
    Manifest,
    Receipt,
    find,
    read_manifest,
    read_part,
    write_manifest,
    write_part,
)
from dcgan_core.backend import LocalBackend
from dcgan_core.config import DedupConfig
from dcgan_core.dedup import neighbours
from dcgan_core.dedup.links import Links, read_links
from dcgan_core.dedup.similarity import similarity
from dcgan_core.dedup.stage import CODES, DEDUP, Dedup
from dcgan_core.errors import ConfigError, CorruptArtifact, MissingArtifact
from dcgan_core.pipeline import load_pipeline
from dcgan_core.progress import Progress
from dcgan_core.stage import Artifact, Backend, Part, Stage, run
from dcgan_core.storage import Store
from dcgan_core.tables import decode_table, encode_table, read_all
from tests.conftest import Tiny, bare_manifest, set_changed


def codes_table(n: int, seed: int = 0, spread: float = 0.04, **columns: Any) -> pd.DataFrame:
    """Rows of ``CODES``: 32-bit codes around few centres, some of equal files or pixels, some undecodable."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (4, 32))[rng.integers(0, 4, n)] ^ (rng.random((n, 32)) < spread)
    rows = pd.DataFrame(
        {
            "key": [f"{number:03d}_0" for number in range(n)],
            "status": "ok",
            "reason": None,
            "code": [code.tobytes() for code in np.packbits(bits.astype(np.uint8), axis=1)],
            "file_hash": [f"file {number}".encode() for number in range(n)],
            "pixel_hash": [f"pixels {number}".encode() for number in range(n)],
            "luma": bytes(range(256)),
            "score": rng.integers(0, 3, n).astype(np.float32),
            "sharpness": rng.integers(0, 3, n).astype(np.float32),
            "side": rng.integers(32, 35, n).astype(np.int32),
        }
    )
    return rows.assign(**columns)


class Groups(NamedTuple):
    """What the stages `links` and `dedup` make of a table of codes."""

    rows: pd.DataFrame
    counts: dict[str, int]
    files: list[str]
    """Hashes of the tables."""
    links: Manifest


def grouped(table: pd.DataFrame, files: int = 2, backend: Backend | None = None, **settings: Any) -> Groups:
    """Run both over a table of codes that lies in some files."""
    config = DedupConfig(**settings)
    with tempfile.TemporaryDirectory() as root:
        store = Store(root)
        codes = write_codes(store, [table.iloc[at] for at in np.array_split(np.arange(len(table)), files)])
        links = Links(0, {"codes": codes}, "preset", config)
        dedup = Dedup(0, {"codes": codes, "links": links.address}, "preset", config)
        for stage in (links, dedup):
            run(stage, store, backend or LocalBackend(1))
        manifest = manifest_of(store, dedup)
        hashes = [file.sha256 for file in manifest.files]
        rows = read_all(store, manifest, "dedup-")
        assert rows.schema == DEDUP
        frame = pd.DataFrame(rows.to_pylist(), columns=DEDUP.names, dtype=object)
        return Groups(frame, manifest.counts, hashes, manifest_of(store, links))


def write_codes(store: Store, tables: Sequence[pd.DataFrame]) -> Address:
    """Write tables of codes as if the stage had made them."""
    codes, receipts = Address("codes", "0123456789abcdef"), []
    for number, table in enumerate(tables):
        rows = pa.Table.from_pandas(table, CODES, preserve_index=False)
        name, data = f"codes-{number:05d}.parquet", encode_table(rows.replace_schema_metadata(None))
        file = write_part(store, codes, name, data, rows=len(rows))
        receipts.append(Receipt(part=number, key=file.sha256, files=(file,)))
    write_manifest(store, bare_manifest(codes, receipts, {"crops": sum(map(len, tables))}))
    return codes


def made(table: pd.DataFrame, **settings: Any) -> pd.DataFrame:
    return grouped(table, **settings).rows


@given(st.integers(0, 40), st.integers(0, 10**6), st.sampled_from([0, 2, 8]), st.sampled_from([None, 3, 40]))
def test_rows_do_not_depend_on_the_order_of_the_codes(
    n: int, seed: int, radius: int, diameter: int | None
) -> None:
    table = codes_table(n, seed)
    bad = np.random.default_rng(seed).random(n) < 0.1
    table.loc[bad, ["status", "code", "luma"]] = ["undecodable", None, None]
    rows = made(table, radius=radius, diameter=diameter)
    shuffled = made(table.sample(frac=1, random_state=seed), files=3, radius=radius, diameter=diameter)
    assert rows.equals(shuffled.sort_values("key", ignore_index=True))
    assert rows["key"].tolist() == table["key"].tolist()
    assert (rows["why"] == "undecodable").tolist() == bad.tolist()
    grouped = rows[~bad]
    kept = set(grouped.loc[grouped["keep"], "key"])
    assert set(grouped["kept_key"]) == kept
    assert (grouped["key"] == grouped["kept_key"]).tolist() == grouped["keep"].tolist()
    assert set(grouped.loc[grouped["keep"], "why"]) <= {None}
    if diameter is None:
        assert max(grouped["distance"], default=0) <= radius


def test_every_crop_left_out_says_why() -> None:
    table = codes_table(6, score=[9, 8, 7, 6, 5, 4])
    bits = np.zeros((6, 32), np.uint8)
    bits[4, :2], bits[5, :4] = 1, 1
    table["code"] = [code.tobytes() for code in np.packbits(bits, axis=1)]
    table.loc[1, ["file_hash", "pixel_hash"]] = table.loc[0, ["file_hash", "pixel_hash"]]
    table.loc[2, "pixel_hash"] = table.loc[0, "pixel_hash"]
    rows = made(table, radius=2, diameter=20)
    assert rows["why"].tolist() == [None, "same_file", "same_pixels", "same_code", "near", "chain"]
    assert rows["distance"].tolist() == [0, 0, 0, 0, 2, 4]
    assert rows["kept_key"].tolist() == ["000_0"] * 6
    assert made(table, radius=2)["kept_key"].tolist() == ["000_0"] * 5 + ["005_0"]


def test_near_codes_of_unlike_pictures_are_refused_and_counted() -> None:
    bits = np.zeros((4, 32), np.uint8)
    bits[1, :2], bits[2, :3], bits[3, :3] = 1, 1, 1
    table = codes_table(4, score=[9, 8, 7, 6])
    table["code"] = [code.tobytes() for code in np.packbits(bits, axis=1)]
    table.loc[2, "luma"] = bytes(range(255, -1, -1))
    groups = grouped(table, radius=3)
    # the first two are near and alike; the third is upside down, and the fourth has the third's code
    assert groups.rows["kept_key"].tolist() == ["000_0", "000_0", "002_0", "002_0"]
    assert groups.counts["unlike_pairs"] == 2
    groups = grouped(table, radius=3, verify=0.0)
    assert (groups.rows["kept_key"].nunique(), groups.counts["unlike_pairs"]) == (1, 0)


def test_far_codes_need_more_alike_pictures() -> None:
    bits = np.zeros((2, 32), np.uint8)
    table = codes_table(2, score=[9, 8])
    noisy = np.random.default_rng(0).normal(np.arange(256), 20)
    table.loc[1, "luma"] = noisy.clip(0, 255).astype(np.uint8).tobytes()
    luma = (np.frombuffer(each, np.uint8)[None] for each in table["luma"])
    like = float(similarity(*luma)[0])
    assert 0.5 < like < 0.95
    for far, kept in ((12, 1), (16, 2)):
        bits[1, :far] = 1
        table["code"] = [code.tobytes() for code in np.packbits(bits, axis=1)]
        assert (
            made(table, radius=16, verify=like - 0.01, verify_step=0.02)["keep"].tolist().count(True) == kept
        )
        assert made(table, radius=16, verify=like - 0.01, verify_step=0.0)["keep"].tolist().count(True) == 1


def test_the_one_to_keep_is_chosen_by_the_configured_order() -> None:
    equal = codes_table(1)["code"][0]
    table = codes_table(3, code=[equal] * 3, score=[1, 2, 2], sharpness=[9, 1, 3], side=[40, 50, 40])

    def kept(*order: str) -> str:
        rows = made(table, rank=order)
        return rows.loc[rows["keep"], "key"].item()

    assert kept("score", "sharpness") == "002_0"
    assert kept("side") == "001_0"
    assert kept("sharpness") == "000_0"
    assert kept("score") == "001_0"  # by key on a tie


def test_one_crop_all_equal_none_and_none_readable() -> None:
    assert made(codes_table(1))[["keep", "distance"]].to_numpy().tolist() == [[True, 0]]
    equal = codes_table(500).assign(code=codes_table(1)["code"][0], pixel_hash=b"x")
    rows = made(equal)
    assert rows["keep"].tolist().count(True) == 1
    assert set(rows["why"].dropna()) == {"same_pixels"}
    assert len(made(codes_table(0))) == 0
    rows = made(codes_table(3, status="undecodable", code=None))
    assert rows["why"].tolist() == ["undecodable"] * 3
    assert rows["keep"].tolist() == [False] * 3
    assert rows[["group", "kept_key", "distance"]].isna().to_numpy().all()


def stages_of(tiny: Tiny, **changes: Any) -> dict[str, Stage]:
    stages = load_pipeline(tiny.preset, tiny.changed(**changes), upto="dedup").stages
    return {stage.artifact: stage for stage in stages}


def run_all(store: Store, stages: dict[str, Stage], **options: Any) -> dict[str, Artifact]:
    return {name: run(stage, store, LocalBackend(2), **options) for name, stage in stages.items()}


def manifest_of(store: Store, stage: Stage) -> Manifest:
    manifest = read_manifest(store, stage.address)
    assert manifest is not None
    return manifest


def rewrite(store: Store, manifest: Manifest, name: str, change: Any) -> None:
    """Change the rows of one file as if the stage had written them so."""
    (old,) = manifest.named(name)
    rows = change(decode_table(read_part(store, manifest.address, old)))
    new = write_part(store, manifest.address, name, encode_table(rows), rows=len(rows))
    parts = tuple(
        receipt.model_copy(update={"files": tuple(new if file == old else file for file in receipt.files)})
        for receipt in manifest.parts
    )
    write_manifest(store, manifest.model_copy(update={"parts": parts}))


def damaged(crops: pa.Table) -> pa.Table:
    """The first usable crop with half of its image."""
    rows = crops.to_pylist()
    hit = next(row for row in rows if row["status"] == "ok")
    hit["image"] = hit["image"][: len(hit["image"]) // 2]
    return pa.Table.from_pylist(rows, crops.schema)


def test_a_corrupt_crop_is_a_row_with_a_reason_and_the_rest_goes_on(own_tiny: Tiny, store: Store) -> None:
    stages = stages_of(own_tiny)
    run_all(store, {name: stages[name] for name in ("photos", "crops")})
    crops = manifest_of(store, stages["crops"])
    rewrite(store, crops, crops.named("crops-")[0].name, damaged)
    run_all(store, {name: stages[name] for name in ("autoencoder", "codes", "links", "dedup")})
    bad = [
        row for row in read_all(store, find(store, "codes"), "codes-").to_pylist() if row["status"] != "ok"
    ]
    assert [(row["status"], row["code"]) for row in bad] == [("undecodable", None)]
    assert bad[0]["reason"]
    rows = {row["key"]: row for row in read_all(store, find(store, "dedup"), "dedup-").to_pylist()}
    assert len(rows) == crops.counts["ok"]
    assert rows[bad[0]["key"]]["why"] == "undecodable"
    counts = find(store, "dedup").counts
    assert counts["kept"] + counts["near_duplicates"] + counts["undecodable"] == counts["crops"]


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(3, 200),
    seed=st.integers(0, 10**6),
    radius=st.integers(0, 16),
    most=st.integers(12, 100),
    files=st.integers(1, 7),
    spread=st.sampled_from([0.04, 0.2, 0.5]),
)
def test_codes_compared_in_bands_give_the_bytes_of_codes_compared_in_one_piece(
    n: int, seed: int, radius: int, most: int, files: int, spread: float
) -> None:
    table = codes_table(n, seed, spread)
    table.loc[1, ["status", "code", "luma"]] = ["undecodable", None, None]
    whole = grouped(table, files, radius=radius)
    split = grouped(table, files, radius=radius, codes_per_task=most)
    assert split.files == whole.files
    assert split.counts == whole.counts
    assert split.links.counts["links"] == whole.links.counts["links"]
    assert len(whole.links.parts) == 1
    assert (len(split.links.parts) > 1) == (n > most)


def test_a_split_comparison_holds_little_at_a_time_and_reports_crowded_buckets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(neighbours, "OVERSIZED", 4)
    table = codes_table(4000, spread=0.5)
    found = grouped(table, 16, radius=3, codes_per_task=1000)
    assert found.links.counts["most_codes_at_once"] <= 1200  # of 4000
    assert found.links.counts["largest_bucket"] > 4
    assert found.links.counts["oversized_buckets"] > 0
    blocks = [part for part in found.links.parts if "rows" in part.metrics]
    assert len(blocks) == 8
    assert all(sum(band) == 500 for block in blocks for band in block.metrics["rows"])


def test_blocks_that_were_split_before_are_right_where_an_earlier_file_has_grown(store: Store) -> None:
    table = codes_table(1600, spread=0.5)
    files = [table.iloc[start : start + 100] for start in range(0, 1600, 100)]
    longer = pd.concat([files[1], table.iloc[:1].assign(key="new_0")])  # not among those bands are planned by
    config = DedupConfig(radius=4, codes_per_task=500)
    links = Links(0, {"codes": write_codes(store, files)}, "preset", config)
    run(links, store, LocalBackend(1))
    write_codes(store, [files[0], longer, *files[2:]])
    run(links, store, LocalBackend(1))
    manifest = manifest_of(store, links)
    assert manifest.provenance["parts_reused"] > 0
    whole = pd.concat([files[0], longer, *files[2:]])
    packed = np.stack([np.frombuffer(code, np.uint8) for code in whole["code"]])
    assert np.array_equal(read_links(store, manifest, 1601), neighbours.links_within(packed, 4))
    assert {file.name for file in manifest.files} == set(store.names(f"{links.address.path}/parts"))


def test_equal_codes_are_held_once_and_crowds_of_them_cost_no_memory() -> None:
    table = codes_table(2000).assign(code=codes_table(1)["code"][0])
    found = grouped(table, 20, radius=3, codes_per_task=200)
    assert found.links.counts["most_codes_at_once"] <= 20
    assert found.rows["keep"].tolist().count(True) == 1


def test_codes_of_two_lengths_in_two_files_are_refused_by_name(store: Store) -> None:
    one, other = codes_table(50), codes_table(50).assign(code=b"xyz")
    for most in (1000, 20):
        links = Links(0, {"codes": write_codes(store, [one, other])}, "p", DedupConfig(codes_per_task=most))
        with pytest.raises(CorruptArtifact, match=r"\[3, 4\] bytes"):
            run(links, store, LocalBackend(1))


def test_bytes_lost_between_the_waves_are_noticed(
    monkeypatch: pytest.MonkeyPatch, finished_store: Store, tiny: Tiny
) -> None:
    links = stages_of(tiny, dedup__codes_per_task=6, dedup__radius=1)["links"]
    work = Links.work

    def damaging(self: Links, store: Store, part: Part, progress: Progress) -> Receipt:
        if part.wave:
            path = links.address.part_path("bands-00000.bin")
            data = store.read_bytes(path)
            store.write_bytes(path, bytes(byte ^ 1 for byte in data))
        return work(self, store, part, progress)

    monkeypatch.setattr(Links, "work", damaging)
    with pytest.raises(CorruptArtifact, match=r"bands-00000\.bin.*differ from what was written"):
        run(links, finished_store, LocalBackend(1))


def test_codes_of_two_lengths_are_refused_by_name(finished_store: Store, tiny: Tiny) -> None:
    codes = find(finished_store, "codes")

    def shorten(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        rows[0]["code"] = rows[0]["code"][:3]
        return pa.Table.from_pylist(rows, CODES)

    rewrite(finished_store, codes, codes.named("codes-")[0].name, shorten)
    for most in (1000, 6):  # in one piece, and split
        stages = stages_of(tiny, dedup__radius=1, dedup__codes_per_task=most)
        with pytest.raises(CorruptArtifact, match=rf"codes/{codes.fingerprint}.*\[3, 16\] bytes"):
            run(stages["links"], finished_store, LocalBackend(1))


def test_bits_are_reported_as_of_all_codes_whatever_the_parts(finished_store: Store) -> None:
    codes = find(finished_store, "codes")
    packed = np.stack(
        [
            np.frombuffer(row, np.uint8)
            for row in read_all(finished_store, codes, "codes-")["code"].to_pylist()
        ]
    )
    means = np.unpackbits(packed, axis=1).mean(0)
    assert np.allclose(codes.metrics["bit_means"], means, atol=1e-4)
    assert 0 < codes.metrics["mean_absolute_bit_correlation"] < 1
    assert len(codes.parts) > 1


def test_new_photos_alone_are_encoded_and_the_groups_are_those_of_a_run_from_scratch(
    own_tiny: Tiny, store: Store, tmp_path: Path
) -> None:
    run_all(store, stages_of(own_tiny))
    encoder = find(store, "autoencoder").address
    for number in range(2):
        added = own_tiny.photos / f"added-{number}.jpg"
        shutil.copy(own_tiny.photos / f"face-0{number}.jpg", added)
        set_changed(added, 100 + number)
    again = stages_of(own_tiny, dedup__encoder=str(encoder))
    assert "autoencoder" not in again
    run_all(store, again)
    codes = manifest_of(store, again["codes"])
    assert codes.provenance["parts_done"] <= 2
    assert codes.provenance["parts_reused"] >= len(codes.parts) - 2
    assert find(store, "dedup").counts["crops"] == manifest_of(store, again["crops"]).counts["ok"]

    fresh = Store(str(tmp_path / "fresh"))
    shutil.copytree(Path(store.root) / encoder.path, Path(fresh.root) / encoder.path)
    run_all(fresh, again)
    assert manifest_of(fresh, again["codes"]).provenance["parts_reused"] == 0
    assert manifest_of(fresh, again["dedup"]).content == manifest_of(store, again["dedup"]).content


def test_groups_do_not_depend_on_how_photos_are_divided_into_parts(own_tiny: Tiny, store: Store) -> None:
    run_all(store, stages_of(own_tiny))
    encoder = str(find(store, "autoencoder").address)
    tables = []
    for items in (3, 100):
        stages = stages_of(own_tiny, dedup__encoder=encoder, scrape__items_per_part=items)
        run_all(store, stages)
        tables.append(read_all(store, manifest_of(store, stages["dedup"]), "dedup-"))
    assert tables[0].equals(tables[1])


def test_the_freest_licence_is_kept_where_it_is_asked_for(own_tiny: Tiny, store: Store) -> None:
    stages = stages_of(own_tiny, dedup__rank=["licence", "score"])
    run_all(store, {name: stages[name] for name in ("photos", "crops", "autoencoder", "codes", "links")})
    links = read_all(store, find(store, "links"), "links-").to_pylist()
    keys = read_all(store, find(store, "codes"), "codes-")["key"].to_pylist()
    a, b = keys[links[0]["a"]], keys[links[0]["b"]]
    for freest in (a, b):

        def licensed(photos: pa.Table, freest: str = freest) -> pa.Table:
            rows = photos.to_pylist()
            for row in rows:
                row["licence"] = "CC0" if freest.startswith(row["key"]) else "CC BY 2.0"
            return pa.Table.from_pylist(rows, photos.schema)

        photos = manifest_of(store, stages["photos"])
        for file in photos.named("photos-"):
            rewrite(store, manifest_of(store, stages["photos"]), file.name, licensed)
        run(stages["dedup"], store, LocalBackend(1), refresh=True)
        rows = {row["key"]: row for row in read_all(store, find(store, "dedup"), "dedup-").to_pylist()}
        assert rows[freest]["keep"]
        assert {rows[a]["kept_key"], rows[b]["kept_key"]} == {freest}


def test_an_encoder_that_is_none_is_refused(own_tiny: Tiny, store: Store) -> None:
    with pytest.raises(ConfigError, match=r"dedup\.encoder='codes/12' is no artifact"):
        stages_of(own_tiny, dedup__encoder="codes/12")
    stages = stages_of(own_tiny, dedup__encoder="autoencoder/0123456789abcdef")
    with pytest.raises(MissingArtifact, match="autoencoder/0123456789abcdef"):
        run_all(store, stages)


def test_the_papers_method_is_equal_codes_of_relu_units_and_what_is_given_wins() -> None:
    paper = DedupConfig(method="paper")
    assert (paper.threshold, paper.shift, paper.radius, paper.verify) == ("zero", 0, 0, 0.0)
    assert DedupConfig(method="paper", radius=3).radius == 3
    assert (DedupConfig().threshold, DedupConfig().shift) == ("median", 1)
