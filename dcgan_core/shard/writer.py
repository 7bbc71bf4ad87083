"""WebDataset tars that come out the same byte for byte, each with an index beside it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import IO, Any

import pyarrow as pa

from dcgan_core import images
from dcgan_core.artifacts import Address, PartFile
from dcgan_core.config import ShardConfig
from dcgan_core.shard.decode import decode_rgb
from dcgan_core.storage import Store
from dcgan_core.tables import write_rows

INDEX = pa.schema(
    [
        ("key", pa.string()),
        ("extension", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.string()),
        ("label", pa.int32()),
        ("photo_key", pa.string()),
    ]
)
"""One row per sample: where its image's bytes are in the tar, and what is not in there."""

HEADER_BYTES = 512
_BLOCK, _RECORD = HEADER_BYTES, 10240
_BUFFER = 2**20
_EXTENSIONS = {"jpeg": "jpg", "png": "png", "webp": "webp"}


@dataclass(frozen=True)
class Sample:
    """One encoded training image."""

    key: str
    extension: str
    data: bytes
    label: int | None
    photo_key: str


def fit_image(data: bytes, config: ShardConfig) -> tuple[str, bytes]:
    """(extension, bytes) of a stored crop at training size; one that has it already is passed through.

    So is one of which the centre is wanted and that has no more than the centre. Raises DecodeError.
    """
    header = images.read_header(data, max_pixels=2**31)
    size = config.size
    if (header.width, header.height) == (size, size) and header.format in _EXTENSIONS:
        return _EXTENSIONS[header.format], data
    rgb = decode_rgb(data)
    if config.fit == "center" and min(rgb.shape[:2]) >= size:
        rgb = images.center_crop(rgb, size)
    else:
        rgb = images.resize(images.center_square(rgb), size)
    return _EXTENSIONS[config.format], _encode(rgb, config)


def write_shard(
    store: Store, address: Address, number: int, samples: Iterable[Sample]
) -> tuple[PartFile, PartFile]:
    """Write one tar and its index, both whole or not at all; samples are held one at a time."""
    name = shard_name(number)
    with store.writing(address.part_path(f"{name}.tar")) as path, path.open("wb", buffering=_BUFFER) as file:
        rows, size, digest = write_tar(file, samples)
    tar = PartFile(name=f"{name}.tar", bytes=size, sha256=digest, rows=len(rows))
    return tar, write_rows(store, address, f"{name}.index.parquet", rows, INDEX)


def shard_name(number: int) -> str:
    """What the files of a shard are called, without their endings."""
    return f"train-{number:05d}"


def write_tar(file: IO[bytes], samples: Iterable[Sample]) -> tuple[list[dict[str, Any]], int, str]:
    """Write samples in their order as ``KEY.jpg`` (or ``.png``, ``.webp``) and, where labelled, ``KEY.cls``.

    Returns the rows of the index, the bytes written and their SHA-256. ValueError for a key that readers of
    the format would cut at another place (with a dot or a slash) or that a plain header cannot hold.
    """
    rows: list[dict[str, Any]] = []
    digest, position = hashlib.sha256(), 0
    for sample in samples:
        _check_key(sample.key)
        size = len(sample.data)
        member = packed(sample)
        rows.append(
            {
                "key": sample.key,
                "extension": sample.extension,
                "offset": position + _BLOCK,
                "size": size,
                "sha256": hashlib.sha256(sample.data).hexdigest(),
                "label": sample.label,
                "photo_key": sample.photo_key,
            }
        )
        file.write(member)
        digest.update(member)
        position += len(member)
    end = bytes(2 * _BLOCK + -(position + 2 * _BLOCK) % _RECORD)
    file.write(end)
    digest.update(end)
    return rows, position + len(end), digest.hexdigest()


def packed(sample: Sample) -> bytes:
    """What a tar holds of a sample: its image and, where it is labelled, its class, each with its header."""
    members = _member(f"{sample.key}.{sample.extension}", sample.data)
    if sample.label is not None:
        members += _member(f"{sample.key}.cls", str(sample.label).encode())
    return members


def _encode(rgb: images.Rgb, config: ShardConfig) -> bytes:
    if config.format == "png":
        return images.encode_png(rgb)
    if config.format == "webp":
        return images.encode_webp(rgb, config.webp_quality)
    return images.encode_jpeg(rgb, config.jpeg_quality)


def _check_key(key: str) -> None:
    if not key or "." in key or "/" in key or not key.isascii() or len(key) > 90:
        raise ValueError(f"{key!r} cannot be a sample's key: up to 90 plain letters, no dots, no slashes")


def _member(name: str, data: bytes) -> bytes:
    """One file of the tar: header, bytes, padding. tarfile takes five times as long for the header."""
    named, size = name.encode(), b"%011o" % len(data)
    total = _HEADER_SUM + sum(named) + sum(size)
    return b"".join(
        (
            named,
            bytes(100 - len(named)),
            _OWNER,
            size,
            _TIME,
            b"%06o\0 " % total,
            _REST,
            data,
            bytes(-len(data) % _BLOCK),
        )
    )


_OWNER = b"0000444\0" + b"0000000\0" * 2  # mode, user, group
_TIME = b"\0" + b"0" * 11 + b"\0"  # ends the size; changed at the beginning of time
_REST = b"0" + bytes(100) + b"ustar\x0000" + b"dcgan".ljust(32, b"\0") * 2 + bytes(16 + 167)
_HEADER_SUM = sum(_OWNER) + sum(_TIME) + sum(_REST) + 8 * ord(" ")
