"""Lists of urls come in many forms and any length; a wrong one is refused by name."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dcgan_core.config import load_config
from dcgan_core.errors import ConfigError
from dcgan_core.scrape.lists import Line, UrlList

URLS = ["http://a/1", "http://a/2"]
CAPTIONS = ["one, with a comma\nand two lines", None]


def list_of(path: Path, **changes: Any) -> UrlList:
    keys = {"source": "urls", "path": str(path), "contact": "somebody@example.org", **changes}
    return UrlList(load_config("faces64", {f"scrape.{key}": value for key, value in keys.items()}).scrape)


def lines_of(path: Path, **changes: Any) -> list[Line]:
    return list(list_of(path, **changes).lines())


def rows() -> list[dict[str, Any]]:
    return [{"url": url, "caption": caption} for url, caption in zip(URLS, CAPTIONS, strict=True)]


def write_lists(folder: Path) -> None:
    (folder / "list.txt").write_text(f"# comment\n{URLS[0]}\n\n  {URLS[1]}  \n", "utf-8-sig")
    table = f'url,caption\n{URLS[0]},"{CAPTIONS[0]}"\n{URLS[1]}\n'
    (folder / "list.csv").write_text(table, "utf-8-sig")
    (folder / "list.csv.gz").write_bytes(gzip.compress(table.encode()))
    (folder / "list.tsv").write_text(f"caption\turl\nx\t{URLS[0]}\ny\t{URLS[1]}\n")
    (folder / "list.jsonl").write_text("\n".join(json.dumps(row) for row in rows()) + "\n\n")
    (folder / "lines.json").write_text("\n".join(json.dumps(row) for row in rows()))
    (folder / "list.json").write_text(" \n" + json.dumps(rows(), indent=1))
    pq.write_table(pa.table({"url": URLS, "caption": CAPTIONS}), folder / "list.parquet")


ALL = ("txt", "csv", "csv.gz", "tsv", "jsonl", "json", "parquet")


@pytest.mark.parametrize("name", [*(f"list.{ending}" for ending in ALL), "lines.json"])
def test_every_form_gives_the_same_urls(name: str, tmp_path: Path) -> None:
    write_lists(tmp_path)
    lines = lines_of(tmp_path / name, caption_column="caption")
    assert [line.url for line in lines] == URLS
    if name not in ("list.txt", "list.tsv"):
        assert [line.caption or None for line in lines] == CAPTIONS


def test_a_folder_of_lists_is_read_file_by_file(tmp_path: Path) -> None:
    write_lists(tmp_path)
    (tmp_path / "notes.md").write_text("not a list")
    assert [line.url for line in lines_of(tmp_path)] == URLS * (len(ALL) + 1)


def test_a_limit_stops_the_reading(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text('{"url": "http://a/1"}\nthis would be refused\n')
    assert lines_of(tmp_path / "list.jsonl", limit=1) == [Line("http://a/1")]


def test_half_a_pair_in_json_is_written_so_that_a_table_can_hold_it(tmp_path: Path) -> None:
    (tmp_path / "list.jsonl").write_text('{"url": "http://a/\\ud800", "caption": "\\udfff"}\n')
    assert lines_of(tmp_path / "list.jsonl", caption_column="caption") == [
        Line("http://a/\\ud800", "\\udfff")
    ]


def test_captions_that_are_not_text_are_written_as_text(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["http://a/1"], "caption": [7]}), tmp_path / "list.parquet")
    (line,) = lines_of(tmp_path / "list.parquet", caption_column="caption")
    assert line.caption == "7"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("list.csv", b"link\nhttp://a/1\n", r"no column 'url' \(it has: link\)"),
        ("list.txt", "http://a/é".encode("latin-1"), "not UTF-8 text"),
        ("list.jsonl", b'{"url": "http://a/1"}\n{"url": \n', "line 2: not a JSON object"),
        ("list.jsonl", b'["http://a/1"]\n', "line 1: not a JSON object, but list"),
        ("list.json", b'[{"url": "http://a/1"}, 7]', "entry 2: not a JSON object, but int"),
        ("list.json", b'[{"url": "http://a/1"},', "no JSON array"),
        ("list.parquet", b"PAR1 but no more", "not a readable parquet"),
        ("list.txt.gz", gzip.compress(b"http://a/1\n" * 1000, mtime=0)[:-12], "cannot be read to its end"),
    ],
)
def test_a_wrong_list_is_refused_by_name(name: str, content: bytes, why: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=why):
        lines_of(tmp_path / name)


def test_a_parquet_list_without_the_column_says_what_it_has(tmp_path: Path) -> None:
    pq.write_table(pa.table({"link": URLS, "text": URLS}), tmp_path / "list.parquet")
    with pytest.raises(ConfigError, match=r"no column 'url' \(it has: link, text\)"):
        lines_of(tmp_path / "list.parquet")


def test_a_missing_path_and_a_folder_without_lists_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"scrape\.path is empty"):
        list(
            UrlList(
                load_config("faces64", {"scrape.source": "urls", "scrape.contact": "a@b.org"}).scrape
            ).lines()
        )
    with pytest.raises(ConfigError, match="no list of urls below it"):
        lines_of(tmp_path)


def test_the_identity_of_a_list_is_its_content(tmp_path: Path) -> None:
    one, other = tmp_path / "one.txt", tmp_path / "other.txt"
    one.write_text("http://a/1\n")
    other.write_text("http://a/1\n")
    assert list_of(one).identity() == list_of(other).identity()
    other.write_text("http://a/2\n")
    assert list_of(one).identity() != list_of(other).identity()
