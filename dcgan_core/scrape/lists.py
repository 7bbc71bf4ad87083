"""Lists of urls of any length, read as a stream: txt, csv, tsv, json, json lines, parquet, some packed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any, cast

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from dcgan_core.config import Json, ScrapeConfig
from dcgan_core.errors import ConfigError
from dcgan_core.scrape.sources import printable
from dcgan_core.storage import open_location

ENDINGS = ("txt", "csv", "tsv", "jsonl", "ndjson", "json", "parquet")
_PACKED = {"gz": "gzip", "bz2": "bz2", "xz": "xz"}
_BATCH_ROWS = 4096
_CHUNK_BYTES = 2**20
csv.field_size_limit(2**20)  # captions may be long; what is longer is no caption


@dataclass(frozen=True)
class Line:
    """One entry of a list."""

    url: str
    caption: str | None = None


@dataclass(frozen=True)
class UrlList:
    """A list that img2dataset would read: a file, or all files of known endings below a directory."""

    config: ScrapeConfig

    def identity(self) -> dict[str, Json]:
        """The sha256 of the content: of the file, or over names and contents of several."""
        whole = hashlib.sha256()
        files = self._files()
        for fs, path, name in files:
            if len(files) > 1:
                whole.update(f"{name}\0".encode())
            with fs.open(path, "rb") as file:
                while chunk := cast("bytes", file.read(_CHUNK_BYTES)):
                    whole.update(chunk)
        return {"list_sha256": whole.hexdigest()}

    def lines(self) -> Iterator[Line]:
        """Entries in order, a few thousand held at a time; blank lines and comments of a txt are left out.

        Raises ConfigError where a file is not what its ending says, or lacks the named column.
        """
        found = (line for fs, path, _ in self._files() for line in self._of_file(fs, path))
        yield from islice(found, self.config.limit)

    def _files(self) -> list[tuple[fsspec.AbstractFileSystem, str, str]]:
        if not self.config.path:
            raise ConfigError(
                "scrape.path is empty: name the list of urls, for example -o scrape.path=urls.csv"
            )
        fs, top = open_location(self.config.path, "scrape.path")
        if fs.isfile(top):
            return [(fs, top, top.rpartition("/")[2])]
        paths = sorted(path for path in fs.find(top) if _ending(path)[0] in ENDINGS)
        if not paths:
            raise ConfigError(
                f"scrape.path {self.config.path}: no list of urls below it; known endings: "
                f"{', '.join(ENDINGS)} (also .gz)"
            )
        return [(fs, path, path[len(top) :].lstrip("/")) for path in paths]

    def _of_file(self, fs: fsspec.AbstractFileSystem, path: str) -> Iterator[Line]:
        ending, _ = _ending(path)
        if ending == "parquet":
            yield from self._rows(self._parquet(fs, path))
        elif ending in ("csv", "tsv"):
            with _text(fs, path) as text:
                rows = csv.DictReader(text, delimiter="," if ending == "csv" else "\t")
                yield from self._rows(_csv_rows(rows, path))
        elif ending in ("jsonl", "ndjson"):
            with _text(fs, path) as text:
                yield from self._rows(_json_rows(text, path))
        elif ending == "json":
            with _text(fs, path) as text:
                yield from self._rows(_json_list(text, path))
        else:
            with _text(fs, path) as text:
                for line in text:
                    url = line.strip()
                    if url and not url.startswith("#"):
                        yield Line(url)

    def _rows(self, rows: Iterator[Mapping[str, Any]]) -> Iterator[Line]:
        url_column, caption_column = self.config.url_column, self.config.caption_column
        for row in rows:
            if url_column not in row:
                raise ConfigError(
                    f"{self.config.path} has no column {url_column!r} "
                    f"(it has: {', '.join(str(name) for name in row if name is not None)}); name it: "
                    "-o scrape.url_column=..."
                )
            caption = row.get(caption_column) if caption_column else None
            url = printable(str(row[url_column] or "").strip())
            yield Line(url, None if caption is None else printable(str(caption)))

    def _parquet(self, fs: fsspec.AbstractFileSystem, path: str) -> Iterator[Mapping[str, Any]]:
        with fs.open(path, "rb") as file:
            try:
                reader = pq.ParquetFile(file)
            except pa.ArrowInvalid as error:
                raise ConfigError(f"{path} is not a readable parquet file: {error}") from None
            names = reader.schema_arrow.names
            wanted = [self.config.url_column, self.config.caption_column]
            columns = [name for name in wanted if name in names]
            if self.config.url_column not in names:
                yield dict.fromkeys(names)  # the check above names what there is
            for batch in reader.iter_batches(_BATCH_ROWS, columns=columns, use_threads=False):
                yield from batch.to_pylist()


def _ending(path: str) -> tuple[str, str | None]:
    """The ending that says what is in a file, and how it is packed."""
    stem, _, last = path.lower().rpartition(".")
    if last in _PACKED:
        return stem.rpartition(".")[2], _PACKED[last]
    return last, None


@contextmanager
def _text(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[IO[str]]:
    _, packed = _ending(path)
    with fs.open(path, "rb", compression=packed) as file:
        text = io.TextIOWrapper(cast("Any", file), encoding="utf-8-sig", newline="")
        try:
            yield text
        except UnicodeDecodeError as error:
            raise ConfigError(
                f"scrape.path {path} is not UTF-8 text ({error.reason}); convert it, or give a txt, csv, "
                "jsonl or parquet list"
            ) from None
        except (OSError, EOFError) as error:
            raise ConfigError(f"scrape.path {path} cannot be read to its end: {error}") from None
        finally:
            text.detach()


def _csv_rows(rows: csv.DictReader[str], path: str) -> Iterator[Mapping[str, Any]]:
    try:
        yield from rows
    except csv.Error as error:
        raise ConfigError(f"{path}, line {rows.line_num}: not a row of a table ({error})") from None


def _json_rows(text: IO[str], path: str) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(text, 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ConfigError(f"{path}, line {number}: not a JSON object ({error})") from None
            if not isinstance(row, dict):
                raise ConfigError(f"{path}, line {number}: not a JSON object, but {type(row).__name__}")
            yield row


def _json_list(text: IO[str], path: str) -> Iterator[Mapping[str, Any]]:
    """One JSON array of objects (read whole: JSON cannot be cut), or json lines under another ending."""
    start = text.read(1)
    while start.isspace():
        start = text.read(1)
    rest = start + text.read() if start == "[" else start + text.readline()
    if start != "[":
        yield from _json_rows(io.StringIO(rest), path)
        yield from _json_rows(text, path)
        return
    try:
        rows = json.loads(rest)
    except ValueError as error:
        raise ConfigError(f"{path} is no JSON array of objects ({error})") from None
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise ConfigError(f"{path}, entry {number}: not a JSON object, but {type(row).__name__}")
        yield row
