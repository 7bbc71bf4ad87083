"""Encoded images in a column of parquet files, as Hugging Face and others write them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from dcgan_core.config import Json, ScrapeConfig
from dcgan_core.errors import ConfigError
from dcgan_core.scrape.listings import Listings
from dcgan_core.scrape.sources import Item, Outcome, checked, item_key, known_states, listing_identity
from dcgan_core.storage import open_location


@dataclass(frozen=True)
class ParquetSource:
    """Encoded images in a column of parquet files (a file, or all ``*.parquet`` below a prefix)."""

    config: ScrapeConfig
    known: Listings = field(default_factory=Listings, compare=False, repr=False)

    def identity(self) -> dict[str, Json]:
        return listing_identity(self.items())

    def items(self) -> Sequence[Item]:
        return self._items

    @cached_property
    def _items(self) -> list[Item]:
        items: list[Item] = []
        files = self._files()
        states = known_states([(*file, file[0].info(file[1])) for file in files], self.known)
        for (fs, path, name), state in zip(files, states, strict=True):
            with fs.open(path, "rb") as file:
                reader = _parquet(file, path)
                self._check_columns(reader.schema_arrow, path)
                rows = reader.metadata.num_rows
            for row in range(rows):
                locator = f"{name}#{row}"
                items.append(Item(item_key(locator), locator, state, offset=row, url=locator))
        return items[: self.config.limit]

    def read(self, items: Sequence[Item]) -> Iterator[Outcome]:
        files = {name: (fs, path) for fs, path, name in self._files()}
        start = 0
        while start < len(items):  # items of one file stand together
            name = items[start].locator.rpartition("#")[0]
            end = start
            while end < len(items) and items[end].locator.rpartition("#")[0] == name:
                end += 1
            fs, path = files[name]
            with fs.open(path, "rb") as file:
                yield from self._read_rows(_parquet(file, path), items[start:end])
            start = end

    def _read_rows(self, reader: pq.ParquetFile, items: Sequence[Item]) -> Iterator[Outcome]:
        has_label = self.config.label_column in reader.schema_arrow.names
        columns = [self.config.image_column, *([self.config.label_column] if has_label else [])]
        wanted = {item.offset: item for item in items}
        first = 0
        for group in range(reader.num_row_groups):
            rows = reader.metadata.row_group(group).num_rows
            here = [row for row in range(first, first + rows) if row in wanted]
            if here:
                table = reader.read_row_group(group, columns=columns, use_threads=False).take(
                    [row - first for row in here]
                )
                for row, record in zip(here, table.to_pylist(), strict=True):
                    value = record[self.config.image_column]
                    item = wanted[row]
                    label = record[self.config.label_column] if has_label else None
                    if label is not None and label >= 0:  # below zero: unknown, in Hugging Face's ClassLabel
                        item = replace(item, label=int(label))
                    yield self._outcome(item, value)
            first += rows

    def _outcome(self, item: Item, value: Any) -> Outcome:
        """What becomes of a cell: bytes, or a struct of bytes and the path they once had."""
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data and isinstance(value, dict) and value.get("path"):
            why = "a path and no bytes: write the set with its files embedded (push_to_hub does it)"
            return Outcome(item, "empty", why)
        return checked(item, data, self.config.max_bytes)

    def _files(self) -> list[tuple[fsspec.AbstractFileSystem, str, str]]:
        fs, top = open_location(self.config.path, "scrape.path")
        if fs.isfile(top):
            return [(fs, top, top.rpartition("/")[2])]
        paths = sorted(path for path in fs.find(top) if path.endswith(".parquet"))
        return [(fs, path, path[len(top) :].lstrip("/")) for path in paths]

    def _check_columns(self, schema: pa.Schema, path: str) -> None:
        if self.config.image_column not in schema.names:
            raise ConfigError(
                f"{path} has no column {self.config.image_column!r} (it has: {', '.join(schema.names)}); "
                "name it: -o scrape.image_column=..."
            )
        image = schema.field(self.config.image_column).type
        if pa.types.is_struct(image) and "bytes" in {field.name for field in image}:
            image = image.field("bytes").type
        if not (pa.types.is_binary(image) or pa.types.is_large_binary(image)):
            raise ConfigError(
                f"{path}: column {self.config.image_column!r} is of type {image}; encoded images are needed, "
                "as bytes or a struct {bytes, path}"
            )
        labels = self.config.label_column
        if labels in schema.names and not pa.types.is_integer(schema.field(labels).type):
            raise ConfigError(
                f"{path}: column {labels!r} is of type {schema.field(labels).type}, not integer; name "
                "another, or one that is not there: -o scrape.label_column=none"
            )


def _parquet(file: Any, path: str) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{path} is not a readable parquet file: {error}") from None
