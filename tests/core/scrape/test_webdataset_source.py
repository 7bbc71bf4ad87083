"""WebDataset tars are taken as webdataset itself takes them, and nothing in them is lost without a word."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from webdataset.tariterators import group_by_keys, tar_file_iterator
from webdataset.writer import ShardWriter

from dcgan_core.config import ScrapeConfig
from dcgan_core.errors import ConfigError, NoUsableData
from dcgan_core.scrape.shard_lists import list_shards
from dcgan_core.scrape.webdataset_source import WebDatasetSource, members_of
from dcgan_core.storage import Store
from tests.conftest import set_changed
from tests.core.scrape.test_sources import config_of, picture, rows_of, scraped, write_tar

PICTURE = picture(0)


def source_of(path: Path | str, **changes: Any) -> WebDatasetSource:
    return WebDatasetSource(ScrapeConfig(source="webdataset", path=str(path), **changes))


def taken(source: WebDatasetSource) -> dict[str, tuple[bytes | None, int | None, str | None]]:
    """Bytes, label and caption by locator."""
    read = source.read(source.items())
    return {each.item.locator: (each.data, each.item.label, each.item.caption) for each in read}


def write_shards(folder: Path, samples: int, per_shard: int) -> list[dict[str, Any]]:
    """What webdataset's own ShardWriter makes of some labelled pictures with captions."""
    folder.mkdir()
    written = [
        {"__key__": f"{number:05d}", "jpg": picture(number), "cls": number % 3, "txt": f"No {number}, é"}
        for number in range(samples)
    ]
    with ShardWriter(str(folder / "shard-%05d.tar"), maxcount=per_shard, verbose=0) as writer:
        for sample in written:
            writer.write(sample)
    return written


def expected(written: Sequence[dict[str, Any]], per_shard: int) -> dict[str, Any]:
    return {
        f"shard-{number // per_shard:05d}.tar#{sample['__key__']}.jpg": (
            sample["jpg"],
            sample["cls"],
            sample["txt"],
        )
        for number, sample in enumerate(written)
    }


def test_what_shardwriter_wrote_is_taken_from_a_directory_a_pattern_or_one_tar(tmp_path: Path) -> None:
    written = write_shards(tmp_path / "in", 7, 3)
    folder, pattern = source_of(tmp_path / "in"), source_of(tmp_path / "in" / "shard-{00000..00002}.tar")
    assert taken(folder) == taken(pattern) == expected(written, 3)
    assert folder.identity() == pattern.identity()
    assert folder.passed_over() == {}
    (one,) = (tmp_path / "in").glob("*2.tar")
    assert list(taken(source_of(one))) == ["shard-00002.tar#00006.jpg"]


def test_what_img2dataset_writes_is_taken_with_caption_and_url_and_failed_samples_are_counted(
    store: Store, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    members = []
    for number in range(4):
        key, failed = f"{number:09d}", number == 2
        facts = {"url": f"https://a.example/{number}.jpg", "caption": f"Caption {number}", "key": key}
        facts["status"] = "failed_to_download" if failed else "success"
        members += [] if failed else [(f"{key}.jpg", picture(number))]
        members += [(f"{key}.txt", f"Caption {number}".encode())] if number else []
        members += [(f"{key}.json", json.dumps(facts).encode())]
    write_tar(tmp_path / "in" / "00000.tar", members)
    (tmp_path / "in" / "00000_stats.json").write_text("{}")
    (tmp_path / "in" / "00000.parquet").write_bytes(b"PAR1")
    config = config_of(tmp_path / "in", "webdataset")
    assert {(row["url"], row["caption"], row["label"]) for row in rows_of(store, config).values()} == {
        (f"https://a.example/{number}.jpg", f"Caption {number}", None) for number in (0, 1, 3)
    }
    manifest = scraped(store, config)
    assert manifest.counts == {"items": 3, "ok": 3}
    assert manifest.metrics["passed_over"] == {"samples without an image": 1}


def test_labels_reach_the_rows(store: Store, tmp_path: Path) -> None:
    written = write_shards(tmp_path / "in", 5, 2)
    rows = rows_of(store, config_of(tmp_path / "in", "webdataset", items_per_part=2)).values()
    assert {row["image"]: row["label"] for row in rows} == {each["jpg"]: each["cls"] for each in written}


NAMES = st.sampled_from(
    ["a", "b", "d.ir/a", "d.ir/b", "x/y.z/a", "./a", ".a", "__meta__", "__m__/a", "d/__m__/a"]
)
EXTENSIONS = st.sampled_from(["jpg", "JPG", "png", "cls", "txt", "seg.png", "tar.gz", ""])


@given(st.lists(st.tuples(NAMES, EXTENSIONS), max_size=12, unique=True))
def test_samples_are_grouped_as_webdataset_groups_them(
    tmp_path_factory: pytest.TempPathFactory, names: list[tuple[str, str]]
) -> None:
    members = [
        (f"{name}.{extension}" if extension else name, b"%d" % number)
        for number, (name, extension) in enumerate(names)
    ]
    path = write_tar(tmp_path_factory.mktemp("in") / "a.tar", members)
    with path.open("rb") as file:
        stream = tar_file_iterator(file)  # pyright: ignore[reportArgumentType]
        try:
            samples = list(group_by_keys({**each, "__url__": ""} for each in stream))
        except ValueError:  # a.jpg and a.JPG in one sample: here two samples
            return
    of_webdataset = [
        (sample.get("jpg", sample.get("png")), int(sample["cls"]) if "cls" in sample else None)
        for sample in samples
        if "jpg" in sample or "png" in sample
    ]
    assert [(data, label) for data, label, _ in taken(source_of(path)).values()] == of_webdataset


def test_keys_end_at_the_first_dot_of_the_base_name(tmp_path: Path) -> None:
    members = [("v1.0/cats.d/a.b.jpg", b"x"), ("v1.0/cats.d/a.jpg", b"y"), ("v1.0/cats.d/a.cls", b" 7\n")]
    source = source_of(write_tar(tmp_path / "a.tar", members))
    assert taken(source) == {"a.tar#v1.0/cats.d/a.jpg": (b"y", 7, None)}
    assert source.passed_over() == {}  # a.b.jpg is of that sample too, under another extension


@pytest.mark.parametrize("extension", ["jpg", "JPEG", "Png", "webp", "gif", "bmp", "tif", "tiff"])
def test_images_are_known_by_their_extension_in_any_case(extension: str, tmp_path: Path) -> None:
    source = source_of(write_tar(tmp_path / "a.tar", [(f"1.{extension}", b"x"), ("2.mp4", b"y")]))
    assert list(taken(source)) == [f"a.tar#1.{extension}"]
    assert source.passed_over() == {"samples without an image": 1}


def test_of_several_images_of_a_sample_one_is_taken_and_the_others_are_counted(tmp_path: Path) -> None:
    members = [("1.png", b"mask"), ("1.jpg", b"photo"), ("README", b"hello")]
    source = source_of(write_tar(tmp_path / "a.tar", members))
    assert [data for data, *_ in taken(source).values()] == [b"photo"]
    assert source.passed_over() == {"further images of a sample": 1, "members without an extension": 1}


def test_a_key_may_come_again_in_another_tar(store: Store, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        write_tar(tmp_path / "in" / name / "1.tar", [("same.jpg", PICTURE)])
    rows = rows_of(store, config_of(tmp_path / "in", "webdataset"))
    assert {name: row["status"] for name, row in rows.items()} == {
        "a/1.tar#same.jpg": "ok",
        "b/1.tar#same.jpg": "ok",
    }
    pattern = source_of(tmp_path / "in" / "{a,b}" / "1.tar")
    assert [item.locator for item in pattern.items()] == list(rows)


def test_a_member_that_is_there_twice_is_a_row(store: Store, tmp_path: Path) -> None:
    members = [("1.jpg", PICTURE), ("1.jpg", picture(1)), ("2.jpg", picture(2)), ("1.png", picture(3))]
    rows = rows_of(store, config_of(write_tar(tmp_path / "a.tar", members), "webdataset"))
    assert {name: (row["status"], row["image"]) for name, row in rows.items()} == {
        "a.tar#1.jpg": ("ok", PICTURE),
        "a.tar#1.jpg*": ("duplicate", None),
        "a.tar#2.jpg": ("ok", picture(2)),
        "a.tar#1.png": ("ok", picture(3)),
    }


@pytest.mark.parametrize("text", ["cat", "", "1.5", "3000000000", "1" * 100])
def test_a_class_that_is_no_integer_is_named_and_can_be_left_out(text: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("d/1.jpg", PICTURE), ("d/1.cls", text.encode())])
    with pytest.raises(ConfigError, match=r"a\.tar: the \.cls of sample 'd/1'.*label_column=none"):
        source_of(path).items()
    without = source_of(path, label_column="none")
    assert [item.label for item in without.items()] == [None]
    assert without.identity() != source_of(path).identity()


@pytest.mark.parametrize("cut", ["in a picture", "in a header", "between members", "in a class", "all"])
def test_a_tar_that_is_cut_off_is_refused_by_name_not_taken_in_part(cut: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("1.jpg", PICTURE), ("1.cls", b"7"), ("2.jpg", picture(1))])
    with tarfile.open(path) as tar:
        third = tar.getmembers()[2]
    length, members = {
        "in a picture": (third.offset_data + 100, 3),
        "in a header": (third.offset + 100, 2),
        "between members": (third.offset, 2),
        "in a class": (third.offset - 512, 2),
        "all": (0, 0),
    }[cut]
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ConfigError, match=rf"a\.tar is not a whole tar: .* after {members} members\. Get it"):
        source_of(path).items()


def test_a_tar_with_rubbish_in_its_middle_is_refused(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("1.jpg", PICTURE), ("2.jpg", picture(1))])
    with tarfile.open(path) as tar:
        second = tar.getmembers()[1].offset
    data = bytearray(path.read_bytes())
    data[second : second + 512] = b"rubbish!" * 64
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=r"not a whole tar: .* after 1 members"):
        source_of(path).items()


def test_a_compressed_tar_is_refused_by_its_name_or_its_bytes(tmp_path: Path) -> None:
    plain = write_tar(tmp_path / "a.tar", [("1.jpg", PICTURE)]).read_bytes()
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(plain))
    for path in (tmp_path, tmp_path / "b.tar.gz", tmp_path / "{b,c}.tar.gz"):
        with pytest.raises(ConfigError, match=r"b\.tar\.gz is compressed.*decompress"):
            source_of(path).items()
    (tmp_path / "b.tar.gz").rename(tmp_path / "b.tar")
    with pytest.raises(ConfigError, match=r"b\.tar is compressed \(gzip\).*decompress it"):
        source_of(tmp_path / "b.tar").items()


@pytest.mark.parametrize(
    ("path", "complaint"),
    [
        ("shard-{00000..00004}.tar", r"names 5 tars, 2 of which are not there, the first .*shard-00003\.tar"),
        ("{a,b", "scrape.path .*[Uu]nbalanced|unterminated"),
        ("absent", "there is nothing at"),
        ("absent/{0..3}.tar", "there is nothing at .*absent"),
        ("empty", r"there is no \.tar below"),
    ],
)
def test_a_path_without_its_tars_is_refused(path: str, complaint: str, tmp_path: Path) -> None:
    for number in range(3):
        write_tar(tmp_path / f"shard-{number:05d}.tar", [("1.jpg", PICTURE)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=complaint):
        source_of(tmp_path / path).items()


def test_tars_without_any_image_are_refused_with_what_they_hold(store: Store, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("1.txt", b"x"), ("2.json", b"{}")])
    with pytest.raises(NoUsableData, match=r"2 samples without an image.*is empty"):
        scraped(store, config_of(path, "webdataset"))


def test_the_identity_is_that_of_the_tars_wherever_they_lie(tmp_path: Path) -> None:
    write_shards(tmp_path / "here", 4, 2)
    for number, path in enumerate(sorted((tmp_path / "here").iterdir())):
        set_changed(path, number)
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    here = source_of(tmp_path / "here").identity()
    assert source_of(tmp_path / "there").identity() == here
    set_changed(tmp_path / "there" / "shard-00001.tar", 50)
    assert source_of(tmp_path / "there").identity() != here


class Counting(io.FileIO):
    """A file that counts what is read of it."""

    count = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size) or b""
        self.count += len(data)
        return data


def test_listing_reads_no_picture(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [(f"{number}.jpg", bytes(5 * 2**20)) for number in range(3)])
    (shard,) = list_shards(str(path))
    with Counting(path) as file:
        assert [member.size for member in members_of(file, shard)] == [5 * 2**20] * 3
        assert file.count < 10_000


def test_tars_of_another_file_system_are_read_by_ranges(tmp_path: Path) -> None:
    written = write_shards(tmp_path / "in", 4, 2)
    fs = fsspec.filesystem("memory")
    for path in (tmp_path / "in").iterdir():
        fs.pipe_file(f"/bucket/set/{path.name}", path.read_bytes())
    try:
        for location in ("memory://bucket/set", "memory://bucket/set/shard-{00000..00001}.tar"):
            assert taken(source_of(location)) == expected(written, 2)
    finally:
        fs.rm("/bucket", recursive=True)


def test_a_tar_that_changes_after_it_was_listed_gives_rows_that_say_so(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a.tar", [("1.jpg", PICTURE)])
    items = source_of(path).items()
    write_tar(path, [("0.jpg", picture(1)), ("1.jpg", PICTURE)])
    (outcome,) = source_of(path).read(items)
    assert (outcome.status, outcome.reason) == ("read_failed", "its tar is not the one that was listed")


def test_a_limit_ends_the_listing(tmp_path: Path) -> None:
    write_shards(tmp_path / "in", 5, 2)
    (tmp_path / "in" / "shard-00002.tar").write_bytes(b"broken, and never come to")
    assert len(source_of(tmp_path / "in", limit=3).items()) == 3


def test_texts_that_are_no_utf8_and_json_that_is_none_do_no_harm(tmp_path: Path) -> None:
    members = [
        ("1.jpg", PICTURE),
        ("1.txt", b"caf\xe9 " + b"x" * 5000),
        ("1.json", b"{broken"),
        ("2.jpg", PICTURE),
        ("2.json", b'{"url": 5, "caption": "\\ud800"}'),
        ("3.jpg", PICTURE),
        ("3.json", b"[" * 60_000),
    ]
    one, two, three = source_of(write_tar(tmp_path / "a.tar", members)).items()
    assert one.caption is not None and one.caption.startswith("caf\ufffd xxx") and len(one.caption) == 2000
    assert (two.url, two.caption) == ("a.tar#2.jpg", "\\ud800")
    assert (three.url, three.caption) == ("a.tar#3.jpg", None)
