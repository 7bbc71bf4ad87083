"""Parquet tables as bytes: the same rows always give the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dcgan_core.artifacts import Address, Manifest, PartFile, read_part, write_part
from dcgan_core.errors import CorruptArtifact
from dcgan_core.storage import Store


def encode_rows(rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> bytes:
    """Rows as parquet; encoded images are left uncompressed, everything else is zstd."""
    return encode_table(pa.Table.from_pylist(list(rows), schema=schema))


def encode_table(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    binary = {field.name for field in table.schema if pa.types.is_large_binary(field.type)}
    compression = {name: "none" if name in binary else "zstd" for name in table.schema.names}
    plain = [name for name in table.schema.names if name not in binary]
    options: dict[str, Any] = {
        "compression": compression,
        "use_dictionary": plain,
        "write_statistics": plain,
    }
    pq.write_table(table, sink, **options)
    return sink.getvalue().to_pybytes()


def decode_table(data: bytes, columns: Iterable[str] | None = None) -> pa.Table:
    return pq.read_table(pa.BufferReader(data), columns=list(columns) if columns else None)


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
