"""Whether shards are what they should be, sample by sample, and how a damaged one is made anew."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dcgan_core.artifacts import Address, Manifest, PartFile, read_manifest, read_part
from dcgan_core.config import ShardConfig
from dcgan_core.errors import ConfigError, CorruptArtifact, DecodeError, MissingArtifact
from dcgan_core.shard.decode import decode_into
from dcgan_core.shard.stage import Shard
from dcgan_core.shard.writer import HEADER_BYTES, INDEX, Sample, packed, write_tar
from dcgan_core.stage import FLOW_OF
from dcgan_core.storage import Store, sha256_hex
from dcgan_core.tables import encode_rows, read_rows
from dcgan_core.tars import scan


@dataclass(frozen=True)
class Damage:
    """Something wrong with a shard: with a whole file, or with one sample in it."""

    shard: int
    file: str
    sample: str
    """Key of the sample; empty where it is the file."""
    why: str

    def __str__(self) -> str:
        return f"{self.file}: {f'sample {self.sample}: ' if self.sample else ''}{self.why}"


def shard_files(manifest: Manifest) -> list[tuple[PartFile, PartFile]]:
    """Tar and index of each shard, by number."""
    files = {file.name: file for file in manifest.files}
    tars = [file for file in manifest.named("train-") if file.name.endswith(".tar")]
    return [(tar, files[f"{tar.name.removesuffix('.tar')}.index.parquet"]) for tar in tars]


def damage(store: Store, manifest: Manifest, number: int) -> Iterator[Damage]:
    """What is wrong with one shard: hashes of both files, what the index says of every sample, every image.

    Reads the tar once and decodes all of it.
    """
    tar, index = shard_files(manifest)[number]
    where, at = (store.uri(manifest.address.part_path(file.name)) for file in (tar, index))
    rows: list[dict[str, Any]] | None = None
    try:
        rows = read_rows(store, manifest.address, index).to_pylist()
    except CorruptArtifact as error:
        yield Damage(number, at, "", error.what)
    try:
        data = store.read_bytes(manifest.address.part_path(tar.name))
    except FileNotFoundError:
        yield Damage(number, where, "", "the file is missing")
        return
    whole = sha256_hex(data) == tar.sha256
    if len(data) != tar.bytes:
        yield Damage(number, where, "", f"{len(data)} bytes instead of {tar.bytes}")
    found = False
    gone = [row["key"] for row in rows or [] if row["offset"] + row["size"] > len(data)]
    if gone:
        found = True
        yield Damage(number, where, gone[0], f"it and {len(gone) - 1} more lie behind the end of the file")
    for row in rows or []:
        if row["offset"] + row["size"] > len(data):
            continue
        why = _wrong(data, row, int(manifest.config["size"]))
        if why:
            found = True
            yield Damage(number, where, row["key"], why)
    if whole and rows is not None:
        yield from _differences(number, where, data, rows)
    elif not whole and not found and len(data) == tar.bytes:
        place = "outside of the images" if rows is not None else "somewhere"
        yield Damage(number, where, "", f"its bytes differ from the manifest's hash, {place}")


def repair(store: Store, manifest: Manifest, number: int) -> None:
    """Make one shard anew from the crops it was made of; it must come out as the manifest says.

    Raises MissingArtifact where the crops are gone, ConfigError where they have changed since, or what comes
    out is not the same (another version of a library encodes images): then nothing is written.
    """
    stage = Shard(
        manifest.seed,
        {name: Address(name, record.fingerprint) for name, record in manifest.inputs.items()},
        "PRESET",
        ShardConfig(**manifest.config),
    )
    advice = f"make the set anew: dcgan run {FLOW_OF['shards']} --refresh"
    for name, record in manifest.inputs.items():
        there = read_manifest(store, stage.inputs[name])
        if there is None:
            raise MissingArtifact("verify", name, record.fingerprint, FLOW_OF[name], "PRESET")
        if there.content != record.content:
            raise ConfigError(
                f"{there.address} has changed since {manifest.address} was made from it; {advice}"
            )
    layout = stage.layout(stage.crops(store).counts())
    file = io.BytesIO()
    rows, _, digest = write_tar(file, stage.stretch(store, layout, layout.shards[number]))
    tar, index = shard_files(manifest)[number]
    indexed = encode_rows(rows, INDEX)
    if (digest, sha256_hex(indexed)) != (tar.sha256, index.sha256):
        raise ConfigError(f"{tar.name}, made from the same crops, is not what it was; {advice}")
    store.write_bytes(manifest.address.part_path(tar.name), file.getvalue())
    store.write_bytes(manifest.address.part_path(index.name), indexed)
    for written in (tar, index):
        read_part(store, manifest.address, written)


def _wrong(data: bytes, row: Mapping[str, Any], size: int) -> str:
    image = data[row["offset"] : row["offset"] + row["size"]]
    if sha256_hex(image) != row["sha256"]:
        return "its bytes differ from the hash in the index"
    try:
        decode_into(image, np.empty((size, size, 3), np.uint8))
    except DecodeError as error:
        return f"it cannot be decoded: {error}"
    expected = packed(Sample(row["key"], row["extension"], image, row["label"], row["photo_key"]))
    start = row["offset"] - HEADER_BYTES
    return "" if data[start : start + len(expected)] == expected else "its name or class has changed"


def _differences(number: int, where: str, data: bytes, rows: list[dict[str, Any]]) -> Iterator[Damage]:
    """Where the tar itself says something else than the index."""
    names = ("key", "extension", "offset", "size", "label")
    there = {
        sample.key: tuple(getattr(sample, name) for name in names) for sample in scan(io.BytesIO(data), where)
    }
    for row in rows:
        if there.pop(row["key"], None) != tuple(row[name] for name in names):
            yield Damage(number, where, row["key"], "tar and index do not agree on it")
    for key in there:
        yield Damage(number, where, key, "the index does not know it")
