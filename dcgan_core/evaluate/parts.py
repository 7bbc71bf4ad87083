"""Labelled sets here on the machine, their images unread: arrays of libraries, parquet, image folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.hashes import file_sha256, files_sha256, joined
from dcgan_core.held_out import places

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True, eq=False)
class Part:
    """One part of a set with its images still unread."""

    labels_N: NDArray[np.int64]
    classes: tuple[str, ...]
    source: str
    read: Callable[[NDArray[np.int64]], Iterator[tuple[int, NDArray[np.uint8] | bytes]]]
    """(place in the rows asked for, RGB array (H, W, 3) or encoded bytes) of each row, in any order."""
    places: Callable[[], NDArray[np.float64]] | None = None
    """Where each row's own key puts it on [0, 1) (``held_out.places``), for sets that may grow; None for
    those that are published whole."""


def digits_part() -> Part:
    """scikit-learn's digits."""
    return _array_part(*_digits(), tuple("0123456789"), "scikit-learn digits, 8 px")


def digits_sha256() -> str:
    """Of its arrays."""
    return _arrays_sha256(*_digits())


def lfw_part() -> Part:
    """Faces and other cut-outs of LFW, inside scikit-image. ConfigError where that is not installed."""
    return _array_part(*_lfw(), ("face", "non-face"), "LFW subset of scikit-image, 25 px")


def lfw_sha256() -> str:
    """Of its arrays."""
    return _arrays_sha256(*_lfw())


def parquet_sha256(path: str, name: str) -> str:
    """Of the file."""
    return file_sha256(_existing(name, path, Path.is_file, "file"))


def folder_sha256(path: str, name: str) -> str:
    """Of the classes' names and the files' bytes, in the order of their names."""
    folders = _class_folders(_existing(name, path, Path.is_dir, "directory"))
    return joined([folder.name, files_sha256(files)] for folder, files in folders)


def _digits() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    pixels_NP, labels_N = cast("tuple[NDArray[np.float64], NDArray[np.int64]]", load_digits(return_X_y=True))
    grey_NHW = np.rint(pixels_NP * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8)
    return grey_NHW, labels_N.astype(np.int64)


def _lfw() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    try:
        from skimage.data import lfw_subset
    except ImportError:
        raise ConfigError(
            "labelled set lfw comes inside scikit-image; install it: pip install 'dcgan[demo]'"
        ) from None
    grey_NHW = np.rint(lfw_subset() * 255).astype(np.uint8)  # 100 faces, then 100 other cut-outs
    return grey_NHW, np.repeat(np.arange(2), len(grey_NHW) // 2)


def _array_part(
    grey_NHW: NDArray[np.uint8], labels_N: NDArray[np.int64], classes: tuple[str, ...], source: str
) -> Part:
    def read(rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for place, row in enumerate(rows):
            yield place, np.repeat(grey_NHW[row][..., None], 3, axis=2)

    return Part(labels_N, classes, source, read)


def parquet_part(location: str, name: str) -> Part:
    """A parquet file with columns ``image`` (bytes, or a struct that has them) and ``label`` (integers)."""
    path = _existing(name, location, Path.is_file, "file")
    try:
        schema = pq.read_schema(path)
        for column in ("image", "label"):
            if column not in schema.names:
                raise ConfigError(
                    f"labelled set {name}: {path.name} has no column {column!r}; "
                    f"it has {', '.join(schema.names)}"
                )
        labels = pq.ParquetFile(path).read(columns=["label"], use_threads=False)["label"]
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(
            f"labelled set {name}: {path.name} is not a readable parquet file: {error}"
        ) from None
    if not pa.types.is_integer(labels.type) or labels.null_count:
        what = f"{labels.null_count} empty labels" if labels.null_count else f"labels of type {labels.type}"
        raise ConfigError(f"labelled set {name}: {path.name} has {what}; integers 0, 1, ... are needed")
    values_K, labels_N = np.unique(labels.to_numpy(), return_inverse=True)
    if len(values_K) == 0 or values_K[0] < 0:
        what = "no rows" if len(values_K) == 0 else "negative labels, which mark unlabelled images"
        raise ConfigError(f"labelled set {name}: {path.name} has {what}")
    classes = _class_names(values_K.tolist(), schema.metadata or {})

    def read(rows: NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
        order = np.argsort(rows)
        wanted = rows[order]
        first = 0
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1024, columns=["image"], use_threads=False):
            low, high = np.searchsorted(wanted, (first, first + batch.num_rows))
            images = batch.column(0).take(pa.array(wanted[low:high] - first)).to_pylist()
            for place, image in zip(order[low:high], images, strict=True):
                yield int(place), _encoded(image)
            first += batch.num_rows

    status = path.stat()
    state = (status.st_size, status.st_mtime_ns, status.st_ino)
    return Part(
        labels_N.astype(np.int64),
        classes,
        path.name,
        read,
        lambda: _row_places(str(path.absolute()), *state),
    )


@lru_cache(maxsize=4)
def _row_places(path: str, *_state: int) -> NDArray[np.float64]:
    """By the bytes of each image: rows may be written in another order."""
    found = []
    for batch in pq.ParquetFile(path).iter_batches(batch_size=1024, columns=["image"], use_threads=False):
        found += [hashlib.sha256(_encoded(image)).hexdigest() for image in batch.column(0).to_pylist()]
    return places(found)


def _encoded(image: Any) -> bytes:
    encoded = image.get("bytes") if isinstance(image, dict) else image
    return encoded if isinstance(encoded, bytes) else b""


def _class_names(values: Sequence[int], metadata: dict[bytes, bytes]) -> tuple[str, ...]:
    """Names from ``class_names`` or Hugging Face's description of the label column, else the numbers."""
    try:
        names: Any = json.loads(metadata.get(b"class_names", b"null"))
        if names is None and b"huggingface" in metadata:
            names = json.loads(metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    except (ValueError, KeyError, TypeError):
        names = None
    # Names that are not distinct (ImageNet has two "crane") cannot tell classes apart.
    if isinstance(names, list) and len(set(map(str, names))) == len(names) > max(values):
        return tuple(str(names[value]) for value in values)
    return tuple(str(value) for value in values)


def folder_part(location: str, name: str) -> Part:
    """Images in sub-directories, one a class."""
    folder = _existing(name, location, Path.is_dir, "directory")
    files, labels, classes = [], [], []
    for class_folder, class_files in _class_folders(folder):
        labels += [len(classes)] * len(class_files)
        files += class_files
        classes.append(class_folder.name)
    if not files:
        raise ConfigError(
            f"labelled set {name}: {folder.name} holds no images in sub-directories, one per class"
        )

    def read(rows: NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
        for place, row in enumerate(rows):
            yield place, files[row].read_bytes()

    # By the bytes of each file: one may be renamed.
    return Part(
        np.array(labels, np.int64), tuple(classes), folder.name, read, lambda: places(files_sha256(files))
    )


def _class_folders(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Sub-directories that hold images, and these, both by name."""
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.name.startswith("."):
            files = sorted(file for file in entry.rglob("*") if file.suffix.lower() in _SUFFIXES)
            if files:
                yield entry, files


def _existing(name: str, path: str, is_right: Callable[[Path], bool], what: str) -> Path:
    if not path:
        raise ConfigError(f"labelled set {name}: its path is empty; set train to a {what}")
    found = Path(path).expanduser()
    if not is_right(found):
        raise ConfigError(f"labelled set {name}: there is no {what} {path}")
    return found


def _arrays_sha256(grey_NHW: NDArray[np.uint8], labels_N: NDArray[np.int64]) -> str:
    return hashlib.sha256(grey_NHW.tobytes() + labels_N.astype("<i8").tobytes()).hexdigest()
