"""Shards are plain WebDataset tars, the same byte for byte, and every epoch shows every sample once."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from webdataset.compat import WebDataset

from dcgan_core.artifacts import Address, Manifest, read_manifest, read_part
from dcgan_core.backend import LocalBackend
from dcgan_core.config import ShardConfig
from dcgan_core.errors import CorruptArtifact, NotEnoughMemory
from dcgan_core.images import decode_rgb, encode_jpeg, encode_png
from dcgan_core.pipeline import load_pipeline
from dcgan_core.shard.reader import open_shards, read_images, sample_count
from dcgan_core.shard.writer import Sample, fit_image, write_tar
from dcgan_core.stage import run
from dcgan_core.storage import Store, sha256_hex
from dcgan_core.tables import read_all, read_rows
from tests.conftest import Tiny

CLASSES = ("cat", "dog", "emu")


def noise(seed: int, size: int = 16) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def labelled_overrides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """34 small labelled pictures in three classes, sharded without detection: one PNG, the others JPEG."""
    folder = tmp_path_factory.mktemp("labelled")
    for number in range(34):
        path = folder / CLASSES[number % 3] / f"{number:02d}.{'png' if number == 5 else 'jpg'}"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode_png(noise(number)) if number == 5 else encode_jpeg(noise(number), 95))
    return {
        "scrape.source": "imagefolder",
        "scrape.path": str(folder),
        "crop.method": "center",
        "crop.stored_size": 16,
        "dedup.min_steps": 2,
        "dedup.epochs": 1,
        "dedup.code_bits": 512,
        "shard.size": 16,
        "shard.samples_per_shard": 8,
    }


@pytest.fixture(scope="module")
def made(
    labelled_overrides: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Store, Manifest]:
    store = Store(str(tmp_path_factory.mktemp("shards")))
    return store, shards_of(store, labelled_overrides)


def shards_of(store: Store, overrides: dict[str, Any]) -> Manifest:
    stages = load_pipeline("faces64", overrides, upto="shard").stages
    for stage in stages:
        run(stage, store, LocalBackend(1))
    manifest = read_manifest(store, stages[-1].address)
    assert manifest is not None
    return manifest


def input_of(store: Store, manifest: Manifest, name: str) -> Manifest:
    found = read_manifest(store, Address(name, manifest.inputs[name].fingerprint))
    assert found is not None
    return found


def tars(store: Store, manifest: Manifest) -> list[Path]:
    return [
        store.local_path(manifest.address.part_path(file.name))
        for file in manifest.named("train-")
        if file.name.endswith(".tar")
    ]


def read_by_webdataset(paths: list[Path]) -> list[dict[str, Any]]:
    return list(WebDataset([str(path) for path in paths], shardshuffle=False))  # pyright: ignore[reportArgumentType]


def test_webdatasets_own_reader_reads_images_and_classes(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    samples = read_by_webdataset(tars(store, manifest))
    crops = {
        row["key"]: row for row in read_all(store, input_of(store, manifest, "crops"), "crops-").to_pylist()
    }
    assert len(samples) == sample_count(manifest) > 20
    for sample in samples:
        crop = crops[sample["__key__"]]
        (image,) = (sample[ending] for ending in ("jpg", "png") if ending in sample)
        assert image == crop["image"]  # of the right size already, so passed through
        assert int(sample["cls"]) == crop["label"]
    assert sum("png" in sample for sample in samples) == 1


def test_decoded_by_webdataset_a_sample_is_the_picture(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    dataset = WebDataset([str(path) for path in tars(store, manifest)], shardshuffle=False)
    decoded: Any = dataset.decode("rgb8").to_tuple("jpg;png", "cls")
    for image, label in decoded:
        assert image.shape == (16, 16, 3)
        assert label in (0, 1, 2)


def test_kept_crops_are_all_there_once_and_dropped_ones_are_not(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    dedup = read_all(store, input_of(store, manifest, "dedup"), "dedup-").to_pylist()
    kept = sorted(row["key"] for row in dedup if row["keep"])
    assert sorted(key for key, _, _ in open_shards(store, manifest, 16).iterate()) == kept


def test_counts_of_tars_differ_by_at_most_one(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    counts = [len(read_by_webdataset([path])) for path in tars(store, manifest)]
    assert len(counts) == -(-sum(counts) // 8)
    assert max(counts) <= 8
    assert max(counts) - min(counts) <= 1


def test_tars_name_no_time_and_no_user(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    for path in tars(store, manifest):
        with tarfile.open(path) as tar:
            members = tar.getmembers()
        assert {member.mtime for member in members} == {0}
        assert {(member.uname, member.gname, member.mode) for member in members} == {
            ("dcgan", "dcgan", 0o444)
        }
        assert {(member.uid, member.gid) for member in members} == {(0, 0)}


def test_the_index_says_where_each_image_is(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    indexes = [file for file in manifest.named("train-") if file.name.endswith(".index.parquet")]
    for path, index in zip(tars(store, manifest), indexes, strict=True):
        rows = {row["key"]: row for row in read_rows(store, manifest.address, index).to_pylist()}
        data = path.read_bytes()
        with tarfile.open(path) as tar:
            images = [member for member in tar if not member.name.endswith(".cls")]
        assert len(images) == len(rows)
        for member in images:
            key, _, extension = member.name.partition(".")
            row = rows[key]
            assert (row["offset"], row["size"]) == (member.offset_data, member.size)
            assert row["extension"] == extension
            assert row["sha256"] == sha256_hex(data[row["offset"] : row["offset"] + row["size"]])


def test_the_same_crops_give_the_same_bytes_on_another_day(
    made: tuple[Store, Manifest], labelled_overrides: dict[str, Any], store: Store
) -> None:
    assert shards_of(store, labelled_overrides).content == made[1].content


def test_another_seed_gives_another_order(
    made: tuple[Store, Manifest], labelled_overrides: dict[str, Any], store: Store
) -> None:
    other = shards_of(store, {**labelled_overrides, "seed": 7})
    orders = [[key for key, _, _ in open_shards(*each, 16).iterate()] for each in (made, (store, other))]
    assert orders[0] != orders[1]


def test_images_are_read_as_they_were_stored(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    images = read_images(store, manifest, 16)
    assert images.pixels_N3SS.shape == (len(images), 3, 16, 16)
    for position, (key, label, data) in enumerate(open_shards(store, manifest, 16).iterate()):
        assert images.keys[position] == key
        assert images.labels_N[position] == label
        rgb = decode_rgb(data, max_pixels=10**6)
        assert np.array_equal(images.pixels_N3SS[position].transpose(1, 2, 0), rgb)


def test_pictures_without_a_class_have_the_label_minus_one(finished_store: Store, tiny: Tiny) -> None:
    shards = load_pipeline(tiny.preset, tiny.overrides, upto="shard").of("shard")[0]
    manifest = read_manifest(finished_store, shards.address)
    assert manifest is not None
    assert set(read_images(finished_store, manifest, 16).labels_N.tolist()) == {-1}
    assert all("cls" not in sample for sample in read_by_webdataset(tars(finished_store, manifest)))


def test_a_damaged_tar_is_named(
    made: tuple[Store, Manifest], labelled_overrides: dict[str, Any], store: Store
) -> None:
    manifest = shards_of(store, labelled_overrides)
    path = tars(store, manifest)[1]
    data = bytearray(path.read_bytes())
    data[600] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptArtifact) as caught:
        read_images(store, manifest, 16)
    assert caught.value.path == str(path)


def test_images_of_another_size_than_wanted_are_refused(made: tuple[Store, Manifest]) -> None:
    with pytest.raises(CorruptArtifact, match="is 16x16"):
        read_images(*made, 32)


def test_more_images_than_fit_into_memory_are_refused_before_reading(made: tuple[Store, Manifest]) -> None:
    with pytest.raises(NotEnoughMemory, match=r"Lower shard\.size or scrape\.limit"):
        read_images(*made, 2**20)


def test_a_picture_of_the_right_size_is_passed_through() -> None:
    for extension, data in (("jpg", encode_jpeg(noise(0), 70)), ("png", encode_png(noise(0)))):
        assert fit_image(data, ShardConfig(size=16)) == (extension, data)


@pytest.mark.parametrize(("fit", "part"), [("resize", slice(0, 32)), ("center", slice(8, 24))])
def test_a_larger_picture_is_scaled_or_its_middle_cut_out(fit: str, part: slice) -> None:
    smooth = np.linspace(0, 255, 32).astype(np.uint8)
    picture = np.stack([np.tile(smooth, (32, 1))] * 3, axis=-1)
    config = ShardConfig.model_validate({"size": 16, "fit": fit, "jpeg_quality": 100})
    extension, data = fit_image(encode_png(picture), config)
    assert extension == "jpg"
    rgb = decode_rgb(data, max_pixels=10**6)
    wanted = picture[part, part]
    expected = wanted if fit == "center" else wanted.reshape(16, 2, 16, 2, 3).mean((1, 3))
    assert np.abs(rgb.astype(float) - expected).max() <= 4


def test_a_tar_written_twice_is_the_same() -> None:
    samples = [
        Sample("a_0", "jpg", encode_jpeg(noise(1), 90), 3, "a"),
        Sample("b_0", "png", b"x", None, "b"),
    ]
    files = [io.BytesIO(), io.BytesIO()]
    written = [write_tar(file, iter(samples)) for file in files]
    assert written[0] == written[1]
    data, (index, size, digest) = files[0].getvalue(), written[0]
    assert data == files[1].getvalue()
    assert (size, digest) == (len(data), sha256_hex(data))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert sorted(tar.getnames()) == ["a_0.cls", "a_0.jpg", "b_0.png"]
    assert [row["label"] for row in index] == [3, None]


def test_parts_are_read_with_their_hashes(made: tuple[Store, Manifest]) -> None:
    store, manifest = made
    for file in manifest.files:
        assert sha256_hex(read_part(store, manifest.address, file)) == file.sha256
