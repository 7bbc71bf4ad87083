"""torchvision's sets are taken from where torchvision keeps them: the same pictures, the same classes."""

from __future__ import annotations

import hashlib
import pickle  # noqa: TID251  # CIFAR-10 is published so
import shutil
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.io
import torch
from numpy.typing import NDArray
from torchvision import datasets

from dcgan_core.artifacts import read_manifest
from dcgan_core.backend import LocalBackend
from dcgan_core.config import ScrapeConfig
from dcgan_core.errors import ConfigError, FetchError
from dcgan_core.images import decode_rgb, encode_png
from dcgan_core.pipeline import load_pipeline
from dcgan_core.scrape.sources import Source, open_source
from dcgan_core.stage import Artifact, run
from dcgan_core.storage import Store
from tests.conftest import set_changed
from tests.core.scrape.test_sources import config_of, picture, rows_of

Pixels = NDArray[np.uint8]  # (N, 32, 32, 3), or (N, 28, 28) for MNIST
SVHN_LABELS = [10, 1, 9, 10, 5]
CELEBS = {"000001.jpg": 0, "000002.jpg": 0, "000003.jpg": 1, "000004.jpg": 2, "000005.jpg": 0}
"""Names of faces and their split."""
WNIDS = ("n01440764", "n01443537")


def source_of(source: str, root: Path | str, **changes: Any) -> Source:
    return open_source(ScrapeConfig.model_validate({"source": source, "path": str(root), **changes}), seed=1)


def taken(source: Source) -> list[tuple[bytes | None, int | None]]:
    return [(each.data, each.item.label) for each in source.read(source.items())]


def pixels_of(source: Source) -> Pixels:
    return np.stack([decode_rgb(data or b"", max_pixels=10**4) for data, _ in taken(source)])


def noise(count: int, seed: int, *shape: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def write_cifar10(
    root: Path, patch: pytest.MonkeyPatch, train: Pixels | None = None
) -> dict[str, tuple[Pixels, list[int]]]:
    """Batches as the authors publish them; torchvision is told their md5 in place of the real ones."""
    folder = root / datasets.CIFAR10.base_folder
    folder.mkdir(parents=True)
    made: dict[str, tuple[Pixels, list[int]]] = {}
    sums = {}
    for split, names in (("train", [f"data_batch_{n}" for n in range(1, 6)]), ("test", ["test_batch"])):
        pixels = noise(3 * len(names), len(names), 32, 32, 3)
        if train is not None and split == "train":
            pixels = train
        labels = [n % 10 for n in range(len(pixels))]
        made[split] = pixels, labels
        for index, name in enumerate(names):
            stretch = slice(3 * index, 3 * index + 3)
            batch = {"data": pixels[stretch].transpose(0, 3, 1, 2).reshape(3, -1), "labels": labels[stretch]}
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
        sums[split] = [[name, md5(folder / name)] for name in names]
    meta = folder / "batches.meta"
    meta.write_bytes(pickle.dumps({"label_names": [f"class {n}" for n in range(10)]}, protocol=2))
    patch.setattr(datasets.CIFAR10, "train_list", sums["train"])
    patch.setattr(datasets.CIFAR10, "test_list", sums["test"])
    patch.setattr(datasets.CIFAR10, "meta", {**datasets.CIFAR10.meta, "md5": md5(meta)})
    return made


def write_svhn(root: Path, patch: pytest.MonkeyPatch, split: str = "train", site: str = "") -> Pixels:
    root.mkdir(parents=True, exist_ok=True)
    pixels = noise(len(SVHN_LABELS), 1, 32, 32, 3)
    path = root / f"{split}_32x32.mat"
    arrays = {"X": pixels.transpose(1, 2, 3, 0), "y": np.array(SVHN_LABELS, np.uint8)[:, None]}
    scipy.io.savemat(path, arrays, do_compression=True)
    known = {split: [site + path.name, path.name, md5(path)]}
    patch.setattr(datasets.SVHN, "split_list", {**datasets.SVHN.split_list, **known})
    return pixels


def write_mnist(root: Path) -> dict[str, tuple[Pixels, list[int]]]:
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True)
    made = {}
    for split, name, count in (("train", "train", 7), ("test", "t10k", 4)):
        pixels, labels = noise(count, count, 28, 28), [n % 10 for n in range(count)]
        head = struct.pack(">IIII", 0x803, count, 28, 28)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(head + pixels.tobytes())
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, count) + bytes(labels))
        made[split] = pixels, labels
    return made


def write_celeba(root: Path) -> None:
    folder = root / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    for number, name in enumerate(CELEBS):
        (folder / "img_align_celeba" / name).write_bytes(picture(number))
    partition = "".join(f"{name} {split}\n" for name, split in CELEBS.items())
    (folder / "list_eval_partition.txt").write_text(partition)
    rows = [f"{name} {(-1) ** number: d}  1" for number, name in enumerate(CELEBS)]
    (folder / "list_attr_celeba.txt").write_text("\n".join([str(len(rows)), "Smiling Young ", *rows, ""]))


def write_imagenet(root: Path, split: str = "train") -> None:
    for number in range(4):
        folder = root / split / WNIDS[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{WNIDS[number % 2]}_{number}.JPEG").write_bytes(picture(number))
    classes = {WNIDS[0]: ("tench", "Tinca tinca"), WNIDS[1]: ("goldfish",)}
    torch.save((classes, list(WNIDS)), root / "meta.bin")


def write_lsun(root: Path, *names: str) -> None:
    for index, name in enumerate(names):
        (root / f"{name}_lmdb").mkdir(parents=True)
        database = lmdb.open(str(root / f"{name}_lmdb"), map_size=2**24)
        with database, database.begin(write=True) as writing:
            for number in range(40):
                key = hashlib.sha1(f"{name}{number}".encode(), usedforsecurity=False).hexdigest().encode()
                writing.put(key, picture(100 * index + number))


@pytest.mark.parametrize("split", ["train", "test"])
def test_cifar10_comes_out_pixel_for_pixel_with_its_classes(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, labels = write_cifar10(tmp_path, monkeypatch)[split]
    source = source_of("cifar10", tmp_path, split=split)
    np.testing.assert_array_equal(pixels_of(source), pixels)
    assert [label for _, label in taken(source)] == labels


@pytest.mark.parametrize("split", ["train", "extra"])
def test_svhn_comes_out_pixel_for_pixel_and_its_tens_are_zeros(
    split: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = write_svhn(tmp_path, monkeypatch, split)
    source = source_of("svhn", tmp_path, split=split)
    np.testing.assert_array_equal(pixels_of(source), pixels)
    assert [label for _, label in taken(source)] == [0, 1, 9, 0, 5]


@pytest.mark.parametrize("split", ["train", "test"])
def test_mnist_comes_out_grey_with_its_classes(split: str, tmp_path: Path) -> None:
    pixels, labels = write_mnist(tmp_path)[split]
    source = source_of("mnist", tmp_path, split=split)
    np.testing.assert_array_equal(pixels_of(source), np.repeat(pixels[..., None], 3, axis=3))
    assert [label for _, label in taken(source)] == labels


def test_mnist_as_older_torchvisions_kept_it_is_taken_too(tmp_path: Path) -> None:
    folder = tmp_path / "MNIST" / "processed"
    folder.mkdir(parents=True)
    pixels = noise(3, 3, 28, 28)
    for name in ("training.pt", "test.pt"):
        torch.save((torch.from_numpy(pixels), torch.tensor([3, 1, 4])), folder / name)
    source = source_of("mnist", tmp_path)
    np.testing.assert_array_equal(pixels_of(source)[..., 0], pixels)
    assert [label for _, label in taken(source)] == [3, 1, 4]


def test_a_picture_is_always_the_same_png(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels, labels = write_cifar10(tmp_path, monkeypatch)["train"]
    expected = [(encode_png(each), label) for each, label in zip(pixels, labels, strict=True)]
    assert taken(source_of("cifar10", tmp_path)) == expected


def test_real_cifar10_pictures_keep_their_classes_through_a_scrape(
    store: Store, tmp_path: Path, data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = pq.read_table(data_folder / "cifar10-train.parquet").slice(0, 15).to_pylist()
    real = np.stack([decode_rgb(row["image"], max_pixels=10**4) for row in rows])
    write_cifar10(tmp_path / "in", monkeypatch, real)
    found = rows_of(store, config_of(tmp_path / "in", "cifar10", items_per_part=4))
    assert len(found) == 15
    for number in range(15):
        row = found[f"cifar10/train#{number}"]
        assert (row["status"], row["format"], row["label"]) == ("ok", "png", number % 10)
        np.testing.assert_array_equal(decode_rgb(row["image"], max_pixels=10**4), real[number])


@pytest.mark.parametrize(
    ("split", "names", "labels"),
    [
        ("train", ["000001.jpg", "000002.jpg", "000005.jpg"], [1, 0, 1]),
        ("valid", ["000003.jpg"], [1]),
        ("test", ["000004.jpg"], [0]),
        ("all", list(CELEBS), [1, 0, 1, 0, 1]),
    ],
)
def test_celebas_faces_are_passed_on_untouched_with_the_attribute_asked_for(
    split: str, names: list[str], labels: list[int], tmp_path: Path
) -> None:
    write_celeba(tmp_path)
    source = source_of("celeba", tmp_path, split=split, label_column="Smiling")
    expected = [picture(int(name[:6]) - 1) for name in names]
    assert [item.locator for item in source.items()] == names
    assert taken(source) == list(zip(expected, labels, strict=True))
    without = source_of("celeba", tmp_path, split=split)
    assert taken(without) == [(data, None) for data in expected]
    assert without.identity() != source.identity()


def test_celeba_without_an_attribute_needs_no_list_of_them(tmp_path: Path) -> None:
    write_celeba(tmp_path)
    with pytest.raises(ConfigError, match="'Bald'; CelebA's attributes are Smiling, Young"):
        source_of("celeba", tmp_path, label_column="Bald").items()
    (tmp_path / "celeba" / "list_attr_celeba.txt").unlink()
    assert len(source_of("celeba", tmp_path).items()) == 3
    with pytest.raises(ConfigError, match=r"no celeba/list_attr_celeba\.txt"):
        source_of("celeba", tmp_path, label_column="Smiling").items()


def test_a_face_that_celeba_names_and_has_not_is_a_row(store: Store, tmp_path: Path) -> None:
    write_celeba(tmp_path / "in")
    (tmp_path / "in" / "celeba" / "img_align_celeba" / "000002.jpg").unlink()
    rows = rows_of(store, config_of(tmp_path / "in", "celeba"))
    assert {name: row["status"] for name, row in rows.items()} == {
        "000001.jpg": "ok",
        "000002.jpg": "read_failed",
        "000005.jpg": "ok",
    }


def test_a_damaged_list_of_celebas_is_refused_by_its_line(tmp_path: Path) -> None:
    write_celeba(tmp_path)
    for line in ("000006.jpg", "000006.jpg one", "../../secret 0"):
        (tmp_path / "celeba" / "list_eval_partition.txt").write_text(f"000001.jpg 0\n{line}\n")
        with pytest.raises(ConfigError, match=r"list_eval_partition\.txt, line 2"):
            source_of("celeba", tmp_path).items()


@pytest.mark.parametrize("split", ["train", "val"])
def test_imagenets_photos_are_passed_on_untouched_with_torchvisions_classes(
    split: str, store: Store, tmp_path: Path
) -> None:
    write_imagenet(tmp_path / "in", split)
    (tmp_path / "in" / split / WNIDS[0] / "broken.JPEG").write_bytes(b"no picture, and not looked at")
    of_torchvision = datasets.ImageNet(tmp_path / "in", split=split).imgs
    items = source_of("imagenet", tmp_path / "in", split=split).items()
    assert [(str(tmp_path / "in" / split / item.locator), item.label) for item in items] == of_torchvision
    rows = rows_of(store, config_of(tmp_path / "in", "imagenet", split=split))
    assert rows.pop(f"{WNIDS[0]}/broken.JPEG")["status"] == "not_image"
    assert {row["image"]: row["label"] for row in rows.values()} == {
        picture(number): number % 2 for number in range(4)
    }


@pytest.mark.parametrize("missing", ["train", "meta.bin"])
def test_imagenet_without_its_archives_is_told_of_imagefolder(missing: str, tmp_path: Path) -> None:
    write_imagenet(tmp_path)
    shutil.move(tmp_path / missing, tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=rf"there is no {missing}; .*devkit.*scrape\.source=imagefolder"):
        source_of("imagenet", tmp_path).identity()
    with pytest.raises(ConfigError, match=r"ILSVRC2012_\w+\.tar.* is not present"):
        source_of("imagenet", tmp_path, download=True).identity()


@pytest.mark.parametrize("order", [("bedroom_train", "tower_val"), ("tower_val", "bedroom_train")])
def test_lsuns_pictures_are_passed_on_untouched_with_the_place_of_their_class(
    order: tuple[str, str], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lsun(tmp_path / "in", "bedroom_train", "tower_val")
    monkeypatch.chdir(tmp_path)
    config = config_of(tmp_path / "in", "lsun", split=", ".join(order), items_per_part=16)
    rows = rows_of(store, config).values()
    assert {row["image"]: row["label"] for row in rows} == {
        picture(100 * index + number): order.index(name)
        for index, name in enumerate(("bedroom_train", "tower_val"))
        for number in range(40)
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "root"]  # torchvision leaves caches


def test_a_split_of_lsun_is_all_of_its_classes(tmp_path: Path) -> None:
    write_lsun(tmp_path, "bedroom_train")
    assert len(source_of("lsun", tmp_path, split="bedroom_train", limit=7).items()) == 7
    with pytest.raises(ConfigError, match=r"no bridge_train_lmdb/data\.mdb, .* and 3 more; .*bedroom_train"):
        source_of("lsun", tmp_path).identity()


def test_what_is_no_database_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "tower_val_lmdb").mkdir()
    (tmp_path / "tower_val_lmdb" / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(ConfigError, match="tower_val_lmdb cannot be read as an LMDB"):
        source_of("lsun", tmp_path, split="tower_val").items()


def test_lsun_without_lmdb_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lsun(tmp_path, "tower_val")
    monkeypatch.setitem(sys.modules, "lmdb", None)  # as Python marks what is not there
    with pytest.raises(ConfigError, match=r"pip install 'dcgan\[lsun\]'"):
        source_of("lsun", tmp_path, split="tower_val").items()


@pytest.mark.parametrize(
    ("source", "split", "complaint"),
    [
        ("cifar10", "val", "'val'; cifar10 has train, test: "),
        ("svhn", "all", "'all'; svhn has train, test, extra: "),
        ("mnist", "", "''; mnist has train, test: "),
        ("celeba", "val", "'val'; celeba has train, valid, test, all: "),
        ("imagenet", "test", "'test'; imagenet has train, val: "),
        ("lsun", "bedroom", "'bedroom'; lsun has train, val, test, or some of bedroom, bridge"),
        ("lsun", "tower_val,tower_val", "lsun has train, val, test, or some of"),
    ],
)
def test_a_split_that_a_set_has_not_is_answered_with_those_it_has(
    source: str, split: str, complaint: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"scrape.split is .*{complaint}"):
        source_of(source, tmp_path, split=split).identity()


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ("cifar10", "cifar-10-batches-py/data_batch_1, .* and 1 more"),
        ("svhn", r"train_32x32\.mat"),
        ("mnist", "MNIST/raw/train-images-idx3-ubyte"),
        ("celeba", "celeba/img_align_celeba"),
    ],
)
def test_files_that_are_not_there_are_named_with_the_way_to_get_them(
    source: str, missing: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=rf"there is no {missing}.*-o scrape\.download=true"):
        source_of(source, tmp_path).identity()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def site(tmp_path: Path) -> Iterator[str]:
    """The address of a web server on loopback; it serves what is below ``tmp_path / "site"``."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            return

    (tmp_path / "site").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "site"))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_torchvision_downloads_where_it_may(
    tmp_path: Path, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = write_svhn(tmp_path / "site", monkeypatch, site=site)
    source = source_of("svhn", tmp_path / "root", download=True)
    np.testing.assert_array_equal(pixels_of(source), pixels)
    assert source_of("svhn", tmp_path / "root").items() == source.items()


def test_a_download_that_fails_may_succeed_another_time(
    tmp_path: Path, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_svhn(tmp_path / "site", monkeypatch, site=site)
    (tmp_path / "site" / "train_32x32.mat").unlink()
    with pytest.raises(FetchError, match=r"svhn below .* could not be downloaded or unpacked"):
        source_of("svhn", tmp_path / "root", download=True).identity()


def test_a_file_that_torchvision_does_not_know_is_never_unpickled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(tmp_path, monkeypatch)
    batch = tmp_path / "cifar-10-batches-py" / "data_batch_2"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(ConfigError, match=r"cifar10 below .* could not be opened: .*md5"):
        source_of("cifar10", tmp_path).items()


def test_a_set_elsewhere_is_asked_to_come_here() -> None:
    with pytest.raises(ConfigError, match=r"s3://bucket/cifar10.*copy it to this machine"):
        source_of("cifar10", "s3://bucket/cifar10").identity()


Writer = Callable[[Path], object]
WRITERS: dict[str, tuple[Writer, str, dict[str, str]]] = {
    "mnist": (write_mnist, "MNIST/raw/train-images-idx3-ubyte", {"split": "test"}),
    "celeba": (write_celeba, "celeba/img_align_celeba/000001.jpg", {"split": "all"}),
    "imagenet": (write_imagenet, "train/n01440764/n01440764_0.JPEG", {}),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_set_is_what_it_holds_not_where_it_lies(name: str, tmp_path: Path) -> None:
    write, file, other = WRITERS[name]
    write(tmp_path / "here")
    for number, path in enumerate(sorted((tmp_path / "here").rglob("*.*"))):
        set_changed(path, number)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    here = source_of(name, tmp_path / "here")
    assert source_of(name, tmp_path / "there").identity() == here.identity()
    assert not other or source_of(name, tmp_path / "here", **other).identity() != here.identity()
    set_changed(tmp_path / "there" / file, 50)
    assert source_of(name, tmp_path / "there").identity() != here.identity()


@pytest.mark.parametrize("name", [*WRITERS, "lsun"])
def test_a_set_whose_times_have_changed_is_known_by_its_bytes(
    name: str, store: Store, tmp_path: Path
) -> None:
    overrides = {"scrape.source": name, "scrape.path": str(tmp_path / "in")}
    if name == "lsun":
        write_lsun(tmp_path / "in", "tower_val")
        overrides["scrape.split"] = "tower_val"
    else:
        WRITERS[name][0](tmp_path / "in")

    def scraped(**more: Any) -> Artifact:
        (stage,) = load_pipeline("faces64", {**overrides, **more}, upto="scrape", store=store).stages
        return run(stage, store, LocalBackend(1))

    first = scraped()
    for number, path in enumerate(sorted((tmp_path / "in").rglob("*.*"))):
        set_changed(path, number)
    again = scraped()
    assert again.cached
    assert again.address == first.address
    other = scraped(**{"scrape.max_pixels": 10**7})  # reads them under their new times
    manifests = [read_manifest(store, each.address) for each in (first, other)]
    assert len({manifest.content for manifest in manifests if manifest}) == 1


def test_files_that_change_after_they_were_listed_give_rows_that_say_so(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    items = source_of("mnist", tmp_path, limit=2).items()
    set_changed(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte", 50)
    outcomes = list(source_of("mnist", tmp_path).read(items))
    assert [outcome.status for outcome in outcomes] == ["read_failed", "read_failed"]


def test_what_a_set_is_can_be_said_without_torch(tmp_path: Path) -> None:
    for name, (write, *_) in WRITERS.items():
        write(tmp_path / name)
    write_lsun(tmp_path / "lsun", "tower_val")
    code = (
        "import sys; from dcgan_core.config import load_config; from dcgan_core.scrape.sources import *\n"
        f"for name in ('mnist', 'celeba', 'imagenet', 'lsun'):\n"
        f"    keys = {{'source': name, 'path': {str(tmp_path)!r} + '/' + name}}\n"
        "    keys |= {'split': 'tower_val'} if name == 'lsun' else {}\n"
        "    config = load_config('faces64', {f'scrape.{key}': value for key, value in keys.items()})\n"
        "    open_source(config.scrape, 1).identity()\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
