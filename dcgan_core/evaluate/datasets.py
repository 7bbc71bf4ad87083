"""Labelled image sets: read, cut square, brought to one size, drawn and split by seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dcgan_core.config import LabelledSet
from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.draws import balanced_draw, stratified_draw, stratified_split

_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True, eq=False)
class Labelled:
    """A labelled set ready for the protocol: RGB at one size, labels 0, 1, ... that index ``classes``."""

    train_images_NHW3: NDArray[np.uint8]
    train_labels_N: NDArray[np.int64]
    test_images_NHW3: NDArray[np.uint8]
    test_labels_N: NDArray[np.int64]
    classes: tuple[str, ...]
    source: str
    """What the images are, in a few words for tables; never a path."""


def load(
    spec: LabelledSet, *, size: int, test_share: float, max_train: int, max_test: int, seed: int
) -> Labelled:
    """The set named by ``spec``, central squares scaled to ``size`` pixels, rows in random order.

    Without a test part ``test_share`` of every class of the training part is held out. At most
    ``max_train`` training images are drawn class-balanced and at most ``max_test`` test images with the
    classes' own shares; the test images do not depend on ``max_train``. Grey images get three equal
    channels. Raises ConfigError for what is missing, unreadable, unlabelled or of one class only.
    """
    train = _open(spec, spec.train)
    if len(train.classes) < 2:
        raise ConfigError(f"labelled set {spec.name}: all images are of one class; two or more are needed")
    split_rng, train_rng, test_rng = np.random.default_rng(seed).spawn(3)
    train_rows = np.arange(len(train.labels_N))
    if spec.test:
        test = _open(spec, spec.test)
        test_labels_N = _in_classes_of(train, test, spec.name)
        test_rows = np.arange(len(test_labels_N))
    else:
        test, test_labels_N = train, train.labels_N
        train_rows, test_rows = stratified_split(train.labels_N, test_share, split_rng)
    train_rows = train_rows[balanced_draw(train.labels_N[train_rows], max_train, train_rng)]
    test_rows = test_rows[stratified_draw(test_labels_N[test_rows], max_test, test_rng)]
    return Labelled(
        train_images_NHW3=_read_images(train, train_rows, size, spec.name),
        train_labels_N=train.labels_N[train_rows],
        test_images_NHW3=_read_images(test, test_rows, size, spec.name),
        test_labels_N=test_labels_N[test_rows],
        classes=train.classes,
        source=train.source,
    )


def identity(spec: LabelledSet) -> dict[str, str]:
    """What the set holds, for fingerprints: sha256 of its files or arrays, never a path.

    An image folder counts by its classes' names and its files' bytes in order of their names. Raises
    ConfigError for missing files.
    """
    parts = {"train": spec.train} | ({"test": spec.test} if spec.test else {})
    return {f"{part}_sha256": _content_hash(spec, path) for part, path in parts.items()}


@dataclass(frozen=True, eq=False)
class _Part:
    """One part of a set with its images still unread."""

    labels_N: NDArray[np.int64]
    classes: tuple[str, ...]
    source: str
    read: Callable[[NDArray[np.int64]], Iterator[tuple[int, NDArray[np.uint8] | bytes]]]
    """(place in the rows asked for, RGB array (H, W, 3) or encoded bytes) of each row, in any order."""


def _open(spec: LabelledSet, path: str) -> _Part:
    match spec.kind:
        case "digits":
            return _array_part(*_digits(), tuple("0123456789"), "scikit-learn digits, 8 px")
        case "lfw":
            return _array_part(*_lfw(), ("face", "non-face"), "LFW subset of scikit-image, 25 px")
        case "parquet":
            return _parquet_part(_existing(spec.name, path, Path.is_file, "file"), spec.name)
        case "imagefolder":
            return _folder_part(_existing(spec.name, path, Path.is_dir, "directory"), spec.name)


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
) -> _Part:
    def read(rows: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for place, row in enumerate(rows):
            yield place, np.repeat(grey_NHW[row][..., None], 3, axis=2)

    return _Part(labels_N, classes, source, read)


def _parquet_part(path: Path, name: str) -> _Part:
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
                encoded = image.get("bytes") if isinstance(image, dict) else image
                yield int(place), encoded if isinstance(encoded, bytes) else b""
            first += batch.num_rows

    return _Part(labels_N.astype(np.int64), classes, path.name, read)


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


def _folder_part(folder: Path, name: str) -> _Part:
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

    return _Part(np.array(labels, np.int64), tuple(classes), folder.name, read)


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


def _in_classes_of(train: _Part, test: _Part, name: str) -> NDArray[np.int64]:
    places = {known: place for place, known in enumerate(train.classes)}
    unknown = [each for each in test.classes if each not in places]
    if unknown:
        raise ConfigError(f"labelled set {name}: classes {unknown} are in the test part only")
    return np.array([places[each] for each in test.classes], np.int64)[test.labels_N]


def _read_images(part: _Part, rows: NDArray[np.int64], size: int, name: str) -> NDArray[np.uint8]:
    images_NHW3 = np.empty((len(rows), size, size, 3), np.uint8)
    for place, image in part.read(rows):
        rgb_HW3 = _decode(image) if isinstance(image, bytes) else image
        if rgb_HW3 is None:
            raise ConfigError(
                f"labelled set {name}: row {rows[place]} of {part.source} is not a readable image; "
                "mend it or leave it out"
            )
        images_NHW3[place] = _square(rgb_HW3, size)
    return images_NHW3


def _decode(encoded: bytes) -> NDArray[np.uint8] | None:
    try:
        bgr_HW3 = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # empty, or more pixels than OpenCV opens
        return None
    return None if bgr_HW3 is None else np.asarray(cv2.cvtColor(bgr_HW3, cv2.COLOR_BGR2RGB), np.uint8)


def _square(rgb_HW3: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    height, width = rgb_HW3.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    central = rgb_HW3[top : top + side, left : left + side]
    if side == size:
        return central
    how = cv2.INTER_AREA if side > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(central, (size, size), interpolation=how), np.uint8)


def _content_hash(spec: LabelledSet, path: str) -> str:
    match spec.kind:
        case "digits" | "lfw":
            grey_NHW, labels_N = _digits() if spec.kind == "digits" else _lfw()
            return hashlib.sha256(grey_NHW.tobytes() + labels_N.astype("<i8").tobytes()).hexdigest()
        case "parquet":
            return _file_hash(_existing(spec.name, path, Path.is_file, "file"))
        case "imagefolder":
            digest = hashlib.sha256()
            for folder, files in _class_folders(_existing(spec.name, path, Path.is_dir, "directory")):
                digest.update(json.dumps([folder.name, [_file_hash(file) for file in files]]).encode())
            return digest.hexdigest()


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
