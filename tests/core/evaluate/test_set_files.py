"""Labelled sets as torchvision keeps them and as tars hold them: every image with its own class."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from torchvision import datasets

from dcgan_core.artifacts import Manifest, read_manifest
from dcgan_core.config import EvaluateConfig, LabelledSet
from dcgan_core.errors import ConfigError, CorruptArtifact
from dcgan_core.evaluate import hashes, shard_parts
from dcgan_core.evaluate.datasets import draw, identity, load
from dcgan_core.images import encode_png
from dcgan_core.pipeline import load_pipeline
from dcgan_core.shard.index import index_of
from dcgan_core.shard.reader import open_shards, read_images
from dcgan_core.shard.writer import Sample, write_tar
from dcgan_core.stage import Stage
from dcgan_core.storage import Store
from tests.conftest import Tiny
from tests.core.evaluate.test_datasets import encoded, load_all
from tests.core.scrape.test_image_sets import noise, write_cifar10, write_mnist, write_svhn
from tests.core.shard.test_shard import shards_of, tars

Made = dict[str, tuple[NDArray[np.uint8], list[int]]]
KINDS = ("cifar10", "svhn", "mnist", "fashion-mnist", "stl10")


def write_stl10(root: Path) -> Made:
    """The labelled files as their authors publish them: classes from 1, pixels by colour, column, row."""
    folder = root / datasets.STL10.base_folder
    folder.mkdir(parents=True)
    made = {}
    for split, count in (("train", 12), ("test", 5)):
        pixels, labels = noise(count, count, 96, 96, 3), [n % 10 for n in range(count)]
        (folder / f"{split}_X.bin").write_bytes(pixels.transpose(0, 3, 2, 1).tobytes())
        (folder / f"{split}_y.bin").write_bytes(bytes(label + 1 for label in labels))
        made[split] = pixels, labels
    return made


def write_set(kind: str, root: Path, patch: pytest.MonkeyPatch) -> Made:
    """A little set of a kind below ``root``, and what is in it: pixels (N, S, S, 3) and classes."""
    if kind == "cifar10":
        return write_cifar10(root, patch)
    if kind == "svhn":
        return {split: (write_svhn(root, patch, split), [0, 1, 9, 0, 5]) for split in ("train", "test")}
    if kind == "stl10":
        return write_stl10(root)
    made = write_mnist(root)
    if kind == "fashion-mnist":
        (root / "MNIST").rename(root / "FashionMNIST")
    return {split: (np.repeat(grey[..., None], 3, axis=3), labels) for split, (grey, labels) in made.items()}


def stage_manifest(store: Store, stage: Stage) -> Manifest:
    manifest = read_manifest(store, stage.address)
    assert manifest
    return manifest


def spec_of(kind: str, root: Path, **changes: Any) -> LabelledSet:
    return LabelledSet.model_validate({"name": "mine", "kind": kind, "root": str(root), **changes})


@pytest.mark.parametrize("kind", KINDS)
def test_torchvisions_sets_come_pixel_for_pixel_with_their_classes_and_their_own_test_part(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = write_set(kind, tmp_path, monkeypatch)
    found = load_all(spec_of(kind, tmp_path), size=None)
    names = {label: found.classes[place] for place, label in enumerate(sorted(set(made["train"][1])))}
    for split, images_NHW3, labels_N in (
        ("train", found.train_images_NHW3, found.train_labels_N),
        ("test", found.test_images_NHW3, found.test_labels_N),
    ):
        pixels, labels = made[split]
        expected = sorted(
            (image.tobytes(), names[label]) for image, label in zip(pixels, labels, strict=True)
        )
        each = zip(images_NHW3, labels_N, strict=True)
        assert sorted((image.tobytes(), found.classes[label]) for image, label in each) == expected
    first = {"cifar10": "airplane", "fashion-mnist": "T-shirt/top", "stl10": "airplane"}
    assert names[0] == first.get(kind, "0")


def test_our_stl10_is_torchvisions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stl10(tmp_path)
    (tmp_path / datasets.STL10.base_folder / "unlabeled_X.bin").write_bytes(b"")
    monkeypatch.setattr(datasets.STL10, "_check_integrity", lambda _: True)
    theirs = datasets.STL10(tmp_path, split="test")
    found = load_all(spec_of("stl10", tmp_path), size=None)
    ours = {
        image.tobytes(): label
        for image, label in zip(found.test_images_NHW3, found.test_labels_N, strict=True)
    }
    assert len(ours) == len(theirs)
    for image, label in theirs:
        assert ours[np.asarray(image).tobytes()] == label


@pytest.mark.parametrize("kind", KINDS)
def test_missing_files_of_torchvisions_are_named_with_the_next_step(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"labelled set mine's root .* no .*evaluate\.download=true"):
        identity(spec_of(kind, tmp_path))
    with pytest.raises(ConfigError, match=r"nothing says where .* lies; name .* -o evaluate\.root=DIR"):
        load_all(spec_of(kind, Path()).model_copy(update={"root": ""}))
    with pytest.raises(ConfigError, match="from a local directory; copy it"):
        load_all(spec_of(kind, tmp_path).model_copy(update={"root": "s3://bucket/sets"}))


def test_one_missing_file_is_named_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set("svhn", tmp_path, monkeypatch)
    (tmp_path / "test_32x32.mat").unlink()
    with pytest.raises(ConfigError, match=r"there is no test_32x32\.mat; put them there"):
        load_all(spec_of("svhn", tmp_path))


def test_downloads_happen_where_they_are_allowed_and_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def get(opened: datasets.STL10) -> None:
        asked.append(opened.split)
        write_stl10(Path(opened.root))

    monkeypatch.setattr(datasets.STL10, "download", get)
    with pytest.raises(ConfigError, match="there is no"):
        identity(spec_of("stl10", tmp_path))
    assert asked == []
    found = load_all(spec_of("stl10", tmp_path, download=True))
    assert (len(asked), len(found.train_labels_N)) == (1, 12)


def test_damaged_files_of_torchvisions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set("stl10", tmp_path, monkeypatch)
    labels = tmp_path / datasets.STL10.base_folder / "train_y.bin"
    whole = labels.read_bytes()
    for damaged, message in ((whole[:-1], "11 classes"), (b"\0" + whole[1:], "not 1 to 10")):
        labels.write_bytes(damaged)
        with pytest.raises(ConfigError, match=message):
            load_all(spec_of("stl10", tmp_path))
    write_set("svhn", tmp_path, monkeypatch)
    (tmp_path / "train_32x32.mat").write_bytes(b"nothing")
    with pytest.raises(ConfigError, match="delete it and get it again"):
        load_all(spec_of("svhn", tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sets_identity_is_that_of_its_files_wherever_they_lie(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_set(kind, tmp_path / "one", monkeypatch)
    first = identity(spec_of(kind, tmp_path / "one"))
    assert set(first) == {"train_sha256", "test_sha256"}
    (tmp_path / "one").rename(tmp_path / "two")
    assert identity(spec_of(kind, tmp_path / "two", name="other")) == first
    changed = max(
        path for path in (tmp_path / "two").rglob("*") if "test" in path.name or "t10k" in path.name
    )
    changed.write_bytes(changed.read_bytes() + b"\0")
    second = identity(spec_of(kind, tmp_path / "two"))
    assert (second["train_sha256"] == first["train_sha256"], second == first) == (True, False)


def test_a_file_is_hashed_once_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "big"
    path.write_bytes(b"one")
    before = hashes._file_sha256.cache_info().misses
    assert {hashes.file_sha256(path) for _ in range(3)} == {hashlib.sha256(b"one").hexdigest()}
    assert hashes._file_sha256.cache_info().misses == before + 1
    path.write_bytes(b"two")
    os.utime(path, ns=(0, 0))
    assert hashes.file_sha256(path) == hashlib.sha256(b"two").hexdigest()


def test_a_place_that_the_kind_does_not_read_is_refused() -> None:
    for wrong, message in (
        ({"kind": "cifar10", "train": "somewhere"}, "cifar10 has no train; it is read from root"),
        ({"kind": "parquet", "root": "somewhere"}, "parquet has no root; it is read from train and test"),
        ({"kind": "shards", "download": True}, "shards has no download"),
    ):
        with pytest.raises(ValueError, match=message):
            LabelledSet.model_validate({"name": "mine", **wrong})
    assert EvaluateConfig.model_validate({"sets": ["svhn"]}).sets[0].kind == "svhn"


def write_tars(folder: Path, labels: list[int | None], per_tar: int = 4) -> dict[int, bytes]:
    """Tars of samples whose first pixel says their number; the images."""
    folder.mkdir(parents=True)
    made = {number: encoded((number, 50, 90), height=16, width=16) for number in range(len(labels))}
    for tar, start in enumerate(range(0, len(labels), per_tar)):
        samples = [
            Sample(f"s{number:04d}", "png", made[number], labels[number], "")
            for number in range(start, min(start + per_tar, len(labels)))
        ]
        with (folder / f"set-{tar:05d}.tar").open("wb") as file:
            write_tar(file, samples)
    return made


def tars_of(folder: Path, pattern: str = "") -> LabelledSet:
    return LabelledSet(name="mine", kind="shards", train=str(folder / pattern))


@pytest.mark.parametrize("pattern", ["", "set-{00000..00002}.tar", "set-*.tar", "set-0000[012].tar"])
def test_samples_of_tars_keep_their_classes(pattern: str, tmp_path: Path) -> None:
    labels = [7, 3, 3, 7, 3, 7, 7, 3, 3, 7]
    write_tars(tmp_path / "tars", [*labels])
    found = load_all(tars_of(tmp_path / "tars", pattern))
    assert found.classes == ("3", "7")
    seen = {}
    for images_NHW3, labels_N in (
        (found.train_images_NHW3, found.train_labels_N),
        (found.test_images_NHW3, found.test_labels_N),
    ):
        seen |= {
            int(image[0, 0, 0]): label for image, label in zip(images_NHW3, labels_N.tolist(), strict=True)
        }
    assert [(3, 7)[seen[number]] for number in range(len(labels))] == labels


def test_a_single_tar_is_a_part_too(tmp_path: Path) -> None:
    write_tars(tmp_path / "tars", [0, 1] * 4)
    found = load_all(tars_of(tmp_path / "tars", "set-00001.tar"))
    assert len(found.train_labels_N) + len(found.test_labels_N) == 4
    assert found.source == "set-00001.tar"


@pytest.mark.parametrize("kind", ["shards", "digits", "stl10"])
def test_images_that_are_read_when_they_are_asked_for_are_those_loaded(kind: str, tmp_path: Path) -> None:
    write_tars(tmp_path / "tars", [0, 1, 2] * 5)
    write_stl10(tmp_path)
    spec = {
        "shards": tars_of(tmp_path / "tars"),
        "digits": LabelledSet(name="digits", kind="digits"),
        "stl10": spec_of("stl10", tmp_path),
    }[kind]
    settings: dict[str, Any] = {"size": 16, "test_share": 0.3, "max_train": 50, "max_test": 20, "seed": 4}
    loaded, drawn = load(spec, **settings), draw(spec, **settings)
    assert len(drawn.train) == len(loaded.train_images_NHW3)
    np.testing.assert_array_equal(drawn.train[1:7], loaded.train_images_NHW3[1:7])
    np.testing.assert_array_equal(drawn.test[:], loaded.test_images_NHW3)
    np.testing.assert_array_equal(drawn.train_labels_N, loaded.train_labels_N)
    np.testing.assert_array_equal(drawn.test_labels_N, loaded.test_labels_N)


def test_images_of_several_sizes_need_a_size(tmp_path: Path) -> None:
    for name, side in (("a", 16), ("b", 20)):
        for number in range(2):
            path = tmp_path / "set" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded((1, 2, 3), height=side, width=side))
    spec = LabelledSet(name="mine", kind="imagefolder", train=str(tmp_path / "set"))
    assert load_all(spec, size=18).train_images_NHW3.shape == (2, 18, 18, 3)
    with pytest.raises(ConfigError, match=r"is (16|20) px and another (16|20) px; give a size"):
        load_all(spec, size=None)


def test_what_is_wrong_with_tars_is_named(tmp_path: Path) -> None:
    write_tars(tmp_path / "tars", [0, None, 1])
    (tmp_path / "empty").mkdir()
    for spec, message in (
        (
            tars_of(tmp_path / "tars"),
            "1 of the 3 samples of .* have no class, the first is s0001; write",
        ),
        (tars_of(tmp_path / "empty"), r"labelled set mine: there is no \.tar below"),
        (tars_of(tmp_path / "tars", "other-*.tar"), r"labelled set mine: no \.tar fits"),
        (tars_of(tmp_path / "none"), "labelled set mine: there is nothing at"),
        (tars_of(tmp_path / "artifacts" / "shards" / "0123"), "has no manifest"),
        (LabelledSet(name="mine", kind="shards"), "its path is empty"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_all(spec)


def test_tars_are_known_by_their_bytes(tmp_path: Path) -> None:
    write_tars(tmp_path / "one", [0, 1] * 4)
    write_tars(tmp_path / "two", [0, 1] * 4)
    write_tars(tmp_path / "three", [1, 0] * 4)
    one, two, three = (identity(tars_of(tmp_path / name)) for name in ("one", "two", "three"))
    assert one == two
    assert one != three


def test_an_artifact_of_shards_is_a_labelled_set(store: Store, tmp_path: Path) -> None:
    for number in range(16):
        path = tmp_path / "in" / ("cat", "dog")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(noise(1, number, 16, 16, 3)[0]))
    overrides = {"scrape.source": "imagefolder", "scrape.path": str(tmp_path / "in")}
    overrides |= {"crop.method": "center", "crop.stored_size": 16, "shard.size": 16}
    manifest = shards_of(store, overrides | {"dedup.min_steps": 2, "dedup.epochs": 1, "dedup.code_bits": 512})
    expected = read_images(store, manifest, 16)
    spec = LabelledSet(name="mine", kind="shards", train=str(store.local_path(manifest.address.path)))
    found = load_all(spec)
    images = np.concatenate([found.train_images_NHW3, found.test_images_NHW3]).astype(int)
    labels = np.concatenate([found.train_labels_N, found.test_labels_N])
    assert len(images) == len(expected) > 10
    for image_3SS, label in zip(expected.pixels_N3SS, expected.labels_N.tolist(), strict=True):
        distances = np.abs(images - image_3SS.transpose(1, 2, 0)).mean((1, 2, 3))
        assert distances.min() < 2, "the decoders may round differently"
        assert found.classes[labels[distances.argmin()]] == str(label)
    assert identity(spec) == {"train_sha256": manifest.content, "split": "by key"}
    assert found.source == str(manifest.address)
    tar = tars(store, manifest)[0]
    data = bytearray(tar.read_bytes())
    data[int(index_of(store, manifest).offset_N[0]) + 50] ^= 255
    tar.write_bytes(bytes(data))
    with pytest.raises(CorruptArtifact, match="differ from the hash"):
        load_all(spec)


def test_images_that_training_held_out_are_the_test_images_of_the_same_share(
    tiny: Tiny, finished_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = load_pipeline(tiny.preset, tiny.overrides).of("shard")[0]
    opened = open_shards(finished_store, stage_manifest(finished_store, stage), 16, held_below=0.4)
    opened.index.label_N[:] = np.arange(len(opened)) % 2  # the photos have no classes
    monkeypatch.setattr(shard_parts, "open_shards", lambda *_, **__: opened)
    folder = finished_store.local_path(stage.address.path)
    drawn = draw(
        LabelledSet(name="mine", kind="shards", train=str(folder)),
        size=16,
        test_share=0.4,
        max_train=100,
        max_test=100,
        seed=1,
    )
    assert sorted(drawn.test.rows_N) == np.flatnonzero(opened.is_held_N).tolist()
