"""An artifact is what its manifest says: every difference is found and named, and removal is never half."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from dcgan_core.artifacts import (
    SCHEMA,
    Address,
    InputRecord,
    Manifest,
    PartFile,
    Receipt,
    all_manifests,
    find,
    fingerprint_of,
    read_manifest,
    read_part,
    read_receipts,
    remove,
    write_manifest,
    write_part,
    write_receipt,
)
from dcgan_core.collect import superseded, unfinished
from dcgan_core.errors import ConfigError, CorruptArtifact
from dcgan_core.storage import Store, sha256_hex
from dcgan_core.tables import decode_table, encode_rows, read_all, read_rows, write_rows
from dcgan_core.verify import problems

ADDRESS = Address("crops", "0123456789abcdef")
SCHEMA_OF_ROWS = pa.schema([("key", pa.string()), ("image", pa.large_binary())])
ROWS = [{"key": "a", "image": b"\x00" * 100}, {"key": "b", "image": None}]


def manifest_of(
    address: Address = ADDRESS,
    files: Sequence[PartFile] = (),
    finished: str = "2024-01-01T00:00:00.000+00:00",
    inputs: Sequence[Address] = (),
) -> Manifest:
    receipts = tuple(Receipt(part=part, key=f"key-{part}", files=(file,)) for part, file in enumerate(files))
    return Manifest(
        schema_version=SCHEMA,
        artifact=address.artifact,
        fingerprint=address.fingerprint,
        version=1,
        config={"size": 3},
        source={},
        seed=1,
        inputs={each.artifact: InputRecord(fingerprint=each.fingerprint, content="x") for each in inputs},
        predecessor=None,
        parts=receipts,
        counts={"items": len(files)},
        metrics={},
        provenance={"finished": finished},
    )


def with_rows(store: Store) -> Manifest:
    file = write_rows(store, ADDRESS, "crops-00000.parquet", ROWS, SCHEMA_OF_ROWS)
    manifest = manifest_of(files=[file, write_part(store, ADDRESS, "notes.txt", b"notes")])
    write_manifest(store, manifest)
    return manifest


def flip_a_byte(path: Path, place: int = 40) -> None:
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= 1
    path.unlink()  # not through a hard link into another artifact
    path.write_bytes(data)


def test_a_manifest_is_read_as_it_was_written(store: Store) -> None:
    manifest = with_rows(store)
    assert read_manifest(store, ADDRESS) == manifest
    assert read_manifest(store, Address("crops", "f" * 16)) is None


def test_fingerprints_depend_on_values_not_on_the_order_of_keys() -> None:
    assert fingerprint_of({"a": 1, "b": [2, None]}) == fingerprint_of({"b": [2, None], "a": 1})
    assert fingerprint_of({"a": 1}) != fingerprint_of({"a": 1.5})
    assert len(fingerprint_of("x")) == 16
    assert len(fingerprint_of("x", length=64)) == 64


def test_the_content_is_that_of_data_files_alone(store: Store) -> None:
    data = write_part(store, ADDRESS, "data", b"same")
    times = [write_part(store, ADDRESS, "times", text, is_data=False) for text in (b"now", b"later")]
    assert manifest_of(files=[data, times[0]]).content == manifest_of(files=[data, times[1]]).content
    other = write_part(store, ADDRESS, "data", b"other")
    assert manifest_of(files=[data]).content != manifest_of(files=[other]).content
    assert manifest_of(files=[data]).content != manifest_of(files=[data, other]).content


def test_files_are_found_by_prefix_in_order_of_their_names() -> None:
    files = [PartFile(name=name, bytes=1, sha256="x") for name in ("b-2", "a-2", "b-1", "a-1")]
    assert [file.name for file in manifest_of(files=files).named("b-")] == ["b-1", "b-2"]


def test_files_of_more_than_a_hundred_thousand_parts_keep_their_order() -> None:
    numbers = (100_001, 99_999, 7, 100_000)
    files = [PartFile(name=f"rows-{number:05d}.parquet", bytes=0, sha256="") for number in numbers]
    found = [file.name[5:-8] for file in manifest_of(files=files).named("rows-")]
    assert found == ["00007", "99999", "100000", "100001"]


def test_a_flipped_byte_is_found_and_the_file_named(store: Store) -> None:
    manifest = with_rows(store)
    path = store.local_path(ADDRESS.part_path("crops-00000.parquet"))
    flip_a_byte(path)
    with pytest.raises(CorruptArtifact, match="sha256 differs") as caught:
        read_rows(store, ADDRESS, manifest.named("crops-")[0])
    assert caught.value.path == str(path)
    assert "--refresh" in str(caught.value)


def test_a_file_that_is_gone_or_cut_off_is_named(store: Store) -> None:
    manifest = with_rows(store)
    path = store.local_path(ADDRESS.part_path("notes.txt"))
    path.write_bytes(b"not")
    with pytest.raises(CorruptArtifact, match="3 bytes instead of 5"):
        read_part(store, ADDRESS, manifest.named("notes")[0])
    path.unlink()
    with pytest.raises(CorruptArtifact, match="missing"):
        read_part(store, ADDRESS, manifest.named("notes")[0])


def test_another_number_of_rows_than_the_manifest_says_is_damage(store: Store) -> None:
    file = with_rows(store).named("crops-")[0].model_copy(update={"rows": 3})
    with pytest.raises(CorruptArtifact, match="2 rows, not 3"):
        read_rows(store, ADDRESS, file)
    found = [wrong for _, wrong in problems(store, manifest_of(files=[file]))]
    assert found == ["crops-00000.parquet: 2 rows instead of 3"]


def test_verification_says_what_is_wrong_with_each_file(store: Store) -> None:
    manifest = with_rows(store)
    assert [wrong for _, wrong in problems(store, manifest)] == [None, None]
    flip_a_byte(store.local_path(ADDRESS.part_path("crops-00000.parquet")))
    store.delete(ADDRESS.part_path("notes.txt"))
    wrongs = {file.name: wrong or "" for file, wrong in problems(store, manifest)}
    assert "sha256" in wrongs["crops-00000.parquet"]
    assert "missing" in wrongs["notes.txt"]


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"artifact": "crops"}'])
def test_a_damaged_manifest_is_named_not_taken_for_none(store: Store, text: bytes) -> None:
    store.write_bytes(f"{ADDRESS.path}/manifest.json", text)
    with pytest.raises(CorruptArtifact, match=r"manifest\.json is damaged"):
        read_manifest(store, ADDRESS)


def test_a_damaged_manifest_keeps_nobody_from_the_other_artifacts(store: Store) -> None:
    sound = with_rows(store)
    damaged = Address("crops", "da3a9ed0")
    store.write_bytes(f"{damaged.path}/manifest.json", b"{")
    assert all_manifests(store) == [sound]
    assert find(store, "crops") == sound
    assert unfinished(store) == [damaged]


def test_a_receipt_that_cannot_be_read_counts_as_none(store: Store) -> None:
    good = Receipt(part=3, key="k", files=(PartFile(name="x", bytes=1, sha256="y"),), counts={"ok": 2})
    write_receipt(store, ADDRESS, good)
    store.write_bytes(f"{ADDRESS.path}/receipts/00004.json", b'{"part": 4')
    assert read_receipts(store, ADDRESS) == {3: good}


def test_the_same_rows_always_give_the_same_bytes() -> None:
    data = encode_rows(ROWS, SCHEMA_OF_ROWS)
    assert data == encode_rows([dict(reversed(row.items())) for row in ROWS], SCHEMA_OF_ROWS)
    assert decode_table(data).to_pylist() == ROWS
    assert decode_table(data, ["key"]).column_names == ["key"]
    assert decode_table(encode_rows([], SCHEMA_OF_ROWS)).schema.equals(SCHEMA_OF_ROWS)


def test_all_tables_of_a_name_are_read_in_order(store: Store) -> None:
    files = [
        write_rows(store, ADDRESS, f"crops-{part:05d}.parquet", [{"key": str(part)}], SCHEMA_OF_ROWS)
        for part in (1, 0)
    ]
    manifest = manifest_of(files=files)
    assert read_all(store, manifest, "crops-", ["key"])["key"].to_pylist() == ["0", "1"]
    with pytest.raises(CorruptArtifact, match=r"no nothing-\*\.parquet"):
        read_all(store, manifest, "nothing-")


def test_artifacts_are_found_by_kind_by_beginning_and_by_full_name(store: Store) -> None:
    for number, fingerprint in enumerate(("aa11", "ab22", "cc33")):
        finished = f"2024-01-0{3 - number}T00:00:00+00:00"
        write_manifest(store, manifest_of(Address("crops", fingerprint), finished=finished))
    assert [each.fingerprint for each in all_manifests(store)] == ["cc33", "ab22", "aa11"]
    assert find(store, "crops").fingerprint == "aa11"
    assert find(store, "crops/ab").fingerprint == "ab22"
    assert find(store, "crops/cc33/").fingerprint == "cc33"
    for wrong in ("crops/zz", "nothing", "", "/"):
        with pytest.raises(ConfigError, match="kinds: crops"):
            find(store, wrong)


def test_a_removal_begins_with_the_manifest_and_leaves_nothing(store: Store) -> None:
    with_rows(store)
    remove(store, ADDRESS)
    assert read_manifest(store, ADDRESS) is None
    assert not store.exists(ADDRESS.path)
    remove(store, ADDRESS)


def test_collection_keeps_the_newest_of_each_kind_and_what_they_were_made_from() -> None:
    photos = [Address("photos", f"p{day}") for day in range(3)]
    crops = [Address("crops", f"c{day}") for day in range(3)]
    manifests = [manifest_of(photos[day], finished=f"2024-01-0{day + 1}T00:00:00+00:00") for day in range(3)]
    # The newest crops were made from the oldest photos.
    manifests += [
        manifest_of(crops[day], finished=f"2024-01-0{day + 1}T01:00:00+00:00", inputs=[photos[2 - day]])
        for day in range(3)
    ]
    gone = [manifest.address for manifest in superseded(manifests, keep=1)]
    assert sorted(gone) == [crops[0], crops[1], photos[1]]
    assert superseded(manifests, keep=3) == []
    assert len(superseded(manifests, keep=0)) == 6


def test_what_was_never_finished_is_listed_apart(store: Store) -> None:
    with_rows(store)
    write_part(store, Address("crops", "cut0ff"), "crops-00000.parquet", b"x")
    assert unfinished(store) == [Address("crops", "cut0ff")]


def test_parts_are_hashed_as_they_are_written(store: Store) -> None:
    file = write_part(store, ADDRESS, "deep/file", b"content")
    assert (file.sha256, file.bytes) == (sha256_hex(b"content"), 7)
    assert read_part(store, ADDRESS, file) == b"content"
