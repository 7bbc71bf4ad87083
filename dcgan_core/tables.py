"""Parquet tables as bytes: the same rows always give the same bytes.

Everywhere parquet is read in one thread: Arrow's own threads hold the Python objects that they read from, and
where one lets go of them while the interpreter ends, the process is aborted (one run in 20 did, pyarrow 26).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dcgan_core.artifacts import Address, Manifest, PartFile, read_part, write_part
from dcgan_core.errors import CorruptArtifact
from dcgan_core.storage import Store, sha256_of_file

GROUP_BYTES = 2 * 2**20
"""Images in one row group: what a reader or writer holds at a time. It fits the processor's cache, which
makes writing an eighth cheaper than with groups of 16 MiB."""
_BATCH_ROWS = 16


def encode_rows(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> bytes:
    """Rows as parquet; encoded images are left uncompressed, everything else is zstd."""
    return encode_table(pa.Table.from_pylist(list(rows), schema=schema))


def encode_table(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, **parquet_options(table.schema))
    return sink.getvalue().to_pybytes()


def write_stream(
    store: Store, address: Address, name: str, rows: Iterable[Mapping[str, Any]], schema: pa.Schema
) -> PartFile:
    """Write a parquet file of an artifact from rows as they come, holding one row group at a time."""
    count, size = 0, 0
    group: list[Mapping[str, Any]] = []
    with store.writing(address.part_path(name)) as path:
        with pq.ParquetWriter(path, schema, **parquet_options(schema)) as writer:
            for row in rows:
                group.append(row)
                count, size = count + 1, size + len(row.get("image") or b"")
                if size >= GROUP_BYTES:
                    writer.write_table(pa.Table.from_pylist(group, schema=schema))
                    group, size = [], 0
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
        return PartFile(name=name, bytes=path.stat().st_size, sha256=sha256_of_file(path), rows=count)


def parquet_options(schema: pa.Schema) -> dict[str, Any]:
    """How our tables are written: images as they are, everything else packed."""
    binary = {field.name for field in schema if pa.types.is_large_binary(field.type)}
    plain = [name for name in schema.names if name not in binary]
    compression = {name: "none" if name in binary else "zstd" for name in schema.names}
    return {"compression": compression, "use_dictionary": plain, "write_statistics": plain}


def decode_table(data: bytes, columns: Iterable[str] | None = None) -> pa.Table:
    names = list(columns) if columns else None
    return pq.ParquetFile(pa.BufferReader(data)).read(columns=names, use_threads=False)


def count_rows(data: bytes) -> int:
    return pq.ParquetFile(pa.BufferReader(data)).metadata.num_rows


def write_rows(
    store: Store,
    address: Address,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    schema: pa.Schema,
    *,
    is_data: bool = True,
) -> PartFile:
    """Write a parquet file of an artifact."""
    return write_part(store, address, name, encode_rows(rows, schema), rows=len(rows), is_data=is_data)


def read_rows(
    store: Store, address: Address, file: PartFile, columns: Iterable[str] | None = None
) -> pa.Table:
    """Read a parquet file of an artifact, hash and row count checked."""
    table = decode_table(read_part(store, address, file), columns)
    if file.rows is not None and table.num_rows != file.rows:
        raise CorruptArtifact(
            store.uri(address.part_path(file.name)), f"{table.num_rows} rows, not {file.rows}"
        )
    return table


def iterate_rows(
    store: Store, address: Address, file: PartFile, columns: Iterable[str]
) -> Iterator[dict[str, Any]]:
    """Rows of a parquet file of an artifact, a few decoded at a time; hash and row count checked first."""
    names = list(columns)
    for row in iterate_values(store, address, file, names, _BATCH_ROWS):
        yield dict(zip(names, row, strict=True))


def iterate_values(
    store: Store, address: Address, file: PartFile, columns: Sequence[str], together: int
) -> Iterator[tuple[Any, ...]]:
    """Values of ``columns`` of each row, ``together`` rows decoded at a time; else as ``iterate_rows``."""
    reader = pq.ParquetFile(pa.BufferReader(read_part(store, address, file)))
    if file.rows is not None and reader.metadata.num_rows != file.rows:
        raise CorruptArtifact(store.uri(address.part_path(file.name)), "its number of rows differs")
    for batch in reader.iter_batches(together, columns=list(columns), use_threads=False):
        yield from zip(*(batch.column(name).to_pylist() for name in columns), strict=True)


def read_all(store: Store, manifest: Manifest, prefix: str, columns: Iterable[str] | None = None) -> pa.Table:
    """All parquet files of an artifact whose names start with ``prefix``, one after another."""
    names = list(columns) if columns else None
    tables = [
        read_rows(store, manifest.address, file, names)
        for file in manifest.named(prefix)
        if file.name.endswith(".parquet")
    ]
    if not tables:
        raise CorruptArtifact(store.uri(manifest.address.path), f"it has no {prefix}*.parquet")
    return pa.concat_tables(tables)


def some_rows(
    store: Store, manifest: Manifest, name: str, keys: set[str], columns: Sequence[str]
) -> list[dict[str, Any]]:
    """Rows of a parquet file of an artifact whose ``key`` is among some; ``columns`` has ``key``.

    Only these columns of row groups that hold one are read, so the file's hash is not checked.
    """
    found = []
    with store.filesystem().open(store.key(manifest.address.part_path(name)), "rb") as file:
        reader = pq.ParquetFile(file)
        for group in range(reader.num_row_groups):
            there = reader.read_row_group(group, columns=["key"], use_threads=False).column("key").to_pylist()
            if not keys.isdisjoint(there):
                rows = reader.read_row_group(group, columns=list(columns), use_threads=False).to_pylist()
                found += [row for row in rows if row["key"] in keys]
    return found


class LongTable:
    """The parquet files of an artifact that begin with ``prefix`` as one table, read piece by piece."""

    def __init__(self, store: Store, manifest: Manifest, prefix: str) -> None:
        self._store, self._address = store, manifest.address
        self._files = manifest.named(prefix)
        self._first = np.cumsum([0, *(file.rows or 0 for file in self._files)])

    @property
    def rows(self) -> int:
        """Rows of all files together."""
        return int(self._first[-1])

    def tables(self, columns: Sequence[str]) -> Iterator[tuple[int, pd.DataFrame]]:
        """The table of each file, and the number of its first row in the whole."""
        for file, first in zip(self._files, self._first.tolist(), strict=False):
            yield first, read_rows(self._store, self._address, file, columns).to_pandas()

    def take(self, rows_L: NDArray[np.int64], columns: Sequence[str]) -> pd.DataFrame:
        """Some rows by their numbers, in the order asked for; files with none of them are not read."""
        wanted_U, place_L = np.unique(rows_L, return_inverse=True)
        ends = np.searchsorted(wanted_U, self._first)
        tables = []
        for number, file in enumerate(self._files):
            if ends[number] < ends[number + 1]:
                own = wanted_U[ends[number] : ends[number + 1]] - self._first[number]
                tables.append(read_rows(self._store, self._address, file, columns).take(own))
        if not tables:
            return pd.DataFrame(columns=pd.Index(columns))
        return pa.concat_tables(tables).take(place_L.ravel()).to_pandas()

    def files_of(self, rows_L: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of the file that each row is in (L,)."""
        return np.searchsorted(self._first, rows_L, side="right") - 1
