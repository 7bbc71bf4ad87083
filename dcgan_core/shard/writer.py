"""WebDataset tars that come out the same byte for byte, each with an index beside it."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
from webdataset.writer import TarWriter

from dcgan_core import images
from dcgan_core.storage import sha256_hex

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
"""One row per sample: where its image's bytes are in the tar."""


@dataclass(frozen=True)
class Sample:
    """One encoded training image."""

    key: str
    extension: str
    data: bytes
    label: int | None
    photo_key: str


def fit_image(data: bytes, *, size: int, fit: str, quality: int) -> tuple[str, bytes]:
    """(extension, bytes) of a stored crop at training size; one that has it already is passed through."""
    header = images.read_header(data, max_pixels=2**31)
    if (header.width, header.height) == (size, size) and header.format in ("jpeg", "png"):
        return ("jpg" if header.format == "jpeg" else "png"), data
    rgb = images.decode_rgb(data, max_pixels=2**31)
    if fit == "center" and min(rgb.shape[:2]) >= size:
        rgb = images.center_crop(rgb, size)
    else:
        rgb = images.resize(images.center_square(rgb), size)
    return "jpg", images.encode_jpeg(rgb, quality)


def write_tar(samples: Iterable[Sample]) -> tuple[bytes, list[dict[str, object]]]:
    """A WebDataset tar of the samples in their order (``.jpg`` or ``.png``, and ``.cls``), and its index."""
    file = io.BytesIO()
    by_name = {}
    with TarWriter(file, user="dcgan", group="dcgan", mode=0o444, mtime=0.0, encoder=False) as tar:
        for sample in samples:
            entry: dict[str, str | bytes] = {"__key__": sample.key, sample.extension: sample.data}
            if sample.label is not None:
                entry["cls"] = str(sample.label).encode()
            tar.write(entry)
            by_name[f"{sample.key}.{sample.extension}"] = sample
    data = file.getvalue()
    index = []
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as written:
        for member in written:
            sample = by_name.get(member.name)
            if sample is not None:
                index.append(
                    {
                        "key": sample.key,
                        "extension": sample.extension,
                        "offset": member.offset_data,
                        "size": member.size,
                        "sha256": sha256_hex(sample.data),
                        "label": sample.label,
                        "photo_key": sample.photo_key,
                    }
                )
    return data, index
