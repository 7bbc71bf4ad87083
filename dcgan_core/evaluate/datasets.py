"""Labelled image sets: read, cut square, brought to one size, drawn and split by seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from dcgan_core.config import LabelledSet
from dcgan_core.errors import ConfigError
from dcgan_core.evaluate.draws import balanced_draw, split_by_place, stratified_draw, stratified_split
from dcgan_core.evaluate.enough import Counts
from dcgan_core.evaluate.parts import (
    Part,
    digits_part,
    digits_sha256,
    folder_part,
    folder_sha256,
    lfw_part,
    lfw_sha256,
    parquet_part,
    parquet_sha256,
)
from dcgan_core.evaluate.shard_parts import shard_part, shards_sha256
from dcgan_core.evaluate.torchvision_parts import SPLITS, torchvision_part, torchvision_sha256


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


@dataclass(frozen=True, eq=False)
class DrawnImages:
    """Some rows of a part, decoded when they are asked for (``rows.ImageRows``), for sets beyond memory.

    A parquet file is read through for every slice; other kinds read the rows asked for alone.
    """

    part: Part
    rows_N: NDArray[np.int64]
    size: int | None
    name: str

    def __len__(self) -> int:
        return len(self.rows_N)

    def __getitem__(self, rows: slice, /) -> NDArray[np.uint8]:
        """RGB images (n, S, S, 3) uint8. ConfigError for one that cannot be read."""
        return _read_images(self.part, self.rows_N[rows], self.size, self.name)


@dataclass(frozen=True, eq=False)
class Drawn:
    """The same set with its images still where they lie."""

    train: DrawnImages
    train_labels_N: NDArray[np.int64]
    test: DrawnImages
    test_labels_N: NDArray[np.int64]
    classes: tuple[str, ...]
    source: str
    available_K: NDArray[np.int64]
    """Training images of each class that there would be without ``max_train``."""

    @property
    def counts(self) -> Counts:
        """Training images of each class."""
        used_K = np.bincount(self.train_labels_N, minlength=len(self.classes))
        return Counts(self.classes, used_K, self.available_K)

    def read(self) -> Labelled:
        """All images in memory. ConfigError for one that cannot be read."""
        return Labelled(
            train_images_NHW3=self.train[:],
            train_labels_N=self.train_labels_N,
            test_images_NHW3=self.test[:],
            test_labels_N=self.test_labels_N,
            classes=self.classes,
            source=self.source,
        )


def load(
    spec: LabelledSet, *, size: int | None, test_share: float, max_train: int, max_test: int, seed: int
) -> Labelled:
    """The set named by ``spec``, central squares scaled to ``size`` pixels, rows in random order.

    ``size`` None: as they are, where all are of one size. Without a test part ``test_share`` of every class
    of the training part is held out: of sets that may grow, by each image's own key, so that it stays on its
    side. At most ``max_train`` training images are drawn class-balanced and at
    most ``max_test`` test images with the classes' own shares; the test images do not depend on
    ``max_train``. Grey images get three equal channels. Raises ConfigError for what is missing, unreadable,
    unlabelled or of one class only.
    """
    return draw(
        spec, size=size, test_share=test_share, max_train=max_train, max_test=max_test, seed=seed
    ).read()


def draw(
    spec: LabelledSet, *, size: int | None, test_share: float, max_train: int, max_test: int, seed: int
) -> Drawn:
    """The same rows in the same order, none of them read yet but for their labels."""
    located = _located(spec)
    train = _open(spec, located["train"])
    if len(train.classes) < 2:
        raise ConfigError(f"labelled set {spec.name}: all images are of one class; two or more are needed")
    split_rng, train_rng, test_rng = np.random.default_rng(seed).spawn(3)
    train_rows = np.arange(len(train.labels_N))
    if "test" in located:
        test = _open(spec, located["test"])
        test_labels_N = _in_classes_of(train, test, spec.name)
        test_rows = np.arange(len(test_labels_N))
    else:
        test, test_labels_N = train, train.labels_N
        sizes_K = np.bincount(train.labels_N, minlength=len(train.classes))
        if 1 in sizes_K:
            single = train.classes[list(sizes_K).index(1)]
            raise ConfigError(
                f"labelled set {spec.name}: class {single} has a single image, and a share of each class is "
                "held out to test; add images of it, leave it out, or name a test part"
            )
        if train.places is None:
            train_rows, test_rows = stratified_split(train.labels_N, test_share, split_rng)
        else:
            train_rows, test_rows = split_by_place(train.labels_N, train.places(), test_share, split_rng)
    available_K = np.bincount(train.labels_N[train_rows], minlength=len(train.classes))
    train_rows = train_rows[balanced_draw(train.labels_N[train_rows], max_train, train_rng)]
    test_rows = test_rows[stratified_draw(test_labels_N[test_rows], max_test, test_rng)]
    return Drawn(
        train=DrawnImages(train, train_rows, size, spec.name),
        train_labels_N=train.labels_N[train_rows],
        test=DrawnImages(test, test_rows, size, spec.name),
        test_labels_N=test_labels_N[test_rows],
        classes=train.classes,
        source=train.source,
        available_K=available_K,
    )


def identity(spec: LabelledSet) -> dict[str, str]:
    """What the set holds, for fingerprints: sha256 of its files or arrays, never a path.

    An image folder counts by its classes' names and its files' bytes in order of their names, an artifact of
    shards by the content its manifest states. A file is read once a process. Raises ConfigError for missing
    files; torchvision's are downloaded where that is allowed.
    """
    hashes = {f"{part}_sha256": _content_hash(spec, place) for part, place in _located(spec).items()}
    # Images of these sets were once held out by their positions: other features and scores.
    by_key = spec.kind in ("parquet", "imagefolder", "shards") and not spec.test
    return {**hashes, "split": "by key"} if by_key else hashes


_Located: TypeAlias = dict[str, str]
"""Where a set's parts lie, by name: a path, or torchvision's split."""


def _located(spec: LabelledSet) -> _Located:
    if spec.is_torchvisions:
        return {split: split for split in SPLITS}
    return {"train": spec.train} | ({"test": spec.test} if spec.test else {})


def _open(spec: LabelledSet, location: str) -> Part:
    match spec.kind:
        case "digits":
            return digits_part()
        case "lfw":
            return lfw_part()
        case "parquet":
            return parquet_part(location, spec.name)
        case "imagefolder":
            return folder_part(location, spec.name)
        case "shards":
            return shard_part(spec.name, location)
        case _:
            return torchvision_part(spec, location)


def _content_hash(spec: LabelledSet, location: str) -> str:
    match spec.kind:
        case "digits":
            return digits_sha256()
        case "lfw":
            return lfw_sha256()
        case "parquet":
            return parquet_sha256(location, spec.name)
        case "imagefolder":
            return folder_sha256(location, spec.name)
        case "shards":
            return shards_sha256(spec.name, location)
        case _:
            return torchvision_sha256(spec, location)


def _in_classes_of(train: Part, test: Part, name: str) -> NDArray[np.int64]:
    places = {known: place for place, known in enumerate(train.classes)}
    unknown = [each for each in test.classes if each not in places]
    if unknown:
        raise ConfigError(f"labelled set {name}: classes {unknown} are in the test part only")
    return np.array([places[each] for each in test.classes], np.int64)[test.labels_N]


def _read_images(part: Part, rows: NDArray[np.int64], size: int | None, name: str) -> NDArray[np.uint8]:
    images_NHW3 = None if size is None else np.empty((len(rows), size, size, 3), np.uint8)
    for place, image in part.read(rows):
        rgb_HW3 = _decode(image) if isinstance(image, bytes) else image
        if rgb_HW3 is None:
            raise ConfigError(
                f"labelled set {name}: row {rows[place]} of {part.source} is not a readable image; "
                "mend it or leave it out"
            )
        if images_NHW3 is None:
            side = min(rgb_HW3.shape[:2])
            images_NHW3 = np.empty((len(rows), side, side, 3), np.uint8)
        side = images_NHW3.shape[1]
        if size is None and min(rgb_HW3.shape[:2]) != side:
            raise ConfigError(
                f"labelled set {name}: row {rows[place]} of {part.source} is {min(rgb_HW3.shape[:2])} px and "
                f"another {side} px; give a size that all are scaled to"
            )
        images_NHW3[place] = _square(rgb_HW3, side)
    return np.empty((0, size or 1, size or 1, 3), np.uint8) if images_NHW3 is None else images_NHW3


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
