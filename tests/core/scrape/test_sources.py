"""Every source lists its items, keeps them apart, and turns what is wrong with one into a row."""

from __future__ import annotations

import io
import os
import struct
import tarfile
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dcgan_core.artifacts import Address, Manifest, read_manifest
from dcgan_core.backend import LocalBackend
from dcgan_core.config import PipelineConfig, load_config
from dcgan_core.errors import ConfigError, NoUsableData, TooManyFailures
from dcgan_core.images import encode_jpeg, encode_png
from dcgan_core.pipeline import build
from dcgan_core.scrape.sources import Item, Source, chunks, item_key, open_source
from dcgan_core.stage import run
from dcgan_core.storage import Store
from dcgan_core.tables import read_all
from tests.conftest import set_changed


def picture(number: int, size: int = 24) -> bytes:
    noise = np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return encode_jpeg(noise, 90)


PICTURE = picture(0)


def config_of(path: Path, source: str = "folder", **changes: Any) -> PipelineConfig:
    keys = {"source": source, "path": str(path), "contact": "somebody@example.org", **changes}
    return load_config("faces64", {f"scrape.{key}": value for key, value in keys.items()})


def source_of(path: Path, source: str = "folder", **changes: Any) -> Source:
    return open_source(config_of(path, source, **changes).scrape, seed=1)


def scraped(store: Store, config: PipelineConfig) -> Manifest:
    stages = build(config, "faces64", upto="scrape").stages
    for stage in stages:
        run(stage, store, LocalBackend(1))
    manifest = read_manifest(store, stages[-1].address)
    assert manifest is not None
    return manifest


def rows_of(store: Store, config: PipelineConfig) -> dict[str, dict[str, Any]]:
    """The rows of a scrape by the name of their photo (a repeated one under the name with a star)."""
    rows: dict[str, dict[str, Any]] = {}
    for row in read_all(store, scraped(store, config), "photos-").to_pylist():
        rows[row["url"] + "*" * (row["url"] in rows)] = row
    return rows


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    for number, (name, data) in enumerate(files.items()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        set_changed(path, number)
    return folder


def write_tar(path: Path, files: Sequence[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # pyright: ignore[reportCallIssue, reportArgumentType]
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def oversized(data: bytes, side: int = 60_000) -> bytes:
    """The same JPEG claiming to be ``side`` pixels wide and high."""
    frame = data.index(b"\xff\xc0")
    return data[: frame + 5] + struct.pack(">HH", side, side) + data[frame + 9 :]


BAD = {
    "empty.jpg": (b"", "empty"),
    "cut-in-header.jpg": (PICTURE[:20], "unreadable"),
    "text.jpg": (b"hello, I am no picture", "not_image"),
    "page.html": (b"<!doctype html><title>x</title>", "not_image"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "unsupported"),
    "bomb.jpg": (oversized(PICTURE), "too_many_pixels"),
    "large.jpg": (PICTURE + bytes(20_000), "too_large"),
}


def test_a_photo_of_a_folder_is_kept_as_it_came(store: Store, tmp_path: Path) -> None:
    fill(tmp_path / "in", {"a.jpg": PICTURE, "deep/er/b.png": encode_png(np.zeros((3, 5, 3), np.uint8))})
    rows = rows_of(store, config_of(tmp_path / "in"))
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert rows["a.jpg"]["image"] == PICTURE
    png = rows["deep/er/b.png"]
    assert (png["format"], png["width"], png["height"]) == ("png", 5, 3)


@pytest.mark.parametrize("kind", ["folder", "tar", "parquet"])
def test_bad_files_become_rows_with_their_reason(kind: str, store: Store, tmp_path: Path) -> None:
    files = {"good.jpg": PICTURE} | {name: data for name, (data, _) in BAD.items()}
    if kind == "folder":
        config = config_of(fill(tmp_path / "in", files), max_bytes=10_000)
        names = {name: name for name in files}
    elif kind == "tar":
        config = config_of(write_tar(tmp_path / "in.tar", list(files.items())), max_bytes=10_000)
        names = {name: name for name in files}
    else:
        pq.write_table(pa.table({"image": list(files.values())}), tmp_path / "in.parquet")
        config = config_of(tmp_path / "in.parquet", "parquet", max_bytes=10_000)
        names = {name: f"in.parquet#{row}" for row, name in enumerate(files)}
    rows = rows_of(store, config)
    assert {name: rows[names[name]]["status"] for name in files} == {
        "good.jpg": "ok",
        **{name: status for name, (_, status) in BAD.items()},
    }
    for name in BAD:
        assert rows[names[name]]["reason"]
        assert rows[names[name]]["image"] is None


def test_a_hidden_file_is_not_an_item(tmp_path: Path) -> None:
    fill(tmp_path, {"a.jpg": PICTURE, ".DS_Store": b"x", ".cache/b.jpg": PICTURE})
    assert [item.locator for item in source_of(tmp_path).items()] == ["a.jpg"]


def test_later_photos_come_last_whatever_their_names(tmp_path: Path) -> None:
    fill(tmp_path, {"z.jpg": PICTURE, "m.jpg": PICTURE, "a.jpg": PICTURE})
    assert [item.locator for item in source_of(tmp_path).items()] == ["z.jpg", "m.jpg", "a.jpg"]
    assert [item.locator for item in source_of(tmp_path, limit=2).items()] == ["z.jpg", "m.jpg"]


def test_a_folder_is_what_it_holds_not_where_it_lies(tmp_path: Path) -> None:
    files = {"a.jpg": PICTURE, "b.jpg": picture(1)}
    here, there = (source_of(fill(tmp_path / name, files)).identity() for name in ("here", "there"))
    assert here == there
    set_changed(tmp_path / "there" / "a.jpg", 50)
    assert source_of(tmp_path / "there").identity() != here


def test_a_photo_that_vanishes_after_it_was_listed_is_a_row(tmp_path: Path) -> None:
    source = source_of(fill(tmp_path, {"a.jpg": PICTURE, "b.jpg": PICTURE}))
    items = source.items()
    (tmp_path / "a.jpg").unlink()
    assert [outcome.status for outcome in source.read(items)] == ["read_failed", "ok"]


def test_sub_directories_of_an_imagefolder_are_classes(store: Store, tmp_path: Path) -> None:
    fill(tmp_path / "in", {"dog/1.jpg": PICTURE, "cat/x/2.jpg": picture(1), "cat/3.jpg": picture(2)})
    rows = rows_of(store, config_of(tmp_path / "in", "imagefolder"))
    labels = {name: (row["label"], row["caption"]) for name, row in rows.items()}
    assert labels == {"cat/x/2.jpg": (0, "cat"), "cat/3.jpg": (0, "cat"), "dog/1.jpg": (1, "dog")}


def test_loose_files_in_an_imagefolder_are_refused_by_name(tmp_path: Path) -> None:
    fill(tmp_path, {"dog/1.jpg": PICTURE, "loose.jpg": PICTURE})
    with pytest.raises(ConfigError, match=r"loose\.jpg .*source 'folder'"):
        source_of(tmp_path, "imagefolder").items()


def test_a_tar_is_read_in_place_and_repeated_names_are_rows(store: Store, tmp_path: Path) -> None:
    files = [("a.jpg", PICTURE), ("deep/b.jpg", picture(1)), ("a.jpg", picture(2))]
    rows = rows_of(store, config_of(write_tar(tmp_path / "in.tar", files)))
    assert {name: row["status"] for name, row in rows.items()} == {
        "a.jpg": "ok",
        "deep/b.jpg": "ok",
        "a.jpg*": "duplicate",
    }
    assert rows["a.jpg"]["image"] == PICTURE
    assert rows["deep/b.jpg"]["image"] == picture(1)
    assert len({row["key"] for row in rows.values()}) == 3


@pytest.mark.parametrize("mode", ["w:gz", "w:xz"])
def test_a_compressed_tar_is_refused_with_what_to_do(mode: str, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "in.tar", [("a.jpg", PICTURE)], mode)
    with pytest.raises(ConfigError, match="decompress it"):
        source_of(path).items()
    with pytest.raises(ConfigError, match=r"decompress \.tar\.gz first"):
        source_of(path.rename(tmp_path / "in.tar.gz")).items()


def test_a_tar_that_is_cut_off_is_refused_not_taken_in_part(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "in.tar", [(f"{number}.jpg", picture(number)) for number in range(3)])
    whole = path.read_bytes()
    end_of_data = 3 * (512 + -(-len(PICTURE) // 512) * 512)
    for length in (end_of_data - 600, end_of_data // 2, 700):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError, match="not a whole plain tar"):
            source_of(path).items()


@pytest.mark.parametrize("nested", [False, True])
def test_parquet_files_hold_images_and_labels(nested: bool, store: Store, tmp_path: Path) -> None:
    data = [picture(number) for number in range(5)]
    images: list[Any] = [{"bytes": each, "path": "x"} if nested else each for each in data]
    labels = [3, 1, None, 4, 1]
    (tmp_path / "in").mkdir()
    for name, rows in (("one", slice(0, 3)), ("two", slice(3, 5))):
        table = pa.table({"other": labels[rows], "image": images[rows], "label": labels[rows]})
        pq.write_table(table, tmp_path / "in" / f"{name}.parquet", row_group_size=2)
    rows = rows_of(store, config_of(tmp_path / "in", "parquet", items_per_part=2))
    found = [(row["image"], row["label"]) for _, row in sorted(rows.items())]
    assert found == list(zip(data, labels, strict=True))


def write_as_hugging_face(path: Path, pictures: Sequence[bytes | None], labels: Sequence[int]) -> None:
    """A parquet file as `datasets` 5.2 writes one: `Image` and `ClassLabel`, two rows a group."""
    features = '{"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}'
    schema = pa.schema(
        [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
        metadata={"huggingface": f'{{"info": {{"features": {features}}}}}'},
    )
    images = [{"bytes": data, "path": f"{number}.jpg"} for number, data in enumerate(pictures)]
    images[0]["path"] = None
    pq.write_table(pa.table({"image": images, "label": labels}, schema), path, row_group_size=2)


def test_shards_of_hugging_face_are_taken_with_their_classes(store: Store, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    labels = [0, 1, -1, 1, 0, 1, 1]  # below zero stands for no class
    for shard, rows in enumerate((range(4), range(4, 7))):
        path = tmp_path / "in" / f"train-{shard:05d}-of-00002.parquet"
        write_as_hugging_face(path, [picture(row) for row in rows], [labels[row] for row in rows])
    rows = rows_of(store, config_of(tmp_path / "in", "parquet", items_per_part=2))
    assert [(name, row["image"], row["label"]) for name, row in sorted(rows.items())] == [
        (
            f"train-0000{number // 4}-of-00002.parquet#{number % 4}",
            picture(number),
            None if number == 2 else labels[number],
        )
        for number in range(7)
    ]


def test_a_row_that_has_a_path_and_no_bytes_says_so(store: Store, tmp_path: Path) -> None:
    write_as_hugging_face(tmp_path / "in.parquet", [PICTURE, None, None], [0, 1, 1])
    rows = rows_of(store, config_of(tmp_path / "in.parquet", "parquet"))
    assert rows["in.parquet#1"]["status"] == "empty"
    assert rows["in.parquet#1"]["reason"].startswith("a path and no bytes")


def test_a_null_image_is_an_empty_row(store: Store, tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [PICTURE, None]}), tmp_path / "in.parquet")
    rows = rows_of(store, config_of(tmp_path / "in.parquet", "parquet"))
    assert rows["in.parquet#1"]["status"] == "empty"


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"img": [PICTURE]}, r"no column 'image' \(it has: img\).*scrape\.image_column"),
        ({"image": ["path/of.jpg"]}, "'image' is of type string; encoded images are needed"),
        ({"image": [{"path": "of.jpg"}]}, "encoded images are needed"),
        ({"image": [PICTURE], "label": ["cat"]}, r"'label' is of type string.*scrape\.label_column"),
    ],
)
def test_a_parquet_file_of_other_columns_is_refused_by_name(
    columns: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    with pytest.raises(ConfigError, match=complaint):
        source_of(tmp_path / "in.parquet", "parquet").items()


def test_other_column_names_can_be_given(tmp_path: Path) -> None:
    pq.write_table(pa.table({"img": [PICTURE], "class": [7], "label": ["x"]}), tmp_path / "in.parquet")
    source = source_of(tmp_path / "in.parquet", "parquet", image_column="img", label_column="class")
    (outcome,) = source.read(source.items())
    assert (outcome.data, outcome.item.label) == (PICTURE, 7)


def test_what_is_not_parquet_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "in.parquet").write_bytes(b"PAR1 but nothing else")
    with pytest.raises(ConfigError, match=r"in\.parquet is not a readable parquet file"):
        source_of(tmp_path / "in.parquet", "parquet").items()


def test_a_repeated_url_is_a_row_and_is_not_fetched_twice(store: Store, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("ftp://a/1\nftp://a/1\nftp://a/2\n")
    config = config_of(tmp_path / "list.txt", "urls")
    with pytest.raises(NoUsableData, match=r"1 duplicate, 2 refused.*--refresh"):
        scraped(store, config)


@pytest.mark.parametrize("source", ["folder", "imagefolder", "parquet"])
def test_an_empty_source_is_refused(source: str, store: Store, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(NoUsableData, match="is empty"):
        scraped(store, config_of(tmp_path / "in", source))


def test_a_source_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"scrape\.path: there is nothing at .*absent"):
        source_of(tmp_path / "absent").items()
    with pytest.raises(ConfigError, match=r"scrape\.path is empty: say where the photos are"):
        open_source(load_config("faces64").scrape, seed=1)


def test_too_large_a_share_of_failures_stops_the_stage_and_its_limit_can_be_raised(
    store: Store, tmp_path: Path
) -> None:
    fill(tmp_path / "in", {"good.jpg": PICTURE} | {f"{number}.jpg": b"text" for number in range(3)})
    with pytest.raises(TooManyFailures, match=r"75% .* limit of 50% .*3 not_image"):
        scraped(store, config_of(tmp_path / "in", max_failure_rate=0.5))
    raised = scraped(store, config_of(tmp_path / "in", max_failure_rate=0.75))
    assert raised.counts == {"items": 4, "not_image": 3, "ok": 1}
    assert raised.provenance["parts_done"] == 0  # nothing was read again


def test_what_differs_from_run_to_run_is_outside_the_content(store: Store, tmp_path: Path) -> None:
    config = config_of(fill(tmp_path / "in", {"a.jpg": PICTURE}))
    manifest = scraped(store, config)
    assert {file.name: file.data for file in manifest.files} == {
        "photos-00000.parquet": True,
        "fetches-00000.parquet": False,
    }


ITEM_LISTS = st.lists(st.integers(0, 10**6), unique=True, max_size=300)


def items_of(numbers: Sequence[int]) -> list[Item]:
    return [Item(item_key(str(number)), str(number)) for number in numbers]


@given(ITEM_LISTS, st.integers(1, 20))
def test_parts_hold_every_item_once_in_order_and_are_of_bounded_size(numbers: list[int], target: int) -> None:
    items = items_of(numbers)
    parts = chunks(items, target)
    assert [item for part in parts for item in part] == items
    assert all(1 <= len(part) <= 4 * target for part in parts)
    assert all(len(part) >= target // 4 for part in parts[:-1])


@given(ITEM_LISTS, st.integers(1, 20), st.integers(1, 5))
def test_items_added_at_the_end_change_only_the_last_part(numbers: list[int], target: int, more: int) -> None:
    before = chunks(items_of(numbers), target)
    after = chunks(items_of([*numbers, *range(10**7, 10**7 + more)]), target)
    assert after[: max(0, len(before) - 1)] == before[:-1]


@given(ITEM_LISTS, st.integers(1, 20), st.data())
def test_an_item_added_within_changes_no_part_before_it(
    numbers: list[int], target: int, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(numbers)))
    before = chunks(items_of(numbers), target)
    after = chunks(items_of([*numbers[:place], 10**7, *numbers[place:]]), target)
    whole_before, items = 0, 0
    for part in before:
        items += len(part)
        whole_before += items <= place
    assert after[: max(0, whole_before - 1)] == before[: max(0, whole_before - 1)]


@pytest.mark.parametrize("place", [0, 1000, 2500, 4999])
def test_an_item_added_within_a_long_list_changes_a_few_parts(place: int) -> None:
    numbers = list(range(5000))
    before = {tuple(item.key for item in part) for part in chunks(items_of(numbers), 20)}
    after = {
        tuple(item.key for item in part)
        for part in chunks(items_of([*numbers[:place], 10**7, *numbers[place:]]), 20)
    }
    assert len(before) > 200
    assert len(before - after) <= 10


def test_another_day_is_another_source_of_urls_but_not_of_files(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("http://a/1\n")

    def addresses(path: Path, source: str) -> set[Address]:
        days = ("2024-05-06", "2024-05-13")
        configs = [config_of(path, source, as_of=day) for day in days]
        return {build(config, "faces64", upto="scrape").stages[-1].address for config in configs}

    assert len(addresses(tmp_path / "list.txt", "urls")) == 2
    assert len(addresses(tmp_path, "folder")) == 1


class _Host(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(PICTURE)))
        self.end_headers()
        self.wfile.write(PICTURE)

    def log_message(self, format: str, *args: object) -> None:
        return


def test_after_an_outage_the_same_command_fetches_again(store: Store, tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Host) as host:
        port = host.server_port
    (tmp_path / "list.txt").write_text(f"http://127.0.0.1:{port}/1.jpg\n")  # nobody listens there now
    config = config_of(tmp_path / "list.txt", "urls", allow_loopback=True, retries=0)
    with pytest.raises(NoUsableData, match="1 connection_failed"):
        scraped(store, config)
    with ThreadingHTTPServer(("127.0.0.1", port), _Host) as host:
        threading.Thread(target=host.serve_forever, daemon=True).start()
        assert scraped(store, config).counts == {"items": 1, "ok": 1}
        host.shutdown()


def test_a_pipe_among_the_photos_is_passed_over(store: Store, tmp_path: Path) -> None:
    fill(tmp_path / "in", {"a.jpg": PICTURE})
    os.mkfifo(tmp_path / "in" / "b.jpg")
    assert list(rows_of(store, config_of(tmp_path / "in"))) == ["a.jpg"]


def test_a_name_that_is_not_utf8_is_a_row_like_any_other(store: Store, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Path(os.fsdecode(bytes(tmp_path / "in") + b"/\xff.jpg")).write_bytes(PICTURE)
    (row,) = rows_of(store, config_of(tmp_path / "in")).values()
    assert (row["status"], row["url"]) == ("ok", "\\udcff.jpg")


def test_large_photos_make_small_parts(tmp_path: Path) -> None:
    items = [Item(item_key(str(number)), str(number), size=30 * 2**20) for number in range(9)]
    assert [len(part) for part in chunks(items, 256)] == [3, 3, 3]
