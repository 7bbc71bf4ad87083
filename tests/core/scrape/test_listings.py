"""Files whose times have changed and whose bytes have not are the files that they were."""

from __future__ import annotations

import os
import shutil
import tarfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dcgan_core.artifacts import Address, Manifest, all_manifests, read_manifest
from dcgan_core.backend import LocalBackend
from dcgan_core.exclusions import Exclusion
from dcgan_core.forget import forget
from dcgan_core.pipeline import load_pipeline
from dcgan_core.scrape.listings import Listed, Listings
from dcgan_core.stage import run
from dcgan_core.storage import Store, sha256_hex
from dcgan_core.tables import decode_table
from tests.conftest import Tiny, make_all, set_changed


def scrape(store: Store, path: Path, backend: LocalBackend | None = None, **changes: Any) -> Manifest:
    overrides = {f"scrape.{key}": value for key, value in {"path": str(path), **changes}.items()}
    (stage,) = load_pipeline("faces64", overrides, upto="scrape", store=store).stages
    run(stage, store, backend or LocalBackend(1))
    manifest = read_manifest(store, stage.address)
    assert manifest is not None
    return manifest


def touch(*paths: Path) -> None:
    for path in paths:
        os.utime(path, (time.time() + 60, time.time() + 60))


def test_a_touched_photo_makes_nothing_run_again(own_tiny: Tiny, store: Store) -> None:
    make_all(own_tiny, store)
    for _ in range(2):  # the second time its new time is known already
        touch(own_tiny.photos / "face-03.jpg")
        again = make_all(own_tiny, store)
        assert [name for name, artifact in again.items() if not artifact.cached] == []


def test_a_root_made_before_files_were_noted_stays_as_it_is(own_tiny: Tiny, store: Store) -> None:
    overrides = own_tiny.overrides
    (as_before,) = load_pipeline("faces64", overrides, upto="scrape").stages  # times count, nothing is noted
    run(as_before, store, LocalBackend(1))
    (stage,) = load_pipeline("faces64", overrides, upto="scrape", store=store).stages
    assert stage.address == as_before.address
    assert run(stage, store, LocalBackend(1)).cached
    touch(own_tiny.photos / "face-03.jpg")
    (stage,) = load_pipeline("faces64", overrides, upto="scrape", store=store).stages
    assert stage.address == as_before.address


@pytest.mark.parametrize("source", ["folder", "imagefolder"])
def test_a_copy_of_a_folder_with_new_times_is_the_same_source(
    source: str, faces_folder: Path, store: Store, tmp_path: Path
) -> None:
    """As by a checkout, by cp, or by rsync without -t."""
    photos = tmp_path / "in" / "faces"
    shutil.copytree(faces_folder, photos)
    before = scrape(store, photos.parent, source=source)
    shutil.copytree(photos.parent, tmp_path / "copy", copy_function=shutil.copyfile)
    assert scrape(store, tmp_path / "copy", source=source).address == before.address


def test_new_photos_beside_touched_ones_cost_only_their_own_parts(faces_folder: Path, store: Store) -> None:
    before = scrape(store, faces_folder, items_per_part=4)
    touch(*faces_folder.iterdir())
    shutil.copy(faces_folder / "face-01.jpg", faces_folder / "new.jpg")
    touch(faces_folder / "new.jpg")
    after = scrape(store, faces_folder, items_per_part=4)
    assert after.counts["items"] == before.counts["items"] + 1
    assert after.provenance["parts_done"] == 1


def test_other_bytes_of_the_same_size_are_another_photo(faces_folder: Path, store: Store) -> None:
    before = scrape(store, faces_folder)
    photo = faces_folder / "face-03.jpg"
    data, own_time = photo.read_bytes(), photo.stat().st_mtime
    photo.write_bytes(data[:-2] + b"\0\0")
    touch(photo)
    changed = scrape(store, faces_folder)
    assert changed.address != before.address
    assert changed.content != before.content
    photo.write_bytes(data)  # as it was, at a third time
    os.utime(photo, (own_time + 1, own_time + 1))
    assert scrape(store, faces_folder).address == before.address


def test_a_tar_written_again_is_the_same_source(faces_folder: Path, store: Store, tmp_path: Path) -> None:
    addresses = set()
    for number in range(2):
        with tarfile.open(tmp_path / "photos.tar", "w") as tar:
            for photo in sorted(faces_folder.iterdir()):
                tar.add(photo, photo.name)
        addresses.add(scrape(store, tmp_path / "photos.tar").address)
        for place, photo in enumerate(faces_folder.iterdir()):
            set_changed(photo, 1000 * (number + 1) + place)
    assert len(addresses) == 1


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("source", ["parquet", "webdataset"])
def test_a_file_of_many_photos_is_the_same_elsewhere(
    source: str, workers: int, faces_folder: Path, store: Store, tmp_path: Path
) -> None:
    photos = sorted(faces_folder.iterdir())
    path = write(source, tmp_path, photos[:16])
    before = scrape(store, path, source=source)
    copied = tmp_path / "elsewhere"
    copied.mkdir()
    shutil.copyfile(path, copied / path.name)
    touch(copied / path.name)
    assert scrape(store, copied / path.name, source=source).address == before.address
    # Its bytes are still read where they have to be: by workers that know nothing of its first time.
    backend = LocalBackend(workers)
    again = scrape(store, copied / path.name, backend, source=source, max_pixels=10**7, items_per_part=4)
    assert again.counts == before.counts


def write(source: str, folder: Path, photos: list[Path]) -> Path:
    if source == "parquet":
        path = folder / "x.parquet"
        pq.write_table(pa.table({"image": [photo.read_bytes() for photo in photos]}), path)
        return path
    path = folder / "x.tar"
    with tarfile.open(path, "w") as tar:
        for photo in photos:
            tar.add(photo, photo.name)
    return path


def test_hashes_of_forgotten_photos_are_not_kept(faces_folder: Path, store: Store) -> None:
    manifest = scrape(store, faces_folder)
    gone = sha256_hex((faces_folder / "face-03.jpg").read_bytes())
    assert gone in noted(store, manifest.address)
    forget(store, [Exclusion("url", "face-03.jpg")])
    scrape(store, faces_folder)
    assert all(gone not in noted(store, each.address) for each in all_manifests(store, "photos"))


def noted(store: Store, address: Address) -> list[str]:
    return decode_table(store.read_bytes(f"{address.path}/listing.parquet"))["sha256"].to_pylist()


def test_an_object_store_need_not_be_read_to_know_its_files_again(faces_folder: Path, store: Store) -> None:
    """An upload of the same bytes changes LastModified; the ETag tells that they are the same."""
    address = scrape(store, faces_folder).address

    def unread(_: Listed) -> None:
        raise AssertionError("it was read")

    first = Listings(store, "folder")
    assert first.stamps([Listed("a.jpg", 10, ["etag", "then"], "etag")], unread) == [["etag", "then"]]
    first.note(address, {})
    later = Listings(store, "folder")
    assert later.stamps([Listed("a.jpg", 10, ["etag", "now"], "etag")], unread) == [["etag", "then"]]
    assert later.stamps([Listed("a.jpg", 10, ["other", "now"], "other")], unread) == [["other", "now"]]
