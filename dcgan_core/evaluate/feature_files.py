"""Features on disk: one ``.npy`` a set, written a batch at a time and read through a memory map."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from dcgan_core.errors import CorruptArtifact, StorageUnusable
from dcgan_core.evaluate.rows import BATCH, ImageRows
from dcgan_core.progress import Progress, silent

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dcgan_core.evaluate.features import FeatureType, Sink


@dataclass(frozen=True)
class FeatureFile:
    """Features (N, F) in a local ``.npy``. Cheap to pickle: every process opens the file by itself."""

    path: Path
    shape: tuple[int, int]
    dtype: FeatureType

    @property
    def bytes(self) -> int:
        return self.shape[0] * self.shape[1] * np.dtype(self.dtype).itemsize

    def open(self) -> NDArray[np.floating]:
        """A read-only memory map (N, F): pages are read when they are used, and can be dropped again."""
        if not all(self.shape):
            return np.empty(self.shape, self.dtype)  # nothing cannot be mapped
        return cast("NDArray[np.floating]", np.load(self.path, mmap_mode="r", allow_pickle=False))


def create(path: Path, rows: int, width: int, dtype: FeatureType = "float32") -> FeatureFile:
    """A file of zeros, its room on the disk taken. Raises StorageUnusable where there is not enough."""
    file = FeatureFile(path, (rows, width), dtype)
    with _on_disk(path), path.open("wb") as opened:
        header = {"descr": np.dtype(dtype).newbyteorder("<").str, "fortran_order": False, "shape": file.shape}
        np.lib.format.write_array_header_1_0(opened, header)
        opened.flush()
        end = opened.tell() + file.bytes
        if file.bytes and hasattr(os, "posix_fallocate"):
            os.posix_fallocate(opened.fileno(), 0, end)
        opened.truncate(end)
    return file


def opened(path: Path) -> FeatureFile:
    """A file that is there, by its header. Raises CorruptArtifact for what is no whole file of features."""
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CorruptArtifact(str(path), f"it is no whole .npy file ({error})") from None
    if not isinstance(mapped, np.ndarray) or mapped.ndim != 2 or mapped.dtype not in (np.float32, np.float16):
        raise CorruptArtifact(str(path), "it holds no table of float32 or float16")
    return FeatureFile(path, mapped.shape, "float32" if mapped.dtype == np.float32 else "float16")


def fill(
    file: FeatureFile,
    discriminator: nn.Module,
    images: ImageRows,
    *,
    device: str = "cpu",
    autocast: bool = False,
    batch_size: int = BATCH,
    rows: range | None = None,
    first: int | None = None,
    progress: Progress = silent,
) -> None:
    """Write the features of ``rows`` [a, b) of ``images`` (default: all) to rows ``first``, ... of a file.

    ``first`` is a by default: several processes fill one file of the whole set, each its own range
    (``rows.row_ranges``). For a file of one range alone it is 0. What is written is what ``extract`` gives
    for the whole set; no more than three batches are held.
    """
    from dcgan_core.evaluate.features import How, extract_into

    wanted = range(len(images)) if rows is None else rows
    how = How(device, file.dtype, autocast)
    with _sink(file, wanted.start if first is None else first) as sink:
        extract_into(sink, discriminator, images, how, batch_size=batch_size, rows=wanted, progress=progress)


def fill_from(
    file: FeatureFile,
    discriminator: nn.Module,
    stream: Iterable[NDArray[np.uint8]],
    *,
    device: str = "cpu",
    autocast: bool = False,
    batch_size: int = BATCH,
    progress: Progress = silent,
) -> None:
    """The same of images that come as arrays (B, H, W, 3), as many as the file has rows."""
    from dcgan_core.evaluate.features import How, extract_stream

    how = How(device, file.dtype, autocast)
    with _sink(file, 0) as sink:
        extract_stream(
            sink, discriminator, stream, file.shape[0], how, batch_size=batch_size, progress=progress
        )


@contextmanager
def _sink(file: FeatureFile, first: int) -> Iterator[Sink]:
    """Writes rather than a writable map: a full disk is then an error and not the end of the process."""
    rows, width = file.shape
    row_bytes = width * np.dtype(file.dtype).itemsize
    begins = file.path.stat().st_size - file.bytes
    with _on_disk(file.path), file.path.open("r+b") as opened:

        def write(row: int, features_BF: Tensor) -> None:
            if features_BF.shape[1] != width or first + row + len(features_BF) > rows:
                what = f"features {tuple(features_BF.shape)} from row {first + row} on"
                raise ValueError(f"{what} do not fit into {file.shape}")
            opened.seek(begins + (first + row) * row_bytes)
            opened.write(features_BF.contiguous().numpy().data)

        yield write


@contextmanager
def _on_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageUnusable(
                str(path), "the disk is full", "Free space, or keep features in float16, and run it again"
            ) from None
        raise
