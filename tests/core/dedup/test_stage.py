"""The stage `dedup`: whatever the crops are, each has a row, and the order of the work does not matter."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcgan_core.artifacts import Manifest, find, read_manifest, read_part, write_manifest, write_part
from dcgan_core.backend import LocalBackend
from dcgan_core.config import DedupConfig
from dcgan_core.dedup.stage import CODES, DEDUP, deduplicated
from dcgan_core.errors import ConfigError, CorruptArtifact, MissingArtifact
from dcgan_core.pipeline import load_pipeline
from dcgan_core.stage import Artifact, Stage, run
from dcgan_core.storage import Store
from dcgan_core.tables import decode_table, encode_table, read_all
from tests.conftest import Tiny, set_changed


def codes_table(n: int, seed: int = 0, **columns: Any) -> pd.DataFrame:
    """Rows of ``CODES``: 32-bit codes around few centres, some of equal files or pixels, some undecodable."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (4, 32))[rng.integers(0, 4, n)] ^ (rng.random((n, 32)) < 0.04)
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


def made(table: pd.DataFrame, **settings: Any) -> pd.DataFrame:
    rows, _ = deduplicated(table, DedupConfig(**settings))
    pa.Table.from_pandas(rows, schema=DEDUP, preserve_index=False)  # the types are right
    return rows


@given(st.integers(0, 40), st.integers(0, 10**6), st.sampled_from([0, 2, 8]), st.sampled_from([None, 3, 40]))
def test_rows_do_not_depend_on_the_order_of_the_codes(
    n: int, seed: int, radius: int, diameter: int | None
) -> None:
    table = codes_table(n, seed)
    bad = np.random.default_rng(seed).random(n) < 0.1
    table.loc[bad, ["status", "code", "luma"]] = ["undecodable", None, None]
    rows = made(table, radius=radius, diameter=diameter)
    assert rows.equals(
        made(table.sample(frac=1, random_state=seed % 2**32), radius=radius, diameter=diameter)
    )
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
    rows, refused = deduplicated(table, DedupConfig(radius=3))
    # the first two are near and alike; the third is upside down, and the fourth has the third's code
    assert rows["kept_key"].tolist() == ["000_0", "000_0", "002_0", "002_0"]
    assert refused == 2
    rows, refused = deduplicated(table, DedupConfig(radius=3, verify=0.0))
    assert (rows["kept_key"].nunique(), refused) == (1, 0)


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
    run_all(store, {name: stages[name] for name in ("autoencoder", "codes", "dedup")})
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


def test_codes_of_two_lengths_are_refused_by_name(finished_store: Store, tiny: Tiny) -> None:
    codes = find(finished_store, "codes")

    def shorten(table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        rows[0]["code"] = rows[0]["code"][:3]
        return pa.Table.from_pylist(rows, CODES)

    rewrite(finished_store, codes, codes.named("codes-")[0].name, shorten)
    with pytest.raises(CorruptArtifact, match=rf"codes/{codes.fingerprint}.*\[3, 16\] bytes"):
        run(stages_of(tiny, dedup__radius=1)["dedup"], finished_store, LocalBackend(1))


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
