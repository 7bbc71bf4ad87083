"""Training images out of indexed tars, decoded to one uint8 array."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dcgan_core import images
from dcgan_core.artifacts import Manifest, PartFile, read_part
from dcgan_core.errors import CorruptArtifact, DecodeError, NotEnoughMemory
from dcgan_core.memory import free_memory
from dcgan_core.progress import Progress, silent
from dcgan_core.storage import Store
from dcgan_core.tables import read_rows


@dataclass(frozen=True)
class Images:
    """All samples of a shards artifact: pixels (N, 3, S, S) uint8, keys, labels (-1 where there is none)."""

    pixels_N3SS: NDArray[np.uint8]
    keys: list[str]
    labels_N: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.keys)


def sample_count(manifest: Manifest) -> int:
    return sum(file.rows or 0 for file in _indexes(manifest))


def read_images(store: Store, manifest: Manifest, size: int, progress: Progress = silent) -> Images:
    """Decode every sample of a shards artifact.

    Raises NotEnoughMemory before reading where the pixels would not fit, CorruptArtifact where a tar does
    not hold what its index says.
    """
    count = sample_count(manifest)
    needed = count * 3 * size * size
    free = free_memory()
    if needed > 0.8 * free:
        raise NotEnoughMemory(
            f"holding {count} images of {size} px", needed, free, "Lower shard.size or scrape.limit"
        )
    pixels = np.empty((count, 3, size, size), np.uint8)
    keys: list[str] = []
    labels = np.full(count, -1, np.int64)
    for position, (key, label, data) in enumerate(iterate(store, manifest)):
        try:
            rgb = images.decode_rgb(data, max_pixels=2**31)
        except DecodeError as error:
            raise CorruptArtifact(
                store.uri(manifest.address.path), f"sample {key} cannot be decoded: {error}"
            ) from None
        if rgb.shape[:2] != (size, size):
            raise CorruptArtifact(
                store.uri(manifest.address.path), f"sample {key} is {rgb.shape[1]}x{rgb.shape[0]}"
            )
        pixels[position] = rgb.transpose(2, 0, 1)
        labels[position] = label
        keys.append(key)
        if position % 256 == 0:
            progress(position, count, "reading images")
    return Images(pixels, keys, labels)


def iterate(store: Store, manifest: Manifest) -> Iterator[tuple[str, int, bytes]]:
    """(key, label or -1, encoded image) of every sample, in the order of the shards."""
    tars = {file.name: file for file in manifest.files if file.name.endswith(".tar")}
    for index_file in _indexes(manifest):
        tar_file = tars[index_file.name.removesuffix(".index.parquet") + ".tar"]
        tar = read_part(store, manifest.address, tar_file)
        for row in read_rows(store, manifest.address, index_file).to_pylist():
            data = tar[row["offset"] : row["offset"] + row["size"]]
            yield row["key"], -1 if row["label"] is None else row["label"], data


def _indexes(manifest: Manifest) -> list[PartFile]:
    return [file for file in manifest.named("train-") if file.name.endswith(".index.parquet")]
