"""Samples are read by number, checked every time, and what is bad is left out by rule and by name."""

from __future__ import annotations

import io
import json
import multiprocessing
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader
from webdataset.compat import WebDataset
from webdataset.writer import ShardWriter

from dcgan_core import images
from dcgan_core.errors import BadSamples, ConfigError, CorruptArtifact, DecodeError, StorageUnusable
from dcgan_core.shard.cache import ShardCache
from dcgan_core.shard.decode import decode_into
from dcgan_core.shard.reader import open_tars
from dcgan_core.shard.writer import Sample, write_tar
from dcgan_core.storage import Store, sha256_hex
from tests.core.tars import SIZE, numbers_in, opened, picture, rewrite, sample, write_tars


@settings(max_examples=20)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=5).filter(any), st.data())
def test_any_sample_of_any_layout_is_read_by_its_number(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], data: st.DataObject
) -> None:
    shards = opened(tmp_path_factory.mktemp("tars"), counts)
    assert len(shards) == sum(counts)
    some = data.draw(st.lists(st.integers(0, len(shards) - 1), max_size=20))
    pixels = shards.pixels(np.array(some, np.int64))
    assert pixels.shape == (len(some), 3, SIZE, SIZE)
    assert numbers_in(pixels) == some
    for number in some[:3]:
        one, label = shards[number]
        assert np.array_equal(one.transpose(1, 2, 0), picture(number))
        assert label == number % 10
        assert shards.index.key(number) == f"k{number:05d}"


def test_pytorchs_own_loader_takes_it_as_a_data_set(tmp_path: Path) -> None:
    shards = opened(tmp_path, [5, 4])
    seen: list[int] = []
    for workers in (0, 2):
        spawn = {"num_workers": workers, "multiprocessing_context": "spawn" if workers else None}
        for pixels, labels in DataLoader(shards, batch_size=4, **spawn):  # pyright: ignore[reportArgumentType]
            assert pixels.dtype == torch.uint8
            seen += numbers_in(pixels.numpy())
            assert labels.tolist() == [number % 10 for number in numbers_in(pixels.numpy())]
    assert seen == 2 * list(range(9))


@pytest.mark.parametrize("extension", ["jpg", "png", "webp"])
def test_what_is_decoded_equals_what_pillow_decodes(extension: str) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    encode = {
        "jpg": lambda: images.encode_jpeg(rgb, 80),
        "png": lambda: images.encode_png(rgb),
        "webp": lambda: images.encode_webp(rgb, None),
    }[extension]
    data, out = encode(), np.empty((32, 32, 3), np.uint8)
    decode_into(data, out)
    assert np.array_equal(out, images.decode_rgb(data, max_pixels=10**6))
    if extension != "jpg":
        assert np.array_equal(out, rgb)


def test_pictures_of_the_web_are_decoded_as_pillow_does_or_refused(data_folder: Path) -> None:
    with tarfile.open(data_folder / "face-photos.tar") as tar:
        members = [member for member in tar if member.isfile()][:60]
        photos = [tar.extractfile(member).read() for member in members]  # pyright: ignore[reportOptionalMemberAccess]
    compared = 0
    for data in photos:
        rgb = images.decode_rgb(data, max_pixels=10**8)
        out = np.empty_like(rgb)
        decode_into(data, out)
        assert np.array_equal(out, rgb)
        compared += 1
        cut = data[: len(data) // 2]
        with pytest.raises(DecodeError):
            decode_into(cut, out)
    assert compared == 60


def test_an_image_of_another_size_is_refused() -> None:
    for side in (4, 16):
        for data in (
            images.encode_jpeg(np.zeros((side, side, 3), np.uint8), 90),
            images.encode_png(np.zeros((side, side, 3), np.uint8)),
        ):
            with pytest.raises(DecodeError, match=f"it is {side}x{side}, not 8x8"):
                decode_into(data, np.empty((8, 8, 3), np.uint8))


def test_bad_samples_are_left_out_and_the_next_good_one_stands_in(tmp_path: Path) -> None:
    write_tars(tmp_path, [6])
    members = [(f"k{number}.png", sample(number).data) for number in range(6)]
    members[2], members[3] = ("k2.png", b"no picture"), ("k3.png", members[3][1][:20])
    rewrite(tmp_path / "000.tar", members)
    for order in ([0, 1, 2, 3, 4, 5], [3, 2, 5, 0]):  # whichever is met first
        shards = open_tars(Store(str(tmp_path)), ["000.tar"], SIZE, max_bad=0.5)
        shown = numbers_in(shards.pixels(np.array(order)))
        assert shown == [4 if number in (2, 3) else number for number in order]
        assert sorted(shards.bad) == [2, 3]
    assert "not an image" in shards.bad[2]
    last = open_tars(Store(str(tmp_path)), ["000.tar"], SIZE, max_bad=0.3)
    with pytest.raises(BadSamples, match=r"2 of 6 samples cannot be read, the first in order is k2: not an"):
        last.pixels(np.arange(6))


def classed(path: Path, classes: str, bad: set[int]) -> None:
    """A tar of samples of these classes, one digit a sample; some cannot be read."""
    members = []
    for number, label in enumerate(classes):
        data = b"no picture" if number in bad else sample(number).data
        members += [(f"k{number}.png", data), (f"k{number}.cls", label.encode())]
    rewrite(path, members)


def test_what_stands_in_is_of_the_same_class(tmp_path: Path) -> None:
    classed(tmp_path / "000.tar", "0110200101", {1, 2, 8, 9})
    for order in (range(10), range(9, -1, -1)):
        shards = open_tars(Store(str(tmp_path)), ["000.tar"], SIZE, max_bad=0.5)
        shown = dict(zip(order, numbers_in(shards.pixels(np.array(order))), strict=True))
        # The next good one of the class, and after the last one the first.
        assert shown == {0: 0, 1: 7, 2: 7, 3: 3, 4: 4, 5: 5, 6: 6, 7: 7, 8: 0, 9: 7}
        assert sorted(shards.bad) == [1, 2, 8, 9]
        for number, label in enumerate("0110200101"):
            pixels, said = shards[number]
            assert said == int(label) == int("0110200101"[numbers_in(pixels[None])[0]])


def test_a_class_without_a_good_sample_is_lent_one_unless_labels_must_be_true(tmp_path: Path) -> None:
    classed(tmp_path / "000.tar", "0120", {1})
    lenient = open_tars(Store(str(tmp_path)), ["000.tar"], SIZE, max_bad=0.5)
    assert numbers_in(lenient.pixels(np.arange(4))) == [0, 2, 2, 3]
    strict = replace(lenient, true_labels=True, bad={})
    assert numbers_in(strict.pixels(np.array([0, 2, 3]))) == [0, 2, 3]
    with pytest.raises(BadSamples, match="class 1 has no sample that can be read, the first is k1: not an"):
        strict.pixels(np.array([1]))


def test_a_set_without_a_good_sample_ends_in_an_error(tmp_path: Path) -> None:
    rewrite(tmp_path / "a.tar", [("a.png", b"x"), ("b.png", b"y")])
    with pytest.raises(BadSamples, match="2 of 2"):
        open_tars(Store(str(tmp_path)), ["a.tar"], SIZE, max_bad=1.0).pixels(np.array([0]))


def test_tars_written_by_webdataset_are_read(tmp_path: Path) -> None:
    with ShardWriter(str(tmp_path / "%03d.tar"), maxcount=4, verbose=0) as writer:
        for number in range(10):
            writer.write(
                {
                    "__key__": f"part.one/k{number:03d}",
                    "png": images.encode_png(picture(number)),
                    "cls": number,
                    "json": {"number": number},
                }
            )
    shards = open_tars(Store(str(tmp_path)), ["000.tar", "001.tar", "002.tar"], SIZE)
    assert numbers_in(shards.pixels(np.arange(10))) == list(range(10))
    assert shards.index.label_N.tolist() == list(range(10))
    assert shards.index.keys[7] == "part.one/k007"


def test_tars_as_img2dataset_writes_them_are_read(tmp_path: Path) -> None:
    """Its samples are jpg, json and txt; what could not be fetched has no jpg."""
    members = []
    for number in range(4):
        stem = f"00000{number:04d}"
        if number != 2:
            members.append((f"{stem}.jpg", images.encode_jpeg(picture(number), 100)))
        members.append((f"{stem}.json", json.dumps({"key": stem, "status": "success"}).encode()))
        members.append((f"{stem}.txt", b"a caption"))
    rewrite(tmp_path / "00000.tar", members)
    shards = open_tars(Store(str(tmp_path)), ["00000.tar"], SIZE)
    assert shards.index.keys == ["000000000", "000000001", "000000003"]
    assert shards.index.label_N.tolist() == [-1, -1, -1]


def test_keys_are_cut_as_webdataset_cuts_them(tmp_path: Path) -> None:
    names = ["a.b.png", "v1.0/c.png", "d.PNG", "./e.png", "f.jpg", "f.mask.png"]
    rewrite(tmp_path / "a.tar", [(name, sample(number).data) for number, name in enumerate(names)])
    there: list[dict[str, bytes]] = list(
        WebDataset(str(tmp_path / "a.tar"), shardshuffle=False)  # pyright: ignore[reportArgumentType]
    )
    shards = open_tars(Store(str(tmp_path)), ["a.tar"], SIZE)
    assert shards.index.keys == [each["__key__"] for each in there] == ["a", "v1.0/c", "d", "./e", "f"]
    assert numbers_in(shards.pixels(np.array([0]))) == [0]  # of "a.b.png"
    rewrite(tmp_path / "b.tar", [("a.b.png", b"x"), ("a.c.png", b"y")])
    with pytest.raises(CorruptArtifact, match="sample a has two images, and no extension says which"):
        open_tars(Store(str(tmp_path)), ["b.tar"], SIZE)
    rewrite(tmp_path / "c.tar", [("a.txt", b"x")])
    with pytest.raises(ConfigError, match="hold no image"):
        open_tars(Store(str(tmp_path)), ["c.tar"], SIZE)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("in data", r"no whole plain tar \(unexpected end of data, after 2 members\)"),
        ("in header", "cut off after 1 members: the mark of its end is missing"),
        ("between", "cut off after 2 members: the mark of its end is missing"),
        ("twice", r"k1\.png is in it twice"),
        ("two images", "sample k1 has two images"),
        ("class", r"k1\.cls is b'cat', not an integer"),
        ("zipped", "no whole plain tar"),
    ],
)
def test_a_tar_that_is_not_whole_or_not_clear_is_named(tmp_path: Path, damage: str, says: str) -> None:
    path = tmp_path / "a.tar"
    good = [(f"k{number}.png", sample(number).data) for number in range(2)]
    more = {
        "twice": [good[1]],
        "two images": [("k1.jpg", b"x")],
        "class": [("k1.cls", b"cat")],
    }.get(damage, [])
    rewrite(path, [*good, *more])
    data = path.read_bytes()
    if damage == "in data":
        path.write_bytes(data[:1540])
    elif damage == "in header":
        path.write_bytes(data[:1400])
    elif damage == "between":
        path.write_bytes(data[:2048])
    elif damage == "zipped":
        import gzip

        path.write_bytes(gzip.compress(data))
    with pytest.raises(CorruptArtifact, match=says) as caught:
        open_tars(Store(str(tmp_path)), ["a.tar"], SIZE)
    assert caught.value.path == str(path)


def test_there_must_be_a_tar(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no tar to read"):
        open_tars(Store(str(tmp_path)), [], SIZE)


def test_a_key_that_others_would_cut_elsewhere_is_not_written() -> None:
    for key in ("a.b", "a/b", "", "k" * 91, "ä"):
        with pytest.raises(ValueError, match="cannot be a sample's key"):
            write_tar(io.BytesIO(), [Sample(key, "png", b"x", None, "p")])


def fetch_into(folder: Path, root: Path, names: list[str], answers: multiprocessing.Queue[str]) -> None:
    cache, store = ShardCache(folder, 10**6), Store(str(root))
    for name in names:
        data = (root / name).read_bytes()
        answers.put(str(cache.fetch(store, name, sha256_hex(data), len(data))))


def test_the_cache_fetches_once_drops_the_oldest_and_checks(tmp_path: Path) -> None:
    root, store = tmp_path / "root", Store(str(tmp_path / "root"))
    files = {}
    for number in range(3):
        data = bytes([number]) * 1000
        files[f"f{number}"] = (sha256_hex(data), len(data))
        store.write_bytes(f"f{number}", data)
    cache = ShardCache(tmp_path / "cache", 2500)
    paths = [cache.fetch(store, name, *files[name]) for name in ("f0", "f1")]
    assert [path.read_bytes()[:1] for path in paths] == [b"\0", b"\1"]
    (root / "f0").write_bytes(b"what is cached is not asked for again")
    assert cache.fetch(store, "f0", *files["f0"]).read_bytes() == bytes(1000)  # and so f1 is the oldest now
    cache.fetch(store, "f2", *files["f2"])
    assert [path.exists() for path in paths] == [True, False]
    assert cache.size() == 2000
    (root / "f1").write_bytes(b"\7" * 1000)
    with pytest.raises(CorruptArtifact, match="differs from the manifest's, twice"):
        cache.fetch(store, "f1", *files["f1"])
    left = sorted(path.name for path in (tmp_path / "cache").iterdir() if path.is_file())
    assert left == [files["f2"][0]]  # no half of the one that was refused; room had been made for it


def test_processes_that_want_the_same_shard_fetch_it_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    names = write_tars(root, [3, 3])
    spawn = multiprocessing.get_context("spawn")
    answers: multiprocessing.Queue[str] = spawn.Queue()
    workers = [
        spawn.Process(target=fetch_into, args=(tmp_path / "cache", root, names, answers)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    got = [answers.get(timeout=60) for _ in range(6)]
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert len(set(got)) == 2
    left = [path for path in (tmp_path / "cache").iterdir() if path.is_file()]
    assert {str(path) for path in left} == set(got)


def test_a_cache_that_cannot_be_written_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    store = Store(str(tmp_path / "root"))
    store.write_bytes("a", b"x")
    with pytest.raises(StorageUnusable, match="DCGAN_CACHE"):
        ShardCache(tmp_path / "file" / "cache", 10**6).fetch(store, "a", sha256_hex(b"x"), 1)
