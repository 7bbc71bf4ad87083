"""Small tars of pictures that say their numbers."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dcgan_core import images
from dcgan_core.shard.reader import Shards, open_tars
from dcgan_core.shard.writer import Sample, write_tar
from dcgan_core.storage import Store

SIZE = 8


def picture(number: int) -> NDArray[np.uint8]:
    """A picture (8, 8, 3) that says its number."""
    return np.full((SIZE, SIZE, 3), (number % 256, number // 256 % 256, 7), np.uint8)


def numbers_in(pixels_N3SS: NDArray[np.uint8]) -> list[int]:
    """The numbers that pictures say."""
    assert (pixels_N3SS == pixels_N3SS[:, :, :1, :1]).all()
    low, high = pixels_N3SS[:, 0, 0, 0].astype(int), pixels_N3SS[:, 1, 0, 0].astype(int)
    return (low + 256 * high).tolist()


def sample(number: int) -> Sample:
    return Sample(f"k{number:05d}", "png", images.encode_png(picture(number)), number % 10, "p")


def write_tars(folder: Path, counts: Sequence[int]) -> list[str]:
    """Tars with so many samples each, numbered through; their names."""
    folder.mkdir(parents=True, exist_ok=True)
    names, first = [], 0
    for tar, count in enumerate(counts):
        names.append(f"{tar:03d}.tar")
        with (folder / names[-1]).open("wb") as file:
            write_tar(file, (sample(number) for number in range(first, first + count)))
        first += count
    return names


def opened(folder: Path, counts: Sequence[int], max_bad: float = 0.0) -> Shards:
    return reopened(folder, len(write_tars(folder, counts)), max_bad)


def reopened(folder: Path, tars: int, max_bad: float = 0.0) -> Shards:
    """Tars that ``write_tars`` wrote."""
    names = [f"{tar:03d}.tar" for tar in range(tars)]
    return open_tars(Store(str(folder)), names, SIZE, max_bad=max_bad)


def rewrite(path: Path, members: Sequence[tuple[str, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
