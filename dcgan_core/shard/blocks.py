"""The shuffle through files: blocks of samples sorted by where they go, and what a task reads of them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from dcgan_core.artifacts import Address
from dcgan_core.errors import CorruptArtifact
from dcgan_core.shard.writer import Sample
from dcgan_core.storage import Store, sha256_hex

FOLDER = "blocks"
_SAMPLES = pa.schema(
    [
        ("position", pa.int64()),
        ("key", pa.string()),
        ("extension", pa.string()),
        ("label", pa.int32()),
        ("photo_key", pa.string()),
        ("image", pa.large_binary()),
    ]
)


@dataclass(frozen=True)
class Segments:
    """Where in a block's file the samples of each task end, and the hash of each stretch."""

    ends: tuple[int, ...]
    sha256: tuple[str, ...]


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
    ends, hashes, end = [], [], 0
    with store.writing(block_path(address, block)) as path, path.open("wb") as file:
        for first, last in pairwise(cuts):
            data = _packed(samples[first:last]) if last > first else b""
            file.write(data)
            end += len(data)
            ends.append(end)
            hashes.append(sha256_hex(data))
    return Segments(tuple(ends), tuple(hashes))


def read_segment(
    store: Store, address: Address, block: int, task: int, segments: Segments
) -> Iterator[tuple[int, Sample]]:
    """What a block has for a task; FileNotFoundError where the block is gone, CorruptArtifact if damaged."""
    path = block_path(address, block)
    start, end = (0, *segments.ends)[task], segments.ends[task]
    if start == end:
        return
    data = store.read_range(path, start, end)
    if sha256_hex(data) != segments.sha256[task]:
        raise CorruptArtifact(store.uri(path), f"bytes {start} to {end} have changed since they were written")
    for row in pa.ipc.open_stream(data).read_all().to_pylist():
        sample = Sample(row["key"], row["extension"], row["image"], row["label"], row["photo_key"])
        yield row["position"], sample


def _packed(samples: Sequence[tuple[int, Sample]]) -> bytes:
    rows = [
        {
            "position": position,
            "key": sample.key,
            "extension": sample.extension,
            "label": sample.label,
            "photo_key": sample.photo_key,
            "image": sample.data,
        }
        for position, sample in samples
    ]
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, _SAMPLES) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=_SAMPLES))
    return sink.getvalue()
