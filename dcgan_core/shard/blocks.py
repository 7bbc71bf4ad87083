"""The shuffle through files: blocks of samples sorted by where they go, and what a task reads of them."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from dcgan_core.artifacts import Address
from dcgan_core.errors import CorruptArtifact
from dcgan_core.shard.writer import Sample
from dcgan_core.storage import Store

FOLDER = "blocks"
_SAMPLES = pa.schema(
    [
        ("position", pa.int64()),
        ("key", pa.string()),
        ("extension", pa.string()),
        ("data", pa.large_binary()),
        ("label", pa.int32()),
        ("photo_key", pa.string()),
    ]
)
"""A sample's position and, in their order, its fields."""


@dataclass(frozen=True)
class Segments:
    """Where in a block's file the samples of each task end, and the CRC-32 of each stretch."""

    ends: tuple[int, ...]
    crc32: tuple[int, ...]


def block_path(address: Address, block: int) -> str:
    """Beside the artifact's files, and gone when it is finished."""
    return f"{address.path}/{FOLDER}/{block:05d}.arrows"


def write_block(
    store: Store,
    address: Address,
    block: int,
    placed: Iterable[tuple[int, Sample]],
    task_ends: Sequence[int],
) -> Segments:
    """Write samples, each with its position, so that those of each task lie together."""
    samples = sorted(placed, key=lambda pair: pair[0])
    positions = np.array([position for position, _ in samples], np.int64)
    cuts = [0, *np.searchsorted(positions, np.array(task_ends)).tolist()]
    ends, checks, end = [], [], 0
    with store.writing(block_path(address, block), passing=True) as path, path.open("wb") as file:
        for first, last in pairwise(cuts):
            data = _packed(samples[first:last]) if last > first else b""
            file.write(data)
            end += len(data)
            ends.append(end)
            checks.append(zlib.crc32(data))
    return Segments(tuple(ends), tuple(checks))


def read_segment(
    store: Store, address: Address, block: int, task: int, segments: Segments
) -> Iterator[tuple[int, Sample]]:
    """What a block has for a task; FileNotFoundError where the block is gone, CorruptArtifact if damaged."""
    path = block_path(address, block)
    start, end = (0, *segments.ends)[task], segments.ends[task]
    if start == end:
        return
    data = store.read_range(path, start, end)
    if zlib.crc32(data) != segments.crc32[task]:
        raise CorruptArtifact(store.uri(path), f"bytes {start} to {end} have changed since they were written")
    columns = [column.to_pylist() for column in pa.ipc.open_stream(data).read_all().columns]
    for position, *fields in zip(*columns, strict=True):
        yield position, Sample(*fields)


def _packed(samples: Sequence[tuple[int, Sample]]) -> bytes:
    positions = [position for position, _ in samples]
    fields = ([getattr(sample, name) for _, sample in samples] for name in _SAMPLES.names[1:])
    columns = [
        pa.array(values, field.type) for values, field in zip((positions, *fields), _SAMPLES, strict=True)
    ]
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, _SAMPLES) as writer:
        writer.write_table(pa.Table.from_arrays(columns, schema=_SAMPLES))
    return sink.getvalue()
